# shellcheck shell=bash
# One kind cluster: which engine and image it gets, and what state it is in.

# The same minor version as the offline image, and the last that runs on cgroup v1.
STOCK_IMAGE=kindest/node:v1.34.0

cluster_state() { printf '%s/clusters/%s\n' "$CACHE" "$1"; }

# use_provider docker|podman: how kind, and engine(), reach the node containers.
use_provider() {
  PROVIDER=$1
  case $1 in
  podman)
    podman_settings
    podman_host_folders
    ENGINE=podman
    ;;
  docker)
    ENGINE=$(docker_client) || die "docker does not answer" "start it: tests/cluster/dockerd.sh start"
    # kind calls plain "docker": let that be the client that the engine answers.
    PATH="$(dirname "$ENGINE"):$PATH"
    ;;
  *) die "unknown provider '$1'" "KIND_EXPERIMENTAL_PROVIDER is docker or podman" ;;
  esac
  export KIND_EXPERIMENTAL_PROVIDER=$PROVIDER PATH
}

kind_nodes() {
  "$1" ps --all --filter "label=io.x-k8s.kind.cluster=$2" --format '{{.Names}}' 2>/dev/null
}

# Finds the engine that has nodes of the cluster, whoever made them.
find_provider() {
  local name=$1
  if have podman && is_root; then
    use_provider podman
    [ -z "$(kind_nodes podman "$name")" ] || return 0
  fi
  if docker_client >/dev/null && [ -n "$(kind_nodes "$(docker_client)" "$name")" ]; then
    use_provider docker
    return 0
  fi
  if have podman && ! is_root; then
    use_provider podman
    [ -z "$(kind_nodes podman "$name")" ] || return 0
  fi
  return 1
}

# Sets the provider and NODE_IMAGE for a new cluster.
choose_image() {
  local client
  if [ "${QUORUMKV_KIND_OFFLINE:-0}" = 1 ]; then
    choose_offline
    return
  fi
  if [ -n "${QUORUMKV_NODE_IMAGE:-}" ]; then
    choose_named "$QUORUMKV_NODE_IMAGE"
    return
  fi
  log "looking for $STOCK_IMAGE (at most $PULL_CHECK_SECONDS s; QUORUMKV_KIND_OFFLINE=1 skips this)"
  if [ "${KIND_EXPERIMENTAL_PROVIDER:-docker}" = docker ] && client=$(docker_client) &&
    image_available docker "$client" "$STOCK_IMAGE"; then
    use_provider docker
    NODE_IMAGE=$STOCK_IMAGE
  elif [ "${KIND_EXPERIMENTAL_PROVIDER:-podman}" = podman ] && have podman &&
    image_available podman podman "$STOCK_IMAGE"; then
    use_provider podman
    NODE_IMAGE=$STOCK_IMAGE
  else
    log "it cannot be pulled here: using a node image of our own"
    choose_offline
  fi
}

choose_named() {
  NODE_IMAGE=$1
  if [ -n "${KIND_EXPERIMENTAL_PROVIDER:-}" ]; then
    use_provider "$KIND_EXPERIMENTAL_PROVIDER"
  elif have podman && podman image exists "$NODE_IMAGE"; then
    use_provider podman
  elif docker_client >/dev/null; then
    use_provider docker
  else
    use_provider podman
  fi
}

choose_offline() {
  NODE_IMAGE=$("$CLUSTER_DIR/node-image.sh")
  use_provider podman
}

# Bounded calls: a broken cluster may accept a connection and say nothing.
kube() {
  local config=$1
  shift
  "$BIN/kubectl" --kubeconfig "$config" --request-timeout 10s "$@"
}

cluster_is_healthy() {
  local config=$1
  [ -s "$config" ] || return 1
  kube "$config" get --raw /readyz >/dev/null 2>&1 || return 1
  kube "$config" wait --for=condition=Ready nodes --all --timeout 5s >/dev/null 2>&1
}
