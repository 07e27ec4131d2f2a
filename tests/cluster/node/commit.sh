# shellcheck shell=bash
# From $ROOT and $ARCHIVES to the finished image $IMAGE in podman's storage.

IMAGE_SETTINGS=(
  --change 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]'
  --change 'STOPSIGNAL SIGRTMIN+3'
  --change 'ENV container=podman'
)

import_root() {
  # Left by an interrupted run, it would stay behind without a name. Never by
  # force, which would also remove containers that use an image.
  podman rm --force --ignore "$BUILDER"
  podman rmi "$IMAGE-base" 2>/dev/null || true
  tar -C "$ROOT" --numeric-owner -c . | podman import "${IMAGE_SETTINGS[@]}" - "$IMAGE-base"
}

# Images go into the store of the node's own containerd, so that a new node has
# nothing to fetch.
load_images() {
  podman rm --force --ignore "$BUILDER"
  podman run --detach --name "$BUILDER" --privileged --network none \
    --volume "$ARCHIVES:/archives:ro" --entrypoint sleep "$IMAGE-base" infinity
  podman exec "$BUILDER" bash -euc '
    containerd >/var/log/import.log 2>&1 &
    for _ in $(seq 100); do ctr version >/dev/null 2>&1 && break; sleep 0.2; done
    for archive in /archives/*.tar; do
      ctr --namespace k8s.io images import --no-unpack --all-platforms "$archive"
    done
    ctr --namespace k8s.io images list --quiet
    kill %1
    wait || true
    rm -f /var/log/import.log
    rm -rf /run/containerd'
}

commit_image() {
  podman commit --quiet "${IMAGE_SETTINGS[@]}" --change 'CMD []' "$BUILDER" "$IMAGE"
}
