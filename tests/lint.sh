#!/usr/bin/env bash
# Formatting, clippy, generated files, shell scripts, the chart, licences. What a
# machine has no program for is named and left out, except for what cargo brings.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="${XDG_CACHE_HOME:-$HOME/.cache}/quorumkv/bin:$PATH"

failed=()
left_out=()

check() {
  local name=$1
  shift
  printf -- '--- %s\n' "$name"
  "$@" || failed+=("$name")
}

# where COMMAND NAME CHECK...: the check, if the command is there.
where() {
  if command -v "$1" >/dev/null; then
    check "${@:2}"
  else
    left_out+=("$2 (no $1)")
  fi
}

# The index as well as new files, so that nothing waits for a commit to be checked.
scripts() {
  git ls-files --cached --others --exclude-standard '*.sh' .ci/run | while read -r file; do
    [ ! -f "$file" ] || printf '%s\0' "$file"
  done | xargs -0 shellcheck --external-sources --source-path=SCRIPTDIR
}

chart() {
  helm lint --strict --quiet charts/quorumkv &&
    helm template check charts/quorumkv --namespace check >/dev/null &&
    helm template check charts/quorumkv --namespace check --set watchNamespace=team,replicas=2 \
      --set podDisruptionBudget.enabled=true,metrics.serviceMonitor.enabled=true \
      --set metrics.podMonitor.enabled=true,metrics.prometheusRule.enabled=true,metrics.dashboard.enabled=true \
      --set 'page.enabled=true,page.allowChanges=true,page.hosts={quorum.example.com}' >/dev/null &&
    ! helm template check charts/quorumkv --set replica=2 >/dev/null 2>&1 &&
    chart_scopes
}

# The operator has no more rights than where it watches, and is told of the same namespaces.
chart_scopes() {
  local everywhere some one both
  scoped() { helm template check charts/quorumkv --namespace check --set rbac.aggregateRoles=false "$@"; }
  everywhere=$(scoped) &&
    some=$(scoped --set 'watchNamespaces={b,a,b},metrics.podMonitor.enabled=true') &&
    one=$(scoped --set watchNamespace=a) &&
    ! both=$(scoped --set 'watchNamespaces={a},watchNamespace=b' 2>&1) &&
    [ "$(grep -c '^kind: ClusterRole' <<<"$everywhere")" -eq 2 ] &&
    ! grep -q '^kind: ClusterRole' <<<"$some$one" &&
    [ "$(grep -c '^  namespace: [ab]$' <<<"$some")" -eq 4 ] &&
    [ "$(grep -c '^  namespace: a$' <<<"$one")" -eq 2 ] &&
    grep -q 'value: "a,b"' <<<"$some" &&
    grep -q 'matchNames: \["a","b"\]' <<<"$some" &&
    grep -q 'watchNamespace and watchNamespaces are both set' <<<"$both"
}

check "formatting" cargo fmt --all --check
check "clippy" cargo clippy --locked --workspace --all-targets -- -D warnings
# With a small test, for the features that tests ask of dependencies: see tests/run.sh.
check "clippy, with failpoints" cargo clippy --locked --workspace --bin quorumkv-node-failpoints --test waiting_writes \
  --features quorumkv-node/failpoints -- -D warnings
check "the chart's copy of the CustomResourceDefinition (make crds)" cmp crds/kvcluster.yaml charts/quorumkv/files/crds/kvcluster.yaml
where shellcheck "shell scripts" scripts
where helm "chart" chart
where promtool "alerts" promtool test rules tests/prometheus/alerts.yaml
where cargo-deny "licences, banned crates, sources" cargo deny --log-level error check licenses bans sources

for name in "${left_out[@]}"; do printf 'left out: %s\n' "$name"; done
for name in "${failed[@]}"; do printf 'FAILED: %s\n' "$name"; done
[ "${#failed[@]}" -eq 0 ]
