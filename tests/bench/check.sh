# `kdc-install check` of 50 servers against `ansible -m ping` over the same servers. Sourced by bench.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154 # figures.sh sets them

# The lab's servers have Debian's minimal Python; Ansible wants the whole standard library, compiled beforehand.
give_python() {
  local server folder=$work/python
  mkdir -p "$folder"
  (cd "$folder" && apt-get -q download libpython3.11-stdlib && dpkg-deb -x ./*.deb .) >"$work/python.log" 2>&1
  python3 -m compileall -q "$folder/usr/lib/python3.11" >>"$work/python.log" 2>&1 || true
  for server in $(seq -f 'node%.0f' "$servers"); do
    cp -a "$folder/usr/lib/." "$("$bin/kdc-lab" path --name bench-check "$server")/usr/lib/"
  done
}

# Pipelining, one fork a server, and Ansible's own ssh settings (one kept connection a server), but from nothing:
# both sides open every connection. The kept ones are closed after each round, outside the measurement.
ping_all() {
  local from socket
  rm -rf "$home/sockets"; mkdir "$home/sockets"
  from=$(servers_cpu bench-check)
  timed_at bench-check env ANSIBLE_CONFIG="$home/ansible.cfg" ansible -i "$home/inventory" all -m ping
  cpu=$(calculate "$(servers_cpu bench-check) - $from - $burnt" 2)   # `kdc-lab run` counts as the lab
  [ "$(grep -c SUCCESS "$work/stdout")" = "$servers" ] || { tail -n 20 "$work/stdout" >&2; exit 1; }
  echo "  ansible ping:   $took s, controller $memory MiB a process and $burnt s CPU, servers $cpu s CPU, load now $(load)"
  for socket in "$home/sockets"/*; do ssh -o ControlPath="$socket" -O exit x 2>"$work/exit" || true; done
}
check_all() {
  local from; from=$(servers_cpu bench-check)
  timed_at bench-check "$bin/kdc-install" check --output plain
  cpu=$(calculate "$(servers_cpu bench-check) - $from - $burnt" 2)   # `kdc-lab run` counts as the lab
  grep -q "^$servers nodes: .* 0 failed, 0 could not be looked at" "$work/stdout" || { tail -n 20 "$work/stdout" >&2; exit 1; }
  echo "  check ($1): $took s, controller $memory MiB and $burnt s CPU, servers $cpu s CPU, load now $(load)"
}
ansible_files() {
  { echo '[all]'; seq -f 'node%.0f' "$servers"
    printf '%s\n' '[all:vars]' ansible_python_interpreter=/usr/bin/python3; } >"$home/inventory"
  printf '%s\n' '[defaults]' "forks = $servers" host_key_checking=True '[ssh_connection]' pipelining=True \
    "control_path_dir = $home/sockets" \
    "ssh_args = -F /run/kdc-lab/bench-check/ssh_config -C -o ControlMaster=auto -o ControlPersist=60s" >"$home/ansible.cfg"
}

bench_check() {
  local servers=50 round first largest=0 ratios=() costs=() ours=() theirs=() our_costs=() their_costs=() cpu
  say "Check: $servers light servers (connect, host keys, agent, facts, judgement) against ansible -m ping"
  lab bench-check "$servers"; figure "boot of $servers light servers until SSH answers" '' s "$took"
  operator bench-check; give_python; ansible_files
  check_all "agent sent"; first=$took largest=$memory
  check_all "agent there"; ping_all   # not counted: whatever either side caches is cached now
  for ((round = 1; round <= 3; round++)); do
    check_all "agent there"; ours+=("$took"); our_costs+=("$(calculate "$cpu + $burnt" 2)")
    largest=$(printf '%s\n' "$largest" "$memory" | sort -n | tail -1)
    ping_all; theirs+=("$took"); their_costs+=("$(calculate "$cpu + $burnt" 2)")
    ratios+=("$(calculate "${ours[-1]} / ${theirs[-1]}" 3)"); costs+=("$(calculate "${our_costs[-1]} / ${their_costs[-1]}" 3)")
  done
  figure "check of $servers servers, ansible ping" 0.15 s "$(median "${ours[@]}")" "$(median "${theirs[@]}")" \
    "$(median "${ratios[@]}")"
  figure "the same, CPU time of both ends" '' s "$(median "${our_costs[@]}")" "$(median "${their_costs[@]}")" \
    "$(median "${costs[@]}")"
  figure "the first check of all (agent sent to $servers)" '' s "$first" "$(median "${theirs[@]}")"
  figure "largest memory of kdc-install" 60 MiB "$largest"
  cd "$root"; lab_down bench-check; figure "down of $servers" '' s "$took"
}
