# What is measured by programs of their own, compiled the first time (minutes). Sourced by bench.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154 # figures.sh sets them

bench_plan() {
  local seconds
  say "Plan: 1000 nodes, from facts to a plan with its digest"
  cargo test --quiet --release -p kdc-install --lib measured_plan_for_1000_nodes -- --ignored --nocapture | tee "$work/plan"
  seconds=$(sed -n 's/.*"withDigestSecs":\([0-9.]*\).*/\1/p' "$work/plan"); [ -n "$seconds" ]
  figure "plan for 1000 nodes" 1 s "$seconds"
  figure "memory of that, facts and all steps included" '' MiB "$(sed -n 's/.*"memoryMib":\([0-9]*\).*/\1/p' "$work/plan")"
}

# It also ends with an error when one of its bars is missed: without its closing line it is broken, with it a figure.
bench_push() {
  local ours theirs
  say "Push: 1 GiB to one server against scp"
  RUST_BACKTRACE=0 cargo bench --quiet -p kdc-tests --bench push 2>"$work/push.err" | tee "$work/push" ||
    if ! grep -q '^far push of ' "$work/push"; then cat "$work/push.err" >&2; return 1; fi
  theirs=$(sed -n 's/^round .*: scp \([0-9.]*\) s wall.*/\1/p' "$work/push")
  ours=$(sed -n 's/^round .* push \([0-9.]*\) s wall.*/\1/p' "$work/push")
  # shellcheck disable=SC2086 # one word a round
  figure "push of 1 GiB to one server, wall" 0.60 s "$(median $ours)" "$(median $theirs)" \
    "$(sed -n 's/^push of .* wall \([0-9.]*\) .*/\1/p' "$work/push")"
  theirs=$(sed -n 's/^round .*: scp .* wall \([0-9.]*\) s cpu; push.*/\1/p' "$work/push")
  ours=$(sed -n 's/^round .* wall \([0-9.]*\) s cpu$/\1/p' "$work/push")
  # shellcheck disable=SC2086
  figure "the same, CPU time of the client" 0.35 s "$(median $ours)" "$(median $theirs)" \
    "$(sed -n 's/^push of .* cpu \([0-9.]*\) .*/\1/p' "$work/push")"
  theirs=$(sed -n 's/^far round .*: scp \([0-9.]*\) s wall.*/\1/p' "$work/push")
  ours=$(sed -n 's/^far round .* push \([0-9.]*\) s wall.*/\1/p' "$work/push")
  # shellcheck disable=SC2086
  figure "push of 256 MiB at 20 ms round trip, wall" 0.556 s "$(median $ours)" "$(median $theirs)"
}

bench_verify() {
  local size ours theirs
  say "Verify: proving a bundle against openssl dgst -sha256"
  cargo bench --quiet -p kdc-bundles --features create --bench verify | tee "$work/verify"
  # verify 512 MiB: 872 MB/s, openssl dgst -sha256 787 MB/s, ratio 1.11 on 2 cores
  read -r size ours theirs < <(sed -n 's/^verify \([0-9]*\) MiB: \([0-9]*\) MB\/s, openssl dgst -sha256 \([0-9]*\) MB\/s.*/\1 \2 \3/p' "$work/verify")
  size="$size * 1.048576"
  figure "proving a bundle, per core" 1.05 s "$(calculate "$size / $ours" 2)" "$(calculate "$size / $theirs" 2)"
}
