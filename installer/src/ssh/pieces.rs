//! Sending pieces: bulk bytes on further channels of the same connection.
//!
//! One channel is bound by the server's receive window (2 MiB) per round trip, so a distant node
//! gets several. Each lane takes the next piece off one list; the agent checks every piece before
//! it counts, so nothing is lost when a lane dies: `Missing` is asked again.

use std::{collections::VecDeque, io, ops::Range, sync::Mutex, time::Duration};

use bytes::{Bytes, BytesMut};
use kdc_agent::wire::{
    MissingPieces, Received,
    frame::Decoder,
    piece::{PIECE_HEADER_BYTES, PieceHeader},
};
use kdc_bundles::index::{Digest, Index};
use secrecy::ExposeSecret as _;
use tokio::time::timeout;

use super::{
    SecretKind, Session, SshError,
    lane::{Heard, LaneWriter},
    stage::{Rise, Talk},
};

/// From this round trip on, one channel's window is the bottleneck.
const DISTANT: Duration = Duration::from_millis(4);

/// Channels to a distant node.
const DISTANT_LANES: usize = 4;

/// A lane must move a piece at least this often.
const STALL_SECS: u64 = 60;

/// The agent's last word: it may still be hashing and syncing.
const LAST_WORD_SECS: u64 = 300;

/// Handed to the connection at once: two packets, as sshd takes them.
const SLICE_BYTES: usize = 64 * 1024;

/// Slices that may be on their way before the oldest is filled again: the connection queues ten packets
/// and encrypts as many.
const SLICES_AWAY: usize = 10;

/// Where pieces come from: a bundle file, its parts, a directory.
pub trait PieceSource: Send + Sync {
    /// Fill `into` with bytes of `blob` from `offset`; the agent proves them. May block on a local disk.
    ///
    /// # Errors
    /// The bytes can't be read.
    fn read_at(&self, blob: &Digest, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

/// One piece on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parcel<'a> {
    blob: &'a Digest,
    offset: u64,
    header: PieceHeader,
}

/// The pieces to send, in the index's order, without building a list of them all.
struct Parcels<'a> {
    index: &'a Index,
    missing: &'a [MissingPieces],
    /// Position in `missing`, in its ranges, and in the range.
    at: (usize, usize, u32),
}

impl<'a> Parcels<'a> {
    fn new(index: &'a Index, missing: &'a [MissingPieces]) -> Self {
        Self { index, missing, at: (0, 0, 0) }
    }

    fn total(&self) -> u64 {
        let ranges = self.missing.iter().flat_map(|blob| &blob.ranges);
        ranges.map(|&(start, end)| u64::from(end.saturating_sub(start))).sum()
    }
}

impl<'a> Iterator for Parcels<'a> {
    type Item = Result<Parcel<'a>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (blob_at, range_at, inside) = self.at;
            let missing = self.missing.get(blob_at)?;
            let Some(&(start, end)) = missing.ranges.get(range_at) else {
                self.at = (blob_at + 1, 0, 0);
                continue;
            };
            let Some(piece) = start.checked_add(inside).filter(|piece| *piece < end) else {
                self.at = (blob_at, range_at + 1, 0);
                continue;
            };
            self.at.2 += 1;
            return Some(parcel(self.index, &missing.blob, piece));
        }
    }
}

fn parcel<'a>(index: &'a Index, digest: &Digest, piece: u32) -> Result<Parcel<'a>, String> {
    let unknown = || format!("piece {piece} of {digest} is not in the index");
    let ordinal =
        index.blobs.binary_search_by(|blob| blob.digest.cmp(digest)).map_err(|_| unknown())?;
    let blob = &index.blobs[ordinal];
    let offset = u64::from(piece) * index.piece_size;
    let length = blob.size.checked_sub(offset).filter(|&rest| rest > 0).ok_or_else(unknown)?;
    let length = u32::try_from(length.min(index.piece_size)).map_err(|_| unknown())?;
    let blob_ordinal = u32::try_from(ordinal).map_err(|_| unknown())?;
    Ok(Parcel {
        blob: &blob.digest,
        offset,
        header: PieceHeader { blob: blob_ordinal, piece, length },
    })
}

/// The stream of one lane, slice by slice. Memory comes back once the connection has let go of it: it is
/// neither faulted in nor zeroed again, and small enough to be in the processor's cache still when what
/// was read into it is encrypted.
struct Slices {
    filling: BytesMut,
    filled: usize,
    away: VecDeque<Bytes>,
}

impl Slices {
    fn new() -> Self {
        let filling = BytesMut::zeroed(SLICE_BYTES);
        Self { filling, filled: 0, away: VecDeque::new() }
    }

    /// What isn't filled yet.
    fn room(&mut self) -> &mut [u8] {
        &mut self.filling[self.filled..]
    }

