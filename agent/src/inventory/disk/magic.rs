//! Signatures: what a device holds, by the magic bytes that formats leave at fixed places.
//!
//! Only these few bytes are looked at and recorded, never content. [`PLACES`] says where; the rest
//! is a pure function over what stood there.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Bytes read from the start of a device: the farthest fixed place is btrfs' at 64 KiB.
pub(super) const HEAD_BYTES: usize = 68 * 1024;

/// What a signature says that the device is for.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum Usage {
    /// Files.
    FileSystem,
    /// Part of something above it: LVM, RAID, bcache, ZFS.
    Member,
    /// Encrypted content.
    Encrypted,
    /// A table of partitions.
    PartitionTable,
    /// Swap, Ceph and others.
    Other,
}

/// A known format that was recognised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Signature {
    /// As util-linux calls it (`ext4`, `LVM2_member`, `linux_raid_member`, `ceph_bluestore`, `gpt`).
    pub kind: String,
    /// What for.
    pub usage: Usage,
    /// Label of the file system, where udev knows one.
    pub label: Option<String>,
    /// UUID of the file system, where udev knows one.
    pub uuid: Option<String>,
    /// Who says so: the device's bytes, udev, or both.
    pub sources: Vec<String>,
}

/// Format, use, place in bytes, and what stands there.
type Magic = (&'static str, Usage, usize, &'static [u8]);

