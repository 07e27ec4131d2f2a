# shellcheck shell=bash
# The node's root file system, step by step. Each function works on $ROOT.

DEBIAN_SUITE=trixie
DEBIAN_PACKAGES=(
  systemd systemd-sysv dbus                                   # init
  containerd runc containernetworking-plugins                 # containers
  conntrack iptables nftables iproute2 ethtool socat hostname # network
  util-linux mount kmod procps ca-certificates jq             # what kubeadm, kubelet and kind call
  busybox-static                                              # the shell of the volume helper
)

# The Debian mirror this machine's own apt uses: no mirror is written down here.
debian_mirror() {
  if [ -n "${QUORUMKV_DEBIAN_MIRROR:-}" ]; then
    printf '%s\n' "$QUORUMKV_DEBIAN_MIRROR"
    return
  fi
  # shellcheck disable=SC2016 # apt fills these in
  apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(LABEL)' 'Created-By: Packages' |
    awk '$2 == "Debian" && $3 == "Debian" { print $1; exit }'
}

# A proxy set for apt only.
apt_proxy() {
  local value=
  eval "$(apt-config shell value Acquire::http::Proxy)"
  [ -z "$value" ] || [ "$value" = DIRECT ] || export http_proxy="$value"
}

root_debian() {
  local mirror include
  mirror=$(debian_mirror)
  [ -n "$mirror" ] || {
    echo "no Debian mirror in this machine's apt configuration; set QUORUMKV_DEBIAN_MIRROR to one"
    return 1
  }
  apt_proxy
  include=$(IFS=, && echo "${DEBIAN_PACKAGES[*]}")
  debootstrap --variant=minbase --include="$include" "$DEBIAN_SUITE" "$ROOT" "$mirror"
  rm -rf "$ROOT"/var/cache/apt/archives/*.deb "$ROOT"/var/lib/apt/lists/* "$ROOT"/usr/share/{doc,man,locale}/*
}

# The node's scripts, units and settings, taken from the kind module that the
# kind program was built from, so that the two always fit.
root_kind_files() {
  local files
  files="$(cd "$CLUSTER_DIR/go" && go mod download sigs.k8s.io/kind && go list -m -f '{{.Dir}}' sigs.k8s.io/kind)/images/base/files"
  # Module files are read-only and carry no executable bits.
  cp -r --no-preserve=mode,ownership "$files/etc" "$files/kind" "$ROOT/"
  install -m 0755 "$files"/usr/local/bin/* "$ROOT/usr/local/bin/"
  chmod 0755 "$ROOT/kind" "$ROOT"/kind/bin "$ROOT"/kind/bin/*.sh
  # A snapshotter for nodes without root, which is not here.
  rm -f "$ROOT/etc/systemd/system/containerd-fuse-overlayfs.service"
}

root_kubernetes() {
  local program
  for program in kubeadm kubelet kubectl; do
    install -m 0755 "$BIN/$program" "$ROOT/usr/bin/$program"
  done
  mkdir -p "$ROOT/etc/kubernetes/manifests" "$ROOT/opt/cni/bin" "$ROOT/kind/manifests"
  cp "$ROOT"/usr/lib/cni/* "$ROOT/opt/cni/bin/"
  printf 'v%s' "$KUBERNETES_VERSION" >"$ROOT/kind/version"
}

root_containerd() {
  local program config="$ROOT/etc/containerd/config.toml"
  # kind's unit expects these under /usr/local/bin.
  for program in containerd ctr containerd-shim-runc-v2; do
    ln -sfn "/usr/bin/$program" "$ROOT/usr/local/bin/$program"
  done
  # Lowering a score below the parent's takes a privilege that the node may lack.
  sed -i -e 's/\(restrict_oom_score_adj *= *\).*/\1true/' \
    -e "s|\(sandbox_image *= *\).*|\1\"$(kube_image pause)\"|" "$config"
  grep -q 'restrict_oom_score_adj = true' "$config"
  chroot "$ROOT" ctr oci spec |
    jq '.hooks.createContainer += [{path: "/kind/bin/mount-product-files.sh"}] | del(.process.rlimits)' \
      >"$ROOT/etc/containerd/cri-base.json"
  test -s "$ROOT/etc/containerd/cri-base.json"
}

# A node boots only what it is asked to: units that want hardware, a console or
# the host's kernel log are taken out.
root_units() {
  local lib="$ROOT/usr/lib/systemd/system"
  rm -f "$lib"/sysinit.target.wants/systemd-tmpfiles-setup.service \
    "$lib"/{multi-user,local-fs,basic}.target.wants/* \
    "$lib"/sockets.target.wants/*{udev,initctl}* \
    "$ROOT"/etc/systemd/system/*.wants/*
  echo 'ReadKMsg=no' >>"$ROOT/etc/systemd/journald.conf"
  chroot "$ROOT" systemctl enable kubelet.service containerd.service undo-mount-hacks.service
  # Its settings would reach the whole machine's kernel.
  chroot "$ROOT" systemctl mask systemd-binfmt.service
  ln -sfn /usr/lib/systemd/systemd "$ROOT/sbin/init"
  # Every node makes its own.
  rm -f "$ROOT/etc/machine-id" "$ROOT/var/lib/dbus/machine-id"
  : >"$ROOT/etc/machine-id"
}

root_manifests() {
  install -D -m 0644 "$CLUSTER_DIR/node/10-pods.conflist" "$ROOT/etc/cni/net.d/10-pods.conflist"
  install -m 0644 "$CLUSTER_DIR/node/default-cni.yaml" "$ROOT/kind/manifests/default-cni.yaml"
  sed -e "s|@PROVISIONER@|$PROVISIONER_IMAGE|" -e "s|@HELPER@|$HELPER_IMAGE|" \
    "$CLUSTER_DIR/node/default-storage.yaml" >"$ROOT/kind/manifests/default-storage.yaml"
  ! grep -n '@[A-Z]*@' "$ROOT/kind/manifests/default-storage.yaml"
}
