# Nodes that feed each other: a bundle to ten servers on shaped links against the time to one, the model of many more,
# and the peak of a node's disk. Sourced by bench.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154 # figures.sh sets them

bench_peers() {
  local line one all sent
  say "Peers: 1 GiB to 10 light servers, every link and the operator's at 200 Mbit/s, against the time to one"
  # It ends with an error when a bar is missed: without its closing line it is broken, with it a figure.
  RUST_BACKTRACE=0 cargo bench --quiet -p kdc-tests --bench peers 2>"$work/peers.err" | tee "$work/peers" ||
    if ! grep -q '^peers: ' "$work/peers"; then cat "$work/peers.err" >&2; return 1; fi
  # peers: 1024 MiB to 10 servers 60.1 s, to one 46.0 s: 1.31 x (bar 1.5); the installer sent 1.05 x the bundle (bar 1.3)
  line=$(grep '^peers: ' "$work/peers")
  read -r all one sent < <(sed -n 's/.* servers \([0-9.]*\) s, to one \([0-9.]*\) s: .* sent \([0-9.]*\) x .*/\1 \2 \3/p' <<<"$line")
  figure "1 GiB to 10 servers, to one" 1.5 s "$all" "$one"
  figure "the same, sent by the installer, bundles" 1.3 x "$sent"
  # The model runs as the tests do, unoptimised: `make test` has built it.
  cargo test --quiet -p kdc-install --lib swarm::simulation -- --nocapture --test-threads=1 | tee "$work/model"
  model 100 2; model 1000 3
}

# model NODES BAR: its line of the model, without deaths.
model() {
  local line; line=$(grep "model: $1 nodes, [0-9]* MiB: " "$work/model" | head -1)
  figure "model of $1 nodes, to one (sent: $(sed 's/.*sends \([0-9.]*\) x.*/\1/' <<<"$line") x)" "$2" x \
    "$(sed 's/.* s, \([0-9.]*\) x the time.*/\1/' <<<"$line")"
}

# Used bytes of a server's own disk, looked at all the time: the most during an install against what stays.
bench_disk() {
  local before now most=0 after installing
  say "Disk: the most that a node uses during an install, against what stays"
  lab_bundle
  echo bench-disk >>"$work/labs"; "$bin/kdc-lab" down --name bench-disk >/dev/null 2>&1 || true
  timed "$bin/kdc-lab" up --name bench-disk --servers 1 --disk 8G
  operator bench-disk; before=$(used_of node1)
  at bench-disk "$bin/kdc-install" apply --yes --output plain --bundle "$work/kdc.bundle" --key "$work/site.key.pub" \
    >"$work/stdout" 2>"$work/stderr" & installing=$!
  while kill -0 "$installing" 2>/dev/null; do
    now=$(used_of node1); ((now <= most)) || most=$now
    sleep 0.2
  done
  wait "$installing" || { tail -n 30 "$work/stdout" "$work/stderr" >&2; exit 1; }
  "$bin/kdc-lab" exec --name bench-disk node1 sync -f /var/lib
  after=$(used_of node1); ((after <= most)) || most=$after
  figure "peak disk of a node during an install, what stays" 1.15 MiB "$(((most - before) >> 20))" "$(((after - before) >> 20))"
  cd "$root"; lab_down bench-disk
}
used_of() {
  "$bin/kdc-lab" exec --name bench-disk "$1" stat -f -c '%S %b %f' /var/lib | awk '{ printf "%.0f", $1 * ($2 - $3) }'
}
