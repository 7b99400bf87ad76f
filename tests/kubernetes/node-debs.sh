#!/bin/bash
# node-debs.sh FOLDER: Debian 12 packages that a node needs from the bundle, with every dependency that a server
# reached over SSH doesn't have anyway: `dpkg --install` of exactly these files leaves nothing unconfigured.
. "$(dirname "$0")/cache.sh"
. "$HERE/apt.sh"
wanted=(containerd runc containernetworking-plugins iptables nftables conntrack socat ethtool ebtables ipset)
# The smallest server there is: every larger one has these too, so that one closure fits them all.
server=('?essential' '?priority(required)' apt systemd-sysv openssh-server iproute2 kmod mount procps)

out=$1 apt=$(mktemp -d); trap 'rm -rf "$apt"' EXIT
private_apt "$apt"
: >"$apt/nothing-installed"
step "read the package index" apt-get "${APT[@]}" update
closure() { # PACKAGE...: name=version of all that apt would put on an empty disk
  apt-get "${APT[@]}" -o Dir::State::status="$apt/nothing-installed" --simulate install "$@" |
    sed -n 's/^Inst \([^ ]*\) (\([^ ]*\).*/\1=\2/p' | sort
}
comm -13 <(closure "${server[@]}") <(closure "${server[@]}" "${wanted[@]}") >"$apt/missing"
mapfile -t missing <"$apt/missing"
for name in "${wanted[@]}"; do grep -q "^$name=" "$apt/missing" || die "apt's answer lacks $name"; done
cd "$out"; step "fetch ${#missing[@]} packages" apt-get "${APT[@]}" download "${missing[@]}"
