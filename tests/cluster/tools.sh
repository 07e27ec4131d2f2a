#!/usr/bin/env bash
# Builds the command-line tools that the cluster tests use, from pinned Go modules.
#
#   tools.sh                        kubectl helm kind docker-compose
#   tools.sh --with kwok            these and kwok
#   tools.sh --with node            these and what the offline node image is made of
#   tools.sh TOOL...                just these: kubectl helm kind docker-compose kwok
#                                   kubernetes etcd coredns local-path-provisioner
#   tools.sh --fetch ...            only fetch what those are built from
#
# They land in ${XDG_CACHE_HOME:-$HOME/.cache}/quorumkv/bin; a second run does nothing.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
. "$CLUSTER_DIR/lib/go-tools.sh"

named=()
extra=()
do=go_tools
while [ $# -gt 0 ]; do
  case $1 in
  --with)
    case ${2:?--with needs a name} in
    node) extra+=(kubernetes coredns local-path-provisioner) ;;
    *) extra+=("$2") ;;
    esac
    shift
    ;;
  --fetch) do=go_fetch ;;
  -h | --help) usage_of "$0"; exit 0 ;;
  -*) die "unknown option $1" ;;
  *) named+=("$1") ;;
  esac
  shift
done
[ "${#named[@]}" -gt 0 ] || named=(kubectl helm kind docker-compose)

"$do" "${named[@]}" "${extra[@]}"
