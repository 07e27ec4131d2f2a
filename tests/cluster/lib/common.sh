# shellcheck shell=bash
# Paths, messages and timed steps. Sourced by every command in tests/cluster.

CLUSTER_DIR="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
REPO_ROOT="$(cd "$CLUSTER_DIR/../.." && pwd)"

# Everything built here is kept outside the checkout, so that a fresh clone on
# the same machine finds it again.
CACHE="${XDG_CACHE_HOME:-${HOME:?HOME is not set; set HOME or XDG_CACHE_HOME}/.cache}/quorumkv"
BIN="$CACHE/bin"
LOGS="$CACHE/logs"
mkdir -p "$BIN" "$LOGS"
# System programs live there, and an ordinary user often lacks them in PATH.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
export PATH CLUSTER_DIR REPO_ROOT CACHE BIN LOGS

# Progress goes to stderr: stdout belongs to what a command was asked to print.
log() { printf '%s\n' "$*" >&2; }

die() {
  printf 'error: %s\n' "$1" >&2
  shift
  local line
  for line in "$@"; do printf '       %s\n' "$line" >&2; done
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

is_root() { [ "$(id -u)" -eq 0 ]; }

# The part of a script's header comment that describes how to use it.
usage_of() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$1"; }

# One short hash for the contents of files and folders, and for words given
# after "--". File names count relative to tests/cluster, not to the clone.
content_hash() {
  (
    cd "$CLUSTER_DIR"
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
      find "$1" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
      shift
    done
    printf '%s\n' "$@"
  ) | sha256sum | cut -c1-12
}

# with_lock NAME COMMAND...: one at a time on this machine; others wait.
# The descriptor is closed for the command itself, so that a daemon started
# inside does not keep the lock for its lifetime.
with_lock() {
  local lock_name=$1 fd
  shift
  exec {fd}>"$CACHE/.lock-$lock_name"
  if ! flock -n "$fd"; then
    log "waiting for another run of '$lock_name' on this machine"
    flock "$fd"
  fi
  # Not followed by "||" or tested by "if": either would switch off "set -e" inside.
  "$@" {fd}>&-
  exec {fd}>&-
}

# Timed steps: steps_begin TOTAL, then run_step NAME LOGFILE COMMAND...
STEP=0
STEPS=0
steps_begin() { STEP=0 STEPS=$1; }

run_step() {
  local name=$1 logfile=$2 began=$SECONDS rc=0
  shift 2
  STEP=$((STEP + 1))
  printf '[%2d/%2d] %-42s' "$STEP" "$STEPS" "$name" >&2
  # A subshell of its own: "set -e" inside it is in force, which it would not
  # be in a function called as part of a condition.
  set +e
  (set -euo pipefail; "$@") >"$logfile" 2>&1 </dev/null
  rc=$?
  set -e
  if [ "$rc" -ne 0 ]; then
    printf ' FAILED after %d s\n' "$((SECONDS - began))" >&2
    tail -n 15 "$logfile" | sed 's/^/    | /' >&2
    die "step '$name' failed (exit $rc)" "log: $logfile"
  fi
  printf ' %4d s\n' "$((SECONDS - began))" >&2
}

# wait_until SECONDS COMMAND...: polls; fails when time is up.
wait_until() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.3
  done
}
