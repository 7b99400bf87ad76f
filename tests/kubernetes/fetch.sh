#!/bin/bash
# fetch.sh FOLDER: Kubernetes' source package and the Go that builds it, into FOLDER.
. "$(dirname "$0")/cache.sh"
. "$HERE/apt.sh"
out=$1 apt=$(mktemp -d); trap 'rm -rf "$apt"' EXIT
private_apt "$apt"
step "read the package index" apt-get "${APT[@]}" update
mkdir "$out/debs" "$out/source"
cd "$out/debs"; step "fetch Go" apt-get "${APT[@]}" download "${BUILD_PACKAGES[@]}"
cd "$out/source"; step "fetch the source" apt-get "${APT[@]}" source --download-only "$SOURCE_PACKAGE"
cd "$out"; sha256sum debs/* source/* >packages   # what the later keys are made from
