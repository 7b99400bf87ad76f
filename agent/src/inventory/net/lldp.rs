//! The switch at the other end: LLDP frames that a daemon of this node has caught.
//!
//! systemd-networkd keeps them, one file a link, as frames with a length before each. lldpd keeps them in
//! memory behind a protocol of its own; the inventory starts no program, so it says whom to ask.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::inventory::{
    Found,
    sight::{Sight, clean},
};

const FOLDER: &str = "/run/systemd/netif/lldp";
const LLDPD: &str = "/run/lldpd.socket";
/// Destination, source and type of an Ethernet frame.
const ETHERNET: usize = 14;

/// Who is at the other end of a link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LldpNeighbour {
    /// The switch's identity, most often its MAC.
    pub chassis_id: String,
    /// Its port.
    pub port_id: String,
    /// What its port is called.
    pub port_description: Option<String>,
    /// What it is called.
    pub system_name: Option<String>,
    /// What it is.
    pub system_description: Option<String>,
}

/// Who was heard on the link with this number.
pub(super) fn probe(sight: &Sight, index: u32) -> Found<LldpNeighbour> {
    if !sight.exists(FOLDER) {
        if sight.exists(LLDPD) {
            return Found::unknown(LLDPD, "lldpd listens here: ask `lldpcli show neighbors`");
        }
        return Found::unknown(FOLDER, "nothing on this node listens to LLDP");
    }
    sight
        .bytes(&format!("{FOLDER}/{index}"))
        .parsed(|file| parse_file(&file).ok_or_else(|| "the frame is not one of LLDP".to_owned()))
}

/// The first frame of the file.
fn parse_file(file: &[u8]) -> Option<LldpNeighbour> {
    let (length, rest) = file.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    parse(rest.get(..length)?.get(ETHERNET..)?)
}

/// A list of type (7 bits), length (9 bits), value; the first three must be there.
fn parse(units: &[u8]) -> Option<LldpNeighbour> {
    let (mut rest, mut found) = (units, LldpNeighbour::default());
    while let Some((head, tail)) = rest.split_first_chunk::<2>() {
        let head = u16::from_be_bytes(*head);
        let (kind, length) = (head >> 9, usize::from(head & 0x1ff));
        let value = tail.get(..length)?;
        match kind {
            0 => break,
            1 => found.chassis_id = identity(value, 4)?,
            2 => found.port_id = identity(value, 3)?,
            4 => found.port_description = Some(clean(value)),
            5 => found.system_name = Some(clean(value)),
            6 => found.system_description = Some(clean(value)),
            _ => {}
        }
        rest = &tail[length..];
    }
    (!found.chassis_id.is_empty() && !found.port_id.is_empty()).then_some(found)
}

/// The first byte says what it is: a MAC (which number says so differs), or text.
fn identity(value: &[u8], mac: u8) -> Option<String> {
    let (kind, value) = value.split_first()?;
    if *kind == mac && value.len() == 6 {
        return Some(super::mac(value));
    }
    Some(clean(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(kind: u16, value: &[u8]) -> Vec<u8> {
        let head = kind << 9 | value.len() as u16;
        [&head.to_be_bytes()[..], value].concat()
    }

    #[test]
    fn a_neighbour_is_read_and_a_cut_frame_is_refused() {
        let units = [
            unit(1, &[4, 2, 0, 0, 0, 0, 1]),
            unit(2, b"\x05Ethernet1/7"),
            unit(3, &[0, 120]),
            unit(5, b"leaf-3"),
            unit(0, b""),
        ]
        .concat();
        let frame = [vec![0; ETHERNET], units.clone()].concat();
        let file = [&(frame.len() as u64).to_le_bytes()[..], &frame].concat();
        let found = parse_file(&file).unwrap();
        assert_eq!(found.chassis_id, "02:00:00:00:00:01");
        assert_eq!(found.port_id, "Ethernet1/7");
        assert_eq!(found.system_name.as_deref(), Some("leaf-3"));
        for cut in [0, 7, 8, 30] {
            assert_eq!(parse_file(&file[..cut]), None);
        }
        assert_eq!(parse(&units[..20]), None);
    }
}
