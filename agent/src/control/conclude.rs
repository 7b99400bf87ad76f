//! From all that was read in a round to all that is to be written. Pure.

use std::collections::{BTreeMap, BTreeSet};

use kdc_bundles::index::Digest;
use kdc_profiles::cluster::gpu::Gpu;
use serde_json::{Map, Value, json};

use super::{
    leave::leave,
    node::NodeSeen,
    progress::{Decision, Entry, Patience, PodSeen, Progress, STATE_ANNOTATION, Seen, decide},
    status::{NodeStatus, Status, condition_of},
    wanted::Wanted,
};
use crate::gpu::hami::{
    CORDON_ANNOTATION, NODE_LABEL, Problem, REGISTER_ANNOTATION, Weight,
    cordon::{self, RECORD_ANNOTATION, SWITCH_ANNOTATION},
    effective::{Defaults, effective},
    register,
    render::{Inputs, NodeView, Rendering, entries_of_node, render, with_entries_of_node},
    verify::{Said, differences},
    version::Version,
};

/// All that was read.
pub(super) struct Snapshot {
    pub(super) now: u64,
    pub(super) wanted: Wanted,
    pub(super) config: Option<String>,
    pub(super) owned: BTreeSet<String>,
    pub(super) defaults: Defaults,
    pub(super) nodes: BTreeMap<String, NodeSeen>,
    pub(super) pods: BTreeMap<String, Vec<PodSeen>>,
}

