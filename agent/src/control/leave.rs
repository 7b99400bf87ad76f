//! A node on which HAMi is not wanted any more: what kdc put there goes, in an order that any death of a leader leaves
//! whole: the record says that it goes, the entry goes, the pod that read it goes, the record goes.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    conclude::{Actions, NodePatch, Snapshot},
    node::NodeSeen,
    progress::{Phase, PodSeen, Progress, STATE_ANNOTATION},
};
use crate::gpu::hami::{
    CORDON_ANNOTATION, NODE_LABEL,
    cordon::{self, RECORD_ANNOTATION},
};

/// Take back what is kdc's on a node; `entry` says that the settings still had something of it before this round.
pub(super) fn leave(seen: &Snapshot, node: &NodeSeen, entry: bool, actions: &mut Actions) {
    if !node.is_marked() {
        return;
    }
    let mut patch = NodePatch::of(node);
    let text = |name: &str| node.annotations.get(name).map(String::as_str);
    let none = BTreeMap::new();
    patch.cordon(&cordon::merge(text(CORDON_ANNOTATION), text(RECORD_ANNOTATION), &none, true));
    let known = node.progress();
    let pods = || seen.pods.get(&node.name).into_iter().flatten().filter(|pod| !pod.leaving);
    match known.as_ref().filter(|_| entry) {
        Some(known) if known.phase != Phase::Leaving => {
            patch.annotate(STATE_ANNOTATION, Some(begin(known, pods().next(), seen.now).to_text()));
            actions.busy = true;
        }
        Some(_) => actions.busy = true,
        None => {
            let read_it = |pod: &&PodSeen| {
                known.as_ref().is_some_and(|known| {
                    known.phase == Phase::Leaving && known.pod.as_ref() == Some(&pod.uid)
                })
            };
            let pod = pods().find(read_it).map(|pod| (pod.name.clone(), pod.uid.clone()));
            if pod.is_some() {
                actions.busy = true;
                // One node's plugin at a time.
                if actions.deletes.is_empty() {
                    actions.deletes.extend(pod);
                }
            } else {
                end(node, known.as_ref(), &mut patch, actions);
            }
        }
    }
    patch.finish(actions);
}

/// The pod goes by itself with the label that kdc set; else it is to start anew, with the cluster's defaults, for
/// whoever wants it there.
fn begin(known: &Progress, pod: Option<&PodSeen>, now: u64) -> Progress {
    let mut leaving = known.at(Phase::Leaving, now);
    leaving.pod = pod.filter(|_| !known.labelled).map(|pod| pod.uid.clone());
    leaving.before.clear();
    leaving.reasons.clear();
    leaving
}

fn end(
    node: &NodeSeen,
    known: Option<&Progress>,
    patch: &mut NodePatch<'_>,
    actions: &mut Actions,
) {
    patch.annotate(STATE_ANNOTATION, None);
    if known.is_some_and(|known| known.labelled) && node.labels.contains_key(NODE_LABEL.0) {
        patch.labels.insert(NODE_LABEL.0.to_owned(), Value::Null);
    }
    if node.condition.as_ref().is_some_and(|(_, reason)| reason != "NotWanted") {
        let said = ("Unknown", "NotWanted", "HAMi is not wanted on this node any more".to_owned());
        actions.conditions.insert(node.name.clone(), said);
    }
    actions.events.push((
        node.name.clone(),
        true,
        "GpuSharingWithdrawn",
        "kdc's settings for this node are withdrawn".to_owned(),
    ));
}
