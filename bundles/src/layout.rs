//! Where every byte of a bundle comes from: index and signature decide all of it.
//!
//! Readers that don't begin at the file's start (a part on a stick, a range of a file) ask here what
//! has to lie at an offset, and whether that is a piece, which the signed index proves, or bytes that
//! follow from the index.

use crate::{
    index::{Digest, Index},
    member::{self, BLOCK},
};

/// A bundle's layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Bytes before the first blob's header.
    head_bytes: u64,
    /// Where the content of each blob begins, in the index's order.
    starts: Vec<u64>,
    length: u64,
}

/// What lies in a stretch of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Index, signature and the two OCI files, with their headers.
    Head,
    /// Header of the blob with that ordinal.
    Header(usize),
    /// A piece.
    Piece {
        /// The blob's place in the index.
        ordinal: usize,
        /// Number of the piece in the blob.
        piece: usize,
    },
    /// The zeros after the blob with that ordinal.
    Padding(usize),
    /// The two zero blocks at the end.
    End,
}

/// A stretch of the file that is one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Its first byte.
    pub start: u64,
    /// How many bytes it has.
    pub length: u64,
    /// What it is.
    pub content: Content,
}

impl Stretch {
    /// The first byte after it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start + self.length
    }
}

impl Layout {
    /// The layout of the bundle with that index, whose own spelling and signature have that many
    /// bytes.
    #[must_use]
    pub fn of(index: &Index, index_bytes: u64, signature_bytes: u64) -> Self {
        let member = |size: u64| BLOCK as u64 + size + member::padding(size) as u64;
        let oci = member::oci_members(index).map(|(_, content)| member(content.len() as u64));
        let head_bytes = member(index_bytes) + member(signature_bytes) + oci.iter().sum::<u64>();
        let mut offset = head_bytes;
        let starts = index.blobs.iter().map(|blob| {
            let start = offset + BLOCK as u64;
            offset += member(blob.size);
            start
        });
        let starts = starts.collect();
        Self { head_bytes, starts, length: offset + member::END_BYTES as u64 }
    }

    /// Length of the file.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Where the content of that blob begins.
    #[must_use]
    pub fn start(&self, ordinal: usize) -> Option<u64> {
        self.starts.get(ordinal).copied()
    }

    /// The stretch that `offset` lies in; `None` past the end. `index` is the one this layout is of.
    #[must_use]
    pub fn at(&self, index: &Index, offset: u64) -> Option<Stretch> {
        if offset >= self.length {
            return None;
        }
        let stretch = |start, end, content| Some(Stretch { start, length: end - start, content });
        if offset < self.head_bytes {
            return stretch(0, self.head_bytes, Content::Head);
        }
        let after = self.starts.partition_point(|start| start - BLOCK as u64 <= offset);
        let end = self.length - member::END_BYTES as u64;
        let Some(ordinal) = after.checked_sub(1).filter(|_| offset < end) else {
            return stretch(end, self.length, Content::End);
        };
        let (start, blob) = (self.starts[ordinal], index.blobs.get(ordinal)?);
        if offset < start {
            return stretch(start - BLOCK as u64, start, Content::Header(ordinal));
        }
        let stop = start + blob.size;
        if offset >= stop {
            let end = stop + member::padding(blob.size) as u64;
            return stretch(stop, end, Content::Padding(ordinal));
        }
        let piece = (offset - start) / index.piece_size;
        let first = start + piece * index.piece_size;
        let content = Content::Piece { ordinal, piece: piece as usize };
        stretch(first, (first + index.piece_size).min(stop), content)
    }
}

/// Every byte that follows from index and signature, and the digests of the pieces between.
#[derive(Debug, Clone)]
pub struct Expected<'i> {
    index: &'i Index,
    layout: Layout,
    head: Vec<u8>,
    /// Lengths of index and signature.
    sizes: (usize, usize),
}

/// What has to lie in a stretch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted<'e> {
    /// Exactly these bytes.
    Bytes(std::borrow::Cow<'e, [u8]>),
    /// Bytes with this digest.
    Digest(&'e Digest),
}

impl<'i> Expected<'i> {
    /// Everything that a bundle with this index and signature has to be.
    #[must_use]
    pub fn new(index: &'i Index, index_bytes: &[u8], signature: &str) -> Self {
        let layout = Layout::of(index, index_bytes.len() as u64, signature.len() as u64);
        let sizes = (index_bytes.len(), signature.len());
        Self { index, layout, head: head(index, index_bytes, signature), sizes }
    }

    /// The places.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The bytes of index and signature.
    #[must_use]
    pub fn index_and_signature(&self) -> (&[u8], &[u8]) {
        let (index, rest) = self.head[BLOCK..].split_at(self.sizes.0);
        let start = member::padding(self.sizes.0 as u64) + BLOCK;
        (index, &rest[start..start + self.sizes.1])
    }

    /// The stretch at `offset` and what has to be in it; `None` past the end.
    #[must_use]
    pub fn at(&self, offset: u64) -> Option<(Stretch, Wanted<'_>)> {
        let stretch = self.layout.at(self.index, offset)?;
        let wanted = match stretch.content {
            Content::Head => Wanted::Bytes(self.head.as_slice().into()),
            Content::Header(ordinal) => {
                let blob = &self.index.blobs[ordinal];
                let header = member::header(&member::blob_name(&blob.digest), blob.size);
                Wanted::Bytes(header.to_vec().into())
            }
            Content::Piece { ordinal, piece } => {
                Wanted::Digest(&self.index.blobs[ordinal].pieces[piece])
            }
            Content::Padding(_) | Content::End => {
                Wanted::Bytes(vec![0; stretch.length as usize].into())
            }
        };
        Some((stretch, wanted))
    }
}

/// The file up to its first blob: index, signature, and what follows from the index.
pub(crate) fn head(index: &Index, index_bytes: &[u8], signature: &str) -> Vec<u8> {
    let oci = member::oci_members(index);
    let oci = oci.iter().map(|(name, content)| (*name, content.as_slice()));
    let members =
        [(member::INDEX_NAME, index_bytes), (member::SIGNATURE_NAME, signature.as_bytes())];
    let mut bytes = Vec::new();
    for (name, content) in members.into_iter().chain(oci) {
        let size = content.len() as u64;
        bytes.extend_from_slice(&member::header(name, size));
        bytes.extend_from_slice(content);
        bytes.extend_from_slice(&[0; BLOCK][..member::padding(size)]);
    }
    bytes
}
