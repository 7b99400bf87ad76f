#!/bin/bash
# packages.sh: fetches the Debian packages of a node and prints their folder. Fast when nothing changed.
. "$(dirname "$0")/cache.sh"
cached node-debs "$(key node-debs.sh </dev/null)" "$HERE/node-debs.sh"
printf '%s\n' "$FOLDER"
