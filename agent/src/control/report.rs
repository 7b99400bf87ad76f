//! How GPU sharing stands: what is wanted of every node, what is written, what HAMi's plugin and the kubelet say, and how
//! far kdc is. Only looks; asked for by an installer (`kdc-install gpu`).

use std::collections::BTreeSet;

use kdc_profiles::cluster::gpu::Scaling;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    api::text,
    conclude::{Snapshot, conclude},
    error::ControlError,
    lease::LEASE,
    node::NodeSeen,
    progress::{Patience, Phase},
    round::snapshot,
    sight::{MAPS, MapSeen, Placed, Sight, by_node},
    wanted::{NAMESPACE, WANTED_KEY, WANTED_MAP, Wanted},
};
use crate::{
    gpu::hami::{
        CONFIG_MAP, CORDON_ANNOTATION, POD_SELECTOR, Problem, REGISTER_ANNOTATION,
        effective::Effective,
        health::GpuVerdict,
        register::{self, Registered},
        render::entries_of_node,
    },
    host::Host,
    step::{
        StepError,
        kubectl::{self, kubectl},
    },
};

/// GPU sharing in the whole cluster.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SharingReport {
    /// Who holds the Lease `kdc-control`; empty where nobody does.
    pub leader: String,
    /// HAMi's ConfigMap is there.
    pub has_hami: bool,
    /// What an operator should know of the settings.
    pub problems: Vec<Problem>,
    /// Every node of which something is wanted, or on which HAMi's plugin or kdc has left something, by name.
    pub nodes: Vec<SharingNode>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SharingNode {
    /// Its name.
    pub node: String,
    /// The mode that is wanted, if one is.
    pub mode: Option<String>,
    /// How it stands.
    pub standing: Standing,
    /// Why it is not as wanted.
    pub reasons: Vec<String>,
    /// Where kdc is with it, and since when, in Unix seconds.
    pub phase: Option<Phase>,
    /// Since when.
    pub since: Option<u64>,
    /// Repairs within the last hour.
    pub repairs: usize,
    /// Its entries in `config.json`, letter by letter.
    pub entries: Vec<String>,
    /// Setting by setting, where HAMi is wanted here.
    pub settings: Vec<Setting>,
    /// What is written and has no effect.
    pub without_effect: Vec<String>,
    /// Devices that kubelet hands out; absent where it knows none.
    pub allocatable: Option<u64>,
    /// Its GPUs.
    pub gpus: Vec<SharedGpu>,
}

/// How a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// What is wanted was proved, and still holds.
    AsWanted,
    /// It is being changed, or waits for its turn.
    Changing,
    /// Wanted and seen differ.
    Differs,
    /// HAMi is not wanted here, and something of it is.
    NotWanted,
    /// Its GPUs are not HAMi's to share: there is nothing to compare.
    NotShared,
}

/// One setting of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Setting {
    /// The cluster file's name for it.
    pub name: String,
    /// What the cluster file says, if it says something.
    pub wanted: Option<String>,
    /// What holds in the cluster where a node says nothing.
    pub default: String,
    /// What a plugin that starts now works with.
    pub effective: String,
}

/// One GPU of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SharedGpu {
    /// UUID.
    pub uuid: String,
    /// Model, if anybody tells.
    pub model: String,
    /// What HAMi's plugin registered; absent: it did not.
    pub registered: Option<Registered>,
    /// What the node's own agent says is to be done about it.
    pub verdict: Option<GpuVerdict>,
    /// Why.
    pub reason: String,
    /// It gets no new pods (`hami.io/device-cordon`).
    pub cordoned: bool,
}

/// The JSON Schema of the report, as it stands in `docs/schemas/`.
#[must_use]
pub fn schema() -> String {
    let schema = schemars::schema_for!(SharingReport);
    let text = serde_json::to_string_pretty(&schema).expect("a schema serialises");
    format!("{text}\n")
}

