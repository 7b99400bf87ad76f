//! NVIDIA GPUs as the bus and the kernel show them: there without NVML, and when NVML hangs.

use std::collections::BTreeMap;

use super::report::{Gpu, GpuState};
use crate::{facts::Look, inventory::Found};

/// Where the kernel lists devices.
pub(super) const DEVICES: &str = "/sys/bus/pci/devices";
/// Where the NVIDIA module lists the GPUs it has.
const OF_DRIVER: &str = "/proc/driver/nvidia/gpus";
/// Most entries looked at.
const MOST_DEVICES: usize = 4096;

/// A GPU on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OnBus {
    pub(super) pci: Found<String>,
    pub(super) driver: Found<String>,
    pub(super) uuid: Found<String>,
    pub(super) model: Found<String>,
}

impl OnBus {
    /// By its address, its driver, and what the NVIDIA module writes of it.
    pub(super) fn new(
        pci: Found<String>,
        driver: Found<String>,
        information: &Found<String>,
    ) -> Self {
        let place = information.source();
        let line = |key: &str| match information {
            Found::Present { value: text, .. } => {
                let value = text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
                match value {
                    // So the module writes a name that it hasn't read from the GPU yet.
                    Some(value) if !value.is_empty() && !value.contains('?') => {
                        Found::present(value.to_owned(), place)
                    }
                    _ => Found::unknown(place, "the driver doesn't say"),
                }
            }
            Found::Absent { .. } => Found::unknown(place, "the NVIDIA module does not have it"),
            Found::Unknown { reason, .. } => Found::unknown(place, reason.clone()),
        };
        let (uuid, model) = (line("GPU UUID:"), line("Model:"));
        Self { pci, driver, uuid, model }
    }

    /// Is the NVIDIA module bound to it?
    pub(super) fn is_nvidias(&self) -> bool {
        self.driver.value().is_some_and(|driver| driver == "nvidia")
    }

    /// What is known of it without NVML.
    pub(super) fn alone(&self, state: GpuState, reason: &str) -> Gpu {
        let mut gpu = Gpu::unasked(None, state, "NVML", reason);
        self.add_to(&mut gpu);
        gpu
    }

    /// Add to what NVML said what it doesn't know or couldn't say.
    pub(super) fn add_to(&self, gpu: &mut Gpu) {
        gpu.kernel_driver = self.driver.clone();
        for (theirs, ours) in
            [(&mut gpu.pci, &self.pci), (&mut gpu.uuid, &self.uuid), (&mut gpu.model, &self.model)]
        {
            if theirs.value().is_none() && ours.value().is_some() {
                *theirs = ours.clone();
            }
        }
    }
}

/// Every NVIDIA display or 3D controller, by address.
pub(super) fn gpus(look: &Look) -> BTreeMap<String, OnBus> {
    let Ok(entries) = fs_err::read_dir(look.path(DEVICES)) else { return BTreeMap::new() };
    let names = entries.take(MOST_DEVICES).flatten().map(|entry| entry.file_name());
    let names = names.filter_map(|name| name.into_string().ok());
    names.filter(|name| is_gpu(look, name)).map(|name| (name.clone(), one(look, &name))).collect()
}

/// How many there are.
pub(super) fn count(look: &Look) -> u32 {
    let Ok(entries) = fs_err::read_dir(look.path(DEVICES)) else { return 0 };
    let names = entries.take(MOST_DEVICES).flatten().map(|entry| entry.file_name());
    let gpus = names.filter_map(|name| name.into_string().ok()).filter(|name| is_gpu(look, name));
    u32::try_from(gpus.count()).unwrap_or(u32::MAX)
}

fn is_gpu(look: &Look, name: &str) -> bool {
    let read = |file: &str| look.text(&format!("{DEVICES}/{name}/{file}")).unwrap_or_default();
    // Class 03: a GPU's sound and USB functions have others.
    read("vendor").trim() == "0x10de" && read("class").starts_with("0x03")
}

fn one(look: &Look, name: &str) -> OnBus {
    let place = format!("{DEVICES}/{name}");
    let link = format!("{place}/driver");
    let driver = match fs_err::read_link(look.path(&link)) {
        Ok(target) => match target.file_name() {
            Some(driver) => Found::present(driver.to_string_lossy().into_owned(), link),
            None => Found::unknown(link, "it leads nowhere"),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Found::absent(link),
        Err(error) => Found::unknown(link, error.to_string()),
    };
    let path = format!("{OF_DRIVER}/{name}/information");
    let information = match look.text(&path) {
        Ok(text) => Found::present(text, path),
        Err(reason) => Found::unknown(path, reason),
    };
    OnBus::new(Found::present(name.to_owned(), place), driver, &information)
}
