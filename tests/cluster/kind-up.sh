#!/usr/bin/env bash
# A kind cluster with quorumkv in it: images built from this checkout and loaded,
# the operator installed with helm, examples/kvcluster.yaml applied and Ready.
# Run again after a change: only what changed is renewed.
#
#   kind-up.sh [--name NAME] [--config FILE] [--no-example]
#
#   --name NAME     of the kind cluster; default: quorumkv
#   --config FILE   for kind; default: kind-config.yaml
#   --no-example    stop when the operator runs
#
# Environment:
#   QUORUMKV_BINARIES   static programs to make the images of, instead of building this checkout
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"

name=quorumkv
config="$REPO_ROOT/kind-config.yaml"
example=1
while [ $# -gt 0 ]; do
  case $1 in
  --name) name=${2:?--name needs a value} && shift ;;
  --config) config=${2:?--config needs a file} && shift ;;
  --no-example) example= ;;
  -h | --help) usage_of "$0"; exit 0 ;;
  *) die "unknown option $1" ;;
  esac
  shift
done

SYSTEM=quorumkv-system
kube() { "$BIN/kubectl" --kubeconfig "$KUBECONFIG_FILE" "$@"; }

# Tags that name the contents: a rebuilt program is a new image, and everything
# that runs the old one is replaced, which a tag that stays would not cause.
images() {
  local from=(--build)
  if [ -n "${QUORUMKV_BINARIES:-}" ]; then
    from=(--binaries "$QUORUMKV_BINARIES")
  else
    have musl-gcc || "$CLUSTER_DIR/prerequisites.sh" kind
  fi
  "$CLUSTER_DIR/image.sh" "${from[@]}" --context-only
  TAG="dev-$(cat "$REPO_ROOT"/dist/image/quorumkv-{node,operator} | sha256sum | cut -c1-12)"
  # Without --build: these are the programs that the tag was made of.
  [ -n "${QUORUMKV_BINARIES:-}" ] || from=()
  "$CLUSTER_DIR/image.sh" "${from[@]}" --archive "$REPO_ROOT/dist/images.tar" \
    --operator "localhost/quorumkv-operator:$TAG" --node "localhost/quorumkv-node:$TAG"
  "$CLUSTER_DIR/cluster.sh" load --name "$name" "$REPO_ROOT/dist/images.tar"
  rm -f "$REPO_ROOT/dist/images.tar"
}

operator() {
  # The strictest standard, enforced: what does not keep to it would not start.
  kube create namespace "$SYSTEM" --dry-run=client --output yaml | kube apply --filename - >&2
  kube label namespace "$SYSTEM" --overwrite pod-security.kubernetes.io/enforce=restricted >&2
  "$BIN/helm" --kubeconfig "$KUBECONFIG_FILE" upgrade --install quorumkv "$REPO_ROOT/charts/quorumkv" \
    --namespace "$SYSTEM" --wait --timeout 3m \
    --set image.repository=localhost/quorumkv-operator --set image.tag="$TAG" \
    --set nodeImage.repository=localhost/quorumkv-node --set nodeImage.tag="$TAG" >"$LOGS/helm.log" 2>&1 || {
    tail -n 20 "$LOGS/helm.log" >&2
    kube --namespace "$SYSTEM" get pods >&2
    kube --namespace "$SYSTEM" logs deployment/quorumkv-operator --tail 20 >&2 || true
    die "the operator did not come up" "log: $LOGS/helm.log"
  }
}

apply_example() {
  kube apply --filename "$REPO_ROOT/examples/kvcluster.yaml" >&2
  kube wait kvcluster/demo --for=condition=Ready --timeout=3m >&2 || {
    kube get kvcluster/demo --output yaml >&2
    kube get pods --selector app.kubernetes.io/instance=demo >&2
    kube --namespace "$SYSTEM" logs deployment/quorumkv-operator --tail 20 >&2
    die "the KvCluster 'demo' did not become Ready within 3 minutes"
  }
}

began=$SECONDS
"$CLUSTER_DIR/tools.sh" kubectl helm kind
KUBECONFIG_FILE=$("$CLUSTER_DIR/cluster.sh" up --name "$name" --config "$config")
images
operator
[ -z "$example" ] || apply_example

cat <<EOT

quorumkv runs on the kind cluster '$name' (context kind-$name) after $((SECONDS - began)) s.

  export PATH=$BIN:\$PATH
  kubectl get kvc
EOT
[ -z "$example" ] || cat <<'EOT'
  kubectl patch kvc/demo --type=merge -p '{"spec":{"writeQuorum":5}}'
  kubectl wait kvc/demo --for=jsonpath='{.status.writeQuorum}'=5
  kubectl port-forward service/demo 5000:5000
EOT
