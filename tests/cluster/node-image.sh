#!/usr/bin/env bash
# Makes the node image of an offline kind cluster, in podman's storage, from
# Debian packages and Go modules alone; no image is pulled. Prints its name.
#
#   node-image.sh            make it unless it is there
#   node-image.sh --name     only print the name
#
# The name carries a hash of the recipe: an image that exists is up to date.
# Environment: QUORUMKV_DEBIAN_MIRROR (default: the one apt uses).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
. "$CLUSTER_DIR/lib/go-tools.sh"
. "$CLUSTER_DIR/lib/podman.sh"
. "$CLUSTER_DIR/node/root.sh"
. "$CLUSTER_DIR/node/images.sh"
. "$CLUSTER_DIR/node/commit.sh"

recipe_hash() {
  content_hash node go -- "$(uname -m)" "$KUBERNETES_VERSION"
}

clean_up() {
  podman rm --force --ignore --time 0 "$BUILDER"
  podman rmi "$IMAGE-base" || true # its layer stays, as the image's own
  rm -rf "$WORK"
}

# Loading takes seconds where building takes minutes, and podman's storage does
# not always outlive a machine's cache folder.
save_archive() {
  mkdir -p "$SAVED"
  rm -f "$SAVED"/*.partial
  podman save --quiet --output "$SAVED/$HASH.tar.partial" "$IMAGE"
  mv "$SAVED/$HASH.tar.partial" "$SAVED/$HASH.tar"
  # About 1 GB each: this one and the one before are enough.
  find "$SAVED" -name '*.tar' -printf '%T@ %p\n' | sort -rn | tail -n +3 | cut -d ' ' -f 2- |
    xargs -r -d '\n' rm -f
}

make_image() {
  if podman image exists "$IMAGE"; then return; fi
  if [ -s "$SAVED/$HASH.tar" ]; then
    steps_begin 1
    run_step "load the node image from the cache" "$LOGS/node-image-load.log" \
      podman load --quiet --input "$SAVED/$HASH.tar"
    podman image exists "$IMAGE" && return
    log "the archive in the cache holds something else: building the image"
  fi
  build
}

build() {
  # Shown with their own steps and seconds.
  "$CLUSTER_DIR/tools.sh" kubectl kubernetes coredns local-path-provisioner kind
  # Left by a run that was interrupted.
  rm -rf "$WORK"
  mkdir -p "$WORK" "$ARCHIVES"
  local began=$SECONDS l="$LOGS/node-image"
  steps_begin 14
  run_step "Debian root" "$l-debian.log" root_debian
  run_step "kind's node files" "$l-kind.log" root_kind_files
  run_step "Kubernetes programs" "$l-kubernetes.log" root_kubernetes
  run_step "containerd settings" "$l-containerd.log" root_containerd
  run_step "systemd units" "$l-units.log" root_units
  run_step "pod network and storage manifests" "$l-manifests.log" root_manifests
  run_step "image: pause" "$l-pause.log" image_pause
  run_step "images: control plane" "$l-control-plane.log" images_control_plane
  run_step "image: kube-proxy" "$l-kube-proxy.log" image_kube_proxy
  run_step "images: cluster DNS, volumes" "$l-dns.log" images_dns_and_storage
  run_step "import the root" "$l-import.log" import_root
  run_step "load the images into it" "$l-load.log" load_images
  run_step "commit" "$l-commit.log" commit_image
  run_step "save it in the cache" "$l-save.log" save_archive
  clean_up >"$l-clean-up.log" 2>&1
  log "built $IMAGE in $((SECONDS - began)) s"
}

HASH=$(recipe_hash)
IMAGE="localhost/kind-node:v$KUBERNETES_VERSION-$HASH"
WORK="$CACHE/node-image-$HASH"
SAVED="$CACHE/node-images"
ROOT="$WORK/root"
ARCHIVES="$WORK/archives"
BUILDER="quorumkv-node-image-$HASH"

case ${1:-} in
--name) echo "$IMAGE"; exit 0 ;;
-h | --help) usage_of "$0"; exit 0 ;;
'') ;;
*) die "unknown option $1" ;;
esac

is_root || die "the offline node image can only be built by root" \
  "run as root, or where kindest/node can be pulled (then this image is not needed)"
"$CLUSTER_DIR/prerequisites.sh" kind
podman_settings
podman_host_folders
with_lock node-image make_image
echo "$IMAGE"
