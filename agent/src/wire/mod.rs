//! The wire: length-framed JSON between installer and agent over one SSH channel's stdio.
//!
//! A frame is a big-endian `u32` length and that many bytes of JSON, at most [`MAX_FRAME_BYTES`].
//! First the agent sends [`Hello`]; then the installer sends [`Request`]s with ids of its own
//! choosing and the agent answers each with one [`Reply`], in any order, with [`Event`]s between.
//! Bulk bytes never go through here: pieces travel on a second channel (`kdc-agent receive`).

mod acceptance;
mod answer;
mod audit;
mod event;
mod failure;
pub mod frame;
mod peer;
pub mod piece;

use serde::{Deserialize, Serialize};

pub use acceptance::{ACCEPTANCE_VERSION, AcceptanceRecord, AcceptanceSubject};
pub use answer::{MissingPieces, Proof, Received, Surveyed};
pub use audit::{AuditSections, ShownPlan};
pub use event::{Event, EventBody, Outcome, RunSummary};
pub use failure::Failure;
pub use peer::Peer;

use crate::{
    facts::Facts,
    step::{NodePlan, PlannedStep},
};

/// Largest frame either side accepts.
pub const MAX_FRAME_BYTES: u32 = 96 * 1024 * 1024;

/// Most peers a node is introduced to.
pub const MAX_PEERS: usize = 4096;

/// Oldest and newest protocol this build speaks.
pub const PROTOCOL: (u32, u32) = (1, 1);

/// First frame, agent to installer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// Oldest protocol the agent speaks.
    pub oldest: u32,
    /// Newest protocol the agent speaks.
    pub newest: u32,
    /// Agent version, for people.
    pub agent_version: String,
    /// True when the agent runs as root.
    pub root: bool,
}

/// A text that never shows: `Debug` prints `****`. On the wire it is the text itself.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// Wrap a secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret itself: only for the place that must use it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("****")
    }
}

/// Installer to agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Chosen by the installer, returned in the [`Reply`].
    pub id: u64,
    /// What is asked.
    #[serde(flatten)]
    pub body: RequestBody,
}

/// What an installer can ask of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum RequestBody {
    /// Read every fact. Changes nothing.
    Facts,
    /// For each step: is it as wanted now? Changes nothing.
    Survey {
        /// Steps to judge.
        steps: Vec<PlannedStep>,
        /// Index whose content in this node's store may be read for it: what an archive unpacks to
        /// stands only in the archive.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        index: Option<kdc_bundles::index::Digest>,
    },
    /// Take the hold on this node (a file under `/run/kdc`, freed when the session ends). Refused,
    /// naming the holder, while another live session has it.
    Hold {
        /// Who asks, for people (`ops@laptop pid 4711`).
        holder: String,
        /// Which cluster.
        cluster: String,
    },
    /// Hand over the signed index and the keys to trust. The agent verifies before it stores.
    OfferIndex {
        /// The index, byte for byte as signed.
        index: String,
        /// The minisign signature, byte for byte.
        signature: String,
        /// Public keys (minisign base64 line) the operator trusts.
        keys: Vec<String>,
    },
    /// Which pieces of these blobs are not in the store yet?
    Missing {
        /// Blob digests.
        blobs: Vec<kdc_bundles::index::Digest>,
    },
    /// Begin to share the offered index's content with other nodes, and to fetch these blobs from
    /// them, in a unit of its own. Asked again it goes on as it is.
    Share {
        /// What this node wants; it passes on whatever of the index it has.
        blobs: Vec<kdc_bundles::index::Digest>,
    },
    /// Who else shares: all of them, each time. This node itself may be among them.
    Peers {
        /// At most [`MAX_PEERS`].
        peers: Vec<Peer>,
    },
    /// End the unit that shares. What it fetched stays.
    Unshare,
    /// Start (or resume) the run of this plan as a unit of its own. Answers once it is started.
    StartRun {
        /// Run id chosen by the installer (`2026-11-23-1-…`); an unfinished run of an equal plan
        /// is resumed under its own id instead.
        run: String,
        /// The plan.
        plan: NodePlan,
    },
    /// Stream the run's events after this sequence number until the run ends.
    Attach {
        /// Run id.
        run: String,
        /// Last sequence number already seen; 0 for all.
        after: u64,
    },
    /// Hand a value to a waiting run. Kept in memory-backed files only root reads.
    Provide {
        /// Run id.
        run: String,
        /// Name of the value.
        name: String,
        /// The value.
        value: SecretText,
    },
    /// Make join credentials on a control-plane node.
    MintJoin {
        /// How long they are good for.
        ttl_secs: u64,
    },
    /// List the runs of this node.
    Runs,
    /// Undo everything in force on this node, newest first, as a unit of its own. Answers with the
    /// run id to attach to.
    Undo,
    /// Remove from the store what nothing in force needs. Refused while a run goes on.
    Prune {
        /// Only say what would go.
        dry_run: bool,
    },
    /// After a finished undo: remove kdc's own files from the node and end.
    Depart,
    /// The admin kubeconfig of a control-plane node.
    Kubeconfig,
    /// Which acceptance passed here last. Changes nothing.
    Acceptance,
    /// Prove from inside what the subject claims: a pod on each node reaches a pod on every other
    /// node, and a Service by name. Cleans up after itself, and keeps a record when every proof holds.
    Accept {
        /// Image for the test pods, present on every node; empty where no claim needs one.
        image: String,
        /// What it is about; the nodes named there must take part.
        subject: AcceptanceSubject,
        /// Give up after this long.
        timeout_secs: u64,
        /// Proofs that were made on the nodes already: a record is kept only when they hold too.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        elsewhere: Vec<Proof>,
    },
    /// How GPU sharing stands in the cluster, asked of a control plane. Changes nothing.
    GpuSharing,
    /// How the site stands with its licence, asked of a control plane. Changes nothing.
    License,
    /// How the site would stand with a licence, asked of a control plane before nodes are let in. Changes nothing.
    LicenseStanding {
        /// The file that the cluster file names, letter by letter.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<String>,
        /// Nodes that are part of the cluster by their receipts.
        enrolled: Vec<crate::license::Enrolled>,
    },
    /// Install a licence, or a vendor's list of licences that count no more.
    InstallLicense {
        /// The file, letter by letter.
        file: String,
    },
    /// Remove a licence, in whatever state it is.
    RemoveLicense {
        /// Which, by its id; absent for all. (`id` is the request's own.)
        #[serde(default, skip_serializing_if = "Option::is_none")]
        license: Option<String>,
    },
    /// The node's audit log, sealed by its key. What waits in the spool is taken in first.
    Audit {
        /// Name of this node, as the cluster file has it.
        node: String,
        /// On a control plane: the heads that the cluster keeps, too.
        heads: bool,
    },
    /// A plan was shown to an operator; on record where the node keeps an audit log already.
    PlanShown(ShownPlan),
    /// Does a pod, the kubelet, containerd or kdc-agent of this node reach outside? Changes nothing.
    OutsideTraffic {
        /// Name of this node, for the proof's words.
        node: String,
        /// Ranges that belong to the cluster: every node's address, pods, Services.
        inside: Vec<String>,
        /// Ranges of pods.
        pods: Vec<String>,
    },
}

