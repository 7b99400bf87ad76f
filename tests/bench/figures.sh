# What every part of the benchmark shares: figures against bars, labs that go away again, an operator. Sourced.
# shellcheck shell=bash
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin=$root/target/release work=$(mktemp -d) labs=() missed=()
trap finish EXIT
finish() {
  local lab
  for lab in "${labs[@]}"; do "$bin/kdc-lab" down --name "$lab" >/dev/null 2>&1 || true; done
  rm -rf "$work"
}
load() { cut -d' ' -f1 /proc/loadavg; }
say() { printf '\n\033[1m%s\033[0m (load %s on %s cores)\n' "$*" "$(load)" "$(nproc)"; }
calculate() { awk "BEGIN { printf \"%.$2f\", $1 }"; }

# figure WHAT VALUE UNIT BAR: one line; a VALUE above BAR is remembered as missed. Without BAR it is only told.
figure() {
  local verdict='no bar'
  if [ -n "${4:-}" ]; then
    verdict="bar $4 $3"
    if awk "BEGIN { exit !($2 > $4) }"; then verdict="MISSED, $verdict"; missed+=("$1"); fi
  fi
  printf '= %-66s %8s %-3s  %s, load %s\n' "$1" "$2" "$3" "$verdict" "$(load)"
}

# timed COMMAND...: sets `took` (seconds), `memory` (MiB of the largest process) and `burnt` (CPU seconds of it and
# all it waited for). What it says goes to files; a failing command shows them and ends the benchmark.
timed() {
  local seconds user system kib
  if ! /usr/bin/time -q -o "$work/time" -f '%e %U %S %M' "$@" >"$work/stdout" 2>"$work/stderr"; then
    echo "failed: $*" >&2; tail -n 30 "$work/stdout" "$work/stderr" >&2; exit 1
  fi
  read -r seconds user system kib <"$work/time"
  took=$seconds burnt=$(calculate "$user + $system" 2) memory=$(calculate "$kib / 1024" 1)
}

# lab NAME SERVERS: a lab of its own, fresh; sets `took`.
lab() {
  labs+=("$1"); "$bin/kdc-lab" down --name "$1" >/dev/null 2>&1 || true
  timed "$bin/kdc-lab" up --name "$1" --servers "$2"
}
lab_down() { timed "$bin/kdc-lab" down --name "$1"; }

# CPU seconds that all servers of a lab have used since they were booted.
servers_cpu() { awk '{ printf "%.2f", $1 / 1e9 }' "/sys/fs/cgroup/cpuacct/kdc-lab-$1/cpuacct.usage"; }

# operator LAB NAME...: a home folder with a cluster file for these servers in the current folder; `at LAB COMMAND`
# runs there, inside the lab's network.
operator() {
  local name=$1 address state=/run/kdc-lab/$1 workers=() addresses=()
  home=$work/home-$1; mkdir -p "$home/.ssh"; cp "$state/known_hosts" "$home/.ssh/"; cp "$state/key" "$home/.ssh/id_ed25519"
  mapfile -t addresses < <(awk '$1 == "HostName" { print $2 }' "$state/ssh_config")
  for address in "${addresses[@]:1}"; do workers+=(--worker "root@$address"); done
  cd "$home"
  at "$name" "$bin/kdc-install" init --name bench --control-plane "root@${addresses[0]}" "${workers[@]}" >"$work/init" 2>&1
}
at() { "$bin/kdc-lab" run "$1" -- env HOME="$home" "${@:2}"; }
timed_at() { timed "$bin/kdc-lab" run "$1" -- env HOME="$home" "${@:2}"; }
