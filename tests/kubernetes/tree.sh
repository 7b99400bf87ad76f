# Kubernetes' source tree, made ready for a build with Debian 12's Go. Sourced after cache.sh;
# `ready_tree SOURCES WORK` leaves the shell in the tree with Go's environment set.
# shellcheck shell=bash

ready_tree() {
  local sources=$1 work=$2 deb vendored debian
  for deb in "$sources"/debs/*.deb; do step "unpack $(basename "$deb")" dpkg -x "$deb" "$work/root"; done
  step "unpack the source" dpkg-source --no-check -x "$sources"/source/*.dsc "$work/tree"
  # The vendored reflect2 1.0.1 looks into Go's insides and crashes with Go 1.18 or later
  # (kubeadm's first JSON); Debian 12 has 1.0.2.
  vendored=$work/tree/vendor/github.com/modern-go/reflect2
  debian=$work/root/usr/share/gocode/src/github.com/modern-go/reflect2
  rm -f "$vendored"/*.go "$vendored"/*.s; cp "$debian"/*.go "$debian"/*.s "$vendored/"
  # Module mode wants a newer go.mod than the tree has, so the tree is linked into a GOPATH.
  mkdir -p "$work/gopath/src/k8s.io" "$work/home"
  ln -s "$work/tree" "$work/gopath/src/k8s.io/kubernetes"
  export GOROOT=$work/root/usr/lib/go-1.19 GOPATH=$work/gopath HOME=$work/home
  export PATH=$GOROOT/bin:$PATH GOCACHE=${KDC_GOCACHE:-$work/gocache}
  export GO111MODULE=off GOPROXY=off GOFLAGS='' CGO_ENABLED=0
  cd "$GOPATH/src/k8s.io/kubernetes"
}
