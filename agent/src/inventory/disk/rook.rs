//! May Rook take this disk for Ceph? Decided from what was found, with every reason.
//!
//! A disk that holds anything is never free: Rook would refuse it, or wipe somebody's data. Where one
//! of the looks failed and none of the others forbids it, nobody can say.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Disk, Partition, Signature};
use crate::inventory::Found;

/// `ceph-volume` refuses smaller ones.
const LEAST_BYTES: u64 = 5 * 1024 * 1024 * 1024;

/// Whether a disk is free for Rook, and what decides it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rook {
    /// Rook may take it.
    pub free: bool,
    /// Why not; one reason why where it is free.
    pub because: Vec<String>,
}

/// Decide for one disk.
pub(super) fn decide(disk: &Disk) -> Found<Rook> {
    const SOURCE: &str = "decided from size, partitions, signatures, holders and mounts";
    let (mut because, mut unseen) = (Vec::new(), Vec::new());
    match &disk.size_bytes {
        Found::Present { value, .. } if *value < LEAST_BYTES => {
            because.push("it is smaller than 5 GiB".to_owned());
        }
        Found::Present { .. } => {}
        Found::Absent { .. } | Found::Unknown { .. } => unseen.push("size"),
    }
    for (flag, words) in
        [(&disk.read_only, "it can only be read"), (&disk.removable, "its medium can be taken out")]
    {
        if flag.value() == Some(&true) {
            because.push(words.to_owned());
        }
    }
    if let Some(partitions) = disk.partitions.value().filter(|list| !list.is_empty()) {
        because.push(in_partitions(partitions));
    }
    because.extend(in_use(disk));
    match &disk.signatures {
        Found::Present { value, .. } => because.extend(value.iter().map(holds)),
        Found::Absent { .. } => {}
        Found::Unknown { .. } => unseen.push("content"),
    }
    for (name, reason) in [
        ("partitions", disk.partitions.reason()),
        ("holders", disk.holders.reason()),
        ("mounts", disk.mounts.reason()),
        ("use as swap", disk.swap.reason()),
        ("lock against writing", disk.read_only.reason()),
    ] {
        unseen.extend(reason.map(|_| name));
    }
    if !because.is_empty() {
        return Found::present(Rook { free: false, because }, SOURCE);
    }
    if !unseen.is_empty() {
        return Found::unknown(SOURCE, format!("could not look at its {}", unseen.join(", ")));
    }
    let because = vec!["it is whole, empty and unused".to_owned()];
    Found::present(Rook { free: true, because }, SOURCE)
}

fn in_partitions(partitions: &[Partition]) -> String {
    let mounted: Vec<&str> = partitions
        .iter()
        .filter_map(|partition| partition.mounts.value())
        .flatten()
        .map(String::as_str)
        .collect();
    let count = match partitions.len() {
        1 => "it has a partition".to_owned(),
        many => format!("it has {many} partitions"),
    };
    match mounted.is_empty() {
        true => count,
        false => format!("{count}, mounted at {}", mounted.join(", ")),
    }
}

fn in_use(disk: &Disk) -> Vec<String> {
    let mut because = Vec::new();
    if let Some(points) = disk.mounts.value().filter(|points| !points.is_empty()) {
        because.push(format!("it is mounted at {}", points.join(", ")));
    }
    if let Some(names) = disk.holders.value().filter(|names| !names.is_empty()) {
        because.push(format!("{} holds it", names.join(", ")));
    }
    if disk.swap.value() == Some(&true) {
        because.push("it is swap in use".to_owned());
    }
    because
}

fn holds(signature: &Signature) -> String {
    match signature.kind.as_str() {
        "ceph_bluestore" => "it is a Ceph OSD already (bluestore)".to_owned(),
        "LVM2_member" => "it is a physical volume of LVM".to_owned(),
        "linux_raid_member" => "it is part of a RAID".to_owned(),
        "crypto_LUKS" => "it holds encrypted data (LUKS)".to_owned(),
        "gpt" | "dos" => format!("it has a partition table ({})", signature.kind),
        kind => format!("it holds {kind}"),
    }
}
