# A cache of folders, each named by the digest of what it was made from. Sourced.
# shellcheck shell=bash
set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/kdc
# shellcheck source=versions.sh
. "$HERE/versions.sh"
case ${KDC_RELEASE:-} in
  '') ;;
  next) . "$HERE/next.sh" ;;
  *) echo "KDC_RELEASE is \`next\` or nothing" >&2; exit 2 ;;
esac

export KDC_STARTED=${KDC_STARTED:-$EPOCHSECONDS}   # one clock for all scripts of a run
say() { printf '[%4d s] %s\n' $((EPOCHSECONDS - KDC_STARTED)) "$*" >&2; }
die() { say "$*"; exit 1; }

# step NAME COMMAND...: runs COMMAND with its output in $LOG and says how long it took.
# COMMAND has to be a program, not a shell function: `set -e` doesn't reach into a tested function.
step() {
  local name=$1 from=$SECONDS; shift
  "$@" >>"$LOG" 2>&1 || { tail -n 8 "$LOG" >&2; die "$name failed; whole log: $LOG"; }
  say "$name: $((SECONDS - from)) s"
}

# key FILE...: one digest over stdin and the named files of this folder (names and bytes).
key() { (cd "$HERE" && cat && sha256sum -- "$@") | sha256sum | cut -c1-20; }

# cached NAME KEY PROGRAM ARGUMENT...: sets FOLDER to the cache's folder NAME-KEY. When it is missing,
# `PROGRAM ARGUMENT... TEMPORARY` fills a temporary one, which is renamed once it is complete.
cached() {
  local name=$1-$2; shift 2
  FOLDER=$CACHE/$name
  if [ -d "$FOLDER" ]; then return; fi
  mkdir -p "$CACHE/logs"
  export LOG=$CACHE/logs/$name.log
  exec {lock}>"$CACHE/$name.lock"
  flock "$lock"
  if [ ! -d "$FOLDER" ]; then
    rm -rf "$FOLDER.partial"; mkdir "$FOLDER.partial"; : >"$LOG"
    say "making $name (log: $LOG)"
    "$@" "$FOLDER.partial"
    mv "$FOLDER.partial" "$FOLDER"
  fi
  exec {lock}>&-
}
