//! What acceptance is about, and what the control plane keeps of one that passed.

use std::collections::BTreeMap;

use kdc_bundles::index::Digest;
use kdc_profiles::profile::Acceptance;
use serde::{Deserialize, Serialize};

/// Version of [`AcceptanceRecord`] that this build writes.
pub const ACCEPTANCE_VERSION: u32 = 1;

/// What was proved, and of what: as soon as anything of it differs, it has to be proved again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AcceptanceSubject {
    /// Cluster name.
    pub cluster: String,
    /// Digest of the plan for the whole cluster.
    pub plan: Digest,
    /// Digest of the bundle's signed index.
    pub index: Digest,
    /// What the profile promises.
    pub claims: Vec<Acceptance>,
    /// Runs in force on each node, oldest first, by node name. A node that was changed since, or
    /// taken back and installed anew, has other ones.
    pub runs: BTreeMap<String, Vec<String>>,
}

/// An acceptance that passed, as the control plane that proved it keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AcceptanceRecord {
    /// [`ACCEPTANCE_VERSION`].
    pub version: u32,
    /// What it was about.
    pub subject: AcceptanceSubject,
    /// How many proofs were made; every one of them holds.
    pub proofs: usize,
    /// Milliseconds since the epoch.
    pub at_unix_ms: u64,
}
