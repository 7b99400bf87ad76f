# What a lab needs of its host besides packages: said before anything is built. Sourced by the scripts that make labs.
# shellcheck shell=bash
if [ "$(id -u)" != 0 ]; then echo "${0##*/}: labs are made of namespaces, so it needs root; run it as root" >&2; exit 1; fi
# Hierarchies of v1, or v2 alone (as Debian 12 boots) with the controllers that light servers use. A container often has
# neither, or can't write there.
if ! grep -q ' - cgroup .*name=systemd' /proc/self/mountinfo; then
  for controller in cpu cpuset io memory pids; do
    if ! grep -qsw "$controller" /sys/fs/cgroup/cgroup.controllers || [ ! -w /sys/fs/cgroup/cgroup.subtree_control ]; then
      cat >&2 <<END
${0##*/}: the lab's servers need cgroups: either v1 with systemd's hierarchy, or v2 at /sys/fs/cgroup, writable, with the
controllers cpu, cpuset, io, memory and pids. Here \`$controller\` can't be handed to them. In a container: run it privileged and
with the host's cgroup namespace; on a host: look for cgroup_disable= in /proc/cmdline.
END
      exit 1
    fi
  done
fi