/// Agent to installer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Message {
    /// The answer to one request; the last message about it.
    Reply {
        /// The request's id.
        id: u64,
        /// The answer.
        result: Result<Reply, Failure>,
    },
    /// Something happened in a run or in a long request.
    Event(Event),
}

/// Answers, one kind per request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Reply {
    /// To `Facts`.
    Facts(Box<Facts>),
    /// To `Survey`, in the order asked.
    Survey {
        /// One answer a step.
        steps: Vec<Surveyed>,
    },
    /// To `Missing`.
    Missing {
        /// Per blob: indexes of missing pieces. Complete blobs are left out.
        blobs: Vec<MissingPieces>,
    },
    /// To `Share`.
    Sharing {
        /// Where this node listens for the others.
        port: u16,
        /// Digest of the certificate (DER) it shows and wants the others to know.
        certificate: kdc_bundles::index::Digest,
    },
    /// To `StartRun` and `Undo`.
    Started {
        /// The run to attach to.
        run: String,
        /// An unfinished run of the same plan was taken up.
        resumed: bool,
    },
    /// To `Attach`: the run ended.
    Ended {
        /// How.
        outcome: Outcome,
    },
    /// To `MintJoin`: JSON of [`JoinCredentials`].
    Join {
        /// For the joining node only.
        credentials: SecretText,
    },
    /// To `Runs`.
    Runs {
        /// Oldest first.
        runs: Vec<RunSummary>,
    },
    /// To `Kubeconfig`.
    Kubeconfig {
        /// The file.
        content: SecretText,
    },
    /// To `Acceptance`.
    Acceptance {
        /// The record, if there is one.
        record: Option<Box<AcceptanceRecord>>,
    },
    /// To `Accept`.
    Accepted {
        /// What was proved, one line each, in order.
        proofs: Vec<Proof>,
    },
    /// To `OutsideTraffic`.
    OutsideTraffic {
        /// What was seen.
        proof: Proof,
    },
    /// To `GpuSharing`.
    GpuSharing(Box<crate::control::report::SharingReport>),
    /// To `LicenseStanding`.
    LicenseStanding(Box<crate::license::Standing>),
    /// To `License`, `InstallLicense` and `RemoveLicense`: how it stands then.
    License(Box<crate::control::license::report::LicenseReport>),
    /// To `Audit`.
    Audit(AuditSections),
    /// To `Prune`.
    Pruned {
        /// Files that are gone, or would be.
        files: u64,
        /// What they took on the disk.
        bytes: u64,
    },
    /// Done, nothing to say.
    Done,
}

/// What a joining node needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinCredentials {
    /// `host:port` of the API server.
    pub endpoint: String,
    /// Bootstrap token.
    pub token: SecretText,
    /// `sha256:…` of the CA's public key.
    pub ca_cert_hash: String,
}
