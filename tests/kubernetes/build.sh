#!/bin/bash
# build.sh [--output FOLDER]: Kubernetes' programs and the stand-ins, from Debian 12's packages alone (KDC_RELEASE=next:
# those of the next release). Prints the folder that holds them (FOLDER gets copies). Fast when nothing changed.
. "$(dirname "$0")/cache.sh"
output=
case ${1-} in
  '') ;;
  --output) output=$(realpath -m "${2:?--output needs a folder}") ;;
  *) sed -n 2,3p "$0" >&2; exit 2 ;;
esac
missing=()
for tool in gcc make patch jq rsync dpkg-source apt-get flock; do command -v "$tool" >/dev/null || missing+=("$tool"); done
[ ${#missing[@]} = 0 ] || die "missing here: ${missing[*]} (apt-get install gcc make patch jq rsync dpkg-dev)"

cd "$HERE"
cached sources "$(key fetch.sh versions.sh </dev/null)" "$HERE/fetch.sh"; sources=$FOLDER release=$FOLDER
if [ -n "${KDC_RELEASE:-}" ]; then
  cached sources "$(key next.sh next-sources.sh next.patch <"$sources/packages")" "$HERE/next-sources.sh" "$sources"; release=$FOLDER
fi
cached kubernetes "$(key compile.sh tree.sh versions.sh <"$release/packages")" "$HERE/compile.sh" "$release"; kubernetes=$FOLDER
cached standins "$(key standins.sh tree.sh standins/*/*.go <"$sources/packages")" "$HERE/standins.sh" "$sources"; standins=$FOLDER

programs=$CACHE/programs-$(basename "$kubernetes" | cut -d- -f2)-$(basename "$standins" | cut -d- -f2)
if [ ! -d "$programs" ]; then   # one folder of hard links, so that callers need one path only
  half=$programs.$$; rm -rf "$half"; mkdir "$half"
  ln "$kubernetes"/* "$standins/crictl" "$half/"; ln "$standins/dns" "$half/coredns"
  mv -T "$half" "$programs" 2>/dev/null || rm -rf "$half"   # another build was first
fi
if [ -n "$output" ]; then mkdir -p "$output"; cp -u "$programs"/* "$output/"; fi
printf '%s\n' "$programs"
