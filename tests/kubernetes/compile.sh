#!/bin/bash
# compile.sh SOURCES FOLDER: Kubernetes' own programs and pause, static, into FOLDER. About 13 CPU minutes.
. "$(dirname "$0")/cache.sh"
. "$HERE/tree.sh"
out=$2 work=$2/work; mkdir "$work"
trap 'rm -rf "$work"' EXIT   # Go's build cache alone is 2.2 GB
ready_tree "$1" "$work"

IFS=. read -r major minor _ <<<"${KUBERNETES_VERSION#v}"
cat >"$work/version" <<END
KUBE_GIT_COMMIT='$KUBERNETES_COMMIT'
KUBE_GIT_TREE_STATE='archive'
KUBE_GIT_VERSION='$KUBERNETES_VERSION'
KUBE_GIT_MAJOR='$major'
KUBE_GIT_MINOR='$minor'
END
export KUBE_GIT_VERSION_FILE=$work/version
step "generate code" make -s generated_files

flags='-s -w'
for package in client-go/pkg/version component-base/version; do
  at=k8s.io/kubernetes/vendor/k8s.io/$package   # a GOPATH build knows it under its vendored path
  for pair in "gitVersion=$KUBERNETES_VERSION" "gitMajor=$major" "gitMinor=$minor" "gitCommit=$KUBERNETES_COMMIT" \
    gitTreeState=archive "buildDate=$KUBERNETES_DATE"; do flags+=" -X $at.$pair"; done
done
for program in "${KUBERNETES_BINARIES[@]}"; do
  step "compile $program" go build -trimpath -ldflags "$flags" -o "$out/$program" "k8s.io/kubernetes/cmd/$program"
done
step "compile pause" gcc -Os -static -s -DVERSION="$PAUSE_VERSION" -o "$out/pause" build/pause/linux/pause.c
