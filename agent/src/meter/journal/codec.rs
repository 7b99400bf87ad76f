//! Numbers and texts as few bytes: what frames are made of.
//!
//! A number takes seven bits a byte, the low ones first; a text is its length and its bytes.

use crate::meter::record::Resource;

/// The bytes are none that were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Nonsense(pub &'static str);

/// Writes.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(super) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    /// Small ones of either sign are short.
    pub(super) fn signed(&mut self, number: i64) {
        self.number(((number << 1) ^ (number >> 63)) as u64);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// Absent, or a text.
    pub(super) fn maybe(&mut self, text: Option<&str>) {
        match text {
            None => self.byte(0),
            Some(text) => {
                self.byte(1);
                self.text(text);
            }
        }
    }

    pub(super) fn resource(&mut self, resource: Resource) {
        let place = Resource::ALL.iter().position(|one| *one == resource);
        // Places never change: new resources come last in `ALL`.
        self.byte(place.and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX));
    }
}

/// Reads what [`Writer`] wrote, and refuses everything else.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn byte(&mut self) -> Result<u8, Nonsense> {
        let (first, rest) = self.0.split_first().ok_or(Nonsense("it ends too early"))?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn number(&mut self) -> Result<u64, Nonsense> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Nonsense("a number is too large"))
    }

    pub(super) fn signed(&mut self) -> Result<i64, Nonsense> {
        let number = self.number()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Nonsense> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Nonsense("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Nonsense> {
        let length = self.count()?;
        std::str::from_utf8(self.take(length)?).map_err(|_| Nonsense("a text is no UTF-8"))
    }

    pub(super) fn maybe(&mut self) -> Result<Option<&'a str>, Nonsense> {
        match self.byte()? {
            0 => Ok(None),
            1 => self.text().map(Some),
            _ => Err(Nonsense("a text is neither there nor absent")),
        }
    }

    /// How many of something follow: never more than there are bytes.
    pub(super) fn count(&mut self) -> Result<usize, Nonsense> {
        let count = usize::try_from(self.number()?).map_err(|_| Nonsense("too many"))?;
        if count > self.0.len() {
            Err(Nonsense("more is announced than there is"))
        } else {
            Ok(count)
        }
    }

    pub(super) fn resource(&mut self) -> Result<Resource, Nonsense> {
        let place = usize::from(self.byte()?);
        Resource::ALL.get(place).copied().ok_or(Nonsense("a resource that this agent doesn't know"))
    }

    pub(super) fn end(self) -> Result<(), Nonsense> {
        if self.0.is_empty() { Ok(()) } else { Err(Nonsense("more follows than was announced")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(number: u64, signed: i64, text: String, there: bool) {
            let mut writer = Writer::default();
            writer.number(number);
            writer.signed(signed);
            let maybe = there.then_some(text.as_str());
            writer.maybe(maybe);
            writer.resource(Resource::GpuEnergy);
            let mut reader = Reader(&writer.0);
            prop_assert_eq!(reader.number().unwrap(), number);
            prop_assert_eq!(reader.signed().unwrap(), signed);
            prop_assert_eq!(reader.maybe().unwrap(), maybe);
            prop_assert_eq!(reader.resource().unwrap(), Resource::GpuEnergy);
            prop_assert!(reader.end().is_ok());
        }
    }

    #[test]
    fn numbers_beyond_64_bits_and_lengths_beyond_the_end_are_refused() {
        for bytes in [&[0xff; 10][..], &[0x80, 0x80], &[]] {
            assert!(Reader(bytes).number().is_err(), "{bytes:?}");
        }
        let mut longest = vec![0xff; 9];
        longest.push(1);
        assert_eq!(Reader(&longest).number(), Ok(u64::MAX));
        assert!(Reader(&[5, b'a']).text().is_err());
        assert!(Reader(&[1, 0xff]).text().is_err());
        assert!(Reader(&[2]).maybe().is_err());
        assert!(Reader(&[200]).resource().is_err());
    }
}
