//! What a run tells: its events, replayable from any sequence number, and how it ended.

use serde::{Deserialize, Serialize};

use super::Failure;

/// How a run ended, or where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Outcome {
    /// Every step is done or was found as wanted.
    Finished {
        /// Steps that changed something.
        changed: u32,
        /// Steps found as wanted.
        found: u32,
    },
    /// A step failed; the journal has everything undo and resume need.
    Failed {
        /// Step id.
        step: String,
        /// Why, in words.
        failure: Failure,
    },
    /// Everything in force was undone.
    Undone {
        /// Steps taken back.
        steps: u32,
    },
    /// The run's process ended without saying so (power cut, kill): resume it.
    Interrupted,
    /// Still going, or waiting for the value named.
    Running {
        /// The value it waits for.
        awaits: Option<String>,
    },
}

/// A run in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunSummary {
    /// Run id.
    pub run: String,
    /// Cluster it belongs to.
    pub cluster: String,
    /// Digest of the plan.
    pub plan: kdc_bundles::index::Digest,
    /// Where it stands.
    pub outcome: Outcome,
    /// Changes of this run are in force.
    pub in_force: bool,
}

/// Something that happened in a run, replayable from any sequence number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Run id (or the request's name for long requests).
    pub run: String,
    /// Journal sequence number; 0 for progress that is not in the journal.
    pub seq: u64,
    /// Milliseconds since the epoch.
    pub at_unix_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub body: EventBody,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum EventBody {
    /// The run waits for a value before this step.
    Awaiting {
        /// Step id.
        step: String,
        /// Value name.
        value: String,
    },
    /// The step was as wanted before we came.
    Found {
        /// Step id.
        step: String,
    },
    /// Before-state is on disk; the step starts to change things.
    Begun {
        /// Step id.
        step: String,
    },
    /// The step is done.
    Done {
        /// Step id.
        step: String,
    },
    /// The step was taken back.
    Undone {
        /// Step id.
        step: String,
    },
    /// The step failed.
    StepFailed {
        /// Step id.
        step: String,
        /// Why.
        failure: Failure,
    },
    /// A line worth showing (what a wait sees, what kubeadm is doing).
    Note {
        /// Step id.
        step: String,
        /// The line, secrets masked.
        text: String,
    },
    /// The run ended.
    Ended {
        /// How.
        outcome: Outcome,
    },
}
