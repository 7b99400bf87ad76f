//! What an operator is told of settings: why an entry is not written, what in it will have no effect, and which entries
//! of others have none.

use kdc_profiles::{
    cluster::gpu::{Gpu, GpuMode},
    fields::nearest,
};
use serde_json::Value;

use super::{
    Problem, VM_LABELS, Weight,
    object::Object,
    render::{Inputs, name_of},
};

/// Why a node's entry must not be written.
pub(super) fn refusals(inputs: &Inputs<'_>, node: &str, gpu: &Gpu) -> Vec<String> {
    let Some(view) = inputs.nodes.get(node) else {
        let known: Vec<&str> = inputs.nodes.keys().map(String::as_str).collect();
        let near =
            nearest(node, &known).map(|near| format!(" (there is `{near}`)")).unwrap_or_default();
        return vec![format!("the cluster has no node of that name{near}")];
    };
    let mut refusals = Vec::new();
    for (label, value) in
        VM_LABELS.iter().filter_map(|label| Some((label, view.labels.get(*label)?)))
    {
        if value.starts_with("vm-") {
            refusals.push(format!(
                "label `{label}={value}` means virtual machines, which HAMi does not work with"
            ));
        }
    }
    let gpus = view.health.as_ref().map(|health| health.gpus.as_slice()).unwrap_or_default();
    let excluded =
        |uuid: &str, index: Option<u32>| gpu.exclude.has(uuid, index.unwrap_or(u32::MAX));
    if !gpus.is_empty() && gpus.iter().all(|one| excluded(&one.uuid, one.index)) {
        refusals.push(format!("`exclude` hides all {} GPUs of the node", gpus.len()));
    }
    if gpu.mode == GpuMode::Mig {
        for one in
            gpus.iter().filter(|one| one.mig == Some(false) && !excluded(&one.uuid, one.index))
        {
            let model = one.model.as_deref().unwrap_or("GPU");
            refusals.push(format!("{model} {} can't be cut into instances (MIG)", one.uuid));
        }
    }
    refusals
}

/// What is written and will not have the effect it seems to have.
pub(super) fn notes(inputs: &Inputs<'_>, node: &str, gpu: &Gpu) -> Vec<Problem> {
    let mut notes = Vec::new();
    let mut note = |what: String| notes.push(Problem::of(Weight::Nothing, node, what));
    let view = inputs.nodes.get(node);
    if let Some(gpus) = view.and_then(|view| view.health.as_ref()).map(|health| &health.gpus) {
        for uuid in
            gpu.exclude.uuids.iter().filter(|uuid| !gpus.iter().any(|one| one.uuid == **uuid))
        {
            note(format!("`exclude` names {uuid}, which the node does not have"));
        }
        for index in &gpu.exclude.indexes {
            if !gpus.iter().any(|one| one.index == Some(u32::from(*index))) {
                note(format!("`exclude` names index {index}, which the node does not have"));
            }
        }
        for one in gpus.iter().filter(|_| gpu.mode == GpuMode::Mig) {
            let models =
                || inputs.defaults.mig_profile_allowlist.iter().flat_map(|allowed| &allowed.models);
            if let Some(model) =
                one.model.as_ref().filter(|model| !models().any(|part| model.contains(&**part)))
                && models().next().is_some()
            {
                note(format!(
                    "HAMi's list of MIG profiles has none for {model}: it will leave {} out",
                    one.uuid
                ));
            }
        }
    }
    if inputs.defaults.enable_numa_topology && !gpu.numa_topology && gpu.mode == GpuMode::Hami {
        note("NUMA nodes are told to kubelet here too: the cluster's default says so, and a node can't say no".to_owned());
    }
    if inputs.defaults.preconfigured_device_memory != 0 && gpu.preconfigured_memory_mib.is_none() {
        let memory = inputs.defaults.preconfigured_device_memory;
        note(format!(
            "the cluster's default of {memory} MB for GPUs that can't tell their memory holds here too"
        ));
    }
    notes
}

/// Entries that are not kdc's and have no effect, or another one than they seem to have.
pub(super) fn foreign(inputs: &Inputs<'_>, entries: &[Object], problems: &mut Vec<Problem>) {
    for entry in entries {
        let Some(name) = name_of(entry) else { continue };
        if !inputs.nodes.contains_key(&name) && !inputs.wanted.contains_key(&name) {
            let same = inputs.nodes.keys().find(|node| node.eq_ignore_ascii_case(&name));
            let what = match same {
                Some(node) => {
                    format!("an entry is for `{name}`, and the node is `{node}`: it has no effect")
                }
                None => "an entry is for a node that the cluster does not have: it has no effect"
                    .to_owned(),
            };
            problems.push(Problem::of(Weight::Nothing, &name, what));
        }
        if let Some(Value::String(mode)) = entry.value("operatingmode")
            && !["", "hami-core", "mig"].contains(&mode.as_str())
        {
            let mode: String = mode.chars().take(40).collect();
            let what = format!(
                "an entry has the operating mode `{mode}`, which HAMi takes and does not know"
            );
            problems.push(Problem::of(Weight::Nothing, &name, what));
        }
    }
    let mut names: Vec<String> = entries.iter().filter_map(name_of).collect();
    names.sort();
    names.dedup();
    for name in names {
        let effective = super::effective::effective_of(entries, &name, inputs.defaults);
        problems.extend(
            effective
                .without_effect
                .into_iter()
                .map(|what| Problem::of(Weight::Nothing, &name, what)),
        );
    }
}
