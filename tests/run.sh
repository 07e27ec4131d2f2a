#!/usr/bin/env bash
# Runs the tests, prepared for by what each layer needs, one layer after the other.
#
#   run.sh                    unit, sim, local, compose, e2e
#   run.sh --fast             unit, sim, local: no containers
#   run.sh --layers A,B       just these
#
#   unit      everything that stands beside the code, and the documentation's examples
#   sim       the replication rules under virtual time, with faults; small stores in every order of events
#   local     real node processes on this machine
#   compose   the lab, with docker compose
#   e2e       the operator on a kind cluster
#
# A layer that was asked for and cannot run is a failure. Ends with a line of time
# per stage and then, alone on the last line, the number of tests that passed and failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/stages.sh

layers=unit,sim,local,compose,e2e
while [ $# -gt 0 ]; do
  case $1 in
  --fast) layers=unit,sim,local ;;
  --layers) layers=${2:?--layers needs a comma-separated list} && shift ;;
  -h | --help) sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"; exit 0 ;;
  *) printf 'error: unknown option %s\n' "$1" >&2; exit 2 ;;
  esac
  shift
done
IFS=, read -ra asked <<<"$layers"
for layer in "${asked[@]}"; do
  case $layer in unit | sim | local | compose | e2e) ;; *)
    printf 'error: no layer %s; there are unit, sim, local, compose, e2e\n' "$layer" >&2
    exit 2
    ;;
  esac
done

asks() { [[ ",$layers," == *",$1,"* ]]; }
LOG=$(mktemp)
BIN="${XDG_CACHE_HOME:-$HOME/.cache}/quorumkv/bin"
export PATH="$BIN:$PATH"

prerequisites() {
  if asks compose && asks e2e; then
    tests/cluster/prerequisites.sh all
  elif asks e2e; then
    tests/cluster/prerequisites.sh kind
  else
    tests/cluster/prerequisites.sh compose
  fi
}

# Only root may make network namespaces: for anyone else, the tests in them are shown as ignored.
network() { [ "$(id -u)" -ne 0 ] || tests/cluster/prerequisites.sh network; }

names_of_tools() {
  ! asks compose || echo docker-compose
  # The last two for an API server whose machines are played.
  ! asks e2e || printf '%s\n' kubectl helm kind kubernetes kwok
}

# What Go compiles later is fetched while Rust compiles: one waits for the network, the other for processors. What
# cannot be fetched is tried again, and told of, by the stages that need it.
fetch_tools() {
  local tools
  mapfile -t tools < <(names_of_tools)
  tests/cluster/tools.sh --fetch "${tools[@]}" --with node >/dev/null 2>&1 &
  FETCHING=$!
}

tools() {
  local tools
  mapfile -t tools < <(names_of_tools)
  tests/cluster/tools.sh "${tools[@]}"
}

# Programs, which tests of the layers start, and tests in one go: alone, the programs would be built with fewer
# features of what both depend on, and so would all of that.
build() { cargo build --locked --workspace --bins --tests; }

# Nodes that can be told where to abort, under a name of their own. With a small test beside them, for the
# features that tests ask of dependencies: then none of those is compiled again.
failpoints() {
  cargo build --locked --workspace --bin quorumkv-node-failpoints --test waiting_writes --features quorumkv-node/failpoints
}

# For the page. Without it that one test is left out, and its layer says so.
browser() {
  tests/cluster/prerequisites.sh browser || echo "no browser: the page will not be looked at"
}

# For the dashboard's queries. Without it that one test is left out, and its layer says so.
prometheus() {
  tests/cluster/prerequisites.sh prometheus || echo "no Prometheus: the dashboard's queries will not be asked"
}

images() { tests/cluster/image.sh --build; }

# What the cluster is made of: chosen, and built where nothing can be pulled. The
# cluster itself is made and removed by the tests.
node_image() {
  . tests/cluster/lib/common.sh
  . tests/cluster/lib/go-tools.sh
  . tests/cluster/lib/podman.sh
  . tests/cluster/lib/docker.sh
  . tests/cluster/lib/pull.sh
  . tests/cluster/lib/kind.sh
  choose_image
  echo "$NODE_IMAGE"
}

cargo_test() {
  # The log is read for the summary; the exit code is cargo's (pipefail).
  cargo test --locked --no-fail-fast "$@" 2>&1 | tee -a "$LOG"
}

