# Cluster install, and the second apply. Sourced by bench.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154 # figures.sh sets them

lab_bundle() {
  definition=$("$root/tests/kubernetes/make-bundle-inputs.sh" "$bin/kdc-agent" 2>"$work/inputs" | tail -1)
  cd "$work"
  rm -f site.key site.key.pub kdc.bundle   # of another part
  timed "$bin/kdc-install" bundle key new -o site.key --unencrypted
  timed "$bin/kdc-install" bundle create -f "$definition" -o kdc.bundle --key site.key
}
install_kdc() {
  lab bench-kdc 3; operator bench-kdc
  local apply=("$bin/kdc-install" apply --yes --output plain --bundle "$work/kdc.bundle" --key "$work/site.key.pub")
  timed_at bench-kdc "${apply[@]}"
  ours+=("$took"); echo "  kdc-install apply:  $took s, controller $memory MiB and $burnt s CPU, load now $(load)"
  timed_at bench-kdc "${apply[@]}"
  grep -qi 'nothing to do' "$work/stdout" "$work/stderr" || { cat "$work/stdout" "$work/stderr" >&2; exit 1; }
  second+=("$took"); echo "  the same again:     $took s, nothing to do"
  cd "$root"; lab_down bench-kdc
}
install_plain() {
  lab bench-plain 3; home=$work
  timed_at bench-plain "$root/tests/bench/plain-install.sh" /run/kdc-lab/bench-plain/ssh_config \
    "$(dirname "$definition")" node1 node2 node3
  sed 's/^/  plain: /' "$work/stdout"
  theirs+=("$(awk '/in all$/ { print $1 }' "$work/stdout")")
  lab_down bench-plain
}
mean() { printf '%s\n' "$@" | awk '{ sum += $1 } END { printf "%.1f", sum / NR }'; }
largest() { printf '%s\n' "$@" | sort -n | tail -1; }

bench_install() {
  local ours=() theirs=() second=() round rounds=${KDC_BENCH_ROUNDS:-2}
  say "Install: 3 light servers, apply to acceptance, against scp + dpkg + ctr + kubeadm on fresh servers"
  lab_bundle
  for ((round = 1; round <= rounds; round++)); do
    # Who goes first alternates, since the page cache is warmer for the second.
    if ((round % 2)); then install_plain; install_kdc; else install_kdc; install_plain; fi
  done
  figure "install of 3, plain script, mean of $rounds" 1.3 s "$(mean "${ours[@]}")" "$(mean "${theirs[@]}")"
  figure "second apply of 3, nothing to do" 5 s "$(largest "${second[@]}")"
}