/// Look at the cluster, on a control plane.
///
/// # Errors
/// When the API server can't be asked, or what is wanted makes no sense.
pub fn report(host: &dyn Host) -> Result<SharingReport, ReportError> {
    let mut sight = Sight::default();
    for (name, key) in MAPS {
        if let Some(map) = kubectl::get(host, &["--namespace", NAMESPACE, "configmap", name])? {
            sight.maps.insert((*name).to_owned(), MapSeen::of(&map, key));
        }
    }
    for node in listed(host, &["nodes"])?.iter().map(NodeSeen::of) {
        sight.nodes.insert(node.name.clone(), node);
    }
    let pods = listed(host, &["--namespace", NAMESPACE, "pods", "--selector", POD_SELECTOR])?;
    sight.pods = by_node(pods.iter().map(Placed::of));
    let lease = kubectl::get(host, &["--namespace", NAMESPACE, "lease", LEASE])?;
    let leader = lease.map(|lease| text(&lease["spec"]["holderIdentity"]).to_owned());
    Ok(of(sight, leader.unwrap_or_default())?)
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The API server could not be asked.
    #[error(transparent)]
    Step(#[from] StepError),
    /// What was read makes no sense.
    #[error(transparent)]
    Control(#[from] ControlError),
}

fn listed(host: &dyn Host, what: &[&str]) -> Result<Vec<Value>, StepError> {
    let words = ["get", "--output=json"].into_iter().chain(what.iter().copied());
    let program = kubectl(words);
    let answer = host.run_checked(&program)?.text();
    let mut answer: Value = serde_json::from_str(&answer).map_err(|error| StepError::Format {
        what: format!("the answer of `{}`", program.line()),
        reason: error.to_string(),
    })?;
    match answer["items"].take() {
        Value::Array(items) => Ok(items),
        _ => Ok(Vec::new()),
    }
}

/// What a sight tells. Pure.
fn of(sight: Sight, leader: String) -> Result<SharingReport, ControlError> {
    let has_hami = sight.maps.contains_key(CONFIG_MAP);
    let said = sight.maps.get(WANTED_MAP).and_then(|map| map.text.clone());
    let wanted = match said {
        Some(said) => Wanted::parse(&said).map_err(|reason| ControlError::Wanted {
            map: WANTED_MAP,
            key: WANTED_KEY,
            reason,
        })?,
        None => Wanted::default(),
    };
    let seen = snapshot(sight, wanted)?;
    // What a leader would conclude now; nothing of it is done.
    let patience = Patience { ready_secs: u64::MAX, verify_secs: u64::MAX, repairs_an_hour: 0 };
    let status = conclude(&seen, &patience).status;
    let mut names: BTreeSet<&String> = seen.wanted.nodes.keys().collect();
    let touched =
        |node: &&NodeSeen| node.is_marked() || node.annotations.contains_key(REGISTER_ANNOTATION);
    names.extend(seen.nodes.values().filter(touched).map(|node| &node.name));
    let nodes = names
        .into_iter()
        .map(|name| {
            let status = status.nodes.get(name);
            let reasons = status.map(|status| status.reasons.clone()).unwrap_or_default();
            node_of(&seen, name, status.map(|status| &status.effective), (reasons, has_hami))
        })
        .collect();
    Ok(SharingReport { leader, has_hami, problems: status.problems, nodes })
}

fn node_of(
    seen: &Snapshot,
    name: &str,
    effective: Option<&Effective>,
    (mut reasons, has_hami): (Vec<String>, bool),
) -> SharingNode {
    let none = NodeSeen::default();
    let node = seen.nodes.get(name).unwrap_or(&none);
    let gpu = seen.wanted.nodes.get(name);
    let progress = node.progress();
    let phase = progress.as_ref().map(|progress| progress.phase);
    if gpu.is_some_and(|gpu| gpu.is_for_hami()) && !has_hami {
        reasons.push("HAMi is not installed".to_owned());
    }
    let standing = match gpu {
        None => Standing::NotWanted,
        Some(gpu) if !gpu.is_for_hami() => {
            if phase.is_some() {
                Standing::NotWanted
            } else {
                Standing::NotShared
            }
        }
        Some(_) => match phase {
            Some(Phase::Applied) if reasons.is_empty() => Standing::AsWanted,
            Some(Phase::Restarting | Phase::Verifying | Phase::Leaving) => Standing::Changing,
            None if reasons.is_empty() => Standing::Changing,
            _ => Standing::Differs,
        },
    };
    SharingNode {
        node: name.to_owned(),
        mode: gpu.map(|gpu| gpu.mode.as_str().to_owned()),
        standing,
        reasons,
        phase,
        since: progress.as_ref().map(|progress| progress.since),
        repairs: progress.as_ref().map_or(0, |progress| progress.repairs.len()),
        entries: entries_of_node(seen.config.as_deref().unwrap_or_default(), name),
        settings: effective.map(|effective| settings(seen, name, effective)).unwrap_or_default(),
        without_effect: effective
            .map(|effective| effective.without_effect.clone())
            .unwrap_or_default(),
        allocatable: node.allocatable.get(&seen.defaults.resource_count_name).copied(),
        gpus: gpus(node),
    }
}

/// What is wanted, what holds without it, and what comes of both.
fn settings(seen: &Snapshot, name: &str, effective: &Effective) -> Vec<Setting> {
    let Some(gpu) = seen.wanted.nodes.get(name) else { return Vec::new() };
    let defaults = &seen.defaults;
    let setting = |name: &str, wanted: Option<String>, default: String, effective: String| {
        Setting { name: name.to_owned(), wanted, default, effective }
    };
    let scaling = |value: Option<Scaling>| value.map(|value| value.to_string());
    let wanted_out = excluded(&gpu.exclude.uuids, &gpu.exclude.indexes);
    vec![
        setting(
            "mode",
            Some(gpu.mode.as_str().to_owned()),
            "hami-core".to_owned(),
            effective.mode.clone(),
        ),
        setting(
            "splitCount",
            gpu.split_count.map(|count| count.to_string()),
            defaults.device_split_count.to_string(),
            effective.split_count.to_string(),
        ),
        setting(
            "memoryScaling",
            scaling(gpu.memory_scaling),
            defaults.device_memory_scaling.to_string(),
            effective.memory_scaling.to_string(),
        ),
        setting(
            "coreScaling",
            scaling(gpu.core_scaling),
            defaults.device_core_scaling.to_string(),
            effective.core_scaling.to_string(),
        ),
        setting(
            "preconfiguredMemoryMiB",
            gpu.preconfigured_memory_mib.map(|mib| mib.to_string()),
            defaults.preconfigured_device_memory.to_string(),
            effective.preconfigured_memory.to_string(),
        ),
        setting(
            "numaTopology",
            gpu.numa_topology.then(|| "true".to_owned()),
            defaults.enable_numa_topology.to_string(),
            effective.numa_topology.to_string(),
        ),
        setting(
            "exclude",
            (!gpu.exclude.is_empty()).then_some(wanted_out),
            "none".to_owned(),
            excluded(&effective.excluded_uuids, &effective.excluded_indexes),
        ),
    ]
}

fn excluded<N: ToString>(uuids: &[String], indexes: &[N]) -> String {
    let all: Vec<String> = uuids.iter().cloned().chain(indexes.iter().map(N::to_string)).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(" ") }
}

/// Every GPU that the plugin or the node's own agent tells of.
fn gpus(node: &NodeSeen) -> Vec<SharedGpu> {
    let told = node.annotations.get(REGISTER_ANNOTATION);
    let registered =
        told.and_then(|text| register::parse(text).ok()).map(|(_, gpus)| gpus).unwrap_or_default();
    let health = node.health().unwrap_or_default();
    let cordoned = node.annotations.get(CORDON_ANNOTATION).map(String::as_str).unwrap_or_default();
    let cordoned: BTreeSet<&str> = cordoned.split(',').map(str::trim).collect();
    let mut uuids: BTreeSet<&str> = registered.iter().map(|gpu| gpu.id.as_str()).collect();
    uuids.extend(health.gpus.iter().map(|gpu| gpu.uuid.as_str()));
    uuids
        .into_iter()
        .map(|uuid| {
            let registered = registered.iter().find(|gpu| gpu.id == uuid).cloned();
            let known = health.gpus.iter().find(|gpu| gpu.uuid == uuid);
            let model = known.and_then(|known| known.model.clone());
            let model = model.or_else(|| registered.as_ref().map(|gpu| gpu.model.clone()));
            SharedGpu {
                uuid: uuid.to_owned(),
                model: model.unwrap_or_default(),
                registered,
                verdict: known.map(|known| known.verdict),
                reason: known.map(|known| known.reason.clone()).unwrap_or_default(),
                cordoned: cordoned.contains(uuid),
            }
        })
        .collect()
}
