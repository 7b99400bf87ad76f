//! Where a registry's bytes come from: a bundle's file, or the store of a node.

use kdc_bundles::{index::Index, open::BundleFile};

use crate::store::{Shelf, StoreError};

/// Content by the pieces of a signed index. Whatever is read was proved on the way.
pub trait Source: Send + Sync + 'static {
    /// The proved index: what there is to serve.
    fn index(&self) -> &Index;

    /// Whether all of the blob with that ordinal is here.
    fn has(&self, ordinal: usize) -> bool;

    /// Reads and proves a piece into `buffer`, whose old content is lost. Blocks for that long.
    ///
    /// # Errors
    /// When it is not here, can't be read, or is not what the index says.
    fn read_piece_into(
        &self,
        ordinal: usize,
        piece: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<(), SourceError>;
}

/// Why a piece can't be served.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It is not here.
    #[error("the content is not here")]
    Absent,
    /// It can't be read, or is not what was signed.
    #[error("the content can't be read")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Source for BundleFile {
    fn index(&self) -> &Index {
        Self::index(self)
    }

    fn has(&self, ordinal: usize) -> bool {
        ordinal < Self::index(self).blobs.len()
    }

    fn read_piece_into(
        &self,
        ordinal: usize,
        piece: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        Self::read_piece_into(self, ordinal, piece, buffer)
            .map_err(|error| SourceError::Unreadable(error.into()))
    }
}

impl Source for Shelf {
    fn index(&self) -> &Index {
        Self::index(self)
    }

    fn has(&self, ordinal: usize) -> bool {
        Self::index(self).blobs.get(ordinal).is_some_and(|blob| self.has(blob))
    }

    fn read_piece_into(
        &self,
        ordinal: usize,
        piece: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        self.read_piece(ordinal, piece, buffer).map_err(|error| match error {
            StoreError::Absent { .. } => SourceError::Absent,
            other => SourceError::Unreadable(other.into()),
        })
    }
}
