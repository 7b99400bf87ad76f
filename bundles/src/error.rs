//! Everything that can be wrong with a bundle file, each with the member and the place.

use crate::{index::Digest, medium::MediumError, signature::SignatureError};

/// Why a file is refused. Offsets count bytes from the start of the file.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The file can't be opened or its length can't be asked.
    #[error("the bundle can't be opened")]
    Open {
        /// What the system says, with the path.
        #[source]
        source: std::io::Error,
    },
    /// The bundle is not found, or not whole where it was found.
    #[error(transparent)]
    Medium(#[from] MediumError),
    /// The system failed while reading.
    #[error("`{member}` can't be read at byte {offset}")]
    Read {
        /// The member being read.
        member: String,
        /// Where.
        offset: u64,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The file does not begin as a bundle does.
    #[error("this is not a kdc bundle: it has to begin with `kdc-index.json`, found {found}")]
    NotABundle {
        /// What is there instead.
        found: String,
    },
    /// There is no signature after the index.
    #[error("the bundle is not signed: `kdc-index.json.minisig` is missing, found {found}")]
    Unsigned {
        /// What is there instead.
        found: String,
    },
    /// The signature does not prove the index.
    #[error("`{}` does not prove the index", crate::member::SIGNATURE_NAME)]
    Signature {
        /// Why.
        #[source]
        source: SignatureError,
    },
    /// A member is missing, extra, moved, or its header was changed.
    #[error("expected the header of `{member}` at byte {offset}, found {found}")]
    Header {
        /// The member that has to be there.
        member: String,
        /// Where its header begins.
        offset: u64,
        /// What is there instead.
        found: String,
    },
    /// A member that follows from the index has other content.
    #[error("`{member}` does not say what the signed index says, from byte {offset} on")]
    Derived {
        /// `oci-layout` or `index.json`.
        member: String,
        /// The first byte that differs.
        offset: u64,
    },
    /// A piece of a blob has other content.
    #[error(
        "`{member}` does not match the signed index: piece {piece} at byte {offset} has {found}, \
         expected {expected}"
    )]
    Piece {
        /// The blob's member.
        member: String,
        /// Number of the piece in the blob, from 0.
        piece: usize,
        /// Where the piece begins in the file.
        offset: u64,
        /// What the index says.
        expected: Digest,
        /// What the bytes have.
        found: Digest,
    },
    /// Every piece fits, the whole does not: the builder signed an index that contradicts itself.
    #[error("`{member}` has the pieces that the index lists, but as a whole it is {found}")]
    Blob {
        /// The blob's member.
        member: String,
        /// What the bytes have.
        found: Digest,
    },
    /// The zeros after a member's content are not zeros.
    #[error("the padding after `{member}` at byte {offset} is not zero")]
    Padding {
        /// The member before it.
        member: String,
        /// Where the padding begins.
        offset: u64,
    },
    /// The file ends too early.
    #[error("the file is truncated: it ends in `{member}`, which was being read at byte {offset}")]
    Truncated {
        /// The member that is cut.
        member: String,
        /// Where the part that could not be read whole begins.
        offset: u64,
    },
    /// Where the archive has to end there is something else: a member that is not in the index.
    #[error("expected the end of the archive at byte {offset}, found {found}")]
    Extra {
        /// Where the end has to be.
        offset: u64,
        /// What is there instead.
        found: String,
    },
    /// There are bytes after the end of the archive.
    #[error("there are bytes after the end of the archive, from byte {offset} on")]
    Trailing {
        /// The first byte that is too many.
        offset: u64,
    },
    /// The caller asked for a blob that the index does not list.
    #[error("the bundle has no blob {digest}")]
    NoSuchBlob {
        /// What was asked for.
        digest: String,
    },
    /// The caller asked for a piece past the end of a blob.
    #[error("`{member}` has no piece {piece}")]
    NoSuchPiece {
        /// The blob's member.
        member: String,
        /// What was asked for.
        piece: usize,
    },
    /// Proved bytes could not be handed on.
    #[error("the content of `{member}` can't be written")]
    Write {
        /// The blob's member.
        member: String,
        /// What the receiver says.
        #[source]
        source: std::io::Error,
    },
}

impl VerifyError {
    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Open { .. } | Self::Write { .. } => return None,
            Self::Signature { source } => return source.hint(),
            Self::Medium(error) => return error.hint(),
            Self::NoSuchBlob { .. } | Self::NoSuchPiece { .. } => {
                "this is a mistake in kdc, not in the bundle"
            }
            Self::Read { .. } => "the medium may be failing: copy the bundle to another disk",
            Self::NotABundle { .. } => "name the file that `kdc-install bundle create` wrote",
            Self::Unsigned { .. } => "an unsigned bundle is never used: build it with a key",
            Self::Blob { .. } => "build the bundle again with `kdc-install bundle create`",
            Self::Truncated { .. } => "the copy is not complete: copy the bundle again",
            Self::Header { .. }
            | Self::Derived { .. }
            | Self::Piece { .. }
            | Self::Padding { .. }
            | Self::Extra { .. }
            | Self::Trailing { .. } => {
                "the file was damaged or changed after it was signed: copy it again from its source"
            }
        };
        Some(text.to_owned())
    }
}
