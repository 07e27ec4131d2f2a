# shellcheck shell=bash
# The nodes of a cluster that has several: their pod network where the node image
# brings none that spans nodes, and a node that is lost and comes back.

PODS_CONFLIST=/etc/cni/net.d/10-pods.conflist

on_node() {
  local node=$1
  shift
  "$ENGINE" exec "$node" "$@"
}

running_nodes() {
  "$ENGINE" ps --filter "label=io.x-k8s.kind.cluster=$CLUSTER" --format '{{.Names}}' | sort
}

# The address by which other nodes reach it.
address_of() {
  on_node "$1" ip -4 -oneline address show dev eth0 | awk '{ sub("/.*", "", $4); print $4; exit }' | grep .
}

range_of() {
  kube "$OWN" get node "$1" --output 'jsonpath={.spec.podCIDR}' | grep .
}

# The pod network of the offline image is made of files on each node: here every
# node learns which part of it is its own, and which address leads to each other
# part. Addresses change when a node comes back, and its routes are gone then.
pod_network() {
  local nodes node other
  local -A range address
  mapfile -t nodes < <(running_nodes)
  [ "${#nodes[@]}" -gt 1 ] || return 0
  on_node "${nodes[0]}" test -e "$PODS_CONFLIST" || return 0
  for node in "${nodes[@]}"; do
    wait_until 30 range_of "$node" || die "node $node got no range of pod addresses within 30 s"
    range[$node]=$(range_of "$node")
    wait_until 30 address_of "$node" || die "node $node has no address"
    address[$node]=$(address_of "$node")
  done
  for node in "${nodes[@]}"; do
    for other in "${nodes[@]}"; do
      [ "$other" = "$node" ] || on_node "$node" ip route replace "${range[$other]}" via "${address[$other]}"
    done
    own_range "$node" "${range[$node]}"
  done
}

# own_range NODE SUBNET: new pods of the node get addresses from there.
own_range() {
  local node=$1 subnet=$2
  ! on_node "$node" grep -q "\"subnet\": \"$subnet\"" "$PODS_CONFLIST" || return 0
  on_node "$node" sed -i "s|\"subnet\": \"[^\"]*\"|\"subnet\": \"$subnet\"|" "$PODS_CONFLIST"
  # Those that were faster have an address that leads to another node.
  kube "$OWN" get pods --all-namespaces --field-selector "spec.nodeName=$node" --output json |
    jq -r '.items[] | select(.spec.hostNetwork | not) | "\(.metadata.namespace) \(.metadata.name)"' |
    while read -r namespace pod; do
      kube "$OWN" --namespace "$namespace" delete pod "$pod" --wait=false </dev/null >&2
    done
}

# As when its power fails: nothing in it ends in good order.
stop_node() {
  local told
  # On a busy machine an engine may complain that it takes long, and end the node all the same.
  told=$("$ENGINE" kill --signal KILL "$1" 2>&1) || true
  wait_until 60 is_stopped "$1" || die "node $1 did not stop within 60 s" "$told"
}

is_stopped() { [ "$("$ENGINE" inspect --format '{{.State.Running}}' "$1")" = false ]; }

start_node() {
  local node=$1 began=$SECONDS seen
  seen=$(node_renewed_at "$node")
  "$ENGINE" start "$node" >/dev/null
  pod_network
  # What the API server knows of it may be of before it went: it has to report anew.
  wait_until 120 node_reported_since "$node" "$seen" || die "node $node did not report within 120 s"
  wait_until 60 kube "$OWN" wait --for=condition=Ready "node/$node" --timeout 2s ||
    die "node $node reports, and did not become Ready within 60 s"
  log "node $node is back after $((SECONDS - began)) s"
}

node_renewed_at() {
  kube "$OWN" --namespace kube-node-lease get lease "$1" --output 'jsonpath={.spec.renewTime}'
}

node_reported_since() {
  local now
  now=$(node_renewed_at "$1") && [ "$now" != "$2" ]
}
