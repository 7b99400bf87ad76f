# The release after the one of versions.sh: the same sources and one fix more. Sourced by cache.sh when KDC_RELEASE=next;
# what its two bundles differ by is what `tests/bench/delta.sh` measures updates with.
# shellcheck shell=bash disable=SC2034
KUBERNETES_VERSION=v1.20.3
KUBERNETES_COMMIT=7ef5e93ac327f36531eeeea89cf07542d97151df   # nobody's: `printf kdc-next | sha1sum`
KUBERNETES_DATE=2021-02-18T08:12:00Z