const MAGICS: &[Magic] = &[
    ("ceph_bluestore", Usage::Other, 0, b"bluestore block device"),
    ("LVM2_member", Usage::Member, 0, b"LABELONE"),
    ("LVM2_member", Usage::Member, 512, b"LABELONE"),
    ("LVM2_member", Usage::Member, 1024, b"LABELONE"),
    ("LVM2_member", Usage::Member, 1536, b"LABELONE"),
    ("crypto_LUKS", Usage::Encrypted, 0, b"LUKS\xba\xbe"),
    ("linux_raid_member", Usage::Member, 0, b"\xfc\x4e\x2b\xa9"),
    ("linux_raid_member", Usage::Member, 4096, b"\xfc\x4e\x2b\xa9"),
    ("bcache", Usage::Member, 4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f"),
    ("vdo", Usage::Member, 0, b"dmvdo001"),
    ("xfs", Usage::FileSystem, 0, b"XFSB"),
    ("btrfs", Usage::FileSystem, 65600, b"_BHRfS_M"),
    ("vfat", Usage::FileSystem, 82, b"FAT32   "),
    ("vfat", Usage::FileSystem, 54, b"FAT16   "),
    ("vfat", Usage::FileSystem, 54, b"FAT12   "),
    ("ntfs", Usage::FileSystem, 3, b"NTFS    "),
    ("exfat", Usage::FileSystem, 3, b"EXFAT   "),
    ("iso9660", Usage::FileSystem, 32769, b"CD001"),
    ("squashfs", Usage::FileSystem, 0, b"hsqs"),
    ("erofs", Usage::FileSystem, 1024, b"\xe2\xe1\xf5\xe0"),
    ("f2fs", Usage::FileSystem, 1024, b"\x10\x20\xf5\xf2"),
    ("swap", Usage::Other, 4086, b"SWAPSPACE2"),
    ("swap", Usage::Other, 65526, b"SWAPSPACE2"),
    ("gpt", Usage::PartitionTable, 512, b"EFI PART"),
    ("gpt", Usage::PartitionTable, 4096, b"EFI PART"),
];

/// Places of ext's magic and feature bits in its super block, and of the DOS partition table.
const EXT_MAGIC: usize = 0x438;
const EXT_COMPATIBLE: usize = 0x45c;
const EXT_INCOMPATIBLE: usize = 0x460;
const DOS_ENTRIES: usize = 446;
const DOS_MAGIC: usize = 510;
/// ZFS writes its uberblocks into a ring; a young pool has not used the first ones.
const ZFS_RING: u64 = 128 * 1024;
const ZFS_MAGIC: [u8; 4] = [0x0c, 0xb1, 0xba, 0x00];
const RAID_MAGIC: [u8; 4] = [0xfc, 0x4e, 0x2b, 0xa9];

/// The few bytes that were kept of a device: by distance from its start.
pub(super) type Pieces = BTreeMap<u64, Vec<u8>>;

/// Keep of a device's head only what stands where formats leave their marks.
pub(super) fn keep(head: &[u8]) -> Pieces {
    let fixed = MAGICS.iter().map(|(_, _, at, magic)| (*at, magic.len())).chain([
        (EXT_MAGIC, 2),
        (EXT_COMPATIBLE, 4),
        (EXT_INCOMPATIBLE, 4),
        (DOS_ENTRIES, 66),
    ]);
    let mut pieces = Pieces::new();
    for (at, length) in fixed {
        let Some(bytes) = head.get(at..at + length) else { continue };
        let kept = pieces.entry(at as u64).or_default();
        if bytes.iter().any(|byte| *byte != 0) && kept.len() < length {
            *kept = bytes.to_vec();
        }
    }
    pieces.retain(|_, bytes| !bytes.is_empty());
    pieces
}

/// Further places, that depend on the size: what is there, how much to read.
pub(super) fn far_places(size: u64) -> Vec<(u64, usize)> {
    let mut places = vec![(ZFS_RING, 128 * 1024)];
    // RAID super blocks of versions 1.0 and 0.90 lie near the end.
    places.extend(raid_1_0(size).map(|at| (at, 4)));
    places.extend(raid_0_90(size).map(|at| (at, 4)));
    places
}

fn raid_1_0(size: u64) -> Option<u64> {
    Some(((size / 512).checked_sub(16)? & !7) * 512)
}

fn raid_0_90(size: u64) -> Option<u64> {
    (size & !0xffff).checked_sub(0x1_0000)
}

/// Keep of a far place what is a mark.
pub(super) fn keep_far(pieces: &mut Pieces, at: u64, bytes: &[u8]) {
    if at == ZFS_RING {
        let slots = bytes.chunks_exact(1024).enumerate();
        let mut marks = slots.filter(|(_, slot)| slot.starts_with(&ZFS_MAGIC));
        if let Some((number, _)) = marks.next() {
            pieces.insert(at + number as u64 * 1024, ZFS_MAGIC.to_vec());
        }
    } else if bytes.starts_with(&RAID_MAGIC) {
        pieces.insert(at, RAID_MAGIC.to_vec());
    }
}

/// What a device of this size holds: format and use, each once.
pub(super) fn judge(pieces: &Pieces, size: u64) -> Vec<(&'static str, Usage)> {
    let stands = |at: u64, magic: &[u8]| {
        pieces.get(&at).is_some_and(|bytes| bytes.get(..magic.len()) == Some(magic))
    };
    let mut found: Vec<(&'static str, Usage)> = MAGICS
        .iter()
        .filter(|(_, _, at, magic)| stands(*at as u64, magic))
        .map(|(kind, usage, ..)| (*kind, *usage))
        .collect();
    if stands(EXT_MAGIC as u64, b"\x53\xef") {
        found.push((ext_kind(pieces), Usage::FileSystem));
    }
    let zfs = |at: &u64| (ZFS_RING..2 * ZFS_RING).contains(at) && stands(*at, &ZFS_MAGIC);
    if pieces.keys().any(zfs) {
        found.push(("zfs_member", Usage::Member));
    }
    let at_end = [raid_1_0(size), raid_0_90(size)];
    if at_end.into_iter().flatten().any(|at| stands(at, &RAID_MAGIC)) {
        found.push(("linux_raid_member", Usage::Member));
    }
    if is_dos_table(pieces, &found) {
        found.push(("dos", Usage::PartitionTable));
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// ext4 and its elders differ by features: a journal makes ext3, any newer feature ext4.
fn ext_kind(pieces: &Pieces) -> &'static str {
    const HAS_JOURNAL: u32 = 0x4;
    /// FILETYPE, RECOVER, JOURNAL_DEV and META_BG: what ext3 knows.
    const OF_EXT3: u32 = 0x2 | 0x4 | 0x8 | 0x10;
    let bits = |at: usize| {
        let bytes = pieces.get(&(at as u64)).and_then(|bytes| bytes.get(..4)?.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    };
    if bits(EXT_INCOMPATIBLE) & !OF_EXT3 != 0 {
        "ext4"
    } else if bits(EXT_COMPATIBLE) & HAS_JOURNAL != 0 {
        "ext3"
    } else {
        "ext2"
    }
}

/// A boot sector of FAT or NTFS ends with the same two bytes; and a GPT stands behind a protective
/// table, whose one entry is of type 0xee.
fn is_dos_table(pieces: &Pieces, found: &[(&str, Usage)]) -> bool {
    let Some(table) = pieces.get(&(DOS_ENTRIES as u64)) else { return false };
    let end = DOS_MAGIC - DOS_ENTRIES;
    let magic = table.get(end..end + 2) == Some(&[0x55, 0xaa]);
    let entries = || table[..end].as_chunks::<16>().0.iter();
    let plain = entries().all(|entry| entry[0] == 0 || entry[0] == 0x80);
    let some = entries().any(|entry| entry[4] != 0);
    let other = found.iter().any(|(kind, usage)| *usage == Usage::FileSystem || *kind == "gpt");
    magic && plain && some && !other
}

/// The bytes of the device and what udev says, in one list.
pub(super) fn join(
    bytes: Option<(Vec<(&'static str, Usage)>, &str)>,
    udev: Option<Signature>,
    table: Option<(String, &str)>,
) -> Vec<Signature> {
    let plain = |kind: &str, usage, source: &str| Signature {
        kind: kind.to_owned(),
        usage,
        label: None,
        uuid: None,
        sources: vec![source.to_owned()],
    };
    let mut list: Vec<Signature> = Vec::new();
    if let Some((found, source)) = bytes {
        list.extend(found.into_iter().map(|(kind, usage)| plain(kind, usage, source)));
    }
    let table = table.map(|(kind, source)| plain(&kind, Usage::PartitionTable, source));
    for told in udev.into_iter().chain(table) {
        match list.iter_mut().find(|known| known.kind == told.kind) {
            Some(known) => {
                known.sources.extend(told.sources);
                (known.label, known.uuid) = (told.label, told.uuid);
            }
            None => list.push(told),
        }
    }
    list
}

/// What udev's word for a use means here.
pub(super) fn usage_of(kind: &str, word: &str) -> Usage {
    match word {
        "filesystem" => Usage::FileSystem,
        "raid" => Usage::Member,
        "crypto" => Usage::Encrypted,
        _ if kind == "LVM2_member" => Usage::Member,
        _ => Usage::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 30;

    fn judged(marks: &[(u64, &[u8])]) -> Vec<&'static str> {
        let mut head = vec![0_u8; HEAD_BYTES];
        let mut far = Vec::new();
        for (at, bytes) in marks {
            match usize::try_from(*at).ok().filter(|at| at + bytes.len() <= HEAD_BYTES) {
                Some(at) => head[at..at + bytes.len()].copy_from_slice(bytes),
                None => far.push((*at, *bytes)),
            }
        }
        let mut pieces = keep(&head);
        for (at, bytes) in far {
            keep_far(&mut pieces, at, bytes);
        }
        judge(&pieces, SIZE).into_iter().map(|(kind, _)| kind).collect()
    }

    #[test]
    fn every_format_is_known_by_its_mark_and_zeros_are_nothing() {
        assert!(judged(&[]).is_empty());
        for (kind, _, at, magic) in MAGICS {
            assert_eq!(judged(&[(*at as u64, magic)]), [*kind], "{kind} at {at}");
        }
    }

    #[test]
    fn the_ext_family_is_told_apart_by_features() {
        let magic: (u64, &[u8]) = (0x438, b"\x53\xef");
        assert_eq!(judged(&[magic]), ["ext2"]);
        assert_eq!(judged(&[magic, (0x45c, b"\x04\0\0\0")]), ["ext3"]);
        assert_eq!(judged(&[magic, (0x45c, b"\x04\0\0\0"), (0x460, b"\x42\0\0\0")]), ["ext4"]);
    }

    #[test]
    fn marks_near_the_end_and_in_the_ring_are_seen() {
        let raid = raid_1_0(SIZE).unwrap();
        assert_eq!(judged(&[(raid, &RAID_MAGIC)]), ["linux_raid_member"]);
        assert_eq!(judged(&[(raid_0_90(SIZE).unwrap(), &RAID_MAGIC)]), ["linux_raid_member"]);
        let mut ring = vec![0_u8; 128 * 1024];
        ring[5 * 1024..5 * 1024 + 4].copy_from_slice(&ZFS_MAGIC);
        assert_eq!(judged(&[(ZFS_RING, &ring)]), ["zfs_member"]);
    }

    #[test]
    fn a_partition_table_is_not_a_boot_sector_nor_the_table_that_protects_a_gpt() {
        let mut entry = [0_u8; 66];
        entry[4] = 0x83;
        entry[64..].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(judged(&[(446, &entry)]), ["dos"]);
        assert_eq!(judged(&[(446, &entry), (82, b"FAT32   ")]), ["vfat"]);
        entry[4] = 0xee;
        assert_eq!(judged(&[(446, &entry), (512, b"EFI PART")]), ["gpt"]);
        assert!(judged(&[(510, &[0x55, 0xaa])]).is_empty(), "no entry");
    }

    #[test]
    fn what_both_say_is_one_signature_with_two_sources() {
        let told = |kind: &str| Signature {
            kind: kind.to_owned(),
            usage: Usage::FileSystem,
            label: Some("data".to_owned()),
            uuid: None,
            sources: vec!["udev".to_owned()],
        };
        let bytes = || Some((vec![("ext4", Usage::FileSystem)], "/dev/sda"));
        let joined = join(bytes(), Some(told("ext4")), None);
        assert_eq!(joined.len(), 1);
        assert_eq!(joined[0].sources, ["/dev/sda", "udev"]);
        assert_eq!(joined[0].label.as_deref(), Some("data"));
        assert_eq!(join(bytes(), Some(told("xfs")), None).len(), 2, "a stale word is seen");
    }
}
