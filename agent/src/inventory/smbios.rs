//! SMBIOS structures that the kernel hands out one by one: memory, BMC interfaces.
//!
//! Only root may read them. A structure is a header (type, length, handle), `length` bytes of
//! fields, then strings that fields name by number; layouts are in DMTF DSP0134.

use super::{Found, sight::Sight, sight::clean};

const ENTRIES: &str = "/sys/firmware/dmi/entries";
/// Most structures of one type.
const MAX_OF_A_TYPE: usize = 512;

/// One structure.
#[derive(Debug)]
pub(super) struct Structure {
    fields: Vec<u8>,
    strings: Vec<String>,
}

impl Structure {
    fn parse(raw: &[u8]) -> Option<Self> {
        let length = usize::from(*raw.get(1)?);
        let fields = raw.get(..length).filter(|_| length >= 4)?.to_vec();
        let strings = raw[length..].split(|byte| *byte == 0).map(clean).take(64).collect();
        Some(Self { fields, strings })
    }

    /// A byte field; `None` in structures too old to have it.
    pub(super) fn byte(&self, offset: usize) -> Option<u8> {
        self.fields.get(offset).copied()
    }

    /// A two-byte field.
    pub(super) fn word(&self, offset: usize) -> Option<u16> {
        let bytes = self.fields.get(offset..offset + 2)?;
        Some(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    /// A four-byte field.
    pub(super) fn double_word(&self, offset: usize) -> Option<u32> {
        Some(u32::from(self.word(offset)?) | u32::from(self.word(offset + 2)?) << 16)
    }

    /// The string that a field names, unless it is empty or the maker's placeholder.
    pub(super) fn string(&self, offset: usize) -> Option<String> {
        let number = usize::from(self.byte(offset)?).checked_sub(1)?;
        self.strings.get(number).filter(|text| !is_placeholder(text)).cloned()
    }
}

/// What makers leave where a value should be.
pub(super) fn is_placeholder(text: &str) -> bool {
    let text = text.trim().to_ascii_lowercase();
    text.is_empty()
        || [
            "not specified",
            "none",
            "unknown",
            "default string",
            "to be filled by o.e.m.",
            "system manufacturer",
            "system product name",
            "system serial number",
            "no dimm",
            "n/a",
            "no asset tag",
            "03000200-0400-0500-0006-000700080009",
        ]
        .contains(&text.as_str())
        || text.chars().all(|c| matches!(c, '0' | '-' | '.' | ' '))
        || text.chars().all(|c| matches!(c, 'f' | '-'))
}

/// All structures of one type; absent where the firmware has none.
pub(super) fn probe(sight: &Sight, kind: u8) -> Found<Vec<Structure>> {
    let source = format!("{ENTRIES}/{kind}-*/raw");
    let names = match sight.names(ENTRIES) {
        Found::Present { value, .. } => value,
        Found::Absent { .. } => return Found::unknown(ENTRIES, "the kernel hands out no SMBIOS"),
        Found::Unknown { reason, .. } => return Found::unknown(ENTRIES, reason),
    };
    let prefix = format!("{kind}-");
    let mut structures = Vec::new();
    for name in names.iter().filter(|name| name.starts_with(&prefix)).take(MAX_OF_A_TYPE) {
        match sight.bytes(&format!("{ENTRIES}/{name}/raw")) {
            Found::Present { value, .. } => structures.extend(Structure::parse(&value)),
            Found::Unknown { source, reason } => return Found::unknown(source, reason),
            Found::Absent { .. } => {}
        }
    }
    if structures.is_empty() { Found::absent(source) } else { Found::present(structures, source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_beyond_the_length_and_strings_beyond_the_list_are_not_there() {
        let structure =
            Structure::parse(b"\x11\x08\0\0\x01\x02\x03\x04one\0To Be Filled By O.E.M.\0\0");
        let structure = structure.unwrap();
        assert_eq!(structure.string(4).unwrap(), "one");
        assert_eq!(structure.string(5), None, "a placeholder");
        assert_eq!(structure.string(7), None, "no fourth string");
        assert_eq!((structure.word(6), structure.word(7)), (Some(0x0403), None));
        assert_eq!(structure.double_word(4), Some(0x0403_0201));
        for cut in [&b""[..], b"\x11", b"\x11\x20\0\0", b"\x11\x02\0\0"] {
            assert!(Structure::parse(cut).is_none());
        }
    }
}
