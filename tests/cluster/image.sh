#!/usr/bin/env bash
# Builds the product images from static binaries that cargo built outside.
#
#   image.sh [--build] [--engine podman|docker] [--archive FILE]
#            [--operator NAME] [--node NAME] [--binaries FOLDER] [--context-only]
#
#   --build          run cargo for the binaries first (a no-op when up to date);
#                    done anyway when a binary is missing
#   --archive FILE   also save both images, for "cluster.sh load FILE"
#   --binaries DIR   default: target/<machine>-unknown-linux-musl/release
#   --context-only   only write dist/image, a build context for the same images
#                    (targets node and operator) that pulls nothing
#
# Default names: localhost/quorumkv-operator:dev and localhost/quorumkv-node:dev.
# Default engine: podman, or docker where there is no podman.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
. "$CLUSTER_DIR/lib/podman.sh"
. "$CLUSTER_DIR/lib/docker.sh"

TARGET="$(uname -m)-unknown-linux-musl"
PROGRAMS=(quorumkv-node quorumkv-operator)
node=localhost/quorumkv-node:dev
operator=localhost/quorumkv-operator:dev
binaries=
engine=
archive=
context_only=
build=

while [ $# -gt 0 ]; do
  case $1 in
  --engine) engine=${2:?} && shift ;;
  --archive) archive=${2:?} && shift ;;
  --operator) operator=${2:?} && shift ;;
  --node) node=${2:?} && shift ;;
  --binaries) binaries=${2:?} && shift ;;
  --context-only) context_only=1 ;;
  --build) build=1 ;;
  -h | --help) usage_of "$0"; exit 0 ;;
  *) die "unknown option $1" ;;
  esac
  shift
done

cargo_build() {
  have cargo || die "cargo is needed to build ${PROGRAMS[*]}"
  # rustup's toolchain file names this target too; this covers other machines.
  ! have rustup || (cd "$REPO_ROOT" && rustup target add "$TARGET" >/dev/null 2>&1) || true
  # On stderr, like all progress.
  (cd "$REPO_ROOT" && cargo build --release --locked --target "$TARGET" "${PROGRAMS[@]/#/--bin=}" >&2)
}

find_binaries() {
  local program
  if [ -z "$binaries" ]; then
    binaries="${CARGO_TARGET_DIR:-$REPO_ROOT/target}/$TARGET/release"
    for program in "${PROGRAMS[@]}"; do
      [ -x "$binaries/$program" ] || build=1
    done
    [ -z "$build" ] || cargo_build
  fi
  for program in "${PROGRAMS[@]}"; do
    [ -x "$binaries/$program" ] || die "no $program in $binaries"
    # An empty image has no loader for anything else.
    ! readelf -l "$binaries/$program" | grep -q INTERP ||
      die "$binaries/$program is not static" "build it with: cargo build --release --target $TARGET"
  done
}

# The same final stages as in the Dockerfile; only where the binaries come from differs.
write_context() {
  rm -rf "$CONTEXT.new"
  mkdir -p "$CONTEXT.new"
  install -m 0755 "${PROGRAMS[@]/#/$binaries/}" "$CONTEXT.new/"
  {
    printf '# Made by tests/cluster/image.sh from the Dockerfile.\n'
    printf 'FROM scratch AS build\nCOPY %s /out/\n' "${PROGRAMS[*]}"
    sed -n '/^# Images\./,$p' "$REPO_ROOT/Dockerfile"
  } >"$CONTEXT.new/Dockerfile"
  grep -q '^FROM scratch AS node$' "$CONTEXT.new/Dockerfile" || die "the Dockerfile has no part headed '# Images.'"
  rm -rf "$CONTEXT"
  mv "$CONTEXT.new" "$CONTEXT"
}

choose_engine() {
  [ -n "$engine" ] || { have podman && engine=podman; } || engine=docker
  case $engine in
  podman)
    have podman || "$CLUSTER_DIR/prerequisites.sh" kind
    podman_settings
    client=podman
    ;;
  docker)
    "$CLUSTER_DIR/dockerd.sh" start >/dev/null
    client=$(docker_client)
    docker_buildkit_available "$client" || export DOCKER_BUILDKIT=0
    ;;
  *) die "unknown engine $engine" "one of: podman docker" ;;
  esac
}

build_image() {
  local target=$1 name=$2 size
  "$client" build --quiet --target "$target" --tag "$name" "$CONTEXT" >/dev/null
  size=$("$client" image inspect --format '{{.Size}}' "$name")
  printf '%s  %d.%d MB\n' "$name" $((size / 1000000)) $((size / 100000 % 10))
}

save_archive() {
  local format=()
  # Docker's own layout is the one kind reads; podman writes others as well.
  [ "$engine" != podman ] || format=(--format docker-archive --multi-image-archive)
  mkdir -p "$(dirname "$archive")"
  rm -f "$archive.new" # podman does not write over an archive
  "$client" save "${format[@]}" --output "$archive.new" "$operator" "$node" >/dev/null 2>&1
  mv "$archive.new" "$archive"
  printf '%s  %d.%d MB\n' "$archive" $(($(stat -c %s "$archive") / 1000000)) $(($(stat -c %s "$archive") / 100000 % 10))
}

main() {
  find_binaries
  write_context
  [ -z "$context_only" ] || return 0
  choose_engine
  build_image node "$node"
  build_image operator "$operator"
  [ -z "$archive" ] || save_archive
}

CONTEXT="$REPO_ROOT/dist/image"
with_lock image main
