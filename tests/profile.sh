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
# child PLACE SECONDS: the bench's child with the most, second most... processor time, if it had so many seconds of it.
# While there are no children yet, ps fails.
child() {
  { ps -o pid=,times= --ppid "$bench" || true; } | sort -k2,2nr |
    awk -v place="$1" -v least="$2" 'NR == place && $2 >= least {print $1}'
}
# Until the leader is at work.
for _ in $(seq 120); do
  leader=$(child 1 1)
  [ -z "$leader" ] || break
  sleep 0.25
done
[ -n "$leader" ] || { cat "$work/bench.out" >&2; echo "error: no load" >&2; exit 1; }
follower=$(child 2 0)
perf record --quiet --all-cpus --freq 999 --output "$work/perf.data" -- sleep "$seconds"
wait "$bench"

# functions MOST OPTION...: so many lines of a report. All are read: head would end perf's pipe, and this script with it.
functions() {
  perf report --input "$work/perf.data" --stdio --no-children --percent-limit 0.8 "${@:2}" 2>/dev/null |
    awk -v most="$1" '!/^#/ && NF && ++shown <= most'
}
mkdir -p "$(dirname "$report")"
# shellcheck disable=SC2016 # backticks of Markdown
{
  printf '# Where the time goes\n\n64 connections, quorum 3, no delay, %s; %s s at 999 Hz on %s cores. Percentages are of both cores together.\n' \
    "${STORAGE:-memory}" "$seconds" "$(nproc)"
  printf '\n```text\n'
  grep '^1: quorumkv.*write' "$work/bench.out" || cat "$work/bench.out"
  printf '```\n\n## By process\n\n```text\n'
  functions 12 --sort pid
  printf '```\n\n## The leader\n\n```text\n'
  functions 45 --pid "$leader" --sort symbol
  printf '```\n\n## A follower\n\n```text\n'
  functions 30 --pid "$follower" --sort symbol --percent-limit 0.15
  printf '```\n'
} >"$report"
echo "written: $report"
