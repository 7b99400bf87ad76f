#!/bin/bash
# Speed, as ratios against named peers in the same run (`docs/benchmarks.md` says how each is measured and why it is fair).
# Usage: tests/bench.sh [boot|install|check|push|verify]...; all of them where none is named. Root. KDC_BENCH_ROUNDS=2
# installs twice, in either order. Ends with status 1 if a bar is missed.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "make bench: the lab needs root; run it as root" >&2; exit 1; }
tools=(); for tool in ansible-core:ansible time:/usr/bin/time; do
  command -v "${tool#*:}" >/dev/null || tools+=("${tool%%:*}")
done
if [ ${#tools[@]} != 0 ]; then
  echo "installing: ${tools[*]}" >&2
  apt-get -o DPkg::Lock::Timeout=300 update -q >&2
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -q -y --no-install-recommends install "${tools[@]}" >&2
fi
cargo build --quiet --release -p kdc-agent; cargo build --quiet --release -p kdc-install -p kdc-tests
. tests/bench/figures.sh
. tests/bench/install.sh
. tests/bench/check.sh

bench_boot() {
  say "Boot: 3 light servers until SSH answers"
  lab bench-boot 3; figure "boot of 3 light servers until SSH answers" "$took" s 20; lab_down bench-boot
}
# Both are programs of their own, compiled the first time (minutes). Their bars aren't due yet: reported only.
bench_push() {
  say "Push: 1 GiB to one server against scp"
  # It also ends with an error when a bar is missed: without its closing line it is broken, with it it is a figure.
  RUST_BACKTRACE=0 cargo bench --quiet -p kdc-tests --bench push 2>"$work/push.err" | tee "$work/push" ||
    if ! grep -q '^push of ' "$work/push"; then cat "$work/push.err" >&2; exit 1; fi
  if grep -q 'bar was missed' "$work/push.err"; then reported+=("push of 1 GiB (docs/ssh.md)"); fi
}
bench_verify() {
  say "Verify: hashing a bundle against openssl dgst -sha256"
  cargo bench --quiet -p kdc-bundles --features create --bench verify
}

reported=() parts=("$@"); [ ${#parts[@]} != 0 ] || parts=(boot check install push verify)
for part in "${parts[@]}"; do "bench_$part"; done
if [ ${#reported[@]} != 0 ]; then printf '\nmissed, but not due yet:\n'; printf '  %s\n' "${reported[@]}"; fi
if [ ${#missed[@]} != 0 ]; then printf '\nmissed:\n'; printf '  %s\n' "${missed[@]}"; exit 1; fi
printf '\nEvery bar that is due is held.\n'
