//! What machine a node is, without telling anything about it.
//!
//! No single number names a machine: cloned images share `/etc/machine-id`, boards have placeholders, disks
//! and network cards are swapped. So several parts are kept, each as a keyed hash only, and two
//! fingerprints are of one machine when the parts that both have agree by a majority of their weight.
//!
//! | Case | Agree | Differ | One machine |
//! |---|---|---|---|
//! | disk swapped, installed anew | board 4, MAC 3 | machine-id 2, disk 2 | yes |
//! | network cards swapped | board 4, machine-id 2, disk 2 | MAC 3 | yes |
//! | two clones of one image | machine-id 2 | board 4, MAC 3, disk 2 | no |
//! | two containers on one board | board 4 | machine-id 2, MAC 3 | no |
//! | board swapped | machine-id 2, disk 2 | board 4, MAC 3 | no |

use std::collections::{BTreeMap, BTreeSet};

use ring::hmac;
use serde::{Deserialize, Serialize};

/// The key of the hashes: whoever has a fingerprint can't look a machine-id up in it without guessing it.
const APPLICATION: &[u8] = b"kdc node fingerprint 1";

/// Most values of a part.
const MAX_VALUES: usize = 64;

/// One part of what a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// `/etc/machine-id`.
    MachineId,
    /// The board's UUID.
    ProductUuid,
    /// The board's serial number.
    BoardSerial,
    /// The chassis' serial number.
    ChassisSerial,
    /// The permanent addresses of network cards.
    Mac,
    /// The root disk's WWN or serial number.
    RootDisk,
}

impl Part {
    fn weight(self) -> u32 {
        match self {
            Self::MachineId | Self::ProductUuid | Self::RootDisk => 2,
            Self::BoardSerial | Self::ChassisSerial => 1,
            Self::Mac => 3,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::MachineId => "machine-id",
            Self::ProductUuid => "product-uuid",
            Self::BoardSerial => "board-serial",
            Self::ChassisSerial => "chassis-serial",
            Self::Mac => "mac",
            Self::RootDisk => "root-disk",
        }
    }
}

/// Keyed hashes of a machine's parts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint {
    parts: BTreeMap<Part, BTreeSet<String>>,
}

impl Fingerprint {
    /// The fingerprint of raw values, as files give them. Placeholders are dropped.
    #[must_use]
    pub fn of(values: &[(Part, String)]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, APPLICATION);
        let mut parts: BTreeMap<Part, BTreeSet<String>> = BTreeMap::new();
        for (part, value) in values {
            let value = value.trim().to_ascii_lowercase();
            if is_placeholder(*part, &value) {
                continue;
            }
            let tag = hmac::sign(&key, format!("{}\n{value}", part.word()).as_bytes());
            let hashes = parts.entry(*part).or_default();
            if hashes.len() < MAX_VALUES {
                hashes.insert(hex::encode(&tag.as_ref()[..16]));
            }
        }
        Self { parts }
    }

    /// Nothing is known of the machine.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Both are of one machine: the parts that both have agree by a majority of their weight.
    #[must_use]
    pub fn is_same_machine(&self, other: &Self) -> bool {
        let (mut agree, mut differ) = (0, 0);
        for (part, values) in &self.parts {
            let Some(others) = other.parts.get(part) else { continue };
            // Of several network cards one may have been swapped.
            let shared = values.intersection(others).count();
            if shared > 0 && shared * 2 >= values.len().min(others.len()) {
                agree += part.weight();
            } else {
                differ += part.weight();
            }
        }
        agree > differ
    }

    /// From the outside: bounded, and hashes only.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        let is_hash =
            |hash: &String| hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        self.parts.values().all(|values| values.len() <= MAX_VALUES && values.iter().all(is_hash))
    }
}

