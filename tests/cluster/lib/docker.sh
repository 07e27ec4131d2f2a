# shellcheck shell=bash
# Finding a docker client and an engine that understand each other.

DOCKERD_STATE="$CACHE/dockerd"
DOCKERD_PIDFILE="$DOCKERD_STATE/dockerd.pid"
# shellcheck disable=SC2034 # for dockerd.sh
DOCKERD_LOG="$DOCKERD_STATE/dockerd.log"

# Prints the first client in PATH that the engine answers; a client can be too
# new or too old for it.
docker_client() {
  local client
  while read -r client; do
    if timeout 10 "$client" version >/dev/null 2>&1; then
      printf '%s\n' "$client"
      return 0
    fi
  done < <(type -ap docker)
  return 1
}

# The pid of the dockerd that dockerd.sh started, if it still runs. A recycled
# process id is told apart by the command line, which names our pid file.
own_dockerd_pid() {
  local pid
  pid=$(cat "$DOCKERD_PIDFILE" 2>/dev/null) || return 1
  tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "--pidfile $DOCKERD_PIDFILE" || return 1
  printf '%s\n' "$pid"
}

# BuildKit comes as a plug-in; without it the engine's own builder has to do.
docker_buildkit_available() { "$1" buildx version >/dev/null 2>&1; }

# Sets COMPOSE to the command to use: the plug-in, the one built here, or v1.
# The second is preferred to v1, which waits for no health check ("up --wait").
# shellcheck disable=SC2034 # COMPOSE is for compose.sh
find_compose() {
  local client=$1
  if "$client" compose version >/dev/null 2>&1; then
    COMPOSE=("$client" compose)
  elif [ -x "$BIN/docker-compose" ] || have go; then
    "$CLUSTER_DIR/tools.sh" docker-compose
    COMPOSE=("$BIN/docker-compose")
  elif have docker-compose; then
    COMPOSE=(docker-compose)
  else
    die "no docker compose" "install the compose plug-in of your docker, or Go >= 1.25 to build it here"
  fi
}

# What the user's shell needs to use the same engine by hand.
docker_settings() {
  local client=$1
  [ -z "${DOCKER_HOST:-}" ] || printf 'export DOCKER_HOST=%q\n' "$DOCKER_HOST"
  printf 'export QUORUMKV_DOCKER=%q\n' "$client"
  docker_buildkit_available "$client" || printf 'export DOCKER_BUILDKIT=0\n'
}
