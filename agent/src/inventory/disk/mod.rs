//! Disks: what they are, what is on them, who uses them, and whether Rook may take them.

mod device;
mod identity;
mod magic;
mod mounts;
mod nvme;
mod rook;
mod udev;
mod uses;
mod volume;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(super) use self::identity::pci_address;
use self::{
    device::{Extent, Marks, Reading},
    identity::{by_id, first_of, hangs_on, serial, transport, vendor},
    udev::Record,
    uses::Uses,
};
pub use self::{
    magic::{Signature, Usage},
    mounts::{Mount, is_network},
    nvme::{Health, Nvme},
    rook::Rook,
    volume::Volume,
};
use super::{Found, sight::Sight};

const BLOCK: &str = "/sys/class/block";
/// Most disks, and most partitions of one.
const MAX_DISKS: usize = 1024;
const MAX_PARTITIONS: usize = 256;
/// sysfs counts in sectors of 512 bytes, whatever the device's are.
const SECTOR: u64 = 512;

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// The kernel's name, which may be another one after a boot (`sda`).
    pub name: String,
    /// A name that stays (`/dev/disk/by-id/…`).
    pub by_id: Found<String>,
    /// Size.
    pub size_bytes: Found<u64>,
    /// Bytes of a logical block.
    pub logical_block_bytes: Found<u64>,
    /// Bytes of a physical block.
    pub physical_block_bytes: Found<u64>,
    /// It turns.
    pub rotational: Found<bool>,
    /// Its medium can be taken out.
    pub removable: Found<bool>,
    /// It can't be written.
    pub read_only: Found<bool>,
    /// Maker.
    pub vendor: Found<String>,
    /// Model.
    pub model: Found<String>,
    /// Serial number.
    pub serial: Found<String>,
    /// World wide name.
    pub wwn: Found<String>,
    /// Firmware revision.
    pub firmware: Found<String>,
    /// How it is attached (`nvme`, `sata`, `sas`, `usb`, `virtio`, …).
    pub transport: Found<String>,
    /// PCI device it hangs on.
    pub pci_address: Found<String>,
    /// Its NVMe controller.
    pub nvme: Found<Nvme>,
    /// Its partitions.
    pub partitions: Found<Vec<Partition>>,
    /// What it holds, when it isn't partitioned; and its partition table.
    pub signatures: Found<Vec<Signature>>,
    /// What is built on it (volumes of LVM, RAIDs, multipath).
    pub holders: Found<Vec<String>>,
    /// Where it is mounted itself.
    pub mounts: Found<Vec<String>>,
    /// It is swap in use itself.
    pub swap: Found<bool>,
    /// May Rook take it?
    pub rook: Found<Rook>,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Partition {
    /// The kernel's name (`sda1`).
    pub name: String,
    /// Number.
    pub number: Found<u64>,
    /// Where it begins on the disk.
    pub start_bytes: Found<u64>,
    /// Size.
    pub size_bytes: Found<u64>,
    /// Type in the table: a GUID, or a number like `0x83`.
    pub kind: Found<String>,
    /// Name in the table.
    pub label: Found<String>,
    /// UUID in the table.
    pub uuid: Found<String>,
    /// What it holds.
    pub signatures: Found<Vec<Signature>>,
    /// What is built on it.
    pub holders: Found<Vec<String>>,
    /// Where it is mounted.
    pub mounts: Found<Vec<String>>,
    /// It is swap in use.
    pub swap: Found<bool>,
}

/// Disks, what is built on them, and what is mounted.
pub(super) struct Storage {
    pub(super) disks: Found<Vec<Disk>>,
    pub(super) volumes: Found<Vec<Volume>>,
    pub(super) mounts: Found<Vec<Mount>>,
}

impl Storage {
    fn unknown(source: &str, reason: &str, mounts: Found<Vec<Mount>>) -> Self {
        let (disks, volumes) = (Found::unknown(source, reason), Found::unknown(source, reason));
        Self { disks, volumes, mounts }
    }
}

