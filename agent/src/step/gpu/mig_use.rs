//! Who uses a GPU that is cut, and which of its instances: the driver's list of programs, open device files, and pods to
//! which kubelet has given one.
//!
//! A program on an instance has the GPU's own device file open too, as has the persistence daemon, which
//! is on no instance. So the GPU's file counts where MIG is switched on or off, which resets the whole GPU, and an
//! instance's own files (`/dev/nvidia-caps`) where that instance goes.

use std::collections::{BTreeMap, BTreeSet};

use super::in_use::{self, Allocation};
use crate::{
    gpu::mig::{CutGpu, CutInstance},
    host::Host,
    step::change::StepError,
};

/// Users of a GPU, each in words.
#[derive(Debug, Default)]
pub(super) struct Uses {
    /// Of the GPU as a whole, those of its instances among them.
    pub(super) whole: BTreeSet<String>,
    /// Of an instance, by its number.
    pub(super) instances: BTreeMap<u32, BTreeSet<String>>,
}

impl Uses {
    fn add(&mut self, instance: Option<u32>, who: String) {
        if let Some(instance) = instance {
            self.instances.entry(instance).or_default().insert(who.clone());
        }
        self.whole.insert(who);
    }
}

/// `DeviceFileMinor: 12` of one of the driver's capability files.
pub(super) fn capability(host: &dyn Host, path: &str) -> Result<Option<String>, StepError> {
    let text = host.read_text(path)?.unwrap_or_default();
    let minor = text.lines().find_map(|line| line.strip_prefix("DeviceFileMinor:"));
    Ok(minor.map(|minor| format!("/dev/nvidia-caps/nvidia-cap{}", minor.trim())))
}

/// Files that a program on this instance has open.
fn files(host: &dyn Host, minor: u32, instance: &CutInstance) -> Result<Vec<String>, StepError> {
    let folder = format!("/proc/driver/nvidia/capabilities/gpu{minor}/mig/gi{}", instance.id);
    let mut paths = vec![format!("{folder}/access")];
    let parts = instance.parts.iter().filter_map(|part| part.id);
    paths.extend(parts.map(|part| format!("{folder}/ci{part}/access")));
    let mut files = Vec::new();
    for path in paths {
        files.extend(capability(host, &path)?);
        // Drivers with the older kind of access have these opened themselves.
        files.push(path);
    }
    Ok(files)
}

/// Every user of this GPU. `all` are the GPUs of the node.
pub(super) fn uses(host: &dyn Host, gpu: &CutGpu, all: &[CutGpu]) -> Result<Uses, StepError> {
    let mut uses = Uses::default();
    let minor = in_use::identity(host, &gpu.pci)?.minor;
    let whole =
        minor.map_or_else(|| "/dev/nvidia".to_owned(), |minor| format!("/dev/nvidia{minor}"));
    let mut places: Vec<(Option<u32>, Vec<String>)> = Vec::new();
    for instance in minor.iter().flat_map(|minor| gpu.instances.iter().map(|one| (*minor, one))) {
        places.push((Some(instance.1.id), files(host, instance.0, instance.1)?));
    }
    places.push((None, vec![whole]));
    for (instance, nodes) in places {
        for who in in_use::holders(host, &nodes)? {
            uses.add(instance, who);
        }
    }
    for process in &gpu.processes {
        let who = in_use::process(host, &process.pid.to_string())?;
        uses.add(process.instance, format!("{who} runs on it"));
    }
    for Allocation { pod, resource, names } in in_use::allocations(host)? {
        let who = format!("{pod} was given {resource}");
        let part = |instance: &CutInstance| {
            instance
                .parts
                .iter()
                .filter_map(|part| part.uuid.as_ref())
                .any(|uuid| names.contains(uuid))
        };
        if let Some(instance) = gpu.instances.iter().find(|one| part(one)) {
            uses.add(Some(instance.id), who);
        } else if names.iter().any(|name| may_be_of(name, gpu, all)) {
            // The whole GPU, or an instance that nobody can tell: none of it may go.
            for instance in &gpu.instances {
                uses.add(Some(instance.id), who.clone());
            }
            uses.add(None, who);
        }
    }
    Ok(uses)
}

/// What kubelet calls a device is this GPU, or may be an instance of it.
fn may_be_of(name: &str, gpu: &CutGpu, all: &[CutGpu]) -> bool {
    let known = |gpu: &CutGpu| {
        gpu.instances
            .iter()
            .flat_map(|instance| &instance.parts)
            .any(|part| part.uuid.as_deref() == Some(name))
    };
    let elsewhere = |gpu: &CutGpu| known(gpu) || name.contains(&gpu.uuid);
    name.contains(&gpu.uuid)
        || name.contains(&gpu.pci)
        || (name.starts_with("MIG-") && !all.iter().any(elsewhere))
        || *name == gpu.index.to_string()
}
