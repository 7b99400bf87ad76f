#!/bin/bash
# Builds the disk of a fresh Debian 12 machine with its own kernel, for QEMU: systemd, sshd, and what every
# server has, as tests/base/build.sh, plus a kernel and the guest agent through which a test plays the hands
# at the console (address, clock, files before SSH is there).
#
#   build.sh FOLDER        makes FOLDER/{disk.qcow2,vmlinuz,initrd.img}, as root; takes two minutes
set -euo pipefail
out=$1; root=$(mktemp -d "$out/root.XXXXXX"); trap 'rm -rf "$root"' EXIT
packages=systemd-sysv,dbus,udev,openssh-server,sudo,iproute2,iputils-ping,kmod,procps,netbase,mount,e2fsprogs
packages+=,python3-minimal,linux-image-cloud-amd64,initramfs-tools,qemu-guest-agent
masked=(e2scrub_reap.service e2scrub_all.timer fstrim.timer apt-daily.timer apt-daily-upgrade.timer
  dpkg-db-backup.timer systemd-timesyncd.service systemd-networkd-wait-online.service systemd-binfmt.service
  getty@tty1.service serial-getty@ttyS0.service modprobe@drm.service modprobe@fuse.service systemd-pstore.service
  modprobe@efi_pstore.service)
sources=()
for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do
  if grep -qs bookworm "$file"; then sources+=("$file"); fi
done

# With its manuals: dpkg rewrites the lists of packages whose folders are missing, which no undo could tell from
# a change of ours.
mmdebstrap --mode=root --variant=minbase --format=tar --quiet \
  --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
  --include="$packages" bookworm "$out/root.tar" "${sources[@]}"
tar -C "$root" --numeric-owner -xf "$out/root.tar"; rm "$out/root.tar"

chroot "$root" systemctl --quiet mask "${masked[@]}"
chroot "$root" systemctl --quiet enable ssh.service systemd-networkd.service qemu-guest-agent.service
rm -f "$root"/etc/ssh/ssh_host_* "$root"/var/lib/dbus/machine-id "$root/etc/resolv.conf"
: > "$root/etc/machine-id"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/etc/apt/sources.list.d/* "$root"/var/log/*
rm -f "$root"/etc/apt/apt.conf.d/99mmdebstrap "$root"/etc/dpkg/dpkg.cfg.d/99mmdebstrap
install -m 0644 /dev/stdin "$root/etc/apt/sources.list" < /dev/null
echo '/dev/vda / ext4 defaults 0 1' > "$root/etc/fstab"
chroot "$root" useradd --create-home --shell /bin/bash ops
chroot "$root" useradd --create-home --shell /bin/bash deploy
echo 'ops ALL=(ALL:ALL) ALL' | install -m 0440 /dev/stdin "$root/etc/sudoers.d/ops"
echo 'deploy ALL=(ALL:ALL) NOPASSWD: ALL' | install -m 0440 /dev/stdin "$root/etc/sudoers.d/deploy"

mv "$root"/boot/vmlinuz-* "$out/vmlinuz"; mv "$root"/boot/initrd.img-* "$out/initrd.img"
mke2fs -q -F -t ext4 -L root -d "$root" -E lazy_itable_init=1,root_owner=0:0 "$out/disk.ext4" 8G
qemu-img convert -O qcow2 "$out/disk.ext4" "$out/disk.qcow2"; rm "$out/disk.ext4"
