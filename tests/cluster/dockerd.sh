#!/usr/bin/env bash
# A docker engine for compose, where none runs yet.
#
#   dockerd.sh start     start dockerd unless an engine answers already; prints
#                        the settings to use it with, fit for eval
#   dockerd.sh stop      end the dockerd that "start" started, and no other
#   dockerd.sh status    what answers, and whose it is; fails when nothing does
#
# Log and pid file: ${XDG_CACHE_HOME:-$HOME/.cache}/quorumkv/dockerd/
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
. "$CLUSTER_DIR/lib/docker.sh"

launch() {
  mkdir -p "$DOCKERD_STATE"
  rm -f "$DOCKERD_PIDFILE"
  # A session of its own: Ctrl-C in the terminal must not reach the engine.
  setsid dockerd --pidfile "$DOCKERD_PIDFILE" >"$DOCKERD_LOG" 2>&1 </dev/null &
  local launched=$! deadline=$((SECONDS + 40))
  until docker_client >/dev/null; do
    if ! kill -0 "$launched" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
      # Half started is worse than not started: the next try would meet it.
      ! kill "$launched" 2>/dev/null || true
      tail -n 10 "$DOCKERD_LOG" | sed 's/^/    | /' >&2
      die "dockerd did not come up" "log: $DOCKERD_LOG"
    fi
    sleep 0.3
  done
  log "started dockerd (pid $launched)"
}

start() {
  if ! docker_client >/dev/null; then
    [ -z "${DOCKER_HOST:-}" ] || die "no docker engine answers at DOCKER_HOST=$DOCKER_HOST" \
      "start it, or unset DOCKER_HOST to have one started here"
    is_root || die "no docker engine answers, and only root can start one" \
      "start docker, or give this user access to it (group docker)"
    "$CLUSTER_DIR/prerequisites.sh" compose
    launch
  fi
  docker_settings "$(docker_client)"
}

stop() {
  local pid
  if ! pid=$(own_dockerd_pid); then
    log "no dockerd of ours runs"
    return
  fi
  kill "$pid"
  wait_until 30 not_running "$pid" || die "dockerd (pid $pid) does not end" "log: $DOCKERD_LOG"
  rm -f "$DOCKERD_PIDFILE"
  log "stopped dockerd (pid $pid)"
}

not_running() { ! kill -0 "$1" 2>/dev/null; }

status() {
  local client whose="not ours"
  client=$(docker_client) || { log "no docker engine answers"; exit 1; }
  ! own_dockerd_pid >/dev/null || whose="started here, pid $(own_dockerd_pid)"
  log "engine $("$client" version --format '{{.Server.Version}}') answers ($whose)"
  docker_settings "$client"
}

case ${1:-} in
start) with_lock dockerd start ;;
stop) with_lock dockerd stop ;;
status) status ;;
-h | --help) usage_of "$0" ;;
*) usage_of "$0" >&2; exit 2 ;;
esac
