//! What udev found out about a device: its database of one small file a device.

use std::collections::BTreeMap;

use super::magic::{self, Signature};
use crate::inventory::{Found, sight::Sight};

/// The record of one block device; empty where udev doesn't run or has none.
#[derive(Debug, Default)]
pub(super) struct Record {
    source: String,
    known: bool,
    values: BTreeMap<String, String>,
    links: Vec<String>,
}

impl Record {
    /// Read the record of the device with this number (`8:0`).
    pub(super) fn load(sight: &Sight, number: Option<&String>) -> Self {
        let Some(number) = number else { return Self::default() };
        let source = format!("/run/udev/data/b{number}");
        match sight.text(&source) {
            Found::Present { value, .. } => Self { known: true, source, ..parse(&value) },
            Found::Absent { .. } | Found::Unknown { .. } => Self { source, ..Self::default() },
        }
    }

    /// The first of these values that there is.
    pub(super) fn value(&self, names: &[&str]) -> Found<String> {
        let value = names.iter().find_map(|name| self.values.get(*name));
        match value.map(|text| decode(text)).filter(|text| !text.is_empty()) {
            Some(text) => Found::present(text, &self.source),
            None => Found::absent(&self.source),
        }
    }

    fn plain(&self, name: &str) -> Option<String> {
        self.value(&[name]).value().cloned()
    }

    /// udev looked at this device's content: what it does not name is not there, by its word.
    pub(super) fn source(&self) -> Option<&str> {
        self.known.then_some(self.source.as_str())
    }

    /// The file system or member that udev saw.
    pub(super) fn signature(&self) -> Option<Signature> {
        let kind = self.plain("ID_FS_TYPE")?;
        Some(Signature {
            usage: magic::usage_of(&kind, &self.plain("ID_FS_USAGE").unwrap_or_default()),
            label: self.plain("ID_FS_LABEL_ENC").or_else(|| self.plain("ID_FS_LABEL")),
            uuid: self.plain("ID_FS_UUID"),
            sources: vec![self.source.clone()],
            kind,
        })
    }

    /// The partition table that udev saw.
    pub(super) fn table(&self) -> Option<(String, &str)> {
        Some((self.plain("ID_PART_TABLE_TYPE")?, self.source.as_str()))
    }

    /// The steadiest link of `/dev/disk/by-id`.
    pub(super) fn by_id(&self) -> Found<String> {
        let ids = self.links.iter().filter_map(|link| link.strip_prefix("disk/by-id/"));
        match ids.min_by_key(|id| rank(id)) {
            Some(id) => Found::present(format!("/dev/disk/by-id/{id}"), &self.source),
            None => Found::absent(&self.source),
        }
    }
}

/// Names with model and serial say most; then the shortest.
pub(super) fn rank(id: &str) -> (u8, usize, &str) {
    let unreadable = id.contains("eui.") || id.contains("nvme.") || id.contains("uuid.");
    let kind = match id.split('-').next().unwrap_or_default() {
        "ata" | "nvme" | "virtio" | "mmc" if !unreadable => 0,
        "scsi" | "usb" => 1,
        "wwn" | "nvme" => 2,
        _ => 3,
    };
    (kind, id.len(), id)
}

fn parse(text: &str) -> Record {
    let mut record = Record::default();
    for line in text.lines() {
        if let Some((name, value)) = line.strip_prefix("E:").and_then(|rest| rest.split_once('=')) {
            record.values.insert(name.to_owned(), value.to_owned());
        } else if let Some(link) = line.strip_prefix("S:") {
            record.links.push(link.to_owned());
        }
    }
    record
}

/// udev writes what isn't plain as `\x20`.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|code| *first == b'\\' && code[0] == b'x');
        let code = code.and_then(|code| std::str::from_utf8(&code[1..]).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    crate::inventory::sight::clean(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_the_best_link_is_taken() {
        let record = parse(
            "S:disk/by-id/wwn-0x5002\nS:disk/by-id/ata-MODEL_S1\nS:disk/by-path/pci-0\n\
             E:ID_MODEL_ENC=Samsung\\x20SSD\\x20870\\x20\\x20\nE:EMPTY=\nG:systemd\nbroken\n",
        );
        assert_eq!(record.value(&["NONE", "ID_MODEL_ENC"]).value().unwrap(), "Samsung SSD 870");
        assert!(record.value(&["EMPTY"]).value().is_none());
        assert_eq!(record.by_id().value().unwrap(), "/dev/disk/by-id/ata-MODEL_S1");
        assert_eq!(decode("a\\x2"), "a\\x2");
        assert_eq!(decode("\\xzz"), "\\xzz");
    }

    #[test]
    fn a_name_with_the_model_is_before_one_of_digits() {
        let mut ids = ["nvme-eui.0025", "nvme-Samsung_SSD_980_S1", "wwn-0x50", "lvm-pv-uuid-x"];
        ids.sort_by_key(|id| rank(id));
        assert_eq!(ids, ["nvme-Samsung_SSD_980_S1", "wwn-0x50", "nvme-eui.0025", "lvm-pv-uuid-x"]);
    }
}
