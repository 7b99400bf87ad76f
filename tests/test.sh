#!/bin/bash
# Every test that CI runs. Root, since labs are made of namespaces. The first run builds Kubernetes for the lab
# (about 13 CPU minutes) and the base root file system, into the cache; later runs take them from there.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "make test: the lab needs root; run it as root" >&2; exit 1; }
took() { echo "== $1: $((SECONDS - since)) s"; since=$SECONDS; }; since=$SECONDS

cargo build --quiet --workspace; took "build"
# The agent by itself: together with the others it would carry what only they need.
cargo build --quiet --release -p kdc-agent; cargo build --quiet --release -p kdc-install; took "release build"
tests/kubernetes/make-bundle-inputs.sh target/debug/kdc-agent > /dev/null; took "bundle inputs"
cargo test --workspace --exclude kdc-tests; took "unit tests"
# One after the other: each of these boots servers of its own and wants both cores.
cargo test -p kdc-tests -- --test-threads=1; took "lab tests"
