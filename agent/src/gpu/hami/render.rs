//! The one writer of `config.json`: from the text that is there and what is wanted to the text that should be there.
//!
//! Entries of other nodes, unknown fields and everything else come out letter by letter as they went in; where nothing
//! is to be changed the whole text does. A text that HAMi can't read is never written over: somebody's settings are in it.

use std::collections::{BTreeMap, BTreeSet};

use kdc_profiles::cluster::gpu::{CudaLog, Gpu, GpuMode};
use serde_json::{Value, json};

use super::{
    MAX_TEXT, Problem, Weight,
    advice::{foreign, notes, refusals},
    effective::{Defaults, FIELDS},
    health::GpuHealth,
    object::{Object, items},
};

/// Name of the list in `config.json`.
const LIST: &str = "nodeconfig";
/// Fields of a wanted node's entry that are kdc's; all others are somebody else's.
const OURS: &[&str] = &[
    "operatingmode",
    "devicesplitcount",
    "devicememoryscaling",
    "devicecorescaling",
    "preconfigureddevicememory",
    "enablenumatopology",
    "libcudaloglevel",
    "filterdevices",
];

/// What a node is, as far as settings depend on it.
#[derive(Debug, Clone, Default)]
pub struct NodeView {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What its agent says of its GPUs, where it does.
    pub health: Option<GpuHealth>,
}

/// What to render from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The text that is there.
    pub existing: Option<&'a str>,
    /// What is wanted of each node that HAMi's plugin runs on.
    pub wanted: &'a BTreeMap<String, Gpu>,
    /// Nodes whose entries kdc wrote before; what is not wanted any more of them is taken away.
    pub owned: &'a BTreeSet<String>,
    /// Every node of the cluster.
    pub nodes: &'a BTreeMap<String, NodeView>,
    /// What holds without an entry.
    pub defaults: &'a Defaults,
}

/// What should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendering {
    /// The text; `None`: nothing may be written.
    pub text: Option<String>,
    /// Nodes whose entries are kdc's after it is written.
    pub owned: BTreeSet<String>,
    /// Nodes whose entries are others than before.
    pub changed: BTreeSet<String>,
    /// What an operator should know.
    pub problems: Vec<Problem>,
}

/// The members of `config.json` and its entries.
struct Document {
    members: Object,
    entries: Vec<Object>,
}

impl Document {
    fn read(text: &str) -> Result<Self, String> {
        if text.len() > MAX_TEXT {
            return Err(format!("it has {} bytes; at most {MAX_TEXT} are read", text.len()));
        }
        if text.trim().is_empty() {
            return Ok(Self { members: Object::default(), entries: Vec::new() });
        }
        let members =
            Object::parse(text).map_err(|error| format!("it is no JSON object: {error}"))?;
        if members.all(LIST).count() > 1 {
            return Err(format!("`{LIST}` stands in it more than once"));
        }
        let list = match members.all(LIST).next() {
            None | Some("null") => Vec::new(),
            Some(list) => {
                items(list).map_err(|why| format!("`{LIST}` is no list that can be read: {why}"))?
            }
        };
        let mut entries = Vec::with_capacity(list.len());
        for (place, entry) in list.iter().enumerate() {
            let entry = Object::parse(entry)
                .map_err(|_| format!("entry {place} of `{LIST}` is no object"))?;
            for (field, of) in FIELDS {
                if let Some(value) = entry.value(field).filter(|value| !of.takes(value)) {
                    let name = entry.value("name").unwrap_or(Value::Null);
                    let value: String = value.to_string().chars().take(80).collect();
                    return Err(format!(
                        "entry {place} ({name}) has `{field}: {value}`, and it must be {}",
                        of.words()
                    ));
                }
            }
            entries.push(entry);
        }
        Ok(Self { members, entries })
    }

    fn text(mut self) -> String {
        let lines: Vec<String> = self.entries.iter().map(|entry| entry.to_text()).collect();
        let list =
            if lines.is_empty() { "[]".to_owned() } else { format!("[\n{}\n]", lines.join(",\n")) };
        self.members.set(LIST, list);
        self.members.to_lines()
    }
}

pub(super) fn name_of(entry: &Object) -> Option<String> {
    entry.value("name").and_then(|name| Some(name.as_str()?.to_owned()))
}

/// The entries of a text that HAMi can read.
pub(super) fn entries_of(text: &str) -> Result<Vec<Object>, String> {
    Document::read(text).map(|document| document.entries)
}

/// The entries of one node as they stand in a text, to put them back later; empty where it has none.
#[must_use]
pub fn entries_of_node(text: &str, node: &str) -> Vec<String> {
    let entries = entries_of(text).unwrap_or_default();
    let of_node = entries.iter().filter(|entry| name_of(entry).as_deref() == Some(node));
    of_node.map(Object::to_text).collect()
}

/// The text with a node's entries replaced by others, at the place of the first; `None` where the text can't be read.
#[must_use]
pub fn with_entries_of_node(text: &str, node: &str, entries: &[String]) -> Option<String> {
    let mut document = Document::read(text).ok()?;
    let is_node = |entry: &Object| name_of(entry).as_deref() == Some(node);
    let place = document.entries.iter().position(is_node).unwrap_or(document.entries.len());
    document.entries.retain(|entry| !is_node(entry));
    let parsed = entries.iter().filter_map(|entry| Object::parse(entry).ok());
    document.entries.splice(place..place, parsed);
    Some(document.text())
}

