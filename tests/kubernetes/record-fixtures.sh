#!/bin/bash
# record-fixtures.sh: writes what the built kubeadm prints as its defaults, for the tests of kdc's own configuration.
. "$(dirname "$0")/cache.sh"
kubeadm=$("$HERE/build.sh")/kubeadm
to=$HERE/../../installer/src/distribution/fixtures
mkdir -p "$to"
record() { # FILE ARGUMENT...: under a fixed host name, as the defaults contain it
  unshare --uts sh -c 'hostname node-1; exec "$@" 2>/dev/null' sh "$kubeadm" config "${@:2}" >"$to/kubeadm-1.20-$1"
}
record init-defaults.yaml print init-defaults --component-configs KubeletConfiguration,KubeProxyConfiguration
record join-defaults.yaml print join-defaults
record images.txt images list --kubernetes-version "$KUBERNETES_VERSION"
