# shellcheck shell=bash
# Settings for podman as the engine of a kind cluster.

# A configuration of our own, by CONTAINERS_CONF: the user's files stay as they
# are. runc, because crun refuses hosts with the hybrid cgroup layout. Limits that
# fit under the machine's own, because podman asks for more than a root without
# CAP_SYS_RESOURCE may give; of processes, podman hands on no more than 32768.
podman_settings() {
  local file="$CACHE/containers.conf" nofile nproc
  nofile=$(ulimit -Hn)
  nproc=$(ulimit -Hu)
  [ "$nofile" != unlimited ] && [ "$nofile" -lt 1048576 ] || nofile=1048576
  [ "$nproc" != unlimited ] && [ "$nproc" -lt 32768 ] || nproc=32768
  cat >"$file.new.$$" <<EOT
[containers]
default_ulimits = ["nofile=$nofile:$nofile", "nproc=$nproc:$nproc"]
[engine]
runtime = "runc"
EOT
  mv "$file.new.$$" "$file"
  export CONTAINERS_CONF="$file"
}

# kind mounts this folder into its nodes, and podman insists that it exists.
podman_host_folders() {
  [ -d /lib/modules ] || mkdir -p /lib/modules
}
