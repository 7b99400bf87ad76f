#!/usr/bin/env python3
"""Writes GRUB's boot sector and core image before the first partition of a raw disk.

grub-embed.py DISK BOOT_IMG PARTITION    (PARTITION: the loop device that holds /boot/grub/i386-pc/core.img)

What grub-bios-setup does, for hosts whose kernel makes no partition devices for a loop device. The layout is in
GRUB's `include/grub/i386/pc/boot.h`: the kernel sector at 0x5c, the drive check's jump at 0x66, and the first block
list entry (start, length, segment) in the last twelve bytes of the core image's first sector.
"""
import subprocess
import sys

SECTOR, CORE_AT, CORE_SEGMENT = 512, 1, 0x820


def main(disk, boot_image, partition):
    core = bytearray(subprocess.run(["debugfs", "-R", "cat /boot/grub/i386-pc/core.img", partition],
                                    check=True, capture_output=True).stdout)
    boot = open(boot_image, "rb").read()
    sectors = -(-len(core) // SECTOR)
    if not core or sectors + CORE_AT > 2048:
        sys.exit(f"the core image takes {sectors} sectors; there are 2047 before the first partition")
    core[500:508] = (CORE_AT + 1).to_bytes(8, "little")
    core[508:510] = (sectors - 1).to_bytes(2, "little")
    core[510:512] = CORE_SEGMENT.to_bytes(2, "little")
    with open(disk, "r+b") as out:
        record = bytearray(out.read(SECTOR))
        record[:440] = boot[:440]  # the partition table behind it stays
        record[0x5C:0x64] = CORE_AT.to_bytes(8, "little")
        record[0x66:0x68] = b"\x90\x90"
        out.seek(0)
        out.write(record)
        out.seek(CORE_AT * SECTOR)
        out.write(core)


main(*sys.argv[1:])
