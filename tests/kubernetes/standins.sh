#!/bin/bash
# standins.sh SOURCES FOLDER: the programs Debian lacks, from standins/*/main.go and the tree's vendored libraries.
. "$(dirname "$0")/cache.sh"
. "$HERE/tree.sh"
out=$2 work=$2/work; mkdir "$work"
trap 'rm -rf "$work"' EXIT
ready_tree "$1" "$work"
for program in "$HERE"/standins/*/; do
  name=$(basename "$program")
  cp -r "$program" "cmd/kdc-$name"   # inside the tree, so that its vendored libraries are found
  step "test $name" go test "k8s.io/kubernetes/cmd/kdc-$name"
  step "compile $name" go build -trimpath -ldflags '-s -w' -o "$out/$name" "k8s.io/kubernetes/cmd/kdc-$name"
done