/// What boards, images and virtual machines say when nobody told them who they are.
fn is_placeholder(part: Part, value: &str) -> bool {
    const WORDS: &[&str] = &[
        "none",
        "n/a",
        "na",
        "unknown",
        "default string",
        "not specified",
        "not applicable",
        "not available",
        "to be filled by o.e.m.",
        "system serial number",
        "chassis serial number",
        "base board serial number",
        "0123456789",
        "123456789",
        "uninitialized",
        "empty",
        "03000200-0400-0500-0006-000700080009",
        "12345678-1234-5678-90ab-cddeefaabbcc",
    ];
    let bare: Vec<u8> = value.bytes().filter(u8::is_ascii_alphanumeric).collect();
    let is_one_sign = bare.iter().all(|sign| bare.first() == Some(sign));
    // The address of a group is no card's.
    let is_group_mac = part == Part::Mac
        && value
            .get(..2)
            .and_then(|byte| u8::from_str_radix(byte, 16).ok())
            .is_none_or(|byte| byte & 1 == 1);
    bare.len() < 4 || is_one_sign || WORDS.contains(&value) || is_group_mac
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(id: &str, board: &str, mac: &str, disk: &str) -> Fingerprint {
        Fingerprint::of(&[
            (Part::MachineId, id.to_owned()),
            (Part::ProductUuid, format!("4c4c4544-0000-1000-8000-{board}")),
            (Part::BoardSerial, format!("sn-{board}")),
            (Part::ChassisSerial, format!("ch-{board}")),
            (Part::Mac, mac.to_owned()),
            (Part::RootDisk, disk.to_owned()),
        ])
    }

    const MAC: &str = "3c:ec:ef:00:00:01";

    #[test]
    fn two_nodes_with_one_machine_id_are_two_machines() {
        let left = machine("aaaa1111", "b1b1", MAC, "wwn-1");
        let right = machine("aaaa1111", "b2b2", "3c:ec:ef:00:00:02", "wwn-2");
        assert!(!left.is_same_machine(&right));
        // Where virtual machines say nothing of their board, the addresses tell.
        let bare = |mac: &str| {
            let id = (Part::MachineId, "aaaa1111".to_owned());
            Fingerprint::of(&[id, (Part::Mac, mac.to_owned())])
        };
        assert!(!bare(MAC).is_same_machine(&bare("3c:ec:ef:00:00:02")));
    }

    #[test]
    fn a_swapped_disk_or_network_card_leaves_the_machine_what_it_is() {
        let before = machine("aaaa1111", "b1b1", MAC, "wwn-1");
        for after in [
            machine("aaaa1111", "b1b1", MAC, "wwn-9"),
            machine("ffff9999", "b1b1", MAC, "wwn-9"),
            machine("aaaa1111", "b1b1", "3c:ec:ef:00:00:09", "wwn-1"),
        ] {
            assert!(before.is_same_machine(&after) && after.is_same_machine(&before));
        }
        assert!(!before.is_same_machine(&machine(
            "aaaa1111",
            "b9b9",
            "3c:ec:ef:00:00:09",
            "wwn-1"
        )));
    }

    #[test]
    fn containers_on_one_board_are_nodes_of_their_own() {
        let on_board = |id: &str, mac: &str| {
            Fingerprint::of(&[
                (Part::MachineId, id.to_owned()),
                (Part::ProductUuid, "4c4c4544-0000-1000-8000-b1b1".to_owned()),
                (Part::BoardSerial, "sn-b1b1".to_owned()),
                (Part::ChassisSerial, "ch-b1b1".to_owned()),
                (Part::Mac, mac.to_owned()),
            ])
        };
        let left = on_board("aaaa1111", "02:00:00:00:00:01");
        assert!(!left.is_same_machine(&on_board("bbbb2222", "02:00:00:00:00:02")));
    }

    #[test]
    fn placeholders_name_nobody() {
        for (part, value) in [
            (Part::ProductUuid, "00000000-0000-0000-0000-000000000000"),
            (Part::ProductUuid, "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"),
            (Part::ProductUuid, "03000200-0400-0500-0006-000700080009"),
            (Part::BoardSerial, "To be filled by O.E.M.\n"),
            (Part::BoardSerial, "Default string"),
            (Part::BoardSerial, " "),
            (Part::ChassisSerial, "..............."),
            (Part::MachineId, ""),
            (Part::Mac, "00:00:00:00:00:00"),
            (Part::Mac, "ff:ff:ff:ff:ff:ff"),
        ] {
            assert!(Fingerprint::of(&[(part, value.to_owned())]).is_empty(), "{value}");
        }
        // Who names nobody is nobody's double.
        let nobody = Fingerprint::default();
        assert!(!nobody.is_same_machine(&nobody));
    }

    #[test]
    fn nothing_of_the_machine_stands_in_its_fingerprint() {
        let text = serde_json::to_string(&machine("aaaa1111", "b1b1", MAC, "wwn-1")).unwrap();
        for raw in ["aaaa1111", "b1b1", "3c:ec", "wwn-1"] {
            assert!(!text.contains(raw), "{raw}: {text}");
        }
        let read: Fingerprint = serde_json::from_str(&text).unwrap();
        assert!(read.is_well_formed() && read == machine("aaaa1111", "b1b1", MAC, "wwn-1"));
        let raw: Fingerprint = serde_json::from_str(r#"{"mac":["3c:ec:ef:00:00:01"]}"#).unwrap();
        assert!(!raw.is_well_formed());
    }
}
