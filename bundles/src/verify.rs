//! Proving a whole bundle in one pass, with memory that does not grow with it.
//!
//! Every byte of a blob is hashed once, as part of its piece, on all cores. That proves the blob:
//! the signed index says which pieces in which order make it up, and its header was compared, so
//! its content is what the builder hashed when he signed. That these pieces also have the blob's
//! own digest is a claim of the builder about his own index; it holds by rule where a blob is one
//! piece, and wherever a longer blob is used by its digest ([`crate::open::BundleFile::copy_blob`],
//! the node's store) it is proved again.

use std::{
    io::Read,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    error::VerifyError,
    index::{Digest, Index},
    keys::{KeyId, TrustedKeys},
    member,
    pieces::{self, Feed},
    prelude::{self, Source},
};

/// A bundle of which every byte was proved.
#[derive(Debug, Clone)]
pub struct VerifiedIndex {
    /// The index.
    pub index: Index,
    /// Digest of the index's bytes: the bundle's identity.
    pub digest: Digest,
    /// The key that signed it.
    pub signer: KeyId,
    /// Length of the file.
    pub file_bytes: u64,
}

/// Reads a whole bundle and proves every byte of it against `keys`.
///
/// # Errors
/// At the first byte, in file order, that is not as the signed index says, naming the member.
pub fn verify<R: Read>(reader: R, keys: &TrustedKeys) -> Result<VerifiedIndex, VerifyError> {
    verify_with(reader, keys, &mut |_| {})
}

/// As [`verify`]; `bytes` is told, after each piece, how many bytes of the file were read.
///
/// # Errors
/// As [`verify`].
pub fn verify_with<R: Read>(
    reader: R,
    keys: &TrustedKeys,
    bytes: &mut dyn FnMut(u64),
) -> Result<VerifiedIndex, VerifyError> {
    let mut source = Source::new(reader);
    let head = prelude::read(&mut source, Some(keys))?;
    check_blobs(&mut source, &head.index, bytes)?;
    source.end()?;
    Ok(VerifiedIndex {
        digest: Digest::of(&head.index_bytes),
        index: head.index,
        signer: head.signer,
        file_bytes: source.offset(),
    })
}

/// A piece on its way from the reader to a worker.
struct Piece {
    blob: usize,
    piece: usize,
    offset: u64,
}

/// What the workers found, shared with the reader.
#[derive(Default)]
struct Findings {
    failed: AtomicBool,
    first: Mutex<Option<(u64, VerifyError)>>,
}

impl Findings {
    /// Keeps the finding nearest to the start, so that the same file always gives the same error.
    fn add(&self, offset: u64, error: VerifyError) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.as_ref().is_none_or(|(at, _)| offset < *at) {
            *first = Some((offset, error));
        }
        self.failed.store(true, Ordering::Release);
    }
}

/// Reads every blob on this thread; the pieces are hashed on others.
fn check_blobs<R: Read>(
    source: &mut Source<R>,
    index: &Index,
    bytes: &mut dyn FnMut(u64),
) -> Result<(), VerifyError> {
    let findings = Findings::default();
    let bad = |at: Piece, expected, found| {
        let Piece { blob, piece, offset } = at;
        let member = member::blob_name(&index.blobs[blob].digest);
        findings.add(offset, VerifyError::Piece { member, piece, offset, expected, found });
    };
    let read = pieces::prove_all(&bad, |feed| read_blobs(source, index, feed, &findings, bytes));
    let first = findings.first.into_inner().unwrap_or_else(PoisonError::into_inner);
    match first {
        // Pieces are found bad after later bytes were read, so theirs is the earlier error.
        Some((_, error)) => Err(error),
        None => read,
    }
}

fn read_blobs<R: Read>(
    source: &mut Source<R>,
    index: &Index,
    feed: &Feed<Piece>,
    findings: &Findings,
    bytes: &mut dyn FnMut(u64),
) -> Result<(), VerifyError> {
    for (number, blob) in index.blobs.iter().enumerate() {
        let name = member::blob_name(&blob.digest);
        source.header(&name, blob.size)?;
        for (piece, expected) in blob.pieces.iter().enumerate() {
            if findings.failed.load(Ordering::Acquire) {
                return Ok(());
            }
            let length = index.piece_length(blob, piece).unwrap_or(0);
            let mut buffer = feed.buffer();
            buffer.resize(length as usize, 0);
            let offset = source.offset();
            source.fill(&mut buffer, &name)?;
            bytes(source.offset());
            feed.prove(Piece { blob: number, piece, offset }, expected.clone(), buffer);
        }
        source.padding(&name, blob.size)?;
    }
    Ok(())
}
