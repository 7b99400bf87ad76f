#!/bin/bash
# Installs what the tests need from the host's Debian 12 packages. Run as root; does nothing where all is there.
set -euo pipefail
packages=(
  mmdebstrap        # the base root file system of light servers
  util-linux        # unshare, nsenter, setsid, setpriv
  mount
  e2fsprogs         # disks of a fixed size
  iproute2          # namespaces, links, tc
  openssh-client
  tcpdump           # packet capture of a lab
  nftables          # the differ reads rules with it on servers that have none
  iptables
  procps
)
missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  if [ "$state" != installed ]; then missing+=("$package"); fi
done
if [ ${#missing[@]} = 0 ]; then exit 0; fi
echo "installing: ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get -o DPkg::Lock::Timeout=300 update -q >&2
apt-get -o DPkg::Lock::Timeout=300 install -q -y --no-install-recommends "${missing[@]}" >&2