/// Read it all.
pub(super) fn probe(sight: &Sight) -> Storage {
    let mounts = mounts::probe(sight);
    let names = match sight.names(BLOCK) {
        Found::Present { value, .. } => value,
        Found::Absent { source } => {
            return Storage::unknown(&source, "the kernel shows no block devices", mounts);
        }
        Found::Unknown { source, reason } => return Storage::unknown(&source, &reason, mounts),
    };
    let mut links = BTreeMap::new();
    for name in &names {
        match sight.link(&format!("{BLOCK}/{name}")) {
            Found::Present { value, .. } => drop(links.insert(name.clone(), value)),
            // Pulled out since.
            Found::Absent { .. } => {}
            // Nobody can say whether it is a disk or a part of one: no list is told that lacks it.
            Found::Unknown { source, reason } => return Storage::unknown(&source, &reason, mounts),
        }
    }
    let tree = Tree::of(&links);
    let uses = Uses::probe(sight, &mounts, &names);
    let extents = tree.0.iter().map(|(disk, parts)| {
        let whole = [disk].into_iter().chain(parts).filter_map(|name| extent(sight, disk, name));
        (disk.clone(), whole.collect())
    });
    let reading = Reading::start(sight, extents);
    let disk = |(name, parts): (&String, &Vec<String>)| {
        let marks = reading.marks(sight, name);
        probe_disk(sight, name, &links[name], parts, &marks, &uses)
    };
    Storage {
        disks: Found::present(tree.0.iter().map(disk).collect(), BLOCK),
        volumes: volume::probe(sight, &names, &uses),
        mounts,
    }
}

/// Disks with their partitions, by name.
struct Tree(BTreeMap<String, Vec<String>>);

impl Tree {
    /// A partition's link leads into the folder of its disk; a disk's into `block`, or for NVMe into its
    /// controller's.
    fn of(links: &BTreeMap<String, String>) -> Self {
        let parent = |name: &String| links.get(name).and_then(|link| link.rsplit('/').nth(1));
        let is_part = |name: &String| parent(name).is_some_and(|disk| links.contains_key(disk));
        let disks = links.keys().filter(|name| is_disk(name) && !is_part(name)).take(MAX_DISKS);
        let mut tree: BTreeMap<String, Vec<String>> =
            disks.map(|name| (name.clone(), Vec::new())).collect();
        for name in links.keys() {
            let disk = parent(name).and_then(|disk| tree.get_mut(disk));
            if let Some(parts) =
                disk.filter(|parts: &&mut Vec<String>| parts.len() < MAX_PARTITIONS)
            {
                parts.push(name.clone());
            }
        }
        Self(tree)
    }
}

