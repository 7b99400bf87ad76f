#!/bin/bash
# Hunts with libFuzzer in everything that reads bytes from outside (tests/fuzz). FUZZ_SECONDS each, 600 where unset; one
# target alone: tests/fuzz.sh index. Needs a nightly compiler and cargo-fuzz, and installs both. New inputs stay in
# target/fuzz/corpus, where the next run goes on; what crashes is kept in tests/fuzz/artifacts and ends this with status 1.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo +nightly --version >/dev/null 2>&1 || rustup toolchain install nightly --profile minimal
command -v cargo-fuzz >/dev/null || cargo install --quiet --locked cargo-fuzz
mapfile -t targets < <(sed -n 's|^path = "targets/\(.*\)\.rs"$|\1|p' tests/fuzz/Cargo.toml)
if [ $# != 0 ]; then targets=("$@"); fi
# The workspace's release profile is for small programs; this one is for many runs a second.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=2
export CARGO_PROFILE_RELEASE_STRIP=none CARGO_PROFILE_RELEASE_DEBUG=line-tables-only
failed=()
for target in "${targets[@]}"; do
  printf '\n== %s, %s s\n' "$target" "${FUZZ_SECONDS:-600}"
  found=target/fuzz/corpus/$target; mkdir -p "$found"   # new inputs go to the first folder that is named
  # 512 MiB for everything, the sanitizer's own share included, and 10 s for one input.
  cargo +nightly fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz --features engine "$target" \
    "$found" "tests/fuzz/corpus/$target" -- \
    -max_total_time="${FUZZ_SECONDS:-600}" -rss_limit_mb=512 -timeout=10 -print_final_stats=1 -verbosity=0 ||
    failed+=("$target")
done
if [ ${#failed[@]} != 0 ]; then echo "fuzzing found something in: ${failed[*]}" >&2; exit 1; fi
