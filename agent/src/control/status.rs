//! What people and programs are told: the ConfigMap `kdc-gpu-status`, a condition of each node, and its events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    progress::{Phase, Progress},
    time::rfc3339,
};
use crate::gpu::hami::{Problem, effective::Effective};

/// The ConfigMap.
pub const STATUS_MAP: &str = "kdc-gpu-status";
/// Its key.
pub const STATUS_KEY: &str = "status.json";
/// The nodes' condition: `True` where what is wanted was proved.
pub const CONDITION: &str = "GpuSharingAsWanted";

/// Wanted against effective.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// What an operator should know.
    pub problems: Vec<Problem>,
    /// By node name.
    pub nodes: BTreeMap<String, NodeStatus>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Mode that is wanted.
    pub mode: String,
    /// Where it is; `None`: it waits for its turn, or is refused (see the problems).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// What a plugin that starts now makes of the settings.
    pub effective: Effective,
    /// What the plugin says otherwise, and why it is not as wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

impl Status {
    /// The ConfigMap's text.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).expect("texts and numbers serialise")
    }
}

/// Status, reason and words of a node's condition.
pub(super) fn condition_of(
    progress: Option<&Progress>,
    refused: &[String],
) -> (&'static str, &'static str, String) {
    if !refused.is_empty() {
        return ("False", "Refused", refused.join("; "));
    }
    let Some(progress) = progress else {
        return ("Unknown", "Waiting", "another node's settings are being changed".to_owned());
    };
    let reasons = progress.reasons.join("; ");
    match progress.phase {
        Phase::Applied => ("True", "Applied", "the device plugin says what is wanted".to_owned()),
        Phase::Restarting | Phase::Verifying => {
            ("Unknown", "Changing", "the settings are being changed".to_owned())
        }
        Phase::Drifted => ("False", "Drifted", reasons),
        Phase::Returning => ("False", "NotTaken", reasons),
        Phase::RolledBack => ("False", "RolledBack", reasons),
        Phase::Leaving => ("Unknown", "Changing", "the settings are being withdrawn".to_owned()),
    }
}

/// A condition as Kubernetes wants it.
pub(super) fn condition(said: &(&'static str, &'static str, String), now: u64) -> Value {
    let message: String = said.2.chars().take(1024).collect();
    json!({
        "type": CONDITION, "status": said.0, "reason": said.1, "message": message,
        "lastTransitionTime": rfc3339(now), "lastHeartbeatTime": rfc3339(now),
    })
}

/// An event of a node.
pub(super) fn event(node: &str, good: bool, reason: &str, words: &str, now: u64) -> Value {
    let message: String = words.chars().take(1000).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "generateName": "kdc-control-", "namespace": "default" },
        // Kubernetes' own components name a node's UID so.
        "involvedObject": { "apiVersion": "v1", "kind": "Node", "name": node, "uid": node },
        "type": if good { "Normal" } else { "Warning" },
        "reason": reason,
        "message": message,
        "source": { "component": "kdc-control" },
        "firstTimestamp": rfc3339(now), "lastTimestamp": rfc3339(now), "count": 1,
    })
}
