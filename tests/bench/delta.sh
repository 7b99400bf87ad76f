# What an update costs, against the whole new bundle. Sourced by bench.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154 # figures.sh sets them

bench_delta() {
  local folder=$work/delta
  mkdir "$folder"; cd "$folder"
  timed "$bin/kdc-install" bundle key new -o key --unencrypted
  say "Updates: two builds of the lab's Kubernetes, one fix apart"
  kubernetes_bundle old; kubernetes_bundle next
  update_of "two builds of Kubernetes" old next
  say "Updates: a server's Debian packages in two versions"
  local packages; packages=$("$root/tests/kubernetes/server-packages.sh")
  server_bundle old "$packages/old"; server_bundle next "$packages/new"
  update_of "Debian's packages of a server" old next
  cd "$root"; rm -rf "$folder"
}

# kubernetes_bundle old|next: the lab's own bundle, with that release in it.
kubernetes_bundle() {
  local release='' definition
  [ "$1" = old ] || release=next
  definition=$(KDC_RELEASE=$release "$root/tests/kubernetes/make-bundle-inputs.sh" "$bin/kdc-agent" 2>"$work/inputs.log" | tail -n1) ||
    { cat "$work/inputs.log" >&2; return 1; }
  delta_bundle "$1" "$definition"
}

# server_bundle NAME FOLDER: a bundle of the packages in that folder.
server_bundle() {
  local package fields
  ln -sfnT "$2" packages
  { printf '%s\n' 'apiVersion: kdc.dev/v1' 'kind: BundleDefinition' "metadata: {name: server, version: \"$1\"}" 'artifacts:'
    for package in packages/*.deb; do
      mapfile -t fields < <(dpkg-deb --show --showformat '${Package}\n${Version}\n' "$package")
      printf '%s\n' "- {name: ${fields[0]}, kind: package, platform: linux/amd64, version: \"${fields[1]}\", source: {path: \"$package\"}}"
    done; } >definition.yaml
  delta_bundle "$1" definition.yaml
}

delta_bundle() { timed "$bin/kdc-install" bundle create -f "$2" -o "$1" --key key; }

# update_of WHAT OLD NEW: what the update weighs, with the old bundle at hand and with a list of it alone; that it makes
# the new bundle byte for byte; and what both ends need for it.
update_of() {
  local what=$1 old=$2 new=$3 full kind
  full=$(stat -c %s "$new")
  timed "$bin/kdc-install" bundle diff "$old" "$new" -o update --key key.pub --output json
  cp "$work/stdout" "$root/target/bench-delta-${what%% *}.json"
  ratio_of "update: $what" 0.25 update "$full"
  figure "  making it ($burnt s CPU), memory" 200 MiB "$memory"
  apply_update
  timed "$bin/kdc-install" bundle inventory "$old" -o inventory --key key.pub
  figure "  the site's list ($took s)" '' MiB "$(mib inventory)"
  # No cache: its builder has nothing of the old bundle.
  timed env XDG_CACHE_HOME="$PWD/none" "$bin/kdc-install" bundle diff --inventory inventory "$new" -o update --key key.pub
  ratio_of "  update from the list alone" '' update "$full"
  figure "  making that ($burnt s CPU), memory" 200 MiB "$memory"
  apply_update
}

ratio_of() { figure "$1 ($took s)" "$2" MiB "$(mib "$3")" "$(calculate "$4 / 1048576" 1)" "$(calculate "$(stat -c %s "$3") / $4" 3)"; }
mib() { calculate "$(stat -c %s "$1") / 1048576" 1; }

apply_update() {
  timed "$bin/kdc-install" bundle patch "$old" update -o made --key key.pub
  cmp "$new" made
  figure "  applying it ($took s), memory" 512 MiB "$memory"
  rm made
}
