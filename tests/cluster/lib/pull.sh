# shellcheck shell=bash
# Can an image be had? Asked with a bound in time: a closed network must cost
# seconds, not minutes.

PULL_CHECK_SECONDS=${QUORUMKV_PULL_CHECK_SECONDS:-10}

# image_available docker|podman CLIENT IMAGE: here already, or named by a
# registry that answers. Pulls nothing.
image_available() {
  local engine=$1 client=$2 image=$3
  "$client" image inspect "$image" >/dev/null 2>&1 && return 0
  case $engine in
  docker) timeout "$PULL_CHECK_SECONDS" "$client" manifest inspect "$image" ;;
  podman) timeout "$PULL_CHECK_SECONDS" "$client" manifest inspect "docker://$image" ;;
  esac >/dev/null 2>&1
}

# What the Dockerfile builds on.
base_image_available() {
  image_available "$1" "$2" "$(sed -n 's/^FROM \([^ ]*:[^ ]*\) AS chef$/\1/p' "$REPO_ROOT/Dockerfile")"
}
