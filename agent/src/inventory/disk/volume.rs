//! What is built on disks: LVM, encryption, multipath, RAID.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BLOCK, SECTOR, uses::Uses};
use crate::inventory::{Found, sight::Sight};

const MAX_VOLUMES: usize = 1024;

/// A block device on top of others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// The kernel's name (`dm-0`, `md127`).
    pub name: String,
    /// The name people know (`vg-root`).
    pub known_as: Found<String>,
    /// What it is (`LVM`, `CRYPT`, `mpath`, `raid1`).
    pub kind: Found<String>,
    /// Size.
    pub size_bytes: Found<u64>,
    /// What it is built on.
    pub parts: Found<Vec<String>>,
    /// Where it is mounted.
    pub mounts: Found<Vec<String>>,
    /// It is swap in use.
    pub swap: Found<bool>,
}

/// All device-mapper and md devices.
pub(super) fn probe(sight: &Sight, names: &[String], uses: &Uses) -> Found<Vec<Volume>> {
    let is_one = |name: &&String| {
        let rest = name.strip_prefix("dm-").or_else(|| name.strip_prefix("md"));
        // `md127p1` is a partition of one.
        rest.is_some_and(|rest| !rest.is_empty() && !rest.contains('p'))
    };
    let volume = |name: &String| {
        let at = |file: &str| format!("{BLOCK}/{name}/{file}");
        let mapped = name.starts_with("dm-");
        Volume {
            known_as: sight.text(&at("dm/name")),
            // The mapper's UUIDs begin with what made them: `LVM-…`, `CRYPT-LUKS2-…`, `mpath-…`.
            kind: match mapped {
                true => sight
                    .text(&at("dm/uuid"))
                    .map(|uuid| uuid.split('-').next().unwrap_or_default().to_owned()),
                false => sight.text(&at("md/level")),
            },
            size_bytes: sight.number(&at("size")).map(|sectors| sectors.saturating_mul(SECTOR)),
            parts: sight.names(&at("slaves")),
            mounts: uses.mounts(name, &sight.text(&at("dev"))),
            swap: uses.is_swap(name),
            name: name.clone(),
        }
    };
    Found::present(names.iter().filter(is_one).take(MAX_VOLUMES).map(volume).collect(), BLOCK)
}
