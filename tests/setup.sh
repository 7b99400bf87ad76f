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
  openssh-server    # the SSH tests start their own sshd on loopback
  build-essential   # the C parts of Rust crates, and pause
  git
  curl
  ca-certificates
  qemu-system-x86   # machines
  qemu-utils
  seabios
  ipxe-qemu
  jq                # with rsync and build-essential: compiling Kubernetes (tests/kubernetes)
  rsync
  python3           # makes images and definitions
  sudo              # the SSH tests become root as operators do
  openssl
  debian-archive-keyring
)
missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  if [ "$state" != installed ]; then missing+=("$package"); fi
done
# Rust 1.95 or newer, if it isn't there: Debian 12's own is too old.
if ! command -v cargo > /dev/null && [ ! -x "$HOME/.cargo/bin/cargo" ]; then need_rust=1; fi
if [ ${#missing[@]} = 0 ] && [ -z "${need_rust:-}" ]; then exit 0; fi
if [ "$(id -u)" != 0 ]; then echo "make: root is needed to install ${missing[*]} (and to make a lab): run as root" >&2; exit 1; fi
echo "installing: ${missing[*]} ${need_rust:+rust}" >&2
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -o DPkg::Lock::Timeout=300 -q -y --no-install-recommends --allow-downgrades)
apt-get -o DPkg::Lock::Timeout=300 update -q >&2
# A qemu-utils from backports breaks the release's qemu-system-x86: take both from the release.
for i in "${!missing[@]}"; do
  if [ "${missing[$i]}" = qemu-system-x86 ]; then missing+=(qemu-utils/bookworm); fi
done
"${apt[@]}" install "${missing[@]}" >&2
if [ -n "${need_rust:-}" ]; then
  curl --proto '=https' --tlsv1.2 -fsS https://sh.rustup.rs | sh -s -- -y --profile minimal --component clippy --component rustfmt >&2
fi
