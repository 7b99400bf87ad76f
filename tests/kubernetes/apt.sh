# Debian 12's package index in a private folder, so that the host's own state is neither needed nor changed.
# Sourced after cache.sh; `private_apt FOLDER` sets APT, the options for apt-get.
# shellcheck shell=bash

# The mirror is the host's own, if the host is a Debian with one; MIRROR overrides.
mirror() { printf '%s' "${MIRROR:-$(apt-cache policy | grep -om1 'https\?://[^ ]*/debian ' | tr -d ' ')}"; }

private_apt() {
  local at=$1 keys=/usr/share/keyrings/debian-archive-keyring.gpg from suite
  from=$(mirror); [ -n "$from" ] || die "no Debian mirror in the host's apt sources; set MIRROR=http://.../debian"
  [ -r "$keys" ] || die "$keys is missing; install debian-archive-keyring"
  mkdir -p "$at"/{lists,cache/archives}/partial
  : >"$at/sources.list"
  for suite in bookworm bookworm-updates; do
    printf '%s [signed-by=%s] %s %s main\n' deb "$keys" "$from" "$suite" deb-src "$keys" "$from" "$suite"
  done >"$at/sources.list"
  printf 'deb [signed-by=%s] %s bookworm-security main\n' "$keys" "$from-security" >>"$at/sources.list"
  APT=(-q -o Dir::Etc::sourcelist="$at/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::State::Lists="$at/lists" -o Dir::Cache="$at/cache" -o APT::Sandbox::User=root
    -o APT::Architecture=amd64 -o APT::Install-Recommends=false -o Acquire::Retries=3 -o Debug::NoLocking=1)
}
