//! A node as its object shows it, made small: a cluster has many, and their objects are large.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    api::text,
    license::{self, CLOCK_ANNOTATION, FINGERPRINT_ANNOTATION},
    progress::{Progress, STATE_ANNOTATION},
    status::CONDITION,
};
use crate::audit::publish::HEAD_ANNOTATION;
use crate::gpu::hami::{
    CORDON_ANNOTATION, NODE_LABEL, Problem, REGISTER_ANNOTATION, VM_LABELS, Weight,
    cordon::{RECORD_ANNOTATION, SWITCH_ANNOTATION},
    health::{GpuHealth, HEALTH_ANNOTATION},
};

/// Annotations that are looked at.
const ANNOTATIONS: &[&str] = &[
    STATE_ANNOTATION,
    REGISTER_ANNOTATION,
    CORDON_ANNOTATION,
    RECORD_ANNOTATION,
    SWITCH_ANNOTATION,
    HEALTH_ANNOTATION,
    FINGERPRINT_ANNOTATION,
    CLOCK_ANNOTATION,
    HEAD_ANNOTATION,
];
/// Labels that say what a node is for in Kubernetes.
const ROLES: &[&str] = &["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

/// A node, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct NodeSeen {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    /// Devices by resource.
    pub(super) allocatable: BTreeMap<String, u64>,
    /// Status and reason of our condition.
    pub(super) condition: Option<(String, String)>,
    /// What matters for the licence.
    pub(super) member: Member,
}

/// A node as a part of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Member {
    /// When it was registered, as the API server wrote it.
    pub(super) created: String,
    /// It is a control plane.
    pub(super) control_plane: bool,
    /// Its kubelet says that it is Ready, and Kubernetes believes it.
    pub(super) ready: bool,
    /// Since when it is, or is not.
    pub(super) since: String,
    /// Its kubelet's last word. Goes on and on.
    pub(super) beat: String,
    /// `/etc/machine-id` and the board's UUID, as its kubelet tells them.
    pub(super) told: (String, String),
    /// Taints, as they are.
    pub(super) taints: Vec<Value>,
    /// Status and reason of the licence's condition.
    pub(super) licensed: Option<(String, String)>,
}

impl Member {
    fn of(node: &Value) -> Self {
        let (metadata, status) = (&node["metadata"], &node["status"]);
        let condition = |name: &str| {
            let all = status["conditions"].as_array();
            all.and_then(|all| all.iter().find(|one| one["type"] == name))
        };
        let ready = condition("Ready").cloned().unwrap_or_default();
        let info = &status["nodeInfo"];
        Self {
            created: text(&metadata["creationTimestamp"]).to_owned(),
            control_plane: ROLES.iter().any(|role| !metadata["labels"][role].is_null()),
            ready: ready["status"] == "True",
            since: text(&ready["lastTransitionTime"]).to_owned(),
            beat: text(&ready["lastHeartbeatTime"]).to_owned(),
            told: (text(&info["machineID"]).to_owned(), text(&info["systemUUID"]).to_owned()),
            taints: node["spec"]["taints"].as_array().cloned().unwrap_or_default(),
            licensed: condition(license::CONDITION)
                .map(|one| (text(&one["status"]).to_owned(), text(&one["reason"]).to_owned())),
        }
    }

    /// The same but for the kubelet's word, which comes again and again.
    fn says_the_same_as(&self, other: &Self) -> bool {
        Self { beat: String::new(), ..self.clone() }
            == Self { beat: String::new(), ..other.clone() }
    }
}

impl NodeSeen {
    /// From its object.
    pub(super) fn of(node: &Value) -> Self {
        let (metadata, status) = (&node["metadata"], &node["status"]);
        let is_label = |name: &str| name == NODE_LABEL.0 || VM_LABELS.contains(&name);
        let ours = |condition: &&Value| condition["type"] == CONDITION;
        let condition = status["conditions"].as_array().and_then(|all| all.iter().find(ours));
        // Devices have a domain in their name, and no unit in their number.
        let devices = status["allocatable"].as_object().into_iter().flatten();
        let devices = devices.filter(|(name, _)| name.contains('/'));
        Self {
            name: text(&metadata["name"]).to_owned(),
            version: text(&metadata["resourceVersion"]).to_owned(),
            labels: texts(&metadata["labels"], is_label),
            annotations: texts(&metadata["annotations"], |name| ANNOTATIONS.contains(&name)),
            allocatable: devices
                .filter_map(|(name, number)| Some((name.clone(), number.as_str()?.parse().ok()?)))
                .collect(),
            condition: condition
                .map(|one| (text(&one["status"]).to_owned(), text(&one["reason"]).to_owned())),
            member: Member::of(node),
        }
    }