/// What HAMi is told for what is wanted.
fn fields(gpu: &Gpu) -> Vec<(&'static str, Value)> {
    let mode = if gpu.mode == GpuMode::Mig { "mig" } else { "hami-core" };
    let mut fields = vec![("operatingmode", json!(mode))];
    let mut add = |name, value: Option<Value>| fields.extend(value.map(|value| (name, value)));
    add("devicesplitcount", gpu.split_count.map(Value::from));
    add("devicememoryscaling", gpu.memory_scaling.map(|scaling| json!(scaling.value())));
    add("devicecorescaling", gpu.core_scaling.map(|scaling| json!(scaling.value())));
    add("preconfigureddevicememory", gpu.preconfigured_memory_mib.map(Value::from));
    add("enablenumatopology", gpu.numa_topology.then_some(Value::Bool(true)));
    // A text: as a number it would keep HAMi from reading any node's settings.
    let level = |level| match level {
        CudaLog::Errors => "0",
        CudaLog::Warnings => "1",
        CudaLog::Infos => "3",
        CudaLog::Debugs => "4",
    };
    add("libcudaloglevel", gpu.log_level.map(|log| json!(level(log))));
    let filter = || json!({"uuid": gpu.exclude.uuids, "index": gpu.exclude.indexes});
    add("filterdevices", (!gpu.exclude.is_empty()).then(filter));
    fields
}

/// Whether a value has the same effect: 1 and 1.0 do, and a filter is compared without what it lacks.
fn same_effect(name: &str, left: &Value, right: &Value) -> bool {
    let list = |value: &Value, of: &str| {
        value.get(of).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left == right,
        _ if name == "filterdevices" => {
            ["uuid", "index"].iter().all(|of| list(left, of) == list(right, of))
        }
        _ => left == right,
    }
}

/// The entry says exactly what is wanted of our fields.
fn says(entry: &Object, fields: &[(&'static str, Value)]) -> bool {
    OURS.iter().all(|name| {
        let wanted = fields.iter().find(|(known, _)| known == name).map(|(_, value)| value);
        match (entry.value(name), wanted) {
            (Some(there), Some(wanted)) => {
                entry.all(name).count() == 1 && same_effect(name, &there, wanted)
            }
            (None, None) => true,
            _ => false,
        }
    })
}

/// Bring one node's entries to what is wanted; what they say beside our fields stays.
fn settle(entries: &mut Vec<Object>, node: &str, gpu: &Gpu) -> bool {
    let fields = fields(gpu);
    let is_node = |entry: &Object| name_of(entry).as_deref() == Some(node);
    let of_node: Vec<usize> =
        (0..entries.len()).filter(|place| is_node(&entries[*place])).collect();
    let Some((first, others)) = of_node.split_first() else {
        let mut entry = Object::default();
        entry.set("name", json!(node).to_string());
        fields.iter().for_each(|(name, value)| entry.set(name, value.to_string()));
        entries.push(entry);
        return true;
    };
    let silent = |place: &usize| OURS.iter().all(|name| entries[*place].all(name).next().is_none());
    if says(&entries[*first], &fields) && others.iter().all(silent) {
        return false;
    }
    for place in &of_node {
        OURS.iter().for_each(|name| entries[*place].remove(name));
    }
    fields.iter().for_each(|(name, value)| entries[*first].set(name, value.to_string()));
    remove_bare(entries, others);
    true
}

/// Take our fields out of a node's entries; an entry that says nothing else goes.
fn withdraw(entries: &mut Vec<Object>, node: &str) -> bool {
    let is_node = |entry: &Object| name_of(entry).as_deref() == Some(node);
    let of_node: Vec<usize> =
        (0..entries.len()).filter(|place| is_node(&entries[*place])).collect();
    for place in &of_node {
        OURS.iter().for_each(|name| entries[*place].remove(name));
    }
    remove_bare(entries, &of_node);
    !of_node.is_empty()
}

fn remove_bare(entries: &mut Vec<Object>, places: &[usize]) {
    let mut place = 0;
    entries.retain(|entry| {
        let bare = places.contains(&place) && entry.len() <= 1;
        place += 1;
        !bare
    });
}

/// What should be there.
#[must_use]
pub fn render(inputs: &Inputs<'_>) -> Rendering {
    let existing = inputs.existing.unwrap_or_default();
    let mut problems = Vec::new();
    let mut document = match Document::read(existing) {
        Ok(document) => document,
        Err(why) => {
            let what = format!(
                "HAMi reads nothing of it, so every node has the cluster's defaults: {why}; correct it, or delete the key"
            );
            return Rendering {
                text: None,
                owned: inputs.owned.clone(),
                changed: BTreeSet::new(),
                problems: vec![Problem::everything(what)],
            };
        }
    };
    let mut owned = inputs.owned.clone();
    let mut changed = BTreeSet::new();
    for (node, gpu) in inputs.wanted {
        let refusals = refusals(inputs, node, gpu);
        if !refusals.is_empty() {
            problems.extend(refusals.into_iter().map(|what| Problem::of(Weight::Node, node, what)));
            continue;
        }
        problems.extend(notes(inputs, node, gpu));
        owned.insert(node.clone());
        if settle(&mut document.entries, node, gpu) {
            changed.insert(node.clone());
        }
    }
    for node in inputs.owned.iter().filter(|node| !inputs.wanted.contains_key(*node)) {
        owned.remove(node);
        if withdraw(&mut document.entries, node) {
            changed.insert(node.clone());
        }
    }
    foreign(inputs, &document.entries, &mut problems);
    let text = if changed.is_empty() { existing.to_owned() } else { document.text() };
    problems.sort();
    Rendering { text: Some(text), owned, changed, problems }
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
