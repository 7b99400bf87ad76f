#!/bin/bash
# make-archive-inputs.sh DEFINITION: from the definition that make-bundle-inputs.sh printed, one whose runtime comes
# as archives. Prints its path as the last line.
. "$(dirname "$0")/cache.sh"
[ $# = 1 ] || { sed -n 2,3p "$0" >&2; exit 2; }
definition=$(realpath "$1")
cached archive-inputs "$(cat "$definition" <(realpath "$(dirname "$definition")"/*) | key archives.py)" \
  python3 -B "$HERE/archives.py" "$definition"
printf '%s\n' "$FOLDER/definition.yaml"
