#!/bin/bash
# Every test that CI runs; KDC_DEEP=1 (`make test-deep`) takes the long ones too, and the others at full length. Root,
# since labs are made of namespaces. The first run builds Kubernetes for the lab (about 13 CPU minutes) and the base
# root file system, into the cache; later runs take them from there. One failed part doesn't keep the others from
# running; the table at the end tells all, and what was left out.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/host.sh
rows=$(mktemp); released=$(mktemp); building=''
# Ended from outside, nothing goes on building.
trap 'rm -f "$rows" "$released" "$released.log"; [ -z "$building" ] || kill -- "-$building" 2>/dev/null || true' EXIT

# part NAME COMMAND...: runs it, shows what it says, and keeps a row of how it went, with one for each test program.
part() {
  local name=$1 from=$SECONDS status=0 log; shift
  log=$(mktemp)
  printf '\n== %s\n' "$name"
  "$@" 2>&1 | tee "$log" || status=$?
  printf '%s\t%s\t%s\n' "$name" "$((SECONDS - from))" "$([ $status = 0 ] && echo ok || echo FAILED)" >>"$rows"
  sed 's/\x1b\[[0-9;]*m//g' "$log" | awk '
    $1 == "Running" || $1 == "Doc-tests" {
      name = $2; if (name == "unittests") { name = $NF; sub(/.*\//, "", name); sub(/-[0-9a-f]+\)$/, "", name) }
      if ($1 == "Doc-tests") name = "examples of " $2
    }
    $1 == "test" && $NF != "ok" && / \.\.\. ignored/ { sub(/^test /, ""); left = left "\n    left out: " $0 }
    /^test result:/ {
      seconds = $NF; sub(/s$/, "", seconds)
      if ($4 + $6 + $8) printf "  %s\t%.0f\t%s passed%s%s\n", name, seconds, $4, $6 + 0 ? ", " $6 " FAILED" : "", left
      left = ""
    }' >>"$rows"
  rm -f "$log"
}

unit=(cargo test --no-fail-fast --workspace --exclude kdc-tests -- --include-ignored)
# One after the other: each of these boots servers of its own and wants both cores.
lab=(cargo test --no-fail-fast -p kdc-tests -- --test-threads=1)
if [ -n "${KDC_DEEP:-}" ]; then lab+=(--include-ignored); fi
# Its last minutes are two links on one core each: beside the unit tests it costs the day less than by itself.
release() {
  local status=0
  { nice cargo build --quiet --release -p kdc-agent && nice cargo build --quiet --release -p kdc-install; } \
    >"$released.log" 2>&1 || status=$?
  echo "$status" >"$released"
}
has_released() {
  until [ -s "$released" ]; do
    kill -0 "$building" || [ -s "$released" ] || { echo "the release build was ended from outside"; return 1; }
    sleep 1
  done
  cat "$released.log"; return "$(<"$released")"
}
inputs() { tests/kubernetes/make-bundle-inputs.sh target/debug/kdc-agent >/dev/null; }

finish() {
  printf '\n%-50s %8s  %s\n' "WHAT RAN" SECONDS RESULT
  awk -F '\t' 'NF < 3 { print; next } { printf "%-50s %8s  %s\n", $1, $2, $3 }' "$rows"
  printf '%-50s %8s\n' "in all" "$SECONDS"
  if [ -z "${KDC_DEEP:-}" ]; then echo "make test-deep runs what was left out, and whole what is a sample here"; fi
  if grep -q FAILED "$rows"; then echo "make test: something failed" >&2; exit 1; fi
}
# What the tests need: without it they would only fail too, or try what was built before.
needed() { part "$@"; if grep -q FAILED "$rows"; then finish; fi; }

needed "build" cargo build --quiet --workspace
needed "bundle inputs" inputs
# The agent by itself: together with the others it would carry what only they need.
set -m; release & building=$!; set +m
# One of the unit tests asks the kubeadm that the lab runs whether it takes kdc's documents.
KDC_KUBEADM=$(tests/kubernetes/build.sh)/kubeadm
export KDC_KUBEADM
part "unit tests" "${unit[@]}"
needed "rest of the release build" has_released
building=''
part "lab tests" "${lab[@]}"
finish
