#!/bin/bash
# server-packages.sh: fetches a server's packages in two versions and prints the folder of `old` and `new`. Once: what
# Debian serves next month is another pair, so the pair stays as it was first seen.
. "$(dirname "$0")/cache.sh"
cached server-debs "$(key server-debs.sh </dev/null)" "$HERE/server-debs.sh"
printf '%s\n' "$FOLDER"
