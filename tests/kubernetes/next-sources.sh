#!/bin/bash
# next-sources.sh SOURCES FOLDER: the same sources with `next.patch` as the last of Debian's own patches.
. "$(dirname "$0")/cache.sh"
sources=$1 out=$2 work=$2/work; mkdir "$work" "$out/source"
cp -al "$sources/debs" "$out/"
cp -al "$sources"/source/*.dsc "$sources"/source/*.orig.* "$out/source/"
for archive in "$sources"/source/*.debian.tar.xz; do
  step "unpack the patches" tar -xf "$archive" -C "$work"
  cp "$HERE/next.patch" "$work/debian/patches/"
  echo next.patch >>"$work/debian/patches/series"
  step "pack them" tar --sort=name --mtime=@0 --owner=0 --group=0 -cJf "$out/source/$(basename "$archive")" -C "$work" debian
done
rm -rf "$work"
cat "$sources/packages" "$HERE/next.sh" "$HERE/next.patch" >"$out/packages"   # what the later keys are made from
