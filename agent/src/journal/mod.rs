//! The journal: the append-only record of a run, written before each change.
//!
//! One file a run, JSON lines: `{"seq":1,"prev":"<hex>","at":<ms>,"entry":{…},"sum":"<hex>"}`.
//! `sum` is the sha256 over the line without it, `prev` the sum of the line before (64 zeros for
//! the first), so a lost, swapped or edited line is seen. Every line is on disk before
//! [`Journal::append`] returns. A last line without its end is what a power cut leaves: it is cut
//! off and noted. Anything else that does not fit stops resume and undo with the line number.

#[cfg(test)]
mod fixture_tests;
mod kept;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::path::PathBuf;

use kdc_bundles::index::Digest;
pub use kept::KeptContents;
pub use read::{Reading, load, parse};
use serde::{Deserialize, Serialize};
pub use write::{Journal, is_busy};

use crate::{
    step::Before,
    wire::{EventBody, Failure, Outcome},
};

/// The journal format this build writes; it reads this and all older ones.
pub const JOURNAL_VERSION: u32 = 1;

/// Name of the file in a run's directory.
pub const FILE_NAME: &str = "journal.jsonl";

/// Largest journal this build reads, and lets grow.
pub const MAX_JOURNAL_BYTES: u64 = 64 * 1024 * 1024;

/// One thing that is so from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Entry {
    /// First line of every journal.
    Opened {
        /// [`JOURNAL_VERSION`] of the build that wrote it.
        version: u32,
        /// Run id.
        run: String,
        /// Cluster.
        cluster: String,
        /// Node.
        node: String,
        /// Digest of the plan; for an undo, of the empty content.
        plan: Digest,
        /// Version of the agent.
        agent: String,
    },
    /// A process took the run up again.
    Resumed {
        /// A torn last line was cut off.
        torn: bool,
    },
    /// The run waits for a value before a step.
    Awaiting {
        /// Step id.
        step: String,
        /// Value name.
        value: String,
    },
    /// As wanted before we came: ours to leave alone, never to undo.
    Found {
        /// Step id.
        step: String,
    },
    /// From here on the step may have changed things; this is what stood there.
    Begun {
        /// Step id.
        step: String,
        /// What undo puts back.
        before: Before,
    },
    /// The step is done.
    Done {
        /// Step id.
        step: String,
    },
    /// The step failed; it is still begun.
    Failed {
        /// Step id.
        step: String,
        /// Why.
        failure: Failure,
    },
    /// The step was taken back.
    Undone {
        /// Step id.
        step: String,
    },
    /// The run ended, for now: a failed one can be resumed, any one undone.
    Ended {
        /// How.
        outcome: Outcome,
    },
}

impl Entry {
    /// The event that tells it to an installer; some entries are the node's own affair.
    #[must_use]
    pub fn event(&self) -> Option<EventBody> {
        let step = |step: &String| step.clone();
        Some(match self {
            Self::Opened { .. } | Self::Resumed { .. } => return None,
            Self::Awaiting { step: id, value } => {
                EventBody::Awaiting { step: step(id), value: value.clone() }
            }
            Self::Found { step: id } => EventBody::Found { step: step(id) },
            Self::Begun { step: id, .. } => EventBody::Begun { step: step(id) },
            Self::Done { step: id } => EventBody::Done { step: step(id) },
            Self::Failed { step: id, failure } => {
                EventBody::StepFailed { step: step(id), failure: failure.clone() }
            }
            Self::Undone { step: id } => EventBody::Undone { step: step(id) },
            Self::Ended { outcome } => EventBody::Ended { outcome: outcome.clone() },
        })
    }
}

/// An entry at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Line number, from 1.
    pub seq: u64,
    /// Milliseconds since the epoch.
    pub at_unix_ms: u64,
    /// What is so.
    pub entry: Entry,
}

/// A journal that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system would not.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line inside does not follow from the one before.
    #[error("{path} line {line}: {reason}")]
    Broken {
        /// The journal.
        path: PathBuf,
        /// Line number, from 1.
        line: u64,
        /// What does not fit.
        reason: String,
    },
    /// Another process writes it.
    #[error("another process is at work on {path}")]
    Busy {
        /// The journal.
        path: PathBuf,
    },
}

impl JournalError {
    /// Stable code, listed in `docs/steps.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "JOURNAL-001",
            Self::Broken { .. } => "JOURNAL-002",
            Self::Busy { .. } => "JOURNAL-003",
        }
    }

    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::File { path, .. } => {
                format!("check disk space and permissions of {}", path.display())
            }
            Self::Broken { path, .. } => format!(
                "{} was changed or damaged after it was written; put a copy back, or undo by hand \
                 from its readable lines",
                path.display()
            ),
            Self::Busy { .. } => "attach to the run that is going on".to_owned(),
        })
    }
}
