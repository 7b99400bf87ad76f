//! What stands between two bundles and an update, or between an update and a bundle.

use std::{io, path::PathBuf};

use kdc_bundles::{
    error::VerifyError, index::Digest, signature::SignatureError, write::WriteError,
};

/// Why there is no update, no inventory or no bundle.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// A file or the space for temporary ones can't be used.
    #[error("`{}` can't be used", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file is not what it has to be, from its first byte on or from some other.
    #[error("`{}` is no {kind} that can be used: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// `update` or `inventory`.
        kind: &'static str,
        /// What is wrong, and where.
        what: String,
    },
    /// The bundle that an update would make is not signed by a trusted key.
    #[error("the update `{}` does not carry a bundle that is trusted", path.display())]
    Untrusted {
        /// The update.
        path: PathBuf,
        /// Why.
        #[source]
        source: SignatureError,
    },
    /// What the update starts from is not here.
    #[error(
        "the update `{}` needs {count} blobs that are not here: {}",
        path.display(), listed(missing, *count)
    )]
    Foreign {
        /// The update.
        path: PathBuf,
        /// The first few.
        missing: Vec<Digest>,
        /// How many.
        count: usize,
    },
    /// A blob of the new bundle can't be made.
    #[error("{digest} can't be made from the update")]
    Blob {
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A blob can't be read.
    #[error("{digest} can't be read")]
    Read {
        /// The blob.
        digest: Digest,
        /// What the system, or the file that holds it, says.
        #[source]
        source: io::Error,
    },
    /// The new bundle can't be written.
    #[error("no bundle was written")]
    Write {
        /// Why.
        #[source]
        source: WriteError,
    },
    /// What was written is not what was signed.
    #[error("the bundle that was made is refused, and was removed")]
    Refused {
        /// Why.
        #[source]
        source: VerifyError,
    },
}

impl DeltaError {
    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Untrusted { source, .. } => return source.hint(),
            Self::Refused { source } => return source.hint(),
            Self::File { .. } => "check the path, the rights and the free space",
            Self::Damaged { kind: "inventory", .. } => {
                "make it again at the site with `bundle inventory`, and copy it again"
            }
            Self::Damaged { .. } => "copy the update again from its source",
            Self::Foreign { .. } => {
                "name the bundle the update was made for (`bundle diff OLD …`), or send the site's \
                 `bundle inventory` to the builder for an update from what is here"
            }
            Self::Blob { .. } => {
                "have the update made again, or carry the whole bundle; nothing was written"
            }
            Self::Read { .. } => "prove the bundle with `bundle verify`; the medium may be failing",
            Self::Write { .. } => "check the free space and the rights of the output folder",
        };
        Some(text.to_owned())
    }
}

fn listed(missing: &[Digest], count: usize) -> String {
    let more = count - missing.len();
    let mut texts: Vec<_> = missing.iter().map(ToString::to_string).collect();
    if more > 0 {
        texts.push(format!("and {more} more"));
    }
    texts.join(", ")
}
