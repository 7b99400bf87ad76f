#!/bin/bash
# make-bundle-inputs.sh AGENT: everything that the lab's bundle is built from: programs, images, packages, and the
# definition that names them and the kdc-agent binary AGENT. Prints the definition's path as its last line.
# The first run takes some minutes (Kubernetes is compiled), every later one a moment.
. "$(dirname "$0")/cache.sh"
[ $# = 1 ] || { sed -n 2,4p "$0" >&2; exit 2; }
agent=$(realpath "$1"); [ -x "$agent" ] || die "$1 is no program; cargo build --bin kdc-agent makes it"
images=$("$HERE/images.sh"); programs=$("$HERE/build.sh"); packages=$("$HERE/packages.sh")
template=$(sed "s/1\.20\.2/${KUBERNETES_VERSION#v}/g" "$HERE/../../bundles/lab-kubeadm-1.20.yaml")
write() { python3 -B "$HERE/definition.py" <(printf '%s\n' "$template") "$programs" "$images" "$packages" "$agent" "$1" | tee -a "$LOG" >&2; }
# The agent goes in as a link, so that a definition made once holds the newest build of that path.
cached inputs "$({ printf '%s\n' "$programs" "$images" "$packages" "$agent" "$template"; } | key definition.py)" write
printf '%s\n' "$FOLDER/definition.yaml"
