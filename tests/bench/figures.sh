# What every part of the benchmark shares: figures against bars, a table of them, labs that go away again, an operator.
# Sourced.
# shellcheck shell=bash
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin=$root/target/release work=$(mktemp -d)
: >"$work/labs"; : >"$work/rows"   # files, since each part runs in a shell of its own
trap finish EXIT
finish() { labs_down; rm -rf "$work"; }
# What a part that failed left must not slow down the next one.
labs_down() {
  local lab
  sort -u "$work/labs" | while read -r lab; do "$bin/kdc-lab" down --name "$lab" >/dev/null 2>&1 || true; done
  : >"$work/labs"
}
load() { cut -d' ' -f1 /proc/loadavg; }
say() { printf '\n\033[1m%s\033[0m (load %s on %s cores)\n' "$*" "$(load)" "$(nproc)"; }
calculate() { awk "BEGIN { printf \"%.$2f\", $1 }"; }

median() { printf '%s\n' "$@" | sort -n | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }

# row NAME OURS PEER RATIO BAR VERDICT: a line of the table, and of target/bench.tsv.
row() { local IFS=$'\t'; printf '%s\t%s\n' "$*" "$(load)" >>"$work/rows"; }

# figure NAME BAR UNIT OURS [PEER [RATIO]]: a figure, told at once and kept for the table. With a PEER the BAR is for the
# ratio (OURS / PEER, or RATIO where that is a median of pairs), else for OURS; '' is none.
figure() {
  local name=$1 bar=$2 unit=$3 ours=$4 peer=${5:-} ratio=${6:-} value verdict='no bar'
  if [ -n "$peer" ]; then ratio=${ratio:-$(calculate "$ours / $peer" 2)}; fi
  value=${ratio:-$ours}
  if [ -n "$bar" ]; then
    verdict=met
    if awk "BEGIN { exit !($value > $bar) }"; then
      verdict=MISSED
    fi
    if [ -n "$ratio" ]; then bar+=' x'; else bar+=" $unit"; fi
  fi
  row "$name" "$ours $unit" "${peer:+$peer $unit}" "$ratio" "$bar" "$verdict"
  printf '= %s: %s %s%s, %s\n' "$name" "$ours" "$unit" "${peer:+ against $peer $unit, $ratio x}" "$verdict"
}

# The rows as a table and as a file; status 1 if a part failed or a bar was missed.
table() {
  local file=$root/target/bench.tsv
  { printf 'name\tours\tpeer\tratio\tbar\tverdict\tload\n'; cat "$work/rows"; } >"$file"
  printf '\n'
  awk -F '\t' '{ printf "%-56s %12s %12s %6s %8s  %-20s %s\n", $1, $2, $3, $4, $5, $6, $7 }' "$file"
  printf '\n%s s in all; the same, to be read by programs: %s\n' "$SECONDS" "$file"
  if grep -qE $'\t(MISSED|FAILED)\t' "$work/rows"; then return 1; fi
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
  echo "$1" >>"$work/labs"; "$bin/kdc-lab" down --name "$1" >/dev/null 2>&1 || true
  timed "$bin/kdc-lab" up --name "$1" --servers "$2"
}
lab_down() { timed "$bin/kdc-lab" down --name "$1"; }

# CPU seconds that all servers of a lab have used since they were booted.
servers_cpu() {
  local place
  for place in $(jq -r '.cgroups[]' "/run/kdc-lab/$1/state.json"); do
    if [ -e "$place/cpuacct.usage" ]; then awk '{ printf "%.2f", $1 / 1e9 }' "$place/cpuacct.usage"; return; fi
    if grep -qs '^usage_usec ' "$place/cpu.stat"; then awk '/^usage_usec / { printf "%.2f", $2 / 1e6 }' "$place/cpu.stat"; return; fi
  done
  echo "no CPU accounting for the lab $1" >&2; return 1
}

# operator LAB NAME...: a home folder with a cluster file for these servers in the current folder; `at LAB COMMAND`
# runs there, inside the lab's network.
operator() {
  local name=$1 address state=/run/kdc-lab/$1 workers=() addresses=()
  home=$work/home-$1; rm -rf "$home"; mkdir -p "$home/.ssh"   # the last round's cluster file is not overwritten by init
  cp "$state/known_hosts" "$home/.ssh/"; cp "$state/key" "$home/.ssh/id_ed25519"
  mapfile -t addresses < <(awk '$1 == "HostName" { print $2 }' "$state/ssh_config")
  for address in "${addresses[@]:1}"; do workers+=(--worker "root@$address"); done
  cd "$home"
  at "$name" "$bin/kdc-install" init --name bench --control-plane "root@${addresses[0]}" "${workers[@]}" >"$work/init" 2>&1 ||
    { cat "$work/init" >&2; return 1; }
}
at() { "$bin/kdc-lab" run "$1" -- env HOME="$home" "${@:2}"; }
timed_at() { timed "$bin/kdc-lab" run "$1" -- env HOME="$home" "${@:2}"; }