/// Not memory, not a file, not built on others, not an empty drive, and not one path of several.
fn is_disk(name: &str) -> bool {
    const OTHERS: &[&str] = &["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "drbd", "rbd"];
    let digits = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    let other = OTHERS
        .iter()
        .any(|start| name.strip_prefix(start).is_some_and(|rest| rest.is_empty() || digits(rest)));
    let one_path = name.strip_prefix("nvme").is_some_and(|rest| rest.contains('c'));
    !other && !one_path
}

fn extent(sight: &Sight, disk: &str, name: &str) -> Option<Extent> {
    let sectors = |file: &str| {
        sight.number(&format!("{BLOCK}/{name}/{file}")).value().map(|count| count * SECTOR)
    };
    let start = if disk == name { 0 } else { sectors("start")? };
    Some(Extent { name: name.to_owned(), start, size: sectors("size")? })
}

fn probe_disk(
    sight: &Sight,
    name: &str,
    link: &str,
    parts: &[String],
    marks: &Found<Marks>,
    uses: &Uses,
) -> Disk {
    let at = |file: &str| format!("{BLOCK}/{name}/{file}");
    let number = sight.text(&at("dev"));
    let record = Record::load(sight, number.value());
    let known = |names: &[&str], files: &[&str]| {
        let files = files.iter().map(|file| sight.text(&at(file)));
        first_of(std::iter::once(record.value(names)).chain(files))
    };
    let size = sight.number(&at("size")).map(|sectors| sectors.saturating_mul(SECTOR));
    let nvme = nvme::probe(sight, name);
    let mut disk = Disk {
        by_id: by_id(sight, name, &record),
        logical_block_bytes: sight.number(&at("queue/logical_block_size")),
        physical_block_bytes: sight.number(&at("queue/physical_block_size")),
        rotational: sight.flag(&at("queue/rotational")),
        removable: sight.flag(&at("removable")),
        read_only: sight.flag(&at("ro")),
        vendor: vendor(known(&["ID_VENDOR_ENC", "ID_VENDOR"], &["device/vendor"])),
        model: known(&["ID_MODEL_ENC", "ID_MODEL"], &["device/model"]),
        serial: serial(sight, name, &record),
        wwn: known(&["ID_WWN_WITH_EXTENSION", "ID_WWN"], &["wwid", "device/wwid"]),
        firmware: known(&["ID_REVISION"], &["device/firmware_rev", "device/rev"]),
        transport: transport(name, link),
        pci_address: hangs_on(name, link, &nvme),
        nvme,
        partitions: Found::present(
            parts.iter().map(|part| probe_partition(sight, part, marks, uses)).collect(),
            BLOCK,
        ),
        signatures: signatures(name, size.value(), marks, &record, true),
        holders: uses.holders(sight, name),
        mounts: uses.mounts(name, &number),
        swap: uses.is_swap(name),
        rook: Found::absent(BLOCK),
        size_bytes: size,
        name: name.to_owned(),
    };
    disk.rook = rook::decide(&disk);
    disk
}

fn probe_partition(sight: &Sight, name: &str, marks: &Found<Marks>, uses: &Uses) -> Partition {
    let at = |file: &str| format!("{BLOCK}/{name}/{file}");
    let bytes = |file: &str| sight.number(&at(file)).map(|count| count.saturating_mul(SECTOR));
    let device = sight.text(&at("dev"));
    let record = Record::load(sight, device.value());
    let size = bytes("size");
    Partition {
        number: sight.number(&at("partition")),
        start_bytes: bytes("start"),
        kind: record.value(&["ID_PART_ENTRY_TYPE"]),
        label: record.value(&["ID_PART_ENTRY_NAME"]),
        uuid: record.value(&["ID_PART_ENTRY_UUID"]),
        signatures: signatures(name, size.value(), marks, &record, false),
        holders: uses.holders(sight, name),
        mounts: uses.mounts(name, &device),
        swap: uses.is_swap(name),
        size_bytes: size,
        name: name.to_owned(),
    }
}

/// From the device's bytes and from udev. What either finds is there; that there is nothing needs the
/// bytes: udev's word may be old, and a disk that can't be read is not an empty one.
fn signatures(
    name: &str,
    size: Option<&u64>,
    marks: &Found<Marks>,
    record: &Record,
    whole: bool,
) -> Found<Vec<Signature>> {
    let device = format!("/dev/{}", name.replace('!', "/"));
    let pieces = marks.value().and_then(|marks| marks.get(name)).zip(size);
    let was_read = pieces.is_some();
    let judged = pieces.map(|(pieces, size)| (magic::judge(pieces, *size), device.as_str()));
    let sources = judged.as_ref().map(|(_, source)| *source).into_iter().chain(record.source());
    let source = sources.collect::<Vec<_>>().join(", ");
    // udev writes the disk's table into the records of its partitions too.
    let table = record.table().filter(|_| whole);
    let found = magic::join(judged, record.signature(), table);
    if !was_read && found.is_empty() {
        let reason = marks.reason().unwrap_or("it was not read");
        return Found::unknown(device, reason);
    }
    Found::present(found, source)
}

#[cfg(test)]
mod tests;
