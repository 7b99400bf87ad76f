//! GPUs: through NVML where the bus shows one of NVIDIA's, asked beside the other probes; by the bus alone elsewhere.
//!
//! A driver's library may hang or crash: it runs in a child process, with a limit ([`crate::gpu`]).

use std::{path::PathBuf, time::Duration};

use super::{Found, PciDevice, sight::Sight};
use crate::gpu::{
    GpuReport, Settings, Surveyor,
    node::boot_id,
    watch::{self, STALE, since_boot},
};

/// How long one GPU may take to answer; all of them together take six times that at most.
const PATIENCE: Duration = Duration::from_secs(4);
/// Where the NVIDIA module lists the GPUs it has.
const OF_DRIVER: &str = "/proc/driver/nvidia/gpus";

/// Who is asked about GPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AskGpus {
    /// The driver's library.
    #[default]
    Library,
    /// `kdc-gpu.service`, by what it published there: who may open no device asks so.
    Published(PathBuf),
}

/// Where the bus has a GPU of NVIDIA's.
fn on_bus(pci: &Found<Vec<PciDevice>>) -> Vec<&PciDevice> {
    let devices = pci.value().into_iter().flatten();
    devices.filter(|device| device.vendor == "10de" && device.class.starts_with("03")).collect()
}

/// Is there anything that takes a while to ask?
pub(super) fn is_worth_a_thread(ask: &AskGpus, pci: &Found<Vec<PciDevice>>) -> bool {
    *ask == AskGpus::Library && !on_bus(pci).is_empty()
}

/// The GPUs of NVIDIA's.
pub(super) fn probe(sight: &Sight, ask: &AskGpus, pci: &Found<Vec<PciDevice>>) -> GpuReport {
    let devices = on_bus(pci);
    let bus = |reason: &str| of_bus(sight, &devices, reason);
    match ask {
        AskGpus::Published(path) => published(sight, path).unwrap_or_else(|why| bus(&why)),
        AskGpus::Library if devices.is_empty() => bus("the PCI bus has no GPU of NVIDIA's"),
        AskGpus::Library => {
            let survey = || {
                let settings = Settings { patience: PATIENCE, ..Settings::machine() };
                let report = Surveyor::new(settings).survey();
                serde_json::to_vec(&report).map_err(|error| error.to_string())
            };
            let told = sight.answer("gpus", "NVML", survey);
            let read = told
                .parsed(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()));
            match read {
                Found::Present { value, .. } => value,
                other => bus(other.reason().unwrap_or("nobody asked")),
            }
        }
    }
}

fn published(sight: &Sight, path: &std::path::Path) -> Result<GpuReport, String> {
    if !sight.is_machine() {
        return Err("not recorded".to_owned());
    }
    let document = watch::read(path).map_err(|error| format!("{error}: {}", error.source))?;
    let document = document.ok_or("kdc-gpu.service publishes nothing")?;
    let boot = boot_id(&crate::facts::Look::machine());
    match document.age(&boot, since_boot()) {
        Some(age) if age <= STALE => Ok(document.node.report),
        _ => Err("what kdc-gpu.service published is old".to_owned()),
    }
}

/// What the bus and the kernel's module know of them.
fn of_bus(sight: &Sight, devices: &[&PciDevice], reason: &str) -> GpuReport {
    let information =
        |device: &PciDevice| sight.text(&format!("{OF_DRIVER}/{}/information", device.address));
    let devices = devices
        .iter()
        .map(|device| (device.address.clone(), device.driver.clone(), information(device)))
        .collect();
    GpuReport::of_bus(devices, reason)
}
