//! The agent's executable.

use std::{io, path::Path};

use bytes::Bytes;
use kdc_bundles::index::Digest;

/// The agent's executable as it goes to nodes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AgentBinary {
    digest: Digest,
    content: Bytes,
}

impl AgentBinary {
    /// The agent with this content.
    #[must_use]
    pub fn new(content: Vec<u8>) -> Self {
        Self { digest: Digest::of(&content), content: content.into() }
    }

    /// Load it from a file.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn load(path: &Path) -> io::Result<Self> {
        fs_err::read(path).map(Self::new)
    }

    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.content.len()
    }

    pub(super) fn content(&self) -> &Bytes {
        &self.content
    }
}
