#!/usr/bin/env bash
# A kind cluster for tests and for trying things out.
#
#   cluster.sh up [--name NAME] [--kubeconfig PATH] [--config FILE]
#                      create it, or keep the one that is there, healthy and of that config
#   cluster.sh down    delete it; nothing of it is left
#   cluster.sh status  nodes; fails when the cluster is missing or not healthy
#   cluster.sh load ARCHIVE...    put images (docker archives) onto its nodes
#   cluster.sh stop-node NODE     lose a node: its container ends at once
#   cluster.sh start-node NODE    start it again, and wait until it is Ready
#   cluster.sh kubeconfig         print the path of its own kubeconfig
#
#   --name NAME        default: quorumkv
#   --config FILE      for kind; default: kind-config.yaml. kind-config-workers.yaml has two workers
#   --kubeconfig PATH  leave the user's kubeconfig alone and write this file;
#                      without it the cluster is also merged into the user's, and
#                      made its current context, as kind does
#
# Environment:
#   QUORUMKV_KIND_OFFLINE=1      use the offline node image without asking a registry
#   QUORUMKV_NODE_IMAGE          use this node image
#   QUORUMKV_PULL_CHECK_SECONDS  how long the registry may take to answer (10)
#   KIND_EXPERIMENTAL_PROVIDER   docker or podman, as for kind itself
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
. "$CLUSTER_DIR/lib/go-tools.sh"
. "$CLUSTER_DIR/lib/podman.sh"
. "$CLUSTER_DIR/lib/docker.sh"
. "$CLUSTER_DIR/lib/pull.sh"
. "$CLUSTER_DIR/lib/kind.sh"
. "$CLUSTER_DIR/lib/nodes.sh"

command=
CLUSTER=quorumkv
kubeconfig=
config="$REPO_ROOT/kind-config.yaml"
arguments=()
while [ $# -gt 0 ]; do
  case $1 in
  --name) CLUSTER=${2:?--name needs a value} && shift ;;
  --config) config=${2:?--config needs a file} && shift ;;
  --kubeconfig) kubeconfig=${2:?--kubeconfig needs a path} && shift ;;
  -h | --help) usage_of "$0"; exit 0 ;;
  -*) die "unknown option $1" ;;
  *) if [ -z "$command" ]; then command=$1; else arguments+=("$1"); fi ;;
  esac
  shift
done
[ -s "$config" ] || die "there is no file $config"
STATE=$(cluster_state "$CLUSTER")
OWN="$STATE/kubeconfig"

export_kubeconfig() {
  if [ -n "$kubeconfig" ]; then
    mkdir -p "$(dirname "$kubeconfig")"
    install -m 0600 "$OWN" "$kubeconfig"
  else
    "$BIN/kind" export kubeconfig --quiet --name "$CLUSTER"
  fi
}

create() {
  local began=$SECONDS
  choose_image
  log "creating cluster '$CLUSTER' from $NODE_IMAGE with $PROVIDER"
  mkdir -p "$STATE"
  "$BIN/kind" create cluster --name "$CLUSTER" --config "$config" \
    --image "$NODE_IMAGE" --kubeconfig "$OWN" --wait 180s >&2
  pod_network
  "$BIN/kubectl" --kubeconfig "$OWN" wait --for=condition=Ready nodes --all --timeout 120s >/dev/null ||
    die "not all nodes became Ready within 120 s"
  # A pod made before this account exists is refused.
  wait_until 60 kube "$OWN" --namespace default get serviceaccount default ||
    die "the 'default' service account did not appear within 60 s"
  # The node is Ready some seconds before cluster DNS and volumes are.
  local namespace
  for namespace in kube-system local-path-storage; do
    "$BIN/kubectl" --kubeconfig "$OWN" --namespace "$namespace" wait deployment --all \
      --for=condition=Available --timeout 120s >/dev/null ||
      die "the deployments in namespace $namespace did not become available within 120 s"
  done
  cp "$config" "$STATE/config.yaml"
  cluster_is_healthy "$OWN" || die "the cluster came up but is not healthy" "look: $0 status --name $CLUSTER"
  log "cluster '$CLUSTER' is ready after $((SECONDS - began)) s"
}

up() {
  go_tools kind kubectl
  if find_provider "$CLUSTER"; then
    if ! cluster_is_healthy "$OWN"; then
      log "cluster '$CLUSTER' is there but not healthy: replacing it"
    elif ! is_of_config; then
      log "cluster '$CLUSTER' is there but of another config: replacing it"
    else
      log "cluster '$CLUSTER' is already there and healthy"
      export_kubeconfig
      echo "$OWN"
      return
    fi
    delete
  fi
  create
  export_kubeconfig
  echo "$OWN"
}

# One that was made before configs were kept is of the only one there was.
is_of_config() {
  local made_of="$STATE/config.yaml"
  [ -e "$made_of" ] || made_of="$REPO_ROOT/kind-config.yaml"
  cmp -s "$made_of" "$config"
}

delete() {
  local nodes
  mapfile -t nodes < <(kind_nodes "$ENGINE" "$CLUSTER")
  # Nothing in it is kept, so it need not shut down in good order (10 s).
  "$ENGINE" kill "${nodes[@]}" >/dev/null 2>&1 || true
  "$BIN/kind" delete cluster --name "$CLUSTER" >&2
  # Also from the user's default file, which the line above cleans, and from ours.
  rm -rf "$STATE"
}

down() {
  if find_provider "$CLUSTER"; then
    go_tools kind
    delete
  else
    log "there is no cluster '$CLUSTER'"
    rm -rf "$STATE"
  fi
}

status() {
  find_provider "$CLUSTER" || die "there is no cluster '$CLUSTER'"
  go_tools kubectl
  kube "$OWN" get nodes -o wide
  cluster_is_healthy "$OWN" || die "cluster '$CLUSTER' is not healthy"
}

load() {
  [ "${#arguments[@]}" -gt 0 ] || die "load needs an image archive"
  find_provider "$CLUSTER" || die "there is no cluster '$CLUSTER'" "create it: $0 up --name $CLUSTER"
  go_tools kind
  local archive
  for archive in "${arguments[@]}"; do
    [ -s "$archive" ] || die "no archive at $archive"
    "$BIN/kind" load image-archive --name "$CLUSTER" "$archive"
  done
}

# on_one_node FUNCTION: calls it with the node that was named, if the cluster has it.
on_one_node() {
  local node=${arguments[0]:-}
  [ "${#arguments[@]}" -eq 1 ] || die "$command needs the name of one node"
  find_provider "$CLUSTER" || die "there is no cluster '$CLUSTER'"
  # To the end: where grep stops at the first line, what still writes to it fails, and with it the whole.
  kind_nodes "$ENGINE" "$CLUSTER" | grep -xF "$node" >/dev/null || die "cluster '$CLUSTER' has no node $node"
  go_tools kubectl
  "$1" "$node"
}

case $command in
up | down) with_lock "cluster-$CLUSTER" "$command" ;;
status | load) "$command" ;;
stop-node) on_one_node stop_node ;;
start-node) on_one_node start_node ;;
kubeconfig)
  [ -s "$OWN" ] || die "there is no cluster '$CLUSTER'" "create it: $0 up --name $CLUSTER"
  echo "$OWN"
  ;;
*) usage_of "$0" >&2; exit 2 ;;
esac
