#!/bin/sh
# Have real containerds read what kdc writes into their configuration: `containerd config dump` must show the runtime, what stood there
# before must still be in force, and the table of a runtime of somebody else's too. Not part of `make test`: only one version
# of containerd is in a distribution. Call it with the programs: tests/containerd-dump.sh /opt/1.7/containerd /opt/2.1/containerd
set -eu
[ $# -gt 0 ] || { echo "usage: $0 CONTAINERD..." >&2; exit 2; }
here=$(cd "$(dirname "$0")/.." && pwd)
configs=$(mktemp -d)
trap 'rm -rf "$configs"' EXIT
KDC_RUNTIME_CONFIGS=$configs cargo test --quiet --manifest-path "$here/Cargo.toml" -p kdc-agent --lib \
    what_is_written_can_be_handed_to_a_real_containerd > /dev/null
read_by() { # program, name of the configuration
    dump=$("$1" --config "$configs/$2.toml" config dump)
    for line in runtimes.nvidia /usr/bin/nvidia-container-runtime runtimes.runc /data/containerd; do
        case $dump in *"$line"*) ;; *) echo "$2: what $1 makes of it lacks $line" >&2; exit 1 ;; esac
    done
    echo "  $2"
}
for program in "$@"; do
    version=$("$program" --version | sed -n 's/.* v\{0,1\}\([0-9]*\.[0-9]*\)\.[0-9].*/\1/p')
    echo "containerd $version"
    case $version in
    1.6) read_by "$program" one-1.6; read_by "$program" two-1.6 ;;
    1.7) read_by "$program" one-1.7; read_by "$program" two-1.7; read_by "$program" imported-1.7 ;;
    2.*) read_by "$program" two-2.1; read_by "$program" three-2.1; read_by "$program" imported-2.1 ;;
    *) echo "nothing is written for $version" >&2; exit 1 ;;
    esac
done
