//! Reading a node's `gpu` and `spec.gpuClasses`, with everything HAMi would take and silently not do.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    gpu::{
        CUDA_LOGS, Excluded, GPU_MODES, Gpu, GpuMode, MAX_GPUS, Scaling, is_gpu_uuid,
        is_mig_profile,
    },
    nodes::{NodePlace, read_labels},
};
use crate::{
    fields::{Fields, Place, nearest},
    problem::Problems,
    yaml::Value,
};

/// Most classes in one file.
const MAX_CLASSES: usize = 100;
/// Most pods that share one GPU.
const MAX_SPLIT: u64 = 256;
/// Most instances that the driver makes of one GPU.
const MAX_INSTANCES: u64 = 16;
/// Largest memory of a GPU that can't tell its own: 1 TiB.
const MAX_MEMORY_MIB: u64 = 1024 * 1024;

/// Labels by which other software says that a node's GPUs are for virtual machines.
const VM_LABELS: &[&str] = &["nvidia.com/gpu.workload.config", "kube-dc.com/gpu.workload-mode"];

/// Read a `gpu` map, or a class with `own` fields already asked for.
pub(super) fn read_gpu(place: &Place<'_>, problems: &mut Problems) -> Option<Gpu> {
    let mut fields = place.fields(problems)?;
    let gpu = read_fields(&mut fields, problems);
    fields.finish(problems);
    gpu
}

fn read_fields(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Gpu> {
    let expected = "one of `hami`, `mig`, `passthrough`, `vgpu`, `whole`";
    let mode = fields
        .required(problems, "mode", expected)
        .and_then(|place| place.one_of(problems, GPU_MODES));
    let mut reader = Reader { fields, problems, mode };
    let split_count = reader.of_mode(&[GpuMode::Hami], "splitCount", |place, problems| {
        place.number(problems, 1, MAX_SPLIT).and_then(|count| u16::try_from(count).ok())
    });
    let memory_scaling = reader.of_mode(&[GpuMode::Hami], "memoryScaling", read_scaling);
    let core_scaling = reader.of_mode(&[GpuMode::Hami], "coreScaling", read_scaling);
    let memory = reader.of_mode(&[GpuMode::Hami], "preconfiguredMemoryMiB", |place, problems| {
        place.number(problems, 1, MAX_MEMORY_MIB).and_then(|mib| u32::try_from(mib).ok())
    });
    let numa = reader.of_mode(&[GpuMode::Hami], "numaTopology", read_numa);
    let log_level = reader
        .of_mode(&[GpuMode::Hami], "logLevel", |place, problems| place.one_of(problems, CUDA_LOGS));
    let geometry = reader.of_mode(&[GpuMode::Mig], "geometry", read_geometry);
    let sharing = [GpuMode::Hami, GpuMode::Mig, GpuMode::Passthrough, GpuMode::Vgpu];
    let exclude = reader.of_mode(&sharing, "exclude", read_excluded);
    Some(Gpu {
        mode: mode?,
        split_count: split_count.ok()?,
        memory_scaling: memory_scaling.ok()?,
        core_scaling: core_scaling.ok()?,
        preconfigured_memory_mib: memory.ok()?,
        numa_topology: numa.ok()?.unwrap_or_default(),
        log_level: log_level.ok()?,
        geometry: geometry.ok()?.unwrap_or_default(),
        exclude: exclude.ok()?.unwrap_or_default(),
    })
}

struct Reader<'f, 't> {
    fields: &'f mut Fields<'t>,
    problems: &'f mut Problems,
    mode: Option<GpuMode>,
}

impl Reader<'_, '_> {
    /// An optional field that only some modes look at: `Err` where it is there and wrong, or would do nothing.
    fn of_mode<T>(
        &mut self,
        modes: &[GpuMode],
        name: &'static str,
        read: impl FnOnce(&Place<'_>, &mut Problems) -> Option<T>,
    ) -> Result<Option<T>, ()> {
        let Some(place) = self.fields.optional(name) else { return Ok(None) };
        if let Some(mode) = self.mode.filter(|mode| !modes.contains(mode)) {
            let what = format!("this does nothing with mode `{}`", mode.as_str());
            let words: Vec<String> =
                modes.iter().map(|mode| format!("`{}`", mode.as_str())).collect();
            place.wrong(self.problems, what, format!("it only with mode {}", words.join(" or ")));
            return Err(());
        }
        read(&place, self.problems).map(Some).ok_or(())
    }
}

fn read_scaling(place: &Place<'_>, problems: &mut Problems) -> Option<Scaling> {
    match &place.tree.value {
        Value::Scalar { text, quoted: false } => match text.parse() {
            Ok(scaling) => Some(scaling),
            Err(_) => {
                place.wrong(problems, format!("`{text}` can't be used"), Scaling::EXPECTED);
                None
            }
        },
        _ => {
            place.wrong(problems, "this is no number", Scaling::EXPECTED);
            None
        }
    }
}

/// HAMi puts a node's values over the cluster's defaults with a rule that takes `false` for "not said".
fn read_numa(place: &Place<'_>, problems: &mut Problems) -> Option<bool> {
    let numa = place.boolean(problems)?;
    if !numa {
        let what = "`false` can't take effect: HAMi ignores it over the cluster's default";
        place.wrong(
            problems,
            what,
            "`true`, or nothing here and `enableNumaTopology: false` for the cluster",
        );
    }
    numa.then_some(true)
}

fn read_geometry(place: &Place<'_>, problems: &mut Problems) -> Option<BTreeMap<String, u8>> {
    let mut geometry = BTreeMap::new();
    let mut good = true;
    for (key, place) in place.entries(problems)? {
        if !is_mig_profile(&key.name) {
            let what = format!("`{}` is no MIG profile", key.name);
            place.wrong(problems, what, "a name from `nvidia-smi mig -lgip`, e.g. `1g.10gb`");
            good = false;
        }
        match place.number(problems, 1, MAX_INSTANCES).and_then(|count| u8::try_from(count).ok()) {
            Some(count) => drop(geometry.insert(key.name.clone(), count)),
            None => good = false,
        }
    }
    if geometry.is_empty() && good {
        place.wrong(problems, "no profile stands here", "`profile: count`, or no `geometry`");
        return None;
    }
    good.then_some(geometry)
}

fn read_excluded(place: &Place<'_>, problems: &mut Problems) -> Option<Excluded> {
    let mut fields = place.fields(problems)?;
    let uuids = fields.optional("uuids").map(|place| {
        let read = |place: &Place<'_>, problems: &mut Problems| {
            let text = place.text(problems)?;
            if !is_gpu_uuid(text) {
                place.wrong(
                    problems,
                    format!("`{text}` is no GPU's UUID"),
                    "one that `nvidia-smi -L` lists, `GPU-` and lower-case hexadecimal",
                );
                return None;
            }
            Some(text.to_owned())
        };
        read_set(&place, problems, read)
    });
    let indexes = fields.optional("indexes").map(|place| {
        let read = |place: &Place<'_>, problems: &mut Problems| {
            place
                .number(problems, 0, u64::from(MAX_GPUS) - 1)
                .and_then(|index| u8::try_from(index).ok())
        };
        read_set(&place, problems, read)
    });
    fields.finish(problems);
    let excluded = Excluded {
        uuids: uuids.map_or(Some(Vec::new()), |list| list)?,
        indexes: indexes.map_or(Some(Vec::new()), |list| list)?,
    };
    if excluded.is_empty() {
        place.wrong(problems, "no GPU stands here", "`uuids` or `indexes`, or no `exclude`");
        return None;
    }
    Some(excluded)
}

