# shellcheck shell=bash
# Stages of a longer run: each is timed, all are reported, none is forgotten.
# Sourced by tests/run.sh and .ci/run, which share one report through STAGES_FILE.

if [ -z "${STAGES_FILE:-}" ]; then
  STAGES_FILE=$(mktemp)
  export STAGES_FILE
fi

# stage NAME COMMAND...: runs the command, remembers how long it took, and sets
# STAGE_OK to 1, or to nothing when it failed. Always succeeds itself, so that nobody
# puts it into a condition: bash would then ignore "set -e" in the whole command.
# shellcheck disable=SC2034 # STAGE_OK is for the caller
stage() {
  local name=$1 began=$SECONDS rc
  shift
  printf '\n=== %s\n' "$name"
  set +e
  (set -euo pipefail; "$@") </dev/null
  rc=$?
  set -e
  if [ "$rc" -eq 0 ]; then
    STAGE_OK=1
    stage_record "$((SECONDS - began))" ok "$name"
  else
    STAGE_OK=
    stage_record "$((SECONDS - began))" FAILED "$name"
    printf '=== %s FAILED (exit %d)\n' "$name" "$rc"
  fi
}

# stage_impossible NAME REASON: asked for, but cannot be tried. That is a failure too.
stage_impossible() {
  printf '\n=== %s FAILED: %s\n' "$1" "$2"
  stage_record 0 FAILED "$1 ($2)"
}

stage_record() { printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$STAGES_FILE"; }

stages_failed() { grep -c $'\tFAILED\t' "$STAGES_FILE" || true; }

stages_report() {
  printf '\n'
  awk -F '\t' '{printf "%5d s  %-6s  %s\n", $1, $2, $3; sum += $1} END {printf "%5d s  in all\n", sum}' "$STAGES_FILE"
}
