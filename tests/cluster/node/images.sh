# shellcheck shell=bash
# The container images that a cluster starts from, each one static program on an
# empty root, as archives in $ARCHIVES.

PROVISIONER_IMAGE=localhost/local-path-provisioner:pinned
HELPER_IMAGE=localhost/local-path-helper:pinned

# The names kubeadm will ask for: it knows registry and tags, so ask it.
kube_image() {
  "$BIN/kubeadm" config images list --kubernetes-version "v$KUBERNETES_VERSION" 2>/dev/null |
    grep -E "/$1:" | head -n 1 | grep .
}

# image_from_folder NAME FOLDER [Dockerfile line...]
image_from_folder() {
  local name=$1 folder=$2 archive
  shift 2
  archive="$ARCHIVES/$(basename "${name%:*}").tar"
  printf '%s\n' 'FROM scratch' 'COPY . /' 'ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' "$@" >"$folder.Dockerfile"
  own_podman build --quiet --tag "$name" --file "$folder.Dockerfile" "$folder"
  rm -f "$archive" # podman does not write over an archive
  own_podman save --quiet --output "$archive" "$name"
}

# A storage of our own, thrown away with $WORK: these images bear well-known
# names, and the user may have images and containers of the same names.
own_podman() {
  podman --root "$WORK/storage" --runroot "$WORK/run" --storage-driver vfs "$@"
}

image_folder() {
  local folder="$WORK/images/$1"
  rm -rf "$folder"
  mkdir -p "$folder/usr/local/bin" "$folder/tmp"
  printf '%s\n' "$folder"
}

# image_of_program NAME PROGRAM [Dockerfile line...]
image_of_program() {
  local name=$1 program=$2 folder
  shift 2
  folder=$(image_folder "$program")
  cp -L "$BIN/$program" "$folder/usr/local/bin/$program"
  image_from_folder "$name" "$folder" "$@"
}

images_control_plane() {
  local program
  for program in kube-apiserver kube-controller-manager kube-scheduler etcd; do
    image_of_program "$(kube_image "$program")" "$program"
  done
}

images_dns_and_storage() {
  # kubeadm's manifest gives only arguments to this one.
  image_of_program "$(kube_image coredns)" coredns 'ENTRYPOINT ["/usr/local/bin/coredns"]'
  image_of_program "$PROVISIONER_IMAGE" local-path-provisioner
  local folder applet
  folder=$(image_folder local-path-helper)
  mkdir -p "$folder/bin"
  cp "$ROOT/usr/bin/busybox" "$folder/bin/busybox"
  for applet in $("$folder/bin/busybox" --list); do
    # Its own name is on its list.
    [ "$applet" = busybox ] || ln -s busybox "$folder/bin/$applet"
  done
  image_from_folder "$HELPER_IMAGE" "$folder" 'CMD ["/bin/sh"]'
}

image_pause() {
  local folder
  folder=$(image_folder pause)
  "${CC:-gcc}" -static -Os -s -o "$folder/usr/local/bin/pause" "$CLUSTER_DIR/node/pause.c"
  image_from_folder "$(kube_image pause)" "$folder" 'USER 65535:65535' 'ENTRYPOINT ["/usr/local/bin/pause"]'
}

# kube-proxy calls the packet filter's own programs, so they come along with the
# libraries and plug-ins they load.
image_kube_proxy() {
  local folder program library name
  folder=$(image_folder kube-proxy)
  cp -L "$BIN/kube-proxy" "$folder/usr/local/bin/kube-proxy"
  mkdir -p "$folder/usr/sbin" "$folder/usr/bin" "$folder/usr/lib" "$folder/usr/lib64"
  # The same merged layout as the root they come from.
  ln -s usr/sbin "$folder/sbin"
  ln -s usr/bin "$folder/bin"
  ln -s usr/lib "$folder/lib"
  ln -s usr/lib64 "$folder/lib64"
  for program in usr/sbin/xtables-nft-multi usr/sbin/nft usr/sbin/conntrack usr/bin/kmod; do
    cp "$ROOT/$program" "$folder/$program"
    while read -r library; do
      mkdir -p "$folder$(dirname "$library")"
      cp -L "$ROOT$library" "$folder$library"
    done < <(chroot "$ROOT" ldd "/$program" | grep -oE '/[^ ]+')
  done
  for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
    ln -s xtables-nft-multi "$folder/usr/sbin/$name"
  done
  ln -s ../bin/kmod "$folder/usr/sbin/modprobe"
  library=$(cd "$ROOT" && find usr/lib -type d -name xtables | head -n 1)
  mkdir -p "$folder/$(dirname "$library")"
  cp -r "$ROOT/$library" "$folder/$library"
  # The plug-ins load a library that the programs do not.
  for name in "$folder/$library"/*.so; do
    while read -r library; do
      [ -e "$folder$library" ] || { mkdir -p "$folder$(dirname "$library")" && cp -L "$ROOT$library" "$folder$library"; }
    done < <(chroot "$ROOT" ldd "${name#"$folder"}" | grep -oE '/[^ ]+')
  done
  image_from_folder "$(kube_image kube-proxy)" "$folder"
  chroot "$folder" /usr/sbin/iptables --version
}
