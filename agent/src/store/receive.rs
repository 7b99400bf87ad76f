//! The far end of a bulk channel: pieces in, one [`Received`] out.

use std::{collections::HashMap, io::Read, sync::mpsc};

use kdc_bundles::index::Digest;

use super::{Shelf, StoreError, partial::Partial, piece_length};
use crate::wire::{
    Failure, Received,
    piece::{PIECE_HEADER_BYTES, PieceHeader},
};

/// Partial blobs held open at once; a sender that jumps about more than this only costs reopening.
const OPEN_PARTIALS: usize = 64;

/// Take in pieces until the end mark or the first thing that is wrong. Several processes may do
/// this on one store. Memory: one piece.
///
/// Full blobs are fsynced and named by a second thread, so that the link does not wait for the disk.
pub fn receive(shelf: &Shelf, input: impl Read) -> Received {
    let (taken, finished) = Intake::within(shelf, |mut intake| {
        let taken = intake.take_all(input);
        (taken, intake.pieces, intake.bytes)
    });
    let (taken, pieces, bytes) = taken;
    // The disk's own failure comes first: a closed queue is only what follows from it.
    let failure = finished.and(taken).err().map(Failure::from);
    Received { pieces, bytes, failure }
}

/// Puts proved pieces where they belong, and hands on what is full.
pub(super) struct Intake<'a> {
    shelf: &'a Shelf,
    open: HashMap<u32, Partial>,
    full: mpsc::SyncSender<Partial>,
    pieces: u64,
    bytes: u64,
}

impl<'a> Intake<'a> {
    /// Lets `work` put pieces; answers when what it filled is on the disk under its name.
    pub(super) fn within<T>(
        shelf: &'a Shelf,
        work: impl FnOnce(Self) -> T,
    ) -> (T, Result<(), StoreError>) {
        let (full, queue) = mpsc::sync_channel::<Partial>(OPEN_PARTIALS);
        std::thread::scope(|scope| {
            let finisher = scope.spawn(move || {
                queue.into_iter().try_for_each(|partial| partial.complete(&shelf.store))
            });
            let done = work(Self { shelf, open: HashMap::new(), full, pieces: 0, bytes: 0 });
            let panicked =
                || StoreError::Io(std::io::Error::other("the finishing thread panicked"));
            (done, finisher.join().unwrap_or_else(|_| Err(panicked())))
        })
    }

    fn take_all(&mut self, mut input: impl Read) -> Result<(), StoreError> {
        let mut buffer = Vec::new();
        loop {
            let mut header = [0; PIECE_HEADER_BYTES];
            read_whole(&mut input, &mut header)?;
            let header = PieceHeader::from_bytes(header);
            if header == PieceHeader::END {
                return Ok(());
            }
            let wanted = self.judge(header)?;
            buffer.resize(header.length as usize, 0);
            read_whole(&mut input, &mut buffer)?;
            if Digest::of(&buffer) != wanted {
                let blob = self.shelf.index.blobs[header.blob as usize].digest.clone();
                let place = "on the way in; not stored";
                return Err(StoreError::Mismatch { blob, piece: header.piece, place });
            }
            self.put(header.blob, header.piece, &buffer)?;
            self.pieces += 1;
            self.bytes += u64::from(header.length);
        }
    }

    /// The digest this piece must have; refuses a header that the index does not allow, before any
    /// memory is taken for it.
    fn judge(&self, header: PieceHeader) -> Result<Digest, StoreError> {
        let bad = |reason: String| StoreError::BadStream { reason };
        let index = self.shelf.index();
        let blob = index
            .blobs
            .get(header.blob as usize)
            .ok_or_else(|| bad(format!("the index has no blob number {}", header.blob)))?;
        let digest = blob.pieces.get(header.piece as usize).ok_or_else(|| {
            bad(format!("blob {} has no piece number {}", blob.digest, header.piece))
        })?;
        let length = piece_length(blob, index.piece_size, header.piece);
        if u64::from(header.length) != length {
            return Err(bad(format!(
                "piece {} of blob {} has {length} bytes, not {}",
                header.piece, blob.digest, header.length
            )));
        }
        Ok(digest.clone())
    }

    /// Stores a piece that the caller has proved to be this one of the index.
    pub(super) fn put(&mut self, ordinal: u32, piece: u32, bytes: &[u8]) -> Result<(), StoreError> {
        let index = self.shelf.index();
        if self.open.get(&ordinal).is_some_and(Partial::is_gone) {
            self.open.remove(&ordinal);
        }
        if !self.open.contains_key(&ordinal) {
            let blob = &index.blobs[ordinal as usize];
            let Some(partial) = Partial::open(&self.shelf.store, blob, index.piece_size)? else {
                return Ok(());
            };
            if self.open.len() >= OPEN_PARTIALS {
                self.open.clear();
            }
            self.open.insert(ordinal, partial);
        }
        let Some(partial) = self.open.get_mut(&ordinal) else { return Ok(()) };
        if partial.put(piece, bytes)?
            && let Some(partial) = self.open.remove(&ordinal)
        {
            self.full.send(partial).map_err(|_| {
                StoreError::Io(std::io::Error::other("a blob could not be finished"))
            })?;
        }
        Ok(())
    }
}

fn read_whole(input: &mut impl Read, buffer: &mut [u8]) -> Result<(), StoreError> {
    input.read_exact(buffer).map_err(|cause| StoreError::BadStream {
        reason: match cause.kind() {
            std::io::ErrorKind::UnexpectedEof => "it ended before its end mark".to_owned(),
            _ => format!("it can't be read: {cause}"),
        },
    })
}
