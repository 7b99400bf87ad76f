# What a lab needs of its host besides packages: said before anything is built. Sourced by the scripts that make labs.
# shellcheck shell=bash
if [ "$(id -u)" != 0 ]; then echo "${0##*/}: labs are made of namespaces, so it needs root; run it as root" >&2; exit 1; fi
if ! grep -q ' - cgroup .*name=systemd' /proc/self/mountinfo; then
  cat >&2 <<'END'
The lab's servers need a host with cgroup v1, and this one has v2 alone, as Debian 12 boots by default. Once, then reboot:
  sed -i 's/^GRUB_CMDLINE_LINUX="/&systemd.unified_cgroup_hierarchy=0 /' /etc/default/grub && update-grub
(what kdc installs runs on either; only the lab's light servers share the host's cgroups: tests/README.md)
END
  exit 1
fi
