# Peak memory of the bundle commands with a large bundle. Sourced by bench.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154 # figures.sh sets them

# The input is a sparse file of KDC_BENCH_GIB (20) GiB: read, hashed and written as any other, but zeros take no room on
# the disk, neither here nor in what kdc writes (holes stay holes). A MiB in 512 is random, so that not all is holes.
# Memory is the largest resident set of the process, as the kernel counts it (getrusage, by /usr/bin/time).
bench_memory() {
  local gib=${KDC_BENCH_GIB:-20} folder=$work/memory place used bar=200 size=4GiB
  ((gib >= 20)) || size=$((gib * 200))MiB
  say "Memory: a bundle of $gib GiB (sparse)"
  mkdir -p "$folder/parts"; cd "$folder"
  truncate -s "${gib}G" content
  for ((place = 0; place < gib * 2; place++)); do
    dd if=/dev/urandom of=content bs=1M count=1 seek=$((place * 512 + place % 7)) conv=notrunc status=none
  done
  printf '%s\n' 'apiVersion: kdc.dev/v1' 'kind: BundleDefinition' 'metadata: {name: large, version: "1"}' 'artifacts:' \
    '- {name: content, kind: file, source: {path: content}}' >definition.yaml
  timed "$bin/kdc-install" bundle key new -o key --unencrypted
  memory_of create bundle create -f definition.yaml -o whole --key key
  memory_of verify bundle verify whole --key key.pub
  memory_of "split with 25 % parity" bundle split whole -o parts/b --split "$size" --parity 25% --key key.pub
  memory_of "verify of parts" bundle verify parts --key key.pub
  rm parts/b.part-1-of-* parts/b.part-3-of-*
  memory_of "repair of two parts" bundle repair parts --key key.pub
  rm whole
  memory_of join bundle join parts -o whole --key key.pub
  rm -r parts
  # The next version: a MiB in a GiB is another.
  cp --sparse=always content next
  for ((place = 0; place < gib; place++)); do
    dd if=/dev/urandom of=next bs=1M count=1 seek=$((place * 1024 + 300)) conv=notrunc status=none
  done
  sed -i 's/"1"/"2"/; s/path: content/path: next/' definition.yaml
  timed "$bin/kdc-install" bundle create -f definition.yaml -o new --key key
  rm content next
  memory_of inventory bundle inventory whole -o inventory --key key.pub
  memory_of diff bundle diff whole new -o update --key key.pub
  memory_of "diff from the list" bundle diff --inventory inventory new -o from-list --key key.pub
  bar=512 memory_of patch bundle patch whole update -o made --key key.pub
  cmp new made
  used=$(du -sm . | cut -f1)
  figure "memory: disk that all of it took" '' MiB "$used"
  cd "$root"; rm -rf "$folder"
  # A program of its own: a client that takes all of it, and forty that take nothing.
  KDC_GIB=$gib cargo test --quiet --release -p kdc-install --test serve_memory -- --nocapture >"$work/serve" ||
    { cat "$work/serve" >&2; return 1; }
  figure "memory of serve" 200 MiB "$(sed -n 's/.*peak memory \([0-9]*\) MiB.*/\1/p' "$work/serve")"
}
memory_of() {
  timed "$bin/kdc-install" "${@:2}"
  figure "memory of $1 ($took s, $burnt s CPU)" "$bar" MiB "$memory"
}
