//! Reed-Solomon over one stripe after another (feature `create`), so that memory is that of one stripe.
//!
//! The code is the one of `reed-solomon-simd` 3 (GF(2^16), the Leopard construction): which bytes it
//! gives is part of the format, and a test holds them.

use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

use crate::parts::Geometry;

/// Computes and undoes parity for one geometry.
pub(super) struct Parity {
    data: usize,
    parity: usize,
}

/// Slices by part number (from 1).
pub(super) type Slices = Vec<(u32, Vec<u8>)>;

impl Parity {
    pub(super) fn new(geometry: &Geometry) -> Self {
        Self { data: geometry.data_parts(), parity: geometry.parity_parts() }
    }

    /// The parity slices of a stripe; `read` fills the slice of a data part, which it is given with
    /// zeros in it.
    pub(super) fn encode<E>(
        &self,
        length: u64,
        mut read: impl FnMut(u32, &mut [u8]) -> Result<(), E>,
        mut parity: impl FnMut(u32, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        const FITS: &str = "a geometry has counts and slices that the code is made for";
        let length = length as usize;
        let mut encoder = ReedSolomonEncoder::new(self.data, self.parity, length).expect(FITS);
        let mut slice = vec![0; length];
        for number in 1..=self.data as u32 {
            slice.fill(0);
            read(number, &mut slice)?;
            encoder.add_original_shard(&slice).expect(FITS);
        }
        let encoded = encoder.encode().expect(FITS);
        for (slice, number) in encoded.recovery_iter().zip(self.data as u32 + 1..) {
            parity(number, slice)?;
        }
        Ok(())
    }

    /// The lost data slices of a stripe from as many good slices as there are data parts; `read` fills
    /// the slice of any part, which it is given with zeros in it.
    pub(super) fn decode<E>(
        &self,
        length: u64,
        good: &[u32],
        mut read: impl FnMut(u32, &mut [u8]) -> Result<(), E>,
    ) -> Result<Slices, E> {
        const ENOUGH: &str = "the caller counted the good slices";
        let length = length as usize;
        let mut decoder = ReedSolomonDecoder::new(self.data, self.parity, length).expect(ENOUGH);
        let mut slice = vec![0; length];
        for number in good.iter().take(self.data) {
            slice.fill(0);
            read(*number, &mut slice)?;
            let place = *number as usize - 1;
            let added = match place.checked_sub(self.data) {
                None => decoder.add_original_shard(place, &slice),
                Some(place) => decoder.add_recovery_shard(place, &slice),
            };
            added.expect(ENOUGH);
        }
        let decoded = decoder.decode().expect(ENOUGH);
        let restored = decoded.restored_original_iter();
        Ok(restored.map(|(place, slice)| (place as u32 + 1, slice.to_vec())).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::index::Digest;

    fn data(number: u32, slice: &mut [u8]) -> Result<(), Infallible> {
        for (at, byte) in slice.iter_mut().enumerate() {
            *byte = (at as u32 * 7 + number * 31 + at as u32 / 251) as u8;
        }
        Ok(())
    }

    /// Sets that were split by an older build have to stay repairable by a newer one.
    #[test]
    fn the_parity_bytes_are_those_of_the_format() {
        let cases = [(1, 1, 64), (6, 1, 4096), (20, 3, 320), (5, 5, 1024)];
        let found = cases.map(|(data_parts, parity_parts, length)| {
            let parity = Parity { data: data_parts, parity: parity_parts };
            let mut all = Vec::new();
            let keep = |_, slice: &[u8]| {
                all.extend_from_slice(slice);
                Ok(())
            };
            parity.encode(length, data, keep).unwrap();
            Digest::of(&all).hex()[..16].to_owned()
        });
        assert_eq!(
            found,
            ["04dd242e34b33af4", "6afab6a7f44234a1", "3ef5c3923c6adddc", "9e6f1e5cd468353f"]
        );
    }
}
