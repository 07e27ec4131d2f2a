# shellcheck shell=bash
# Builds Go programs from the pinned module in tests/cluster/go into
# $CACHE/tools/<group>-<hash>/ and links them into $BIN. One module for all but kwok,
# so that what they share (most of it: Kubernetes' libraries) is compiled once.

# All of these also stand in go/go.mod.
KUBERNETES_VERSION=1.34.4 # the last line that runs on cgroup v1
HELM_VERSION=3.19.4       # the last line made with the libraries of Kubernetes 1.34
COMPOSE_VERSION=2.40.3

# What each group builds: sets PACKAGES, NAMES (same order), LDFLAGS and MODULE (a folder).
go_group() {
  local k=k8s.io/component-base/version minor
  minor=${KUBERNETES_VERSION#1.}
  minor=${minor%%.*}
  local k8s_flags="-X $k.gitVersion=v$KUBERNETES_VERSION -X $k.gitMajor=1 -X $k.gitMinor=$minor"
  k8s_flags+=" -X $k.gitTreeState=clean -X $k.gitCommit=none"
  LDFLAGS='-s -w' MODULE=go
  case $1 in
  kubectl)
    # On its own, because the ordinary kindest/node path needs nothing else of Kubernetes.
    PACKAGES=(k8s.io/kubernetes/cmd/kubectl) NAMES=(kubectl) LDFLAGS+=" $k8s_flags"
    ;;
  kubernetes)
    NAMES=(kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubeadm)
    PACKAGES=("${NAMES[@]/#/k8s.io/kubernetes/cmd/}" go.etcd.io/etcd/server/v3)
    NAMES+=(etcd)
    LDFLAGS+=" $k8s_flags"
    ;;
  etcd)
    # On its own, for `make bench`, which needs nothing else of a cluster.
    PACKAGES=(go.etcd.io/etcd/server/v3) NAMES=(etcd)
    ;;
  helm)
    PACKAGES=(helm.sh/helm/v3/cmd/helm) NAMES=(helm)
    LDFLAGS+=" -X helm.sh/helm/v3/internal/version.version=v$HELM_VERSION"
    # What `helm template` and `helm lint` take for the cluster's version.
    LDFLAGS+=" -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=$minor"
    LDFLAGS+=" -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=$minor"
    ;;
  docker-compose)
    PACKAGES=(github.com/docker/compose/v2/cmd) NAMES=(docker-compose)
    LDFLAGS+=" -X github.com/docker/compose/v2/internal.Version=v$COMPOSE_VERSION"
    ;;
  kind) PACKAGES=(sigs.k8s.io/kind) NAMES=(kind) ;;
  # Made with the libraries of an earlier Kubernetes, and does not compile with these.
  kwok) MODULE=go/kwok PACKAGES=(sigs.k8s.io/kwok/cmd/kwok) NAMES=(kwok) ;;
  coredns) PACKAGES=(quorumkv.io/tests/cluster/coredns) NAMES=(coredns) ;;
  local-path-provisioner)
    PACKAGES=(github.com/rancher/local-path-provisioner) NAMES=(local-path-provisioner)
    ;;
  *) die "no such tool: $1" "known: kubectl helm kind docker-compose kwok kubernetes etcd coredns local-path-provisioner" ;;
  esac
}

# Where a group's programs are, or will be: the name carries everything that
# could change them.
go_group_dir() {
  local MODULE PACKAGES NAMES LDFLAGS
  go_group "$1"
  printf '%s/tools/%s-%s\n' "$CACHE" "$1" \
    "$(content_hash "$MODULE" -- "$(uname -m)" "$LDFLAGS" "${PACKAGES[@]}" "${NAMES[@]}")"
}

# Go new enough for the pinned module. Asked inside it, so that a
# toolchain that Go would fetch by itself counts.
require_go() {
  local version
  have go || die "Go >= 1.25 is needed to build the cluster tools, and there is no 'go' in PATH" \
    "install it from your distribution or from the Go project's downloads, then run this again"
  version=$(cd "$CLUSTER_DIR/go" && go env GOVERSION 2>/dev/null) || version=
  if ! [[ "$version" =~ ^go1\.([0-9]+) ]] || [ "${BASH_REMATCH[1]}" -lt 25 ]; then
    die "Go >= 1.25 is needed to build the cluster tools; found: $(go version 2>/dev/null || echo 'a go that does not run')"
  fi
}

go_build_group() {
  local MODULE PACKAGES NAMES LDFLAGS dir i built
  dir=$(go_group_dir "$1")
  [ ! -d "$dir" ] || return 0
  go_group "$1"
  rm -rf "$dir.partial"
  mkdir -p "$dir.partial/out"
  cd "$CLUSTER_DIR/$MODULE" || return
  # Explicit settings, so that a user's Go environment cannot change the result;
  # -mod=readonly makes an incomplete go.sum an error instead of an edit. What -s would
  # remove from the programs is not even made, and the compiler collects its garbage less
  # often: each saves about a tenth of the time.
  env -u GOOS -u GOARCH GOFLAGS='' GOWORK=off CGO_ENABLED=0 GOGC=400 \
    nice -n 10 go build -mod=readonly -buildvcs=false -trimpath -gcflags=all=-dwarf=false -ldflags "$LDFLAGS" \
    -o "$dir.partial/out/" "${PACKAGES[@]}"
  for i in "${!NAMES[@]}"; do
    # Go names a program after its folder, ignoring a trailing /v3.
    built=${PACKAGES[i]}
    [[ ! "${built##*/}" =~ ^v[0-9]+$ ]] || built=${built%/*}
    mv "$dir.partial/out/${built##*/}" "$dir.partial/${NAMES[i]}"
  done
  rmdir "$dir.partial/out"
  mv "$dir.partial" "$dir"
}

# Fetches the modules that missing groups are built from, where Go can be had.
go_fetch() {
  local MODULE PACKAGES NAMES LDFLAGS group
  have go || return 0
  for group in "$@"; do
    [ ! -d "$(go_group_dir "$group")" ] || continue
    go_group "$group"
    (cd "$CLUSTER_DIR/$MODULE" && env -u GOOS -u GOARCH GOFLAGS='' GOWORK=off CGO_ENABLED=0 \
      nice -n 10 go list -mod=readonly -deps "${PACKAGES[@]}" >/dev/null)
  done
}

# Points $BIN/NAME at a group's programs.
go_link_group() {
  local MODULE PACKAGES NAMES LDFLAGS dir name
  dir=$(go_group_dir "$1")
  go_group "$1"
  for name in "${NAMES[@]}"; do
    [ "$(readlink "$BIN/$name" || true)" = "$dir/$name" ] || ln -sfn "$dir/$name" "$BIN/$name"
  done
}

# Makes sure of each named group.
go_tools() {
  local group missing=()
  for group in "$@"; do
    if [ -d "$(go_group_dir "$group")" ]; then
      go_link_group "$group"
    elif ! have go && have "$group"; then
      # Without Go, a tool of that name which the user has is better than none.
      log "no Go here: using $(command -v "$group")"
      ln -sfn "$(command -v "$group")" "$BIN/$group"
    else
      missing+=("$group")
    fi
  done
  [ "${#missing[@]}" -gt 0 ] || return 0
  require_go
  steps_begin "${#missing[@]}"
  for group in "${missing[@]}"; do
    run_step "build $group" "$LOGS/build-$group.log" with_lock "tool-$group" go_build_group "$group"
    go_link_group "$group"
  done
}
