#!/bin/bash
# plain-install.sh SSH_CONFIG INPUTS HOST...: a cluster without kdc, as the peer of "cluster install" in the benchmark.
#
# What a good admin writes in an afternoon: scp, dpkg, ctr and kubeadm, each phase on every server at once, over
# one kept ssh connection a server. No checks, no undo, no signature. The first HOST becomes the control plane.
# INPUTS is the folder of make-bundle-inputs.sh's definition. Prints the seconds of each phase.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 3 ] || { sed -n 2,6p "$0" >&2; exit 2; }
inputs=$2 hosts=("${@:3}") first=$3 work=$(mktemp -d)
options=(-q -F "$1" -o ControlMaster=auto -o ControlPath="$work/%C" -o ControlPersist=600)
on() { ssh "${options[@]}" "$@"; }
finish() {
  for host in "${hosts[@]}"; do on -O exit "$host" 2>"$work/exit" || true; done
  rm -rf "$work"
}
trap finish EXIT
kubectl() { on "$first" kubectl --kubeconfig /etc/kubernetes/admin.conf "$(printf '%q ' "$@")"; }

# each COMMAND: runs `COMMAND HOST NUMBER` for every server at once; fails if one of them does.
each() {
  local number=0 host pid pids=()
  for host in "${hosts[@]}"; do
    number=$((number + 1)); "$1" "$host" "$number" & pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid"; done
}
phase() {
  local from=$EPOCHREALTIME; "${@:2}"
  awk -v a="$from" -v b="$EPOCHREALTIME" -v what="$1" 'BEGIN { printf "%6.1f s  %s\n", b - a, what }'
}
copy() {
  local programs=(kubeadm kubelet crictl) role=worker
  if [ "$1" = "$first" ]; then programs+=(kubectl) role=control-plane; fi
  on "$1" mkdir -p plain
  scp "${options[@]}" "$inputs"/packages/*.deb "${programs[@]/#/$inputs/programs/}" "$here/plain-node.sh" "$1:plain/"
  scp "${options[@]}" "$work/$role.tar" "$1:plain/images.tar"
}
prepare() { on "$1" bash plain/plain-node.sh "$2"; }
init() {
  sed "s/ADDRESS/${address[$first]}/" "$here/plain-init.yaml" >"$work/plain-init.yaml"
  scp "${options[@]}" "$work/plain-init.yaml" "$here/plain-check.yaml" "$first:plain/"
  on "$first" kubeadm init --config plain/plain-init.yaml >"$work/init" 2>&1 || { cat "$work/init" >&2; return 1; }
  join=$(grep -A1 '^kubeadm join' "$work/init" | tr -d '\\\n')
}
join() {
  if [ "$1" = "$first" ]; then return; fi
  on "$1" "$join" >"$work/join-$1" 2>&1 || { cat "$work/join-$1" >&2; return 1; }
}
route() {   # to the pods of every other server
  local number=0 host lines=''
  for host in "${hosts[@]}"; do
    number=$((number + 1))
    if [ "$host" != "$1" ]; then lines+="ip route replace 10.244.$number.0/24 via ${address[$host]};"; fi
  done
  on "$1" "$lines"
}
. "$here/plain-check.sh"

declare -A address
for host in "${hosts[@]}"; do address[$host]=$(ssh -G "${options[@]}" "$host" | awk '$1 == "hostname" { print $2 }'); done
node_images=(k8s.gcr.io/kube-proxy:v1.20.2 k8s.gcr.io/coredns:1.7.0 k8s.gcr.io/pause:3.2 docker.io/kdc/busybox:1)
plane_images=(k8s.gcr.io/kube-{apiserver,controller-manager,scheduler}:v1.20.2 k8s.gcr.io/etcd:3.4.13-0)
python3 "$here/archive.py" "$inputs/images" "$work/worker.tar" "${node_images[@]}"
python3 "$here/archive.py" "$inputs/images" "$work/control-plane.tar" "${node_images[@]}" "${plane_images[@]}"
SECONDS=0
all() {
  phase "copy packages, programs and images" each copy
  phase "install and import" each prepare
  phase "kubeadm init" init
  phase "kubeadm join of $((${#hosts[@]} - 1))" each join
  phase "routes" each route
  phase "every node Ready" nodes_ready
  phase "every pod reached from every node, by address and by name" pods_answer
}
phase "in all" all
