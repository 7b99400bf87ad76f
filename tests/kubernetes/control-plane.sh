#!/bin/bash
# control-plane.sh: what an API server alone needs, from what the lab's images are made of. Prints the folder with
# kube-apiserver, then the one with etcd. Fast when nothing changed.
. "$(dirname "$0")/cache.sh"
programs=$("$HERE/build.sh")
cached image-debs "$(key image-debs.sh </dev/null)" "$HERE/image-debs.sh"
printf '%s\n' "$programs" "$FOLDER/root/usr/bin"
