#!/bin/bash
# What a Vagrant guest needs inside: box-guest.sh ROOT
set -euo pipefail
root=$1
chroot "$root" useradd --create-home --shell /bin/bash vagrant
echo 'vagrant:vagrant' | chroot "$root" chpasswd
key=$(find / -xdev -path '*/vagrant-*/keys/vagrant.pub' 2>/dev/null | head -1)
[ -n "$key" ] || { echo "vagrant's public key isn't on this machine; is vagrant installed?" >&2; exit 1; }
install -d -m 0700 "$root/home/vagrant/.ssh"
install -m 0600 "$key" "$root/home/vagrant/.ssh/authorized_keys"
chroot "$root" chown -R vagrant:vagrant /home/vagrant/.ssh
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' | install -m 0440 /dev/stdin "$root/etc/sudoers.d/vagrant"
printf '[Match]\nName=eth* en*\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n' > "$root/etc/systemd/network/80-dhcp.network"
chroot "$root" systemctl --quiet enable ssh.service systemd-networkd.service
chroot "$root" systemctl --quiet mask e2scrub_reap.service systemd-networkd-wait-online.service \
  apt-daily.timer apt-daily-upgrade.timer
echo 'LABEL=root / ext4 defaults 0 1' > "$root/etc/fstab"
echo kdc-node > "$root/etc/hostname"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
