//! What this node has of an index, as others are told, and the bytes themselves.
//!
//! Several processes fill a store: this one with what peers send, and one for each channel of the
//! installer. So the have-maps on the disk are looked at again and again; that costs a directory and
//! a small read for each blob that is on its way, and nothing for those that are complete.

use std::{
    collections::BTreeSet,
    os::unix::fs::MetadataExt as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

use kdc_bundles::index::{Blob, Index};
use tokio::sync::watch;

use super::{
    folder::Stamp,
    picker::Piece,
    pieces::{Bitmap, Numbering},
};
use crate::{
    facts::now_unix_ms,
    store::{Shelf, StoreError, partial},
};

/// The store of this node, seen by pieces.
pub(super) struct Local {
    shelf: Shelf,
    numbering: Numbering,
    have: Mutex<Have>,
    news: watch::Sender<u64>,
}

struct Have {
    bitmap: Bitmap,
    /// Blobs that were on their way when it was looked last.
    begun: BTreeSet<usize>,
    /// When the last blob got its name, or lost it.
    named: Option<Stamp>,
}

impl Local {
    /// Nothing is known before the first [`Local::scan`]. Versions count on from the clock, so that
    /// those of a restarted node are never taken for its predecessor's.
    pub(super) fn new(shelf: Shelf) -> Self {
        let numbering = Numbering::of(shelf.index());
        let bitmap = Bitmap::empty(numbering.count());
        let have = Have { bitmap, begun: BTreeSet::new(), named: None };
        let (news, _) = watch::channel(now_unix_ms());
        Self { shelf, numbering, have: Mutex::new(have), news }
    }

    pub(super) fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    pub(super) fn index(&self) -> &Index {
        self.shelf.index()
    }

    pub(super) fn numbering(&self) -> &Numbering {
        &self.numbering
    }

    /// How new [`Local::bitmap`] is; changes whenever a piece comes or goes.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// What is here, to be sent.
    pub(super) fn bitmap(&self) -> (u64, Vec<u8>) {
        let have = self.lock();
        (*self.news.borrow(), have.bitmap.as_bytes().to_vec())
    }

    fn lock(&self) -> MutexGuard<'_, Have> {
        self.have.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn number(&self, piece: Piece) -> Option<u32> {
        self.numbering.number(piece.blob as usize, piece.piece)
    }

    pub(super) fn piece(&self, number: u32) -> Option<Piece> {
        let (ordinal, piece) = self.numbering.place(number)?;
        Some(Piece { blob: u32::try_from(ordinal).ok()?, piece })
    }

    pub(super) fn blob(&self, piece: Piece) -> Option<&Blob> {
        self.index().blobs.get(piece.blob as usize)
    }

    pub(super) fn has(&self, piece: Piece) -> bool {
        self.number(piece).is_some_and(|number| self.lock().bitmap.has(number))
    }

    /// The piece is here now, or is gone.
    pub(super) fn note(&self, piece: Piece, here: bool) {
        let number = self.number(piece);
        if number.is_some_and(|number| self.lock().bitmap.set(number, here)) {
            self.news.send_modify(|version| *version += 1);
        }
    }

    /// Reads and proves a piece into `buffer`. One that can't be had is not announced any more.
    pub(super) fn read(&self, piece: Piece, buffer: &mut Vec<u8>) -> Result<(), StoreError> {
        let (ordinal, number) = (piece.blob as usize, piece.piece as usize);
        let Some(blob) = self.blob(piece).filter(|blob| number < blob.pieces.len()) else {
            buffer.clear();
            return Err(StoreError::NoPiece { ordinal, piece: number });
        };
        let read = match self.shelf.read_piece(ordinal, number, buffer) {
            Err(StoreError::Absent { .. }) => {
                let size = self.index().piece_size;
                partial::read_piece(&self.shelf.store, blob, size, piece.piece, buffer)
            }
            other => other,
        };
        if let Err(error) = &read {
            if !matches!(error, StoreError::Absent { .. }) {
                tracing::warn!(%error, "a piece can't be passed on");
            }
            self.note(piece, false);
        }
        read
    }

    /// Looks at the store. Answers with the pieces that came since it was looked last.
    pub(super) fn scan(&self) -> Result<Vec<Piece>, StoreError> {
        let store = &self.shelf.store;
        // What is on its way first: a blob that is finished meanwhile is then seen as a complete one.
        let listed = partial::begun(store)?;
        let begun: BTreeSet<usize> = listed.iter().filter_map(|hex| self.ordinal_of(hex)).collect();
        let named = stamp(&store.root.join("blobs/sha256"));
        let (anew, finished) = {
            let have = self.lock();
            let finished: Vec<usize> = have.begun.difference(&begun).copied().collect();
            (have.named != named || named.is_none(), finished)
        };
        let blobs = &self.index().blobs;
        let mut came = Vec::new();
        for ordinal in &begun {
            let blob = &blobs[*ordinal];
            if let Some(map) = partial::peek(store, blob, self.index().piece_size) {
                let here = (0_u32..).zip(&map).filter(|(_, have)| **have != 0);
                self.found(*ordinal, here.map(|(piece, _)| piece), &mut came);
            }
        }
        let all: Vec<usize> = if anew { (0..blobs.len()).collect() } else { finished };
        for ordinal in all {
            let pieces = 0..u32::try_from(blobs[ordinal].pieces.len()).unwrap_or(u32::MAX);
            if store.has(&blobs[ordinal]) {
                self.found(ordinal, pieces, &mut came);
            } else if !begun.contains(&ordinal) {
                self.lost(ordinal, pieces);
            }
        }
        let mut have = self.lock();
        (have.begun, have.named) = (begun, named);
        drop(have);
        if !came.is_empty() {
            self.news.send_modify(|version| *version += 1);
        }
        Ok(came)
    }

    fn ordinal_of(&self, hex: &str) -> Option<usize> {
        self.index().ordinal(&format!("sha256:{hex}").parse().ok()?)
    }

    fn found(&self, ordinal: usize, pieces: impl Iterator<Item = u32>, came: &mut Vec<Piece>) {
        let first = self.numbering.of_blob(ordinal).start;
        let blob = u32::try_from(ordinal).unwrap_or(u32::MAX);
        let mut have = self.lock();
        let new = pieces.filter(|piece| have.bitmap.set(first + piece, true));
        came.extend(new.map(|piece| Piece { blob, piece }));
    }

    fn lost(&self, ordinal: usize, pieces: std::ops::Range<u32>) {
        let first = self.numbering.of_blob(ordinal).start;
        let mut have = self.lock();
        let mut changed = false;
        for piece in pieces {
            changed |= have.bitmap.set(first + piece, false);
        }
        drop(have);
        if changed {
            self.news.send_modify(|version| *version += 1);
        }
    }
}

/// A directory's; `None` for one that changed so lately that its clock may not show the next change.
fn stamp(directory: &std::path::Path) -> Option<Stamp> {
    let meta = fs_err::metadata(directory).ok()?;
    let age_secs = i64::try_from(now_unix_ms() / 1000).unwrap_or(i64::MAX) - meta.mtime();
    (age_secs > 1).then(|| (meta.ino(), meta.mtime(), meta.mtime_nsec()))
}
