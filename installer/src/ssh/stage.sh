# Runs on the node as `sh -c THIS kdc MARK DIGEST SIZE`: finds or takes the agent, then becomes it.
# Every line for the installer starts with MARK, so that what login shells print is told apart.
mark=$1 want=$2 size=$3
umask 077
LC_ALL=C PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
say() { printf '%s %s\n' "$mark" "$*"; }
for program in head sha256sum id mkdir chmod mv rm df tail; do
  command -v "$program" >/dev/null 2>&1 || { say LACKS "$program"; exit 1; }
done
uid=$(id -u)
good() {
  [ -f "$1" ] && [ -x "$1" ] && sum=$(sha256sum <"$1") && [ "${sum%% *}" = "$want" ]
}
# Only a directory of our own that nobody else can enter keeps a checked file checked: a file there has its name
# since its digest was right. In memory that is enough; a disk may have lost or damaged it since.
kept() { if [ "${1%/*/*}" = /dev/shm ]; then [ -f "$1" ] && [ -x "$1" ]; else good "$1"; fi; }
ours() { [ -d "$1" ] && [ ! -L "$1" ] && [ -O "$1" ] && chmod 700 "$1"; }
room() { set -- $(df -Pk "$1" 2>/dev/null | tail -n 1); [ "${4:-0}" -gt $((size / 1024 + 64)) ] 2>/dev/null; }
agent=
good /usr/local/bin/kdc-agent && agent=/usr/local/bin/kdc-agent
for base in /dev/shm /var/tmp /tmp "$HOME"; do
  dir=$base/kdc-$uid
  [ -z "$agent" ] && ours "$dir" && kept "$dir/agent-$want" && agent=$dir/agent-$want
done
if [ -z "$agent" ]; then
  why= place=
  for base in /dev/shm /var/tmp /tmp "$HOME"; do
    dir=$base/kdc-$uid try=$base/kdc-$uid/try-$$
    mkdir -m 700 "$dir" 2>/dev/null
    if ! ours "$dir" || ! printf '#!/bin/sh\n' 2>/dev/null >"$try"; then why="$why, $base closed"
    elif ! { chmod 700 "$try" && "$try"; } 2>/dev/null; then why="$why, $base noexec"
    elif ! room "$dir"; then why="$why, $base full"
    else place=$dir; fi
    rm -f "$try" 2>/dev/null
    [ -n "$place" ] && break
  done
  [ -n "$place" ] || { say NOPLACE "${why#, }"; exit 1; }
  part=$place/part-$$ agent=$place/agent-$want
  say NEED "$place"
  head -c "$size" >"$part" || { rm -f "$part"; say FULL "$place"; exit 1; }
  sum=$(sha256sum <"$part")
  [ "${sum%% *}" = "$want" ] || { rm -f "$part"; say DAMAGED "${sum%% *}"; exit 1; }
  chmod 700 "$part" && mv -f "$part" "$agent" || { rm -f "$part"; say FULL "$place"; exit 1; }
fi
if [ "$uid" = 0 ]; then say ROOT "$agent"; exec "$agent" serve --stdio; fi
command -v sudo >/dev/null 2>&1 || { say NOSUDO; exit 1; }
if sudo -n true </dev/null >/dev/null 2>&1; then say FREE "$agent"; exec sudo -n -- "$agent" serve --stdio; fi
say PASSWORD "$agent"
exec sudo -S -p '' -- "$agent" serve --stdio
