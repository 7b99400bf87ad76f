#!/bin/bash
# The demo: three fresh lab servers become a real Kubernetes cluster, from one signed bundle, over SSH, with no
# way out to any network. Asks nothing. KEEP=1 leaves the cluster running (take it away with: make lab-down).
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/host.sh
lab=${LAB:-demo}; servers=${SERVERS:-3}
bin=$PWD/target/release; work=$(mktemp -d)
say() { printf '\n%s\n' "$*"; }
show() { printf '$ %s\n' "${*/#operator /}"; "$@"; }

PATH=$bin:$PATH
finish() {
  if [ "${KEEP:-}" = 1 ]; then
    echo "kept: lab '$lab', files in $work; kdc-lab ssh --name $lab node1; make lab-down LAB=$lab"
  else kdc-lab down --name "$lab" > /dev/null 2>&1 || true; rm -rf "$work"; fi
}
trap finish EXIT
kdc-lab down --name "$lab" > /dev/null 2>&1 || true

say "1. What goes into the bundle (Kubernetes is compiled the first time: about 13 CPU minutes)"
definition=$(tests/kubernetes/make-bundle-inputs.sh "$bin/kdc-agent" | tail -1)

say "2. One signed file"
cd "$work"
show kdc-install bundle key new -o site.key --unencrypted
show kdc-install bundle create -f "$definition" -o kdc.bundle --key site.key
show kdc-install bundle verify kdc.bundle --key site.key.pub

say "3. $servers fresh servers: systemd and sshd, and no way out"
show kdc-lab up --name "$lab" --servers "$servers"
operator() { kdc-lab run "$lab" -- env HOME="$work" "$@"; }
address() { kdc-lab status --name "$lab" --output json | python3 -c '
import json, sys
print("\n".join(server["address"] for server in json.load(sys.stdin)["servers"]))'; }
mapfile -t addresses < <(address)
workers=(); for a in "${addresses[@]:1}"; do workers+=(--worker "root@$a"); done

say "4. See it before it happens"
mkdir -p .ssh; cp "/run/kdc-lab/$lab/known_hosts" .ssh/known_hosts; cp "/run/kdc-lab/$lab/key" .ssh/id_ed25519
show operator kdc-install init --name demo --control-plane "root@${addresses[0]}" "${workers[@]}"
show operator kdc-install check --bundle kdc.bundle --key site.key.pub
show operator kdc-install plan --bundle kdc.bundle --key site.key.pub

say "5. Make it so"
show operator kdc-install apply --yes --bundle kdc.bundle --key site.key.pub --kubeconfig demo.kubeconfig

say "6. The cluster"
kubectl=$(dirname "$definition")/programs/kubectl
show operator "$kubectl" --kubeconfig demo.kubeconfig get nodes -o wide
show operator "$kubectl" --kubeconfig demo.kubeconfig get pods -A -o wide
say "Again: there is nothing to do"
show operator kdc-install apply --yes --bundle kdc.bundle --key site.key.pub --kubeconfig demo.kubeconfig