    /// Fill in bytes that there is room for.
    fn put(&mut self, bytes: &[u8]) {
        self.room()[..bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
    }

    /// What was filled in; an empty slice begins.
    fn take(&mut self) -> Bytes {
        let old = if self.away.len() < SLICES_AWAY { None } else { self.away.pop_front() };
        let old = old.and_then(|slice| slice.try_into_mut().ok());
        let next = old.unwrap_or_else(|| BytesMut::zeroed(SLICE_BYTES));
        let whole = std::mem::replace(&mut self.filling, next).freeze();
        let slice = whole.slice(..self.filled);
        self.away.push_back(whole);
        self.filled = 0;
        slice
    }
}

/// What the lanes of one transfer share.
struct Transfer<'a> {
    parcels: Mutex<Parcels<'a>>,
    index_digest: &'a Digest,
    source: &'a dyn PieceSource,
    progress: &'a (dyn Fn(u64) + Send + Sync),
}

impl Session {
    /// Send the `missing` pieces of `index` from `source`; `progress` hears of every piece handed to
    /// the network, in bytes. The index must have been offered before.
    ///
    /// # Errors
    /// A piece can't be read, the agent refused one, the stream stalled, or the connection was lost:
    /// then reconnect and ask `Missing` again.
    pub async fn send_pieces(
        &self,
        index: &Index,
        index_digest: &Digest,
        missing: &[MissingPieces],
        source: &dyn PieceSource,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Received, SshError> {
        let parcels = Parcels::new(index, missing);
        let count = parcels.total();
        let wanted = if self.round_trip >= DISTANT { DISTANT_LANES } else { 1 };
        let lanes = wanted.min(usize::try_from(count).unwrap_or(wanted));
        let transfer = Transfer { parcels: Mutex::new(parcels), index_digest, source, progress };
        let lane = |number: usize| {
            let transfer = &transfer;
            async move { if number < lanes { self.lane(transfer).await } else { Ok(nothing()) } }
        };
        let (a, b, c, d) = tokio::join!(lane(0), lane(1), lane(2), lane(3));
        let mut sum = nothing();
        for received in [a?, b?, c?, d?] {
            sum.pieces += received.pieces;
            sum.bytes += received.bytes;
            sum.failure = sum.failure.or(received.failure);
        }
        match sum.failure {
            None => Ok(sum),
            Some(failure) => {
                Err(SshError::Agent { node: self.node.clone(), failure: Box::new(failure) })
            }
        }
    }

    async fn lane(&self, transfer: &Transfer<'_>) -> Result<Received, SshError> {
        let arguments = format!("receive --index {}", transfer.index_digest);
        let opened = self.opener.run(&self.place.script(&arguments), &[]).await;
        let (reader, mut writer, _) = opened.map_err(|_| self.lost(SENDING))?;
        if self.place.rise == Rise::Password {
            self.give_password(&mut writer).await?;
        }
        let last_word = self.last_word(Talk::new(reader, &self.place.mark));
        tokio::pin!(last_word);
        tokio::select! {
            biased;
            // The agent speaks early when a piece is bad or its disk is full.
            early = &mut last_word => return early,
            sent = self.feed(transfer, &mut writer) => sent?,
        }
        timeout(Duration::from_secs(LAST_WORD_SECS), last_word)
            .await
            .map_err(|_| self.stalled(LAST_WORD_SECS))?
    }

    async fn feed(&self, transfer: &Transfer<'_>, writer: &mut LaneWriter) -> Result<(), SshError> {
        let mut slices = Slices::new();
        loop {
            let next =
                transfer.parcels.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
            let Some(parcel) = next else { break };
            let parcel = parcel.map_err(|detail| SshError::Unexpected {
                node: self.node.clone(),
                during: SENDING.to_owned(),
                detail,
            })?;
            if slices.room().len() < PIECE_HEADER_BYTES {
                self.send(writer, slices.take()).await?;
            }
            slices.put(&parcel.header.to_bytes());
            let (mut offset, end) =
                (parcel.offset, parcel.offset + u64::from(parcel.header.length));
            while offset < end {
                if slices.room().is_empty() {
                    self.send(writer, slices.take()).await?;
                }
                offset += self.fill(transfer, &parcel, offset..end, &mut slices)?;
            }
            (transfer.progress)(u64::from(parcel.header.length));
        }
        self.send(writer, slices.take()).await?;
        self.send(writer, Bytes::copy_from_slice(&PieceHeader::END.to_bytes())).await?;
        writer.finish().await;
        Ok(())
    }

    /// Read as much of that range of a piece as the slice has room for; says how much.
    fn fill(
        &self,
        transfer: &Transfer<'_>,
        parcel: &Parcel<'_>,
        range: Range<u64>,
        slices: &mut Slices,
    ) -> Result<u64, SshError> {
        let room = slices.room();
        let rest = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let length = room.len().min(rest);
        let read = transfer.source.read_at(parcel.blob, range.start, &mut room[..length]);
        read.map_err(|source| SshError::Source {
            node: self.node.clone(),
            blob: parcel.blob.to_string(),
            piece: parcel.header.piece,
            source,
        })?;
        slices.filled += length;
        Ok(length as u64)
    }

    async fn send(&self, writer: &mut LaneWriter, bytes: Bytes) -> Result<(), SshError> {
        match timeout(Duration::from_secs(STALL_SECS), writer.send(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(detail)) => {
                Err(SshError::Lost { node: self.node.clone(), during: SENDING.to_owned(), detail })
            }
            Err(_) => Err(self.stalled(STALL_SECS)),
        }
    }

    async fn give_password(&self, writer: &mut LaneWriter) -> Result<(), SshError> {
        let kind = SecretKind::Sudo { user: self.user.clone() };
        let password = self.keyring.secret(kind, &self.node).await;
        let password = password.ok_or_else(|| SshError::SudoPassword { at: self.at.clone() })?;
        let line = format!("{}\n", password.expose_secret());
        self.send(writer, Bytes::from(line)).await
    }

    async fn last_word(&self, mut talk: Talk) -> Result<Received, SshError> {
        let ended = |how: String, said: String| {
            let mut detail = vec![how, said];
            detail.retain(|part| !part.is_empty());
            let detail = match detail.is_empty() {
                true => self.opener.last_words(),
                false => format!(": the agent ended: {}", detail.join(": ")),
            };
            SshError::Lost { node: self.node.clone(), during: SENDING.to_owned(), detail }
        };
        if let Err(how) = talk.line().await {
            return Err(ended(how, talk.said.text()));
        }
        let mut decoder = Decoder::default();
        decoder.feed(&talk.buffer);
        loop {
            match decoder.take::<Received>() {
                Ok(Some(received)) => return Ok(received),
                Ok(None) => {}
                Err(error) => return Err(ended(error.to_string(), talk.said.text())),
            }
            match talk.reader.next().await {
                Heard::Out(bytes) => decoder.feed(&bytes),
                Heard::Err(bytes) => talk.said.push(&bytes),
                Heard::End(how) => return Err(ended(how, talk.said.text())),
            }
        }
    }

    fn stalled(&self, secs: u64) -> SshError {
        SshError::Deadline { node: self.node.clone(), during: SENDING.to_owned(), secs }
    }
}

const SENDING: &str = "sending pieces";

fn nothing() -> Received {
    Received { pieces: 0, bytes: 0, failure: None }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kdc_bundles::index::Blob;

    use super::*;

    fn index() -> Index {
        let blob = |byte: u8, size: u64| Blob {
            digest: Digest::from_bytes(&[byte; 32]),
            size,
            pieces: Vec::new(),
        };
        Index {
            version: 1,
            name: "t".to_owned(),
            bundle_version: "1".to_owned(),
            piece_size: 10,
            parameters: BTreeMap::new(),
            artifacts: Vec::new(),
            blobs: vec![blob(1, 25), blob(2, 10)],
        }
    }

    fn missing(byte: u8, ranges: &[(u32, u32)]) -> MissingPieces {
        MissingPieces { blob: Digest::from_bytes(&[byte; 32]), ranges: ranges.to_vec() }
    }

    #[test]
    fn every_missing_piece_is_sent_once_with_its_own_length() {
        let (index, wanted) = (index(), [missing(1, &[(0, 1), (2, 3)]), missing(2, &[(0, 1)])]);
        let parcels = Parcels::new(&index, &wanted);
        assert_eq!(parcels.total(), 3);
        let got: Vec<_> = parcels
            .map(|parcel| {
                parcel.map(|p| (p.header.blob, p.header.piece, p.header.length, p.offset))
            })
            .collect();
        assert_eq!(got, [Ok((0, 0, 10, 0)), Ok((0, 2, 5, 20)), Ok((1, 0, 10, 0))]);
    }

    #[test]
    fn memory_of_a_slice_is_filled_again_only_once_nobody_holds_it() {
        let mut slices = Slices::new();
        let mut fill = |byte: u8| {
            slices.put(&[byte; 100]);
            slices.take()
        };
        let mut places: Vec<*const u8> = (0..100).map(|byte| fill(byte).as_ptr()).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), SLICES_AWAY + 1);
        let held: Vec<Bytes> = (0..100).map(&mut fill).collect();
        for (byte, slice) in (0..).zip(held) {
            assert_eq!(slice, [byte; 100].as_slice());
        }
    }

    #[test]
    fn a_piece_that_the_index_does_not_have_is_an_error() {
        let index = index();
        for wanted in [missing(1, &[(3, 4)]), missing(9, &[(0, 1)]), missing(2, &[(1, 2)])] {
            let wanted = [wanted];
            assert!(Parcels::new(&index, &wanted).next().is_some_and(|parcel| parcel.is_err()));
        }
        let none = [missing(1, &[(2, 1), (u32::MAX, u32::MAX)])];
        assert!(Parcels::new(&index, &none).next().is_none());
    }
}
