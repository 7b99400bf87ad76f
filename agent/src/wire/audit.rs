//! The audit log over the wire.

use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};

/// A plan that was shown, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownPlan {
    /// To whom, for people (`ops@laptop pid 4711`).
    pub operator: String,
    /// Which cluster's.
    pub cluster: String,
    /// Digest of the cluster's plan.
    pub plan: Digest,
    /// Nodes in it.
    pub nodes: u64,
    /// Steps of the node that is told.
    pub steps: u64,
}

/// A node's log, and what its cluster knows of all logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditSections {
    /// A section of an export ([`crate::audit::export`]), base64: it may hold lines that are no text any more.
    pub log: String,
    /// The heads that the cluster keeps, as another section; only from a control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<String>,
    /// The licence, and how the cluster stands with it, as another section; only from a control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Why the cluster could not be asked for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unasked: Option<String>,
}
