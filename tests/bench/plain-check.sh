# How the plain install knows that its cluster works. Sourced by plain-install.sh.
# shellcheck shell=bash

# until_done SECONDS COMMAND...: repeats COMMAND until it succeeds.
until_done() {
  local end=$((SECONDS + $1)); shift
  until "$@" >"$work/last" 2>&1; do
    if [ "$SECONDS" -gt "$end" ]; then cat "$work/last" >&2; echo "gave up on: $*" >&2; return 1; fi
    sleep 0.5
  done
}

nodes_ready() { until_done 120 all_ready; }
all_ready() { [ "$(kubectl get nodes | tee /dev/stderr | grep -c ' Ready ')" = ${#hosts[@]} ]; }

# From every server, the pod of every server by its address; then from every pod the Service by its name.
pods_answer() {
  kubectl apply -f plain/plain-check.yaml >"$work/apply"
  until_done 120 pods_ready
  pods=$(kubectl get pods -l app=web -o 'jsonpath={range .items[*]}{.metadata.name} {.status.podIP}{"\n"}{end}')
  each reach_addresses
  until_done 60 reach_name
}
pods_ready() { [ "$(kubectl get pods -l app=web -o wide | tee /dev/stderr | grep -c ' 1/1 ')" = ${#hosts[@]} ]; }
reach_addresses() {
  local name ip lines=''
  while read -r name ip; do lines+="timeout 5 bash -c '</dev/tcp/$ip/8080' || { echo $1 cannot reach $name at $ip; exit 1; };"; done <<<"$pods"
  on "$1" "$lines"
}
reach_name() {
  local name ip lines=''
  while read -r name ip; do lines+="kubectl exec $name -- wget -qO- http://web.default.svc.cluster.local/ || exit 1;"; done <<<"$pods"
  on "$first" "export KUBECONFIG=/etc/kubernetes/admin.conf; $lines"
}