/// A list in which nothing comes twice.
fn read_set<T: Ord + Clone + std::fmt::Display>(
    place: &Place<'_>,
    problems: &mut Problems,
    read: impl Fn(&Place<'_>, &mut Problems) -> Option<T>,
) -> Option<Vec<T>> {
    let mut seen = BTreeSet::new();
    let mut good = true;
    for place in place.list(problems)? {
        match read(&place, problems) {
            Some(value) if seen.contains(&value) => {
                place.wrong(problems, format!("`{value}` stands here a second time"), "each once");
                good = false;
            }
            Some(value) => drop(seen.insert(value)),
            None => good = false,
        }
    }
    good.then(|| seen.into_iter().collect())
}

/// One class: which nodes it is for, and what their GPUs are.
struct Class<'t> {
    name: String,
    place: Place<'t>,
    /// Positions in the list of nodes.
    nodes: Vec<usize>,
    gpu: Gpu,
}

/// Read the classes and give each node what its class says; its own `gpu` goes over a class as a whole.
pub(super) fn read_classes(
    place: Option<&Place<'_>>,
    nodes: &mut [NodePlace<'_>],
    problems: &mut Problems,
) {
    let mut classes: Vec<Class<'_>> = Vec::new();
    if let Some(place) = place {
        let Some(list) = place.list(problems) else { return };
        if list.len() > MAX_CLASSES {
            place.wrong(
                problems,
                format!("{} classes stand here", list.len()),
                format!("at most {MAX_CLASSES}"),
            );
            return;
        }
        for place in list {
            let Some(class) = read_class(&place, nodes, problems) else { continue };
            if let Some(first) = classes.iter().find(|known| known.name == class.name) {
                let what = format!("`{}` is also the name of {}", class.name, first.place.path);
                place.wrong(problems, what, "a name of its own for each class");
            }
            classes.push(class);
        }
    }
    for (position, place) in nodes.iter_mut().enumerate() {
        let Some(node) = place.node.as_mut() else { continue };
        let own = node.gpu.is_some();
        let mut of: Vec<&Class<'_>> =
            classes.iter().filter(|class| class.nodes.contains(&position)).collect();
        if let (false, [first, second, ..]) = (own, of.as_slice()) {
            let what = format!(
                "node `{}` is in class `{}` and in `{}`",
                node.name, first.name, second.name
            );
            second.place.wrong(
                problems,
                what,
                "at most one class for a node without `gpu` of its own",
            );
        }
        if let (false, Some(class)) = (own, of.pop()) {
            node.gpu = Some(class.gpu.clone());
        }
        check_labels(node, &place.place, problems);
    }
}

fn read_class<'t>(
    place: &Place<'t>,
    nodes: &[NodePlace<'_>],
    problems: &mut Problems,
) -> Option<Class<'t>> {
    let mut fields = place.fields(problems)?;
    let name = fields.required(problems, "name", "a name for the class").and_then(|place| {
        let text = place.text(problems)?;
        let good = super::parts::is_dns_label(text);
        if !good {
            let what = format!("`{text}` can't be a class's name");
            place.wrong(problems, what, "a name of lower-case letters, digits and `-` (1 to 63)");
        }
        good.then(|| text.to_owned())
    });
    let (by_name, by_label) = (fields.optional("nodes"), fields.optional("nodeSelector"));
    let gpu = read_fields(&mut fields, problems);
    fields.finish(problems);
    let members = match (&by_name, &by_label) {
        (Some(names), None) => named(names, nodes, problems),
        (None, Some(labels)) => labelled(labels, nodes, problems),
        (None, None) | (Some(_), Some(_)) => {
            place.wrong(
                problems,
                "it must be said in one way whom this is for",
                "`nodes` or `nodeSelector`",
            );
            None
        }
    };
    Some(Class { name: name?, place: place.clone(), nodes: members?, gpu: gpu? })
}

