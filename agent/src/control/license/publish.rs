//! What people, programs and nodes are told: the ConfigMap `kdc-license-standing`, a condition and where it is asked for a
//! taint of nodes beyond the licence, events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{CONDITION, STANDING_MAP, TAINT, turn::Turn};
use crate::{
    control::{node::NodeSeen, time::rfc3339, wanted::NAMESPACE},
    license::{Excess, Standing, Timestamp},
};

/// Longest text that is read.
pub const MAX_BYTES: usize = 1024 * 1024;
/// It is written again after this, in seconds, also where nothing changed, so that its age can be told.
const FRESH_EVERY: i64 = 3600;

/// What is published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    /// The form.
    pub v: u32,
    /// When, by the time that licences are judged by.
    pub at: Timestamp,
    /// UID of the namespace `kube-system`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// How the licence stands; without the customer's name, since every node reads it.
    pub standing: Standing,
    /// Nodes beyond the licence, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub beyond: BTreeMap<String, String>,
}

impl Published {
    /// Of a turn.
    pub(in crate::control) fn of(turn: &Turn, cluster: Option<&str>) -> Self {
        let mut standing = turn.standing.clone();
        if let Some(license) = &mut standing.license {
            license.customer.clear();
        }
        // It counts on with each look.
        standing.excess = Excess { samples: 0, ..standing.excess };
        let beyond = turn.beyond.iter().map(|(name, why)| (name.clone(), why.words.clone()));
        Self {
            v: 1,
            at: standing.clock.now,
            cluster: cluster.map(str::to_owned),
            beyond: beyond.collect(),
            standing,
        }
    }

    /// Read the text.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("{} bytes; at most {MAX_BYTES} are read", text.len()));
        }
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// The text.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).expect("texts and numbers serialise")
    }

    /// It says more than that time went by.
    #[must_use]
    pub fn differs_from(&self, before: &Self) -> bool {
        let bare = |published: &Self| {
            let mut bare = published.clone();
            bare.at = Timestamp::default();
            bare.standing.clock.now = Timestamp::default();
            bare
        };
        bare(self) != bare(before) || self.at.since(before.at).abs() >= FRESH_EVERY
    }
}

/// What is to be written to a node's taints, if something is.
pub(in crate::control) fn taints(node: &NodeSeen, wanted: bool) -> Option<Value> {
    let is_ours = |taint: &&Value| taint["key"] == TAINT.0;
    let has = node.member.taints.iter().any(|taint| is_ours(&taint) && taint["effect"] == TAINT.1);
    let ours = node.member.taints.iter().filter(is_ours).count();
    if (has && ours == 1) == wanted && (wanted || ours == 0) {
        return None;
    }
    let others = node.member.taints.iter().filter(|taint| !is_ours(taint)).cloned();
    let mine = wanted.then(|| json!({ "key": TAINT.0, "effect": TAINT.1 }));
    let all: Vec<Value> = others.chain(mine).collect();
    // A list is replaced whole: its version says that nobody wrote in between.
    Some(json!({ "metadata": { "resourceVersion": node.version }, "spec": { "taints": all } }))
}

/// What is to be written to a node's condition, if something is. A node that was never beyond the licence has none.
pub(in crate::control) fn condition(
    node: &NodeSeen,
    beyond: Option<(&'static str, &str)>,
) -> Option<(&'static str, &'static str, String)> {
    let known = node.member.licensed.as_ref();
    let is = |status: &str, reason: &str| {
        known.is_some_and(|known| known.0 == status && known.1 == reason)
    };
    match beyond {
        Some((reason, words)) => {
            (!is("False", reason)).then(|| ("False", reason, words.to_owned()))
        }
        None => {
            let within = || ("True", "Within", "the licence lets this node in".to_owned());
            (known.is_some() && !is("True", "Within")).then(within)
        }
    }
}

/// A condition as Kubernetes wants it.
pub(in crate::control) fn condition_patch(
    said: &(&'static str, &'static str, String),
    now: u64,
) -> Value {
    let message: String = said.2.chars().take(1024).collect();
    json!({ "status": { "conditions": [{
        "type": CONDITION, "status": said.0, "reason": said.1, "message": message,
        "lastTransitionTime": rfc3339(now), "lastHeartbeatTime": rfc3339(now),
    }] } })
}

/// Where the events of the whole cluster's licence are.
pub(in crate::control) fn events_path() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/events")
}

/// An event of the whole cluster's licence.
pub(in crate::control) fn cluster_event(good: bool, reason: &str, words: &str, now: u64) -> Value {
    let message: String = words.chars().take(1000).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "generateName": "kdc-license-", "namespace": NAMESPACE },
        "involvedObject": {
            "apiVersion": "v1", "kind": "ConfigMap", "name": STANDING_MAP, "namespace": NAMESPACE,
        },
        "type": if good { "Normal" } else { "Warning" },
        "reason": reason,
        "message": message,
        "source": { "component": "kdc-control" },
        "firstTimestamp": rfc3339(now), "lastTimestamp": rfc3339(now), "count": 1,
    })
}