/// All that is to be written, in this order.
#[derive(Default)]
pub(super) struct Actions {
    /// Merge patches of nodes.
    pub(super) patches: BTreeMap<String, Value>,
    /// Text and owned nodes of the config.
    pub(super) config: Option<(String, BTreeSet<String>)>,
    /// Pods to delete: name, UID.
    pub(super) deletes: Vec<(String, String)>,
    /// Node, status, reason, words.
    pub(super) conditions: BTreeMap<String, (&'static str, &'static str, String)>,
    /// Node, good, reason, words.
    pub(super) events: Vec<(String, bool, &'static str, String)>,
    pub(super) status: Status,
    /// A node is in the middle of a change.
    pub(super) busy: bool,
}

impl Actions {
    /// There is nothing to write but what people are told.
    pub(super) fn is_idle(&self) -> bool {
        self.patches.is_empty() && self.config.is_none() && self.deletes.is_empty() && !self.busy
    }
}

/// What a round makes of one node on which HAMi is wanted.
struct Judged {
    decision: Decision,
    differences: Vec<String>,
}

pub(super) fn conclude(seen: &Snapshot, patience: &Patience) -> Actions {
    let wanted = seen.wanted.of_hami();
    let views = views(seen);
    let render_with = |wanted: &BTreeMap<String, Gpu>, owned: &BTreeSet<String>| {
        render(&Inputs {
            existing: seen.config.as_deref(),
            wanted,
            owned,
            nodes: &views,
            defaults: &seen.defaults,
        })
    };
    let full = render_with(&wanted, &seen.owned);
    let mut actions = Actions::default();
    actions.status.problems = full.problems.clone();
    actions.status.problems.extend(seen.nodes.values().flat_map(NodeSeen::unreadable));
    let refused = refused(&full);
    let judged = judge(seen, &wanted, &full, &refused, patience);
    actions.busy =
        judged.values().any(|one| one.decision.progress.as_ref().is_some_and(Progress::is_busy));
    let of = |entry| judged.iter().filter(move |(_, one)| one.decision.entry == entry);
    let now_wanted: BTreeMap<String, Gpu> =
        of(Entry::Wanted).map(|(name, _)| (name.clone(), wanted[name].clone())).collect();
    // What is wanted of the others stays as it is for now.
    let held = |name: &String| wanted.contains_key(name) && !now_wanted.contains_key(name);
    let free: BTreeSet<String> = seen.owned.iter().filter(|name| !held(name)).cloned().collect();
    let rendering = render_with(&now_wanted, &free);
    if let Some(mut text) = rendering.text.clone() {
        let mut owned = rendering.owned.clone();
        owned.extend(seen.owned.iter().filter(|name| held(name)).cloned());
        for (name, one) in of(Entry::Before) {
            let Some(progress) = &one.decision.progress else { continue };
            if !progress.ours {
                owned.remove(name);
            }
            if entries_of_node(&text, name) != progress.before {
                text = with_entries_of_node(&text, name, &progress.before).unwrap_or(text);
            }
        }
        let existing = seen.config.as_deref().unwrap_or_default();
        if text != existing || owned != seen.owned {
            actions.config = Some((text, owned));
        }
    }
    for (name, node) in &seen.nodes {
        match wanted.get(name) {
            Some(gpu) => {
                tend(seen, node, gpu, &full, (judged.get(name), refused.get(name)), &mut actions)
            }
            // While HAMi can't read its settings, nothing can be taken out of them.
            None if rendering.text.is_none() => actions.busy |= node.is_marked(),
            None => leave(seen, node, rendering.changed.contains(name), &mut actions),
        }
    }
    actions
}

fn views(seen: &Snapshot) -> BTreeMap<String, NodeView> {
    let view = |(name, node): (&String, &NodeSeen)| {
        (name.clone(), NodeView { labels: node.labels.clone(), health: node.health() })
    };
    seen.nodes.iter().map(view).collect()
}

fn refused(full: &Rendering) -> BTreeMap<String, Vec<String>> {
    let mut refused: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for problem in full.problems.iter().filter(|problem| problem.weight == Weight::Node) {
        if let Some(node) = &problem.node {
            refused.entry(node.clone()).or_default().push(problem.what.clone());
        }
    }
    refused
}

fn judge(
    seen: &Snapshot,
    wanted: &BTreeMap<String, Gpu>,
    full: &Rendering,
    refused: &BTreeMap<String, Vec<String>>,
    patience: &Patience,
) -> BTreeMap<String, Judged> {
    let mut judged = BTreeMap::new();
    // Nobody's settings can be changed or judged while HAMi can't read any.
    let Some(text) = &full.text else { return judged };
    let nodes = || {
        seen.nodes
            .values()
            .filter(|node| wanted.contains_key(&node.name) && !refused.contains_key(&node.name))
    };
    let mut turn = nodes()
        .find(|node| node.progress().is_some_and(|known| known.is_busy()))
        .map(|node| &node.name);
    let existing = seen.config.as_deref().unwrap_or_default();
    for node in nodes() {
        let gpu = serde_json::to_vec(&wanted[&node.name]).expect("texts and numbers serialise");
        let digest = Digest::of(&gpu).hex()[..16].to_owned();
        let differences = node_differences(seen, node, text);
        let known = node.progress();
        let mut decision = decide(
            known.as_ref(),
            &Seen {
                wanted: &digest,
                entries: &entries_of_node(existing, &node.name),
                entry_differs: full.changed.contains(&node.name),
                differences: &differences,
                pods: seen.pods.get(&node.name).map_or(&[], Vec::as_slice),
                turn: turn.is_none_or(|busy| *busy == node.name),
                now: seen.now,
            },
            patience,
        );
        if let Some(new) = &mut decision.progress {
            if known.as_ref().is_none_or(|known| known.wanted != new.wanted) {
                new.ours = seen.owned.contains(&node.name);
            }
            // A pod that the label brings reads the settings at once: they must be there before.
            new.labelled |= !is_labelled(node) && !full.changed.contains(&node.name);
            if new.is_busy() {
                turn = Some(&node.name);
            }
        }
        judged.insert(node.name.clone(), Judged { decision, differences });
    }
    judged
}

fn is_labelled(node: &NodeSeen) -> bool {
    node.labels.get(NODE_LABEL.0).is_some_and(|value| value == NODE_LABEL.1)
}

/// What the plugin says against what it would make of a text.
fn node_differences(seen: &Snapshot, node: &NodeSeen, text: &str) -> Vec<String> {
    let effective = effective(Some(text), &node.name, &seen.defaults);
    let resource = &seen.defaults.resource_count_name;
    let registered =
        match node.annotations.get(REGISTER_ANNOTATION).map(|text| register::parse(text)) {
            Some(Ok((_, gpus))) => Some(gpus),
            Some(Err(why)) => return vec![format!("`{REGISTER_ANNOTATION}` can't be read: {why}")],
            None => None,
        };
    let told = node.health();
    let said = Said {
        registered: registered.as_deref(),
        allocatable: node.allocatable.get(resource).copied(),
        health: told.as_ref(),
    };
    differences(&effective, resource, &said)
}

/// A merge patch in the making: only what differs from what is there.
pub(super) struct NodePatch<'n> {
    node: &'n NodeSeen,
    annotations: Map<String, Value>,
    pub(super) labels: Map<String, Value>,
}

impl<'n> NodePatch<'n> {
    pub(super) fn of(node: &'n NodeSeen) -> Self {
        Self { node, annotations: Map::new(), labels: Map::new() }
    }

