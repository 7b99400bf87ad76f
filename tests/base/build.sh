#!/bin/bash
# Builds the root file system of a fresh Debian 12 server: systemd, sshd, and what every server has. Nothing else.
#
#   build.sh ROOTFS        makes the folder ROOTFS, as root; takes about a minute
#
# containerd, runc, iptables, conntrack, nftables and everything of Kubernetes are left out on purpose: they
# have to come from kdc's bundle. python3-minimal is in, since a bench compares with `ansible -m ping`.
# kdc-lab names the cached result after this script's digest: edit it and the base is built anew.
set -euo pipefail
rootfs=$1
packages=systemd-sysv,dbus,udev,openssh-server,sudo,iproute2,iputils-ping,kmod,procps,netbase,mount,e2fsprogs
packages+=,python3-minimal

# What a server without hardware of its own can't run, and what would write to the disk by the clock.
masked=(systemd-udevd.service systemd-udev-trigger.service systemd-udevd-control.socket systemd-udevd-kernel.socket
  systemd-modules-load.service systemd-remount-fs.service getty@tty1.service console-getty.service
  e2scrub_reap.service e2scrub_all.timer fstrim.timer apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer
  systemd-timesyncd.service systemd-networkd-wait-online.service)

# The host's own Debian sources, where they are for this release; the archive's default otherwise.
sources=()
for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do
  if grep -qs bookworm "$file"; then sources+=("$file"); fi
done

# With its manuals: dpkg rewrites the lists of packages whose folders are missing, which no undo could tell from
# a change of ours.
mmdebstrap --mode=root --variant=minbase --format=directory --quiet \
  --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
  --include="$packages" bookworm "$rootfs" "${sources[@]}"

chroot "$rootfs" systemctl --quiet mask "${masked[@]}"
chroot "$rootfs" systemctl --quiet enable ssh.service
# Made anew for every server: a fresh server shares neither its identity nor its host keys with another.
rm -f "$rootfs"/etc/ssh/ssh_host_* "$rootfs"/var/lib/dbus/machine-id "$rootfs"/etc/fstab
: > "$rootfs/etc/machine-id"
# What apt and mmdebstrap leave of the building machine.
rm -rf "$rootfs"/var/cache/apt/* "$rootfs"/var/lib/apt/lists/* "$rootfs"/etc/apt/sources.list.d/* "$rootfs"/var/log/*
rm -f "$rootfs"/etc/apt/apt.conf.d/99mmdebstrap "$rootfs"/etc/dpkg/dpkg.cfg.d/99mmdebstrap "$rootfs/etc/resolv.conf"
install -m 0644 /dev/stdin "$rootfs/etc/apt/sources.list" < /dev/null
# Users that tests log in as; kdc-lab gives `ops` a password and both the lab's key.
chroot "$rootfs" useradd --create-home --shell /bin/bash ops
chroot "$rootfs" useradd --create-home --shell /bin/bash deploy
echo 'ops ALL=(ALL:ALL) ALL' | install -m 0440 /dev/stdin "$rootfs/etc/sudoers.d/ops"
echo 'deploy ALL=(ALL:ALL) NOPASSWD: ALL' | install -m 0440 /dev/stdin "$rootfs/etc/sudoers.d/deploy"
