//! Numbers of any size in as few bytes as they need: seven bits a byte, the lowest first.

use std::io::{self, Read};

use super::spool::invalid;

/// Adds a number.
pub(super) fn put(output: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        output.push(number as u8 | 0x80);
        number >>= 7;
    }
    output.push(number as u8);
}

/// Adds a number that may be below zero.
pub(super) fn put_signed(output: &mut Vec<u8>, number: i64) {
    put(output, (number.wrapping_shl(1) ^ (number >> 63)) as u64);
}

/// Reads a number.
pub(super) fn take(input: &mut impl Read) -> io::Result<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        number |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(invalid("a number is too long"))
}

/// Reads a number that may be below zero.
pub(super) fn take_signed(input: &mut impl Read) -> io::Result<i64> {
    let number = take(input)?;
    Ok((number >> 1) as i64 ^ -((number & 1) as i64))
}

/// Reads a number, and adds it to `place`; what comes out is no place if it is below zero.
pub(super) fn take_from(place: u64, input: &mut impl Read) -> io::Result<u64> {
    let by = take_signed(input)?;
    place.checked_add_signed(by).ok_or_else(|| invalid("a place before the start"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_what_is_no_number_is_refused() {
        let mut bytes = Vec::new();
        let numbers = [0, 1, 127, 128, 300, u64::from(u32::MAX), (1 << 62) + 5];
        numbers.iter().for_each(|number| put(&mut bytes, *number));
        let signed = [0, -1, 1, 64, -64, 1 << 40, -(1 << 61)];
        signed.iter().for_each(|number| put_signed(&mut bytes, *number));
        let mut input = bytes.as_slice();
        assert_eq!(numbers.map(|_| take(&mut input).unwrap()), numbers);
        assert_eq!(signed.map(|_| take_signed(&mut input).unwrap()), signed);
        assert!(take(&mut [0xff; 20].as_slice()).is_err());
        assert!(take(&mut [0x80].as_slice()).is_err());
        assert!(take_from(3, &mut [7].as_slice()).is_err());
        assert_eq!(take_from(3, &mut [5].as_slice()).unwrap(), 0);
    }
}