    /// The same but for the version, which each heartbeat changes.
    pub(super) fn says_the_same_as(&self, other: &Self) -> bool {
        let Self { name, version: _, labels, annotations, allocatable, condition, member } = self;
        (name, labels, annotations, allocatable, condition)
            == (
                &other.name,
                &other.labels,
                &other.annotations,
                &other.allocatable,
                &other.condition,
            )
            && member.says_the_same_as(&other.member)
    }

    /// Something of kdc's own stands on it.
    pub(super) fn is_marked(&self) -> bool {
        [STATE_ANNOTATION, RECORD_ANNOTATION]
            .iter()
            .any(|name| self.annotations.contains_key(*name))
    }

    /// What its agent says of its GPUs; nothing where that makes no sense ([`Self::unreadable`] tells so).
    pub(super) fn health(&self) -> Option<GpuHealth> {
        GpuHealth::parse(self.annotations.get(HEALTH_ANNOTATION)?).ok()
    }

    /// How far kdc is with it; nothing where that makes no sense ([`Self::unreadable`] tells so).
    pub(super) fn progress(&self) -> Option<Progress> {
        self.annotations.get(STATE_ANNOTATION).and_then(|text| Progress::parse(text))
    }

    /// Annotations that make no sense: what they say is left aside, and not in silence.
    pub(super) fn unreadable(&self) -> Vec<Problem> {
        let text = |name: &str| self.annotations.get(name);
        let health = text(HEALTH_ANNOTATION).and_then(|text| GpuHealth::parse(text).err());
        let health = health.map(|why| format!("`{HEALTH_ANNOTATION}` can't be read: {why}"));
        let state = text(STATE_ANNOTATION).filter(|text| Progress::parse(text).is_none());
        let state =
            state.map(|_| format!("`{STATE_ANNOTATION}` can't be read: this node is begun anew"));
        let tell = |what| Problem { weight: Weight::Nothing, node: Some(self.name.clone()), what };
        health.into_iter().chain(state).map(tell).collect()
    }
}

/// Labels or annotations, as far as they are looked at.
fn texts(map: &Value, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
    let pairs = map.as_object().into_iter().flatten().filter(|(name, _)| wanted(name));
    pairs.map(|(name, value)| (name.clone(), text(value).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_large_object_little_is_kept_and_a_heartbeat_changes_nothing() {
        let mut node = serde_json::json!({
            "metadata": {
                "name": "w1", "resourceVersion": "7",
                "labels": { "gpu": "on", "zone": "a" },
                "annotations": { CORDON_ANNOTATION: "GPU-1", "other": "x" },
            },
            "status": {
                "allocatable": { "cpu": "4", "nvidia.com/gpu": "8", "example.com/odd": "1k" },
                "conditions": [
                    { "type": "Ready", "status": "True", "lastHeartbeatTime": "1" },
                    { "type": CONDITION, "status": "False", "reason": "Drifted" },
                ],
                "images": [{ "names": ["large"] }],
            },
        });
        let seen = NodeSeen::of(&node);
        let pair = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        assert_eq!(seen.labels, pair("gpu", "on"));
        assert_eq!(seen.annotations, pair(CORDON_ANNOTATION, "GPU-1"));
        assert_eq!(seen.allocatable, BTreeMap::from([("nvidia.com/gpu".to_owned(), 8)]));
        assert_eq!(seen.condition, Some(("False".to_owned(), "Drifted".to_owned())));
        assert!(seen.member.ready && !seen.member.control_plane && seen.member.beat == "1");
        node["metadata"]["resourceVersion"] = "8".into();
        node["status"]["conditions"][0]["lastHeartbeatTime"] = "2".into();
        let later = NodeSeen::of(&node);
        assert!(later.version == "8" && later.says_the_same_as(&seen));
        node["metadata"]["labels"]["gpu"] = "off".into();
        assert!(!NodeSeen::of(&node).says_the_same_as(&seen));
    }

    #[test]
    fn what_can_not_be_read_is_told_with_its_node_and_annotation() {
        let mut node = NodeSeen { name: "w1".to_owned(), ..NodeSeen::default() };
        assert_eq!(node.unreadable(), []);
        node.annotations.insert(HEALTH_ANNOTATION.to_owned(), r#"{"gpus":[]}"#.to_owned());
        assert_eq!(node.unreadable(), []);
        node.annotations.insert(HEALTH_ANNOTATION.to_owned(), "[".to_owned());
        node.annotations.insert(STATE_ANNOTATION.to_owned(), "{}".to_owned());
        let problems = node.unreadable();
        assert!(problems.iter().all(|one| one.node.as_deref() == Some("w1")));
        let said: Vec<&str> = problems.iter().map(|one| one.what.as_str()).collect();
        assert!(said.len() == 2 && said[0].contains(HEALTH_ANNOTATION), "{said:?}");
        assert!(said[1].contains(STATE_ANNOTATION), "{said:?}");
    }
}
