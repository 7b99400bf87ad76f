#!/bin/bash
# Builds the box `kdc/debian12` for vagrant-libvirt: Debian 12 with systemd, sshd and the user `vagrant`, on a
# disk that boots by itself (BIOS, GRUB). As root, a few minutes.
#
#   build-box.sh FOLDER     makes FOLDER/kdc-debian12.box; then: vagrant box add --name kdc/debian12 FOLDER/kdc-debian12.box
#
# Needs: mmdebstrap parted e2fsprogs qemu-utils grub-pc-bin grub2-common vagrant
set -euo pipefail
out=$(realpath -m "$1"); here=$(cd "$(dirname "$0")" && pwd); mkdir -p "$out"
work=$(mktemp -d "$out/building.XXXXXX"); loops=()
trap 'umount "$work/mnt" 2>/dev/null || true; for l in "${loops[@]}"; do losetup -d "$l" || true; done; rm -rf "$work"' EXIT
say() { echo "[${SECONDS}s] $*" >&2; }

say "root file system"
packages=systemd-sysv,dbus,udev,openssh-server,sudo,iproute2,iputils-ping,kmod,procps,netbase,mount,e2fsprogs
mmdebstrap --mode=root --variant=minbase --format=tar --quiet --aptopt='APT::Install-Recommends "false"' \
  --include="$packages,python3-minimal,linux-image-amd64,initramfs-tools,systemd-resolved" bookworm "$work/root.tar"

say "disk"
truncate -s 8G "$work/disk.raw"
parted -s "$work/disk.raw" mklabel msdos mkpart primary ext4 1MiB 100% set 1 boot on
whole=$(losetup --show -f "$work/disk.raw"); loops+=("$whole")
part=$(losetup --show -f -o $((1 << 20)) "$work/disk.raw"); loops+=("$part")
# Features that Debian 12's GRUB can't read stay off.
mkfs.ext4 -q -L root -O ^metadata_csum_seed,^orphan_file "$part"
mkdir "$work/mnt"; mount "$part" "$work/mnt"
tar -C "$work/mnt" --numeric-owner -xf "$work/root.tar"
"$here/box-guest.sh" "$work/mnt"

say "boot loader"
boot=$work/mnt/boot; grub=$boot/grub; mkdir -p "$grub/i386-pc"
cat > "$grub/grub.cfg" <<G
serial --unit=0 --speed=115200
terminal_output serial
set timeout=0
menuentry Debian {
  search --no-floppy --label root --set=root
  linux /boot/$(cd "$boot"; ls vmlinuz-*) root=LABEL=root ro quiet console=ttyS0 net.ifnames=0
  initrd /boot/$(cd "$boot"; ls initrd.img-*)
}
G
printf '(hd0) %s\n' "$whole" > "$grub/device.map"
cp /usr/lib/grub/i386-pc/*.mod /usr/lib/grub/i386-pc/*.lst /usr/lib/grub/i386-pc/boot.img "$grub/i386-pc/"
grub-mkimage -O i386-pc -o "$grub/i386-pc/core.img" -p '(hd0,msdos1)/boot/grub' \
  biosdisk part_msdos ext2 normal linux search search_label serial terminal configfile echo
umount "$work/mnt"
# grub-bios-setup wants to see a partition device; where the kernel makes none, the sectors are written by hand.
"$here/grub-embed.py" "$work/disk.raw" /usr/lib/grub/i386-pc/boot.img "$part"
for l in "${loops[@]}"; do losetup -d "$l"; done; loops=()

say "box"
qemu-img convert -O qcow2 "$work/disk.raw" "$work/box.img"
echo '{"provider":"libvirt","format":"qcow2","virtual_size":8}' > "$work/metadata.json"
printf 'Vagrant.configure("2") do |c|\n  c.vm.provider(:libvirt) { |l| l.disk_bus = "virtio" }\nend\n' > "$work/Vagrantfile"
tar -C "$work" -czf "$out/kdc-debian12.box" metadata.json Vagrantfile box.img
say "$out/kdc-debian12.box"
