#!/usr/bin/env bash
# Where processor time goes while 64 connections write, quorum 3, no delay: samples of perf, by process and function.
#
#   profile.sh [FILE]     writes a Markdown report there (default: results/tmp/profile.md)
#
# Environment: QUORUMKV_NODE_BIN (another node), STORAGE (memory or disk), SECONDS_SAMPLED (6).
# Needs perf (Debian: linux-perf) and the right to sample the kernel.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
report=${1:-results/tmp/profile.md}
seconds=${SECONDS_SAMPLED:-6}
command -v perf >/dev/null || { echo "error: no perf here; on Debian it is in linux-perf" >&2; exit 1; }

cargo build --release --locked --workspace --bin quorumkv-node --bin bench
target="${CARGO_TARGET_DIR:-target}/release"
work=$(mktemp -d)
trap 'kill "$bench" 2>/dev/null || true; rm -rf "$work"' EXIT

"$target/bench" --part compare --only quorumkv --storage "${STORAGE:-memory}" --quorums 3 --connections 64 --repeats 1 \
  --seconds $((seconds + 6)) --results "$work" >"$work/bench.out" 2>&1 &
bench=$!
# Until the leader is at work: the one of the bench's children with the most processor time.
busiest() { ps -o pid=,times= --ppid "$bench" | sort -k2,2nr | awk 'NR == 1 && $2 >= 1 {print $1}'; }
for _ in $(seq 120); do
  leader=$(busiest)
  [ -z "$leader" ] || break
  sleep 0.25
done
[ -n "$leader" ] || { cat "$work/bench.out" >&2; echo "error: no load" >&2; exit 1; }
follower=$(ps -o pid=,times= --ppid "$bench" | sort -k2,2nr | awk 'NR == 2 {print $1}')
perf record --quiet --all-cpus --freq 999 --output "$work/perf.data" -- sleep "$seconds"
wait "$bench"

functions() { perf report --input "$work/perf.data" --stdio --no-children --percent-limit 0.8 "$@" 2>/dev/null | grep -v '^#' | sed '/^$/d'; }
mkdir -p "$(dirname "$report")"
# shellcheck disable=SC2016 # backticks of Markdown
{
  printf '# Where the time goes\n\n64 connections, quorum 3, no delay, %s; %s s at 999 Hz on %s cores. Percentages are of both cores together.\n' \
    "${STORAGE:-memory}" "$seconds" "$(nproc)"
  printf '\n```text\n'
  grep '^1: quorumkv.*write' "$work/bench.out" || cat "$work/bench.out"
  printf '```\n\n## By process\n\n```text\n'
  functions --sort pid | head -12
  printf '```\n\n## The leader\n\n```text\n'
  functions --pid "$leader" --sort symbol | head -45
  printf '```\n\n## A follower\n\n```text\n'
  functions --pid "$follower" --sort symbol --percent-limit 0.15 | head -30
  printf '```\n'
} >"$report"
echo "written: $report"