fn named(
    place: &Place<'_>,
    nodes: &[NodePlace<'_>],
    problems: &mut Problems,
) -> Option<Vec<usize>> {
    let known: Vec<&str> = nodes
        .iter()
        .map(|place| place.node.as_ref().map_or("", |node| node.name.as_str()))
        .collect();
    let unread = nodes.iter().any(|place| place.node.is_none());
    let mut members = Vec::new();
    for place in place.list(problems)? {
        let text = place.text(problems)?;
        match known.iter().position(|name| *name == text) {
            Some(position) => members.push(position),
            // It may be a node in which something else is wrong.
            None if unread => {}
            None => {
                let near = nearest(text, &known).map(|near| format!(" (did you mean `{near}`?)"));
                let expected = format!(
                    "a name from `spec.nodes`, in its own letters{}",
                    near.unwrap_or_default()
                );
                place.wrong(problems, format!("there is no node `{text}`"), expected);
            }
        }
    }
    if members.is_empty() && !unread {
        place.wrong(
            problems,
            "no node of this file is meant",
            "at least one name from `spec.nodes`",
        );
    }
    Some(members)
}

fn labelled(
    place: &Place<'_>,
    nodes: &[NodePlace<'_>],
    problems: &mut Problems,
) -> Option<Vec<usize>> {
    let wanted = read_labels(place, problems)?;
    let has = |place: &NodePlace<'_>| {
        let node = place.node.as_ref();
        node.is_some_and(|node| {
            wanted.iter().all(|(key, value)| node.labels.get(key) == Some(value))
        })
    };
    let members: Vec<usize> = (0..nodes.len()).filter(|position| has(&nodes[*position])).collect();
    if wanted.is_empty() || (members.is_empty() && nodes.iter().all(|place| place.node.is_some())) {
        place.wrong(
            problems,
            "no node has these labels",
            "labels that a node in `spec.nodes` has in `labels`",
        );
    }
    Some(members)
}

/// Labels that contradict the mode: HAMi does not work with virtual machines, and its plugin goes by `gpu=on`.
fn check_labels(node: &super::Node, place: &Place<'_>, problems: &mut Problems) {
    let Some(gpu) = node.gpu.as_ref().filter(|gpu| gpu.is_for_hami()) else { return };
    let mode = gpu.mode.as_str();
    for (key, value) in &node.labels {
        if VM_LABELS.contains(&key.as_str()) && value.starts_with("vm-") {
            let what = format!(
                "label `{key}: {value}` means virtual machines, which HAMi's mode `{mode}` can't serve"
            );
            place.wrong(problems, what, "mode `passthrough` or `vgpu`, or another label");
        }
        if key == "gpu" && value != "on" {
            let what = format!(
                "label `gpu: {value}` keeps HAMi's device plugin away, and mode `{mode}` needs it"
            );
            place.wrong(problems, what, "`gpu: \"on\"`, or no label `gpu`: kdc sets it");
        }
    }
}

#[cfg(test)]
#[path = "gpu_read_tests.rs"]
mod tests;
