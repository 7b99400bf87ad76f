# What the node's agent costs: memory and CPU over ten minutes, and a scrape against Debian's node_exporter. Sourced by
# bench.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154 # figures.sh sets them

# Both in a network namespace of their own with as many links as make 500 series of the agent's; the exporter has the
# collectors that the agent has, so that it tells as many. KDC_BENCH_AGENT_SECS (600) is how long the agent is watched.
bench_agent() {
  local seconds=${KDC_BENCH_AGENT_SECS:-600} space=kdc-bench-$$ place=$work/agent pid exporter status=0
  say "Agent: $seconds s at one sample a second, scraped every 15 s; a scrape against node_exporter"
  mkdir -p "$place/config"
  printf 'api: {address: "127.0.0.1:19328"}\n' >"$place/config/agent.yaml"
  ip netns add "$space"
  ip -n "$space" link set lo up
  local link; for link in 1 2 3 4; do ip -n "$space" link add "bench$link" type veth peer name "hcneb$link"; done
  # As in the unit.
  ip netns exec "$space" env MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=131072 MALLOC_TRIM_THRESHOLD_=131072 \
    "$bin/kdc-agent" daemon --config "$place/config" 2>"$place/log" & pid=$!
  local collectors=(cpu meminfo loadavg diskstats filesystem netdev netclass netstat sockstat softnet vmstat pressure stat
    filefd conntrack hwmon)
  ip netns exec "$space" "$root/target/tools/prometheus/usr/bin/prometheus-node-exporter" --collector.disable-defaults \
    "${collectors[@]/#/--collector.}" --web.listen-address=127.0.0.1:19100 2>"$place/exporter.log" & exporter=$!
  ip netns exec "$space" python3 tests/bench/agent.py "$pid" "$exporter" "$seconds" >"$place/figures" || status=$?
  kill "$pid" "$exporter"; wait "$pid" "$exporter" || true
  ip netns del "$space"
  if [ "$status" != 0 ]; then cat "$place/log" "$place/figures" >&2; return 1; fi
  cat "$place/figures"
  of() { sed -n "s/^$1 //p" "$place/figures"; }
  figure "agent: memory, after $seconds s" 10 MiB "$(of memory)"
  figure "agent: CPU, of one core" 0.1 % "$(of cpu)"
  figure "agent: scrape of $(of series) series, node_exporter's of $(of their_series), median" 0.15 ms "$(of scrape)" \
    "$(of their_scrape)"
}
