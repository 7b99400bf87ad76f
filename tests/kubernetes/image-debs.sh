#!/bin/bash
# image-debs.sh FOLDER: what the images hold from Debian, unpacked: FOLDER/root (etcd, busybox, libc) and
# FOLDER/proxy (what kube-proxy calls, with every library).
. "$(dirname "$0")/cache.sh"
. "$HERE/apt.sh"
out=$1 apt=$(mktemp -d); trap 'rm -rf "$apt"' EXIT
private_apt "$apt"
: >"$apt/nothing-installed"; mkdir "$apt/plain" "$out/root" "$out/proxy"
step "read the package index" apt-get "${APT[@]}" update
cd "$apt/plain"; step "fetch etcd, busybox and libc" apt-get "${APT[@]}" download etcd-server etcd-client busybox libc6
step "fetch kube-proxy's tools" apt-get "${APT[@]}" -o Dir::State::status="$apt/nothing-installed" -y --download-only \
  install iptables conntrack ipset kmod netbase libc6
for deb in "$apt"/plain/*.deb; do dpkg -x "$deb" "$out/root"; done
for deb in "$apt"/cache/archives/*.deb; do dpkg -x "$deb" "$out/proxy"; done
rm -rf "$out"/*/usr/share/{doc,man,locale,lintian,bug,perl5,info} "$out"/*/usr/lib/x86_64-linux-gnu/{gconv,perl*}
(cd "$apt" && sha256sum plain/*.deb && cd cache/archives && sha256sum -- *.deb) >"$out/packages"
