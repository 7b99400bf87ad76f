#!/bin/bash
# Speed, as ratios against named peers in the same run (`docs/benchmarks.md` says how each is measured and why it is fair).
# Usage: tests/bench.sh [boot|check|facts|install|plan|push|verify|memory|peers|disk|agent|delta]...; all but `delta`, which packs hundreds of MB
# of xz several times, where none is named. Root. A part that fails doesn't keep the others from running; the table at
# the end is also written to target/bench.tsv. Ends with status 1 if a part failed or a bar was missed.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/host.sh
parts=("$@"); [ ${#parts[@]} != 0 ] || parts=(boot check facts install plan push verify memory peers disk agent)
for part in "${parts[@]}"; do
  case $part in boot | check | facts | install | plan | push | verify | memory | peers | disk | agent | delta) ;; *) sed -n 3,6p "$0" >&2; exit 2 ;; esac
done
tools=(); for tool in ansible-core:ansible time:/usr/bin/time; do
  command -v "${tool#*:}" >/dev/null || tools+=("${tool%%:*}")
done
if [ ${#tools[@]} != 0 ]; then
  echo "installing: ${tools[*]}" >&2
  apt-get -o DPkg::Lock::Timeout=300 update -q >&2
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -q -y --no-install-recommends install "${tools[@]}" >&2
fi
cargo build --quiet --release -p kdc-agent; cargo build --quiet --release -p kdc-install -p kdc-tests
sourced=(tests/bench/{figures,install,check,facts,programs,memory,delta,peers,agent}.sh)
# A later one of the same name would take the place of the first without a word.
twice=$(grep -hoE '^[a-z_]+\(\)' "${sourced[@]}" | sort | uniq -d)
[ -z "$twice" ] || { echo "tests/bench: more than one file has $twice" >&2; exit 1; }
for file in "${sourced[@]}"; do . "$file"; done

bench_boot() {
  say "Boot: 3 light servers until SSH answers"
  lab bench-boot 3; figure "boot of 3 light servers until SSH answers" 20 s "$took"; lab_down bench-boot
}

for part in "${parts[@]}"; do
  # Not `if (…)`: bash would forget `set -e` inside.
  set +e; (set -e; "bench_$part"); status=$?; set -e
  if [ "$status" != 0 ]; then row "$part" - - - - FAILED; echo "the part $part failed" >&2; labs_down; fi
done
table
