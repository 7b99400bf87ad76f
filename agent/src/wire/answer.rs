//! Parts of answers that are more than a word.

use serde::{Deserialize, Serialize};

use super::Failure;

/// How a step stands on the node now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Surveyed {
    /// Step id.
    pub id: String,
    /// As wanted.
    pub satisfied: bool,
    /// What would change, in words; or why the node could not tell (then not satisfied).
    pub detail: String,
}

/// The last word of `kdc-agent receive` on a bulk channel, as one frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Received {
    /// Pieces proved and stored.
    pub pieces: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Why it stopped early, if it did.
    pub failure: Option<Failure>,
}

/// Pieces of one blob that the store lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MissingPieces {
    /// The blob.
    pub blob: kdc_bundles::index::Digest,
    /// Ranges of piece indexes, start inclusive, end exclusive.
    pub ranges: Vec<(u32, u32)>,
}

/// One thing acceptance proved, or did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    /// What was tried (`pod on w1 reaches pod on cp1`).
    pub claim: String,
    /// It held.
    pub holds: bool,
    /// Evidence, or what went wrong.
    pub detail: String,
}
