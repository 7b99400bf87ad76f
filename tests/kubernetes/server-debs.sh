#!/bin/bash
# server-debs.sh FOLDER: all that a server of a cluster has from Debian 12, its kernel too, in the two newest versions that
# Debian's archive serves: FOLDER/new and FOLDER/old. What there is only one version of is in both.
. "$(dirname "$0")/cache.sh"
. "$HERE/apt.sh"
# The smallest server that kdc can be given, and what the lab's bundle adds (node-debs.sh).
wanted=('?essential' '?priority(required)' apt systemd-sysv openssh-server iproute2 kmod mount procps linux-image-amd64
  containerd runc containernetworking-plugins iptables nftables conntrack socat ethtool ebtables ipset)

out=$1 apt=$(mktemp -d); trap 'rm -rf "$apt"' EXIT
private_apt "$apt"
: >"$apt/nothing-installed"; mkdir "$out/old" "$out/new"
step "read the package index" apt-get "${APT[@]}" update
apt-get "${APT[@]}" -o Dir::State::status="$apt/nothing-installed" --simulate install "${wanted[@]}" |
  sed -n 's/^Inst \([^ ]*\) (\([^ ]*\).*/\1=\2/p' | sort >"$apt/new"
grep -q '^containerd=' "$apt/new" || die "apt's answer lacks containerd"

# A kernel's name has its number in it: the one before is a package of another name.
apt-cache "${APT[@]}" pkgnames linux-image- | grep -E '^linux-image-[0-9]+\.[0-9]+\.[0-9]+-[0-9]+-amd64$' | sort -V >"$apt/kernels"
before() { # NAME VERSION: name=version of what it replaced
  local name=$1 version=$2
  if [[ $name =~ ^linux-image-[0-9] ]]; then
    name=$(grep -Fxm1 -B1 "$name" "$apt/kernels" | head -n1); version=
  fi
  apt-cache "${APT[@]}" madison "$name" | awk -F ' *[|] *' -v now="$version" '
    $3 ~ / Packages$/ && $2 != now && found == "" { found = $2 }
    END { print (found == "" ? now : found) }' | sed "s/^/$name=/"
}
while IFS='=' read -r name version; do before "$name" "$version"; done <"$apt/new" >"$apt/old"
for side in old new; do
  mapfile -t packages <"$apt/$side"
  cd "$out/$side"; step "fetch ${#packages[@]} packages ($side)" apt-get "${APT[@]}" download "${packages[@]}"
done
say "$(comm -13 "$apt/old" "$apt/new" | wc -l) of ${#packages[@]} packages have an older version"