    pub(super) fn annotate(&mut self, name: &str, value: Option<String>) {
        if self.node.annotations.get(name) != value.as_ref() {
            self.annotations.insert(name.to_owned(), value.into());
        }
    }

    pub(super) fn cordon(&mut self, cordons: &cordon::Cordons) {
        self.annotate(CORDON_ANNOTATION, cordons.cordoned.clone());
        self.annotate(RECORD_ANNOTATION, cordons.record.clone());
    }

    pub(super) fn finish(self, actions: &mut Actions) {
        if !self.annotations.is_empty() || !self.labels.is_empty() {
            let metadata = json!({
                "resourceVersion": self.node.version, "annotations": self.annotations, "labels": self.labels,
            });
            actions.patches.insert(self.node.name.clone(), json!({ "metadata": metadata }));
        }
    }
}

/// A node on which HAMi is wanted.
fn tend(
    seen: &Snapshot,
    node: &NodeSeen,
    gpu: &Gpu,
    full: &Rendering,
    (judged, refused): (Option<&Judged>, Option<&Vec<String>>),
    actions: &mut Actions,
) {
    let mut patch = NodePatch::of(node);
    let mut reasons = refused.cloned().unwrap_or_default();
    let known = node.progress();
    let progress = judged.map_or(known.as_ref(), |one| one.decision.progress.as_ref());
    if let Some(one) = judged {
        patch.annotate(STATE_ANNOTATION, progress.map(Progress::to_text));
        let ready = !full.changed.contains(&node.name);
        if ready && !is_labelled(node) && progress.is_some_and(|known| known.labelled) {
            patch.labels.insert(NODE_LABEL.0.to_owned(), NODE_LABEL.1.into());
        }
        actions.deletes.extend(one.decision.delete.clone());
        if let Some((good, reason, words)) = &one.decision.event {
            actions.events.push((node.name.clone(), *good, reason, words.clone()));
        }
        reasons.extend(progress.map(|known| known.reasons.clone()).unwrap_or_default());
        reasons.extend(one.differences.iter().cloned());
        reasons.dedup();
    }
    tend_cordons(seen, node, &mut patch, actions);
    patch.finish(actions);
    if full.text.is_some() {
        let condition = condition_of(progress, refused.map_or(&[], Vec::as_slice));
        note_condition(node, condition, actions);
    }
    let text = full.text.as_deref().or(seen.config.as_deref());
    actions.status.nodes.insert(
        node.name.clone(),
        NodeStatus {
            mode: gpu.mode.as_str().to_owned(),
            phase: progress.map(|known| known.phase),
            effective: effective(text, &node.name, &seen.defaults),
            reasons,
        },
    );
}

fn note_condition(
    node: &NodeSeen,
    said: (&'static str, &'static str, String),
    actions: &mut Actions,
) {
    let same = node
        .condition
        .as_ref()
        .is_some_and(|(status, reason)| *status == said.0 && *reason == said.1);
    if !same {
        actions.conditions.insert(node.name.clone(), said);
    }
}

fn tend_cordons(
    seen: &Snapshot,
    node: &NodeSeen,
    patch: &mut NodePatch<'_>,
    actions: &mut Actions,
) {
    let text = |name: &str| node.annotations.get(name).map(String::as_str);
    let health = node.health().unwrap_or_default();
    let verdicts = health.verdicts();
    let off = text(SWITCH_ANNOTATION) == Some("off");
    let cordons = cordon::merge(text(CORDON_ANNOTATION), text(RECORD_ANNOTATION), &verdicts, off);
    let images = seen.pods.get(&node.name).into_iter().flatten();
    let version = images.filter_map(|pod| Version::of_image(&pod.image)).max();
    if let (false, Some(version)) =
        (cordons.added.is_empty(), version.filter(|version| *version < Version::CORDONS))
    {
        let what = format!(
            "HAMi {version} has no cordon for one GPU (it came with {}): exclude {} in the cluster file",
            Version::CORDONS,
            cordons.added.join(", ")
        );
        let problem = Problem { weight: Weight::Nothing, node: Some(node.name.clone()), what };
        actions.status.problems.push(problem);
        return;
    }
    for uuid in &cordons.added {
        let why = verdicts.get(uuid.as_str()).map_or("", |(_, why)| why);
        actions.events.push((
            node.name.clone(),
            false,
            "GpuCordoned",
            format!("{uuid} gets no new pods: {why}"),
        ));
    }
    for uuid in &cordons.removed {
        actions.events.push((
            node.name.clone(),
            true,
            "GpuUncordoned",
            format!("{uuid} gets pods again"),
        ));
    }
    patch.cordon(&cordons);
}
