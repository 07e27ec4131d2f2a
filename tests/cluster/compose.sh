#!/usr/bin/env bash
# docker compose with what this machine has: an engine is started when none
# answers, compose is built when there is none, and where base images cannot be
# pulled the project's images are made from binaries built outside.
#
#   compose.sh ARGS...       as docker compose ARGS...
#
# Environment:
#   QUORUMKV_BUILD_CONTEXT   build context for docker-compose.yml; default: the
#                            repository, or the prebuilt one made by image.sh
#                            where the base images cannot be pulled
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
. "$CLUSTER_DIR/lib/docker.sh"
. "$CLUSTER_DIR/lib/pull.sh"

case ${1:-} in -h | --help | '') usage_of "$0"; exit 0 ;; esac

"$CLUSTER_DIR/dockerd.sh" start >/dev/null
client=$(docker_client)
find_compose "$client"
docker_buildkit_available "$client" || export DOCKER_BUILDKIT=0

builds() {
  local word
  for word in "$@"; do
    case $word in up | build | create | run) return 0 ;; esac
  done
  return 1
}

if [ -z "${QUORUMKV_BUILD_CONTEXT:-}" ] && builds "$@" && ! base_image_available docker "$client"; then
  "$CLUSTER_DIR/image.sh" --build --context-only
  export QUORUMKV_BUILD_CONTEXT="$REPO_ROOT/dist/image"
fi
exec "${COMPOSE[@]}" "$@"
