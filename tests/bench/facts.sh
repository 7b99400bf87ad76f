# The inventory of a node against lshw, side by side. Sourced by bench.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154 # figures.sh sets them

# milliseconds COMMAND...: sets `ms`; the command must succeed.
milliseconds() {
  local start=$EPOCHREALTIME
  "$@" >"$work/stdout" 2>"$work/stderr" || { tail -n 5 "$work/stderr" >&2; return 1; }
  ms=$(calculate "($EPOCHREALTIME - $start) * 1000" 1)
}

# Both look at the machine itself, in turn, 21 times after one uncounted round; median of the pairs' ratios.
bench_facts() {
  local ours=() theirs=() ratios=() own round
  command -v lshw >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -q -y \
    --no-install-recommends install lshw >&2
  say "Facts: kdc-agent facts against lshw -json"
  for round in {0..21}; do
    milliseconds "$bin/kdc-agent" facts --output json; own=$ms
    milliseconds lshw -json -quiet
    [ "$round" = 0 ] || { ours+=("$own"); theirs+=("$ms"); ratios+=("$(calculate "$own / $ms" 3)"); }
  done
  figure "inventory of this machine" 0.20 ms "$(median "${ours[@]}")" "$(median "${theirs[@]}")" "$(median "${ratios[@]}")"
}
