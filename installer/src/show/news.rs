//! What can happen that is worth telling: one closed enum, shown by every [`super::Observer`].
//!
//! Its JSON form is the line format of `--output json`, version [`NEWS_VERSION`], described by
//! `docs/schemas/output.v1.json`. No field can hold a secret: the wire's secrets are
//! [`kdc_agent::wire::SecretText`], and nothing here is made from one.

use kdc_agent::wire::{Failure, Outcome};
use schemars::JsonSchema;
use serde::Serialize;

/// Version of the JSON lines.
pub const NEWS_VERSION: u32 = 1;

/// What the installer does with a node just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Opening SSH and starting the agent.
    Connecting,
    /// Reading facts.
    Facts,
    /// Asking which steps are as wanted.
    Surveying,
    /// Taking the hold.
    Holding,
    /// Sending what the node's store lacks.
    Sending,
    /// The node works on its run.
    Running,
    /// The node takes back what kdc did.
    Undoing,
    /// The agent removes itself.
    Departing,
    /// Proving the cluster from inside.
    Accepting,
}

impl Stage {
    /// The word people see.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Facts => "facts",
            Self::Surveying => "surveying",
            Self::Holding => "holding",
            Self::Sending => "sending",
            Self::Running => "running",
            Self::Undoing => "undoing",
            Self::Departing => "departing",
            Self::Accepting => "accepting",
        }
    }
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    /// It was as wanted before we came.
    Found,
    /// It has begun to change things.
    Begun,
    /// It is done.
    Done,
    /// It was taken back.
    Undone,
    /// It failed.
    Failed,
}

impl StepState {
    /// The word people see.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Begun => "begun",
            Self::Done => "done",
            Self::Undone => "undone",
            Self::Failed => "failed",
        }
    }
}

/// How a node's part ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NodeResult {
    /// Something was changed, and everything is as wanted now.
    Changed,
    /// Everything was as wanted already.
    AsWanted,
    /// Everything kdc did was taken back.
    Undone,
    /// It failed; the node keeps what resume and undo need.
    Failed,
    /// It waits for another node that failed.
    Waiting,
    /// The installer stopped watching; the node carries on.
    CarriesOn,
}

impl NodeResult {
    /// The word people see.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::AsWanted => "as wanted",
            Self::Undone => "undone",
            Self::Failed => "failed",
            Self::Waiting => "waiting",
            Self::CarriesOn => "carries on",
        }
    }
}

/// One row of the final table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Node name.
    pub node: String,
    /// `control-plane` or `worker`.
    pub role: String,
    /// How it ended.
    pub result: NodeResult,
    /// Steps that changed something.
    pub changed: u32,
    /// Steps found as wanted.
    pub found: u32,
    /// Milliseconds from the start of the command to the node's end.
    pub elapsed_ms: u64,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum News {
    /// The command starts on these nodes.
    Started {
        /// `apply`, `undo`…
        command: String,
        /// Cluster name.
        cluster: String,
        /// Node names in the cluster file's order.
        nodes: Vec<String>,
    },
    /// The installer turns to another part of the work on a node.
    Stage {
        /// Node name.
        node: String,
        /// What it does now.
        stage: Stage,
    },
    /// Bytes on their way to a node's store.
    Bytes {
        /// Node name.
        node: String,
        /// Of what the node lacked, bytes that are on their way or in its store by now, whoever gave them.
        sent_bytes: u64,
        /// Bytes the node lacked.
        total_bytes: u64,
    },
    /// The node's run has an id; `apply` again attaches to it.
    Run {
        /// Node name.
        node: String,
        /// Run id.
        run: String,
        /// It was begun earlier and is taken up again.
        resumed: bool,
    },
    /// A step moved.
    Step {
        /// Node name.
        node: String,
        /// Its place, from 1.
        number: usize,
        /// Steps in the plan; 0 where nobody knows (undo).
        of: usize,
        /// Phase of the step.
        phase: String,
        /// Step id.
        step: String,
        /// What became of it.
        state: StepState,
    },
    /// The node's run waits for a value from another node.
    Waiting {
        /// Node name.
        node: String,
        /// Name of the value (`join`, `joined`).
        value: String,
    },
    /// A line from the node, secrets masked there.
    Note {
        /// Node name.
        node: String,
        /// Step id.
        step: String,
        /// The line.
        text: String,
    },
    /// The connection to a node broke; the node carries on by itself.
    Lost {
        /// Node name.
        node: String,
        /// Why.
        cause: String,
        /// Milliseconds until the next try.
        retry_in_ms: u64,
    },
    /// The connection is back.
    Back {
        /// Node name.
        node: String,
    },
    /// A node failed.
    NodeFailed {
        /// Node name.
        node: String,
        /// Error code.
        code: String,
        /// What happened.
        message: String,
        /// The next thing to try.
        hint: Option<String>,
    },
    /// A thing that the cluster promised was tried from inside.
    Proof {
        /// What was tried.
        claim: String,
        /// It held.
        holds: bool,
        /// Evidence, or what went wrong.
        detail: String,
    },
    /// The command is over for every node.
    Finished {
        /// Milliseconds it took.
        elapsed_ms: u64,
        /// One row a node, in the cluster file's order.
        nodes: Vec<Row>,
    },
}

impl News {
    /// The news that a node failed.
    #[must_use]
    pub fn node_failed(node: &str, failure: &Failure) -> Self {
        Self::NodeFailed {
            node: node.to_owned(),
            code: failure.code.clone(),
            message: failure.message.clone(),
            hint: failure.hint.clone(),
        }
    }
}

/// The row's result and counts for how a run ended.
#[must_use]
pub fn result_of(outcome: &Outcome) -> (NodeResult, u32, u32) {
    match outcome {
        Outcome::Finished { changed: 0, found } => (NodeResult::AsWanted, 0, *found),
        Outcome::Finished { changed, found } => (NodeResult::Changed, *changed, *found),
        Outcome::Failed { .. } | Outcome::Interrupted => (NodeResult::Failed, 0, 0),
        Outcome::Undone { steps } => (NodeResult::Undone, *steps, 0),
        Outcome::Running { awaits: Some(_) } => (NodeResult::Waiting, 0, 0),
        Outcome::Running { awaits: None } => (NodeResult::CarriesOn, 0, 0),
    }
}
