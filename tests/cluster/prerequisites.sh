#!/usr/bin/env bash
# Makes sure that the machine has what a part of the tests needs.
#
#   prerequisites.sh kind        a kind cluster from an offline node image (podman)
#   prerequisites.sh compose     docker compose
#   prerequisites.sh browser     a Chromium that tests can drive
#   prerequisites.sh network     lost packets between local processes
#   prerequisites.sh bench       Redis, to measure beside
#   prerequisites.sh prometheus  a Prometheus that tests can ask
#   prerequisites.sh all         kind, compose and network (default)
#
# Root on a machine with apt: missing packages are installed. Anyone else is told
# what is missing and which command installs it.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
. "$CLUSTER_DIR/lib/go-tools.sh"

# package:probe. The package is not asked for when the probe (a command, or a
# file) is there: whoever has Docker from elsewhere does not need docker.io.
COMMON=(gcc:gcc make:make git:git curl:curl jq:jq musl-tools:musl-gcc ca-certificates:/etc/ssl/certs/ca-certificates.crt)
KIND=(
  podman:podman netavark:/usr/lib/podman/netavark aardvark-dns:/usr/lib/podman/aardvark-dns
  containernetworking-plugins:/usr/lib/cni/portmap runc:runc iptables:iptables
  conntrack:conntrack debootstrap:debootstrap
)
COMPOSE=(docker.io:dockerd iptables:iptables)
BROWSER=(chromium:chromium chromium-driver:chromedriver)
BENCH=(redis-server:redis-server)
PROMETHEUS=(prometheus:prometheus)
NETWORK=(iproute2:ip iptables:iptables util-linux:unshare)

present() {
  case $1 in
  /*) [ -e "$1" ] ;;
  *) have "$1" ;;
  esac
}

missing_packages() {
  local entry
  for entry in "$@"; do
    present "${entry#*:}" || printf '%s\n' "${entry%%:*}"
  done | sort -u
}

lists_are_fresh() {
  [ -n "$(find /var/lib/apt/lists -maxdepth 1 -name '*Packages*' -mmin -1440 -print -quit 2>/dev/null)" ]
}

apt_update() {
  # One unreachable third-party source must not stop what Debian itself serves.
  apt-get update -q || log "apt-get update complained; going on with the lists there are"
}

apt_install() {
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
}

# Packages that bring a service try to start it. Without an init system that can
# only fail, so ask them not to; a policy that is already there stays as it is.
without_services() {
  local policy=/usr/sbin/policy-rc.d rc=0
  if [ -d /run/systemd/system ] || [ -e "$policy" ]; then
    "$@"
    return
  fi
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 0755 "$policy"
  "$@" || rc=$?
  rm -f "$policy"
  return "$rc"
}

install_packages() {
  lists_are_fresh || apt_update
  without_services apt_install "$@" || {
    # Lists that are fresh by date can still name versions the mirror dropped.
    apt_update
    without_services apt_install "$@"
  }
}

ensure_packages() {
  local missing command
  mapfile -t missing < <(missing_packages "$@")
  [ "${#missing[@]}" -gt 0 ] || return 0
  command="apt-get install -y --no-install-recommends ${missing[*]}"
  have apt-get || die "missing: ${missing[*]}" "no apt-get here: install them (Debian package names) with your package manager"
  is_root || die "missing packages: ${missing[*]}" "run: sudo $command"
  steps_begin 1
  run_step "install ${#missing[@]} packages" "$LOGS/apt.log" install_packages "${missing[@]}"
  mapfile -t missing < <(missing_packages "$@")
  [ "${#missing[@]}" -eq 0 ] || die "still missing after installing: ${missing[*]}" "log: $LOGS/apt.log"
}

what=${1:-all}
case $what in
kind) ensure_all=("${COMMON[@]}" "${KIND[@]}") ;;
compose) ensure_all=("${COMMON[@]}") ;;
browser) ensure_all=("${BROWSER[@]}") ;;
bench) ensure_all=("${BENCH[@]}") ;;
prometheus) ensure_all=("${PROMETHEUS[@]}") ;;
network) ensure_all=("${NETWORK[@]}") ;;
all) ensure_all=("${COMMON[@]}" "${KIND[@]}" "${NETWORK[@]}") ;;
-h | --help) usage_of "$0"; exit 0 ;;
*) die "unknown: $what" "one of: kind compose browser network bench prometheus all" ;;
esac
# An engine that already answers, wherever it runs, needs no dockerd here.
if [[ "$what" == @(compose|all) ]] && ! timeout 10 docker info >/dev/null 2>&1; then
  ensure_all+=("${COMPOSE[@]}")
fi

with_lock prerequisites ensure_packages "${ensure_all[@]}"
[[ "$what" == @(compose|browser|network|bench|prometheus) ]] || require_go
