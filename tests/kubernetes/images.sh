#!/bin/bash
# images.sh: builds the programs' images and prints the folder of their OCI layout. Fast when nothing changed.
. "$(dirname "$0")/cache.sh"
programs=$("$HERE/build.sh")
cached image-debs "$(key image-debs.sh </dev/null)" "$HERE/image-debs.sh"; debs=$FOLDER
write() { python3 -B "$HERE/images.py" "$programs" "$debs" "$KUBERNETES_VERSION" "$1" | tee -a "$LOG" >&2; }
cached images "$(basename "$programs" | cat - "$debs/packages" | key images.py layout.py)" write
printf '%s\n' "$FOLDER"