# Always the whole workspace, and targets picked from it: another choice of packages
# would be another choice of their features, and compile much of it once more.
unit() {
  local rc=0 targets=(--lib --bins) file
  for file in node/tests/*.rs node/*/tests/*.rs operator/tests/*.rs; do
    [ ! -f "$file" ] || targets+=(--test "$(basename "$file" .rs)")
  done
  cargo_test --workspace "${targets[@]}" || rc=$?
  # Both parts run, whatever becomes of the first.
  cargo_test --workspace --doc || rc=$?
  return "$rc"
}

layer() {
  local targets=() file
  # Simulation and model stand beside the core that they test.
  if [ "$1" = sim ]; then targets+=(--test simulation --test model); fi
  for file in "tests/tests/$1"_*.rs; do
    [ ! -f "$file" ] || targets+=(--test "$(basename "$file" .rs)")
  done
  [ "${#targets[@]}" -gt 0 ] || { echo "there is no tests/tests/$1_*.rs"; return 1; }
  export QUORUMKV_TEST_LAYERS=$1
  # Most of these wait most of the time: for processes, delays and timeouts.
  if [ "$1" = local ]; then export RUST_TEST_THREADS=${RUST_TEST_THREADS:-4}; fi
  some_ran cargo_test --workspace "${targets[@]}"
}

# A layer in which nothing ran (renamed, ignored, filtered out) has shown nothing.
some_ran() {
  local before
  before=$(passed_tests)
  "$@"
  [ "$(passed_tests)" -gt "$before" ] || { echo "no test ran"; return 1; }
}

passed_tests() { awk '/^test result: / {for (i = 2; i <= NF; i++) if ($i ~ /^passed/) n += $(i - 1)} END {print n + 0}' "$LOG"; }

# Sums what the test runner said, however many programs it ran. A stage can fail
# without a failing test (a build, a tool): the line never counts fewer failures than
# stages that failed, and so never says "0 failed" of a run that did not succeed.
summary() {
  local passed failed ignored stages
  read -r passed failed ignored < <(awk '
    /^test result: / {
      for (i = 2; i <= NF; i++) {
        if ($i ~ /^passed/) passed += $(i - 1)
        if ($i ~ /^failed/) failed += $(i - 1)
        if ($i ~ /^ignored/) ignored += $(i - 1)
      }
    }
    END { print passed + 0, failed + 0, ignored + 0 }' "$LOG")
  stages=$(stages_failed)
  [ "$failed" -ge "$stages" ] || failed=$stages
  printf '\n%d passed, %d failed, %d ignored\n' "$passed" "$failed" "$ignored"
  [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}

# An engine that this run had to start ends with it; one that was there stays.
engine_was_there=1
timeout 20 tests/cluster/dockerd.sh status >/dev/null 2>&1 || engine_was_there=
FETCHING=
finish() {
  [ -z "$FETCHING" ] || kill "$FETCHING" 2>/dev/null || true
  [ -n "$engine_was_there" ] || tests/cluster/dockerd.sh stop >/dev/null 2>&1 || true
  rm -f "$LOG"
}
trap finish EXIT

containers=1
prepare() {
  [ -n "$containers" ] || return 0
  stage "$@"
  containers=$STAGE_OK
}

needs_containers=
if asks compose || asks e2e; then needs_containers=1; fi
if [ -n "$needs_containers" ]; then
  prepare "prerequisites" prerequisites
  fetch_tools
fi
if asks local; then
  stage "browser" browser
  stage "prometheus" prometheus
  stage "network" network
fi
stage "build" build
if asks local; then stage "build, with failpoints" failpoints; fi
if [ -n "$needs_containers" ]; then
  wait "$FETCHING" || true
  prepare "tools" tools
  prepare "images" images
  if asks e2e; then prepare "kind node image" node_image; fi
fi

# Shows that simulation and model notice: each rule left out must be caught. Compiled apart,
# because a store with such a switch in it is not the one that is released.
planted() { some_ran cargo_test --workspace --features quorumkv-protocol/planted-bugs --test simulation --test model planted_bugs; }

for layer in "${asked[@]}"; do
  case $layer in
  unit) stage unit unit ;;
  sim)
    stage sim layer sim
    stage "sim, with planted bugs" planted
    ;;
  compose | e2e)
    if [ -n "$containers" ]; then
      stage "$layer" layer "$layer"
    else
      stage_impossible "$layer" "an earlier stage that it needs failed"
    fi
    ;;
  *) stage "$layer" layer "$layer" ;;
  esac
done

stages_report
summary
