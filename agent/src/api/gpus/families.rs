//! The GPUs' families: dcgm-exporter's names, labels and units where it has them, `kdc_gpu_…` otherwise.
//!
//! What a GPU doesn't have, or could not be asked for, has no sample: a zero would be a lie. dcgm-exporter's counters don't
//! end in `_total`, so OpenMetrics can't call them counters; their type is `unknown` here.

use crate::{
    api::page::{Kind, Page, Value},
    gpu::{
        GpuReport,
        report::{Gpu, GpuState, Memory, MigInstance},
        verdict::Verdict,
        watch::Published,
        xid::{Action, XidRecord},
    },
    inventory::Found,
};

const MIB: u64 = 1024 * 1024;

/// How a number is had of a GPU.
type Read = fn(&Gpu) -> Option<Value>;

fn whole<N: Copy + Into<u64>>(found: &Found<N>) -> Option<Value> {
    found.value().map(|number| Value::Whole((*number).into()))
}

fn thousandth(found: &Found<u32>) -> Option<Value> {
    found.value().map(|number| Value::Real(f64::from(*number) / 1000.0))
}

fn truth(found: &Found<bool>) -> Option<Value> {
    found.value().map(|truth| Value::from(*truth))
}

/// dcgm-exporter's families of a whole GPU.
const OF_DCGM: &[(&str, Kind, &str, Read)] = &[
    ("DCGM_FI_DEV_SM_CLOCK", Kind::Gauge, "SM clock frequency (in MHz).", |gpu| {
        whole(&gpu.live.sm_clock_mhz)
    }),
    ("DCGM_FI_DEV_MEM_CLOCK", Kind::Gauge, "Memory clock frequency (in MHz).", |gpu| {
        whole(&gpu.live.memory_clock_mhz)
    }),
    ("DCGM_FI_DEV_MEMORY_TEMP", Kind::Gauge, "Memory temperature (in C).", |gpu| {
        whole(&gpu.live.memory_temperature_celsius)
    }),
    ("DCGM_FI_DEV_GPU_TEMP", Kind::Gauge, "GPU temperature (in C).", |gpu| {
        whole(&gpu.live.temperature_celsius)
    }),
    ("DCGM_FI_DEV_POWER_USAGE", Kind::Gauge, "Power draw (in W).", |gpu| {
        thousandth(&gpu.live.power_milliwatts)
    }),
    ("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", Kind::Gauge, "Power that it may draw (in W).", |gpu| {
        thousandth(&gpu.live.power_limit_milliwatts)
    }),
    (
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        Kind::Unknown,
        "Total energy consumption since the driver was loaded (in mJ).",
        |gpu| whole(&gpu.live.energy_millijoules),
    ),
    ("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", Kind::Unknown, "Total number of PCIe retries.", |gpu| {
        whole(&gpu.live.pcie.replays)
    }),
    ("DCGM_FI_DEV_PCIE_LINK_GEN", Kind::Gauge, "PCIe generation in use.", |gpu| {
        whole(&gpu.live.pcie.generation)
    }),
    (
        "DCGM_FI_DEV_PCIE_MAX_LINK_GEN",
        Kind::Gauge,
        "PCIe generation that it could use here.",
        |gpu| whole(&gpu.live.pcie.generation_max),
    ),
    ("DCGM_FI_DEV_PCIE_LINK_WIDTH", Kind::Gauge, "PCIe lanes in use.", |gpu| {
        whole(&gpu.live.pcie.width)
    }),
    ("DCGM_FI_DEV_PCIE_MAX_LINK_WIDTH", Kind::Gauge, "PCIe lanes that it could use here.", |gpu| {
        whole(&gpu.live.pcie.width_max)
    }),
    ("DCGM_FI_DEV_GPU_UTIL", Kind::Gauge, "GPU utilization (in %).", |gpu| {
        whole(&gpu.live.gpu_percent)
    }),
    ("DCGM_FI_DEV_MEM_COPY_UTIL", Kind::Gauge, "Memory utilization (in %).", |gpu| {
        whole(&gpu.live.memory_percent)
    }),
    ("DCGM_FI_DEV_ENC_UTIL", Kind::Gauge, "Encoder utilization (in %).", |gpu| {
        whole(&gpu.live.encoder_percent)
    }),
    ("DCGM_FI_DEV_DEC_UTIL", Kind::Gauge, "Decoder utilization (in %).", |gpu| {
        whole(&gpu.live.decoder_percent)
    }),
    (
        "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL",
        Kind::Unknown,
        "Corrected memory errors since the driver was loaded.",
        |gpu| whole(&gpu.ecc.corrected_volatile),
    ),
    (
        "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
        Kind::Unknown,
        "Uncorrected memory errors since the driver was loaded.",
        |gpu| whole(&gpu.ecc.uncorrected_volatile),
    ),
    (
        "DCGM_FI_DEV_ECC_SBE_AGG_TOTAL",
        Kind::Unknown,
        "Corrected memory errors of its life.",
        |gpu| whole(&gpu.ecc.corrected_aggregate),
    ),
    (
        "DCGM_FI_DEV_ECC_DBE_AGG_TOTAL",
        Kind::Unknown,
        "Uncorrected memory errors of its life.",
        |gpu| whole(&gpu.ecc.uncorrected_aggregate),
    ),
    ("DCGM_FI_DEV_RETIRED_SBE", Kind::Unknown, "Pages retired for single-bit errors.", |gpu| {
        whole(&gpu.retired_pages.single_bit)
    }),
    ("DCGM_FI_DEV_RETIRED_DBE", Kind::Unknown, "Pages retired for double-bit errors.", |gpu| {
        whole(&gpu.retired_pages.double_bit)
    }),
    (
        "DCGM_FI_DEV_RETIRED_PENDING",
        Kind::Gauge,
        "Whether a page waits for a reboot to be retired.",
        |gpu| truth(&gpu.retired_pages.pending),
    ),
    (
        "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
        Kind::Unknown,
        "Rows remapped for uncorrectable errors.",
        |gpu| whole(&gpu.row_remaps.uncorrectable),
    ),
    (
        "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS",
        Kind::Unknown,
        "Rows remapped for correctable errors.",
        |gpu| whole(&gpu.row_remaps.correctable),
    ),
    (
        "DCGM_FI_DEV_ROW_REMAP_FAILURE",
        Kind::Gauge,
        "Whether remapping of rows has failed.",
        |gpu| truth(&gpu.row_remaps.failed),
    ),
    (
        "DCGM_FI_DEV_ROW_REMAP_PENDING",
        Kind::Gauge,
        "Whether a row waits for a reset to be remapped.",
        |gpu| truth(&gpu.row_remaps.pending),
    ),
    ("DCGM_FI_DEV_MIG_MODE", Kind::Gauge, "Whether it is cut into parts (MIG).", |gpu| {
        gpu.mig.mode.value().map(|mode| Value::from(mode.current))
    }),
];

/// How much memory, of which kind.
type OfMemory = fn(&Memory) -> u64;

/// dcgm-exporter's families of memory: of each part where a GPU is cut into parts, else of the GPU.
const OF_MEMORY: &[(&str, &str, OfMemory)] = &[
    ("DCGM_FI_DEV_FB_TOTAL", "Framebuffer memory (in MiB).", |memory| memory.total_bytes),
    ("DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB).", |memory| memory.free_bytes),
    ("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB).", |memory| memory.used_bytes),
    ("DCGM_FI_DEV_FB_RESERVED", "Framebuffer memory reserved (in MiB).", |memory| {
        memory.reserved_bytes
    }),
];

/// kdc's own families of a GPU.
const OWN: &[(&str, &str, Read)] = &[
    ("kdc_gpu_up", "Whether the GPU answers.", |gpu| {
        Some(Value::from(gpu.state == GpuState::Answers))
    }),
    ("kdc_gpu_mig_instances", "Parts that the GPU is cut into.", |gpu| {
        gpu.mig.instances.value().map(|parts| Value::from(parts.len()))
    }),
    ("kdc_gpu_processes", "Programs on the GPU.", |gpu| {
        gpu.processes.value().map(|all| Value::from(all.len()))
    }),
    ("kdc_gpu_nvlinks", "NVLinks of the GPU.", |gpu| {
        gpu.nvlinks.value().map(|all| Value::from(all.len()))
    }),
    ("kdc_gpu_nvlinks_up", "NVLinks of the GPU that are up.", |gpu| {
        let links = gpu.nvlinks.value()?;
        Some(Value::from(links.iter().filter(|link| link.active.value() == Some(&true)).count()))
    }),
];

/// What a GPU is called on a page.
struct Names {
    gpu: String,
    uuid: String,
    pci: String,
    device: String,
    model: String,
}

impl Names {
    fn of(gpu: &Gpu) -> Self {
        let index = gpu.index.value().map(u32::to_string).unwrap_or_default();
        let text = |found: &Found<String>| found.value().cloned().unwrap_or_default();
        Self {
            device: if index.is_empty() { String::new() } else { format!("nvidia{index}") },
            gpu: index,
            uuid: text(&gpu.uuid),
            pci: bus_id(&text(&gpu.pci)),
            model: text(&gpu.model),
        }
    }

    /// As dcgm-exporter's.
    fn of_dcgm<'a>(&'a self, host: &'a str) -> [(&'static str, &'a str); 6] {
        [
            ("gpu", &self.gpu),
            ("UUID", &self.uuid),
            ("pci_bus_id", &self.pci),
            ("device", &self.device),
            ("modelName", &self.model),
            ("Hostname", host),
        ]
    }

    fn own(&self) -> [(&'static str, &str); 3] {
        [("gpu", &self.gpu), ("uuid", &self.uuid), ("pci_bus_id", &self.pci)]
    }
}

/// `0000:3b:00.0` as dcgm-exporter writes it: `00000000:3B:00.0`.
fn bus_id(pci: &str) -> String {
    match pci.split_once(':') {
        Some((domain, rest)) => format!("{domain:0>8}:{rest}").to_uppercase(),
        None => String::new(),
    }
}

/// Every family.
pub(super) fn tell(page: &mut Page, document: &Published) {
    let node = &document.node;
    let gpus: Vec<(&Gpu, Names)> =
        node.report.gpus.iter().map(|gpu| (gpu, Names::of(gpu))).collect();
    let host = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    of_library(page, &node.report);
    for (name, kind, help, read) in OF_DCGM {
        page.family(name, *kind, help);
        for (gpu, names) in &gpus {
            if let Some(value) = read(gpu) {
                page.sample(&names.of_dcgm(&host), value);
            }
        }
    }
    of_memory(page, &gpus, &host);
    last_xid(page, &gpus, &node.errors, &host);
    for (name, help, read) in OWN {
        page.family(name, Kind::Gauge, help);
        for (gpu, names) in &gpus {
            if let Some(value) = read(gpu) {
                page.sample(&names.own(), value);
            }
        }
    }
    infos(page, &gpus);
    of_errors(page, &node.errors, &gpus);
    of_verdicts(page, &node.verdicts);
}

fn of_library(page: &mut Page, report: &GpuReport) {
    let text = |found: &Found<String>| found.value().cloned().unwrap_or_default();
    let help = "The driver's library: how far it answers, and its versions.";
    page.family("kdc_gpu_library_info", Kind::Info, help);
    let labels = [
        ("state", report.library.word().to_owned()),
        ("driver", text(&report.driver_version)),
        ("nvml", text(&report.nvml_version)),
        ("cuda", text(&report.cuda_version)),
    ];
    let labels: Vec<(&str, &str)> =
        labels.iter().map(|(name, text)| (*name, text.as_str())).collect();
    page.sample(&labels, 1_u64);
    let help = "Whether the driver's library answers.";
    page.single("kdc_gpu_library_up", Kind::Gauge, help, report.library.answered());
}

fn of_memory(page: &mut Page, gpus: &[(&Gpu, Names)], host: &str) {
    for (name, help, read) in OF_MEMORY {
        page.family(name, Kind::Gauge, help);
        for (gpu, names) in gpus {
            let parts = gpu.mig.instances.value().map_or(&[][..], Vec::as_slice);
            if let (Some(memory), []) = (gpu.live.memory.value(), parts) {
                page.sample(&names.of_dcgm(host), read(memory) / MIB);
            }
            for part in parts {
                let Some(memory) = part.memory.value() else { continue };
                let (profile, instance) = of_part(part);
                let mut labels = names.of_dcgm(host).to_vec();
                labels.extend([("GPU_I_PROFILE", profile), ("GPU_I_ID", instance.as_str())]);
                page.sample(&labels, read(memory) / MIB);
            }
        }
    }
}

/// Profile (the last word of the name) and number of a part.
fn of_part(part: &MigInstance) -> (&str, String) {
    let name = part.name.value().map(String::as_str).unwrap_or_default();
    let profile = name.rsplit_once(" MIG ").map_or("", |(_, profile)| profile);
    (profile, part.gpu_instance.value().map(u32::to_string).unwrap_or_default())
}

/// Errors of a GPU.
fn errors_of<'a>(gpu: &Gpu, errors: &'a [XidRecord]) -> impl Iterator<Item = &'a XidRecord> {
    let slot = gpu.pci.value().map(|pci| crate::gpu::kernel_log::slot(pci).to_owned());
    errors.iter().filter(move |error| slot.is_some() && error.slot == slot)
}

/// The number of the last error, as dcgm-exporter has it: 0 where there was none.
fn last_xid(page: &mut Page, gpus: &[(&Gpu, Names)], errors: &[XidRecord], host: &str) {
    page.family("DCGM_FI_DEV_XID_ERRORS", Kind::Gauge, "Value of the last XID error encountered.");
    for (gpu, names) in gpus {
        let last = errors_of(gpu, errors).max_by_key(|error| error.last_microseconds);
        page.sample(&names.of_dcgm(host), last.map_or(0, |error| u64::from(error.xid)));
    }
}

fn infos(page: &mut Page, gpus: &[(&Gpu, Names)]) {
    let text = |found: &Found<String>| found.value().cloned().unwrap_or_default();
    page.family("kdc_gpu_info", Kind::Info, "What the GPU is, and who holds it.");
    for (gpu, names) in gpus {
        let mut labels = names.own().to_vec();
        let (driver, compute) = (text(&gpu.kernel_driver), text(&gpu.compute_capability));
        labels.extend([
            ("model", names.model.as_str()),
            ("driver", &driver),
            ("compute", &compute),
        ]);
        page.sample(&labels, 1_u64);
    }
    let help = "Whether the GPU runs slower than it could, by reason; idle is none.";
    page.family("kdc_gpu_throttled", Kind::Gauge, help);
    for (gpu, names) in gpus {
        for reason in gpu.live.throttle_reasons.value().into_iter().flatten() {
            if reason != "gpuIdle" && reason != "none" {
                let mut labels = names.own().to_vec();
                labels.push(("reason", reason));
                page.sample(&labels, 1_u64);
            }
        }
    }
}

/// Errors since boot: of each GPU in all, so that the first one is an increase, and by number.
fn of_errors(page: &mut Page, errors: &[XidRecord], gpus: &[(&Gpu, Names)]) {
    page.family("kdc_gpu_errors_total", Kind::Counter, "Errors of the GPU (Xids) since boot.");
    for (gpu, names) in gpus {
        page.sample(&names.own(), errors_of(gpu, errors).map(|error| error.count).sum::<u64>());
    }
    let help = "Errors of the GPU (Xids) since boot, by number.";
    page.family("kdc_gpu_xid_errors_total", Kind::Counter, help);
    let mut sums = std::collections::BTreeMap::new();
    for error in errors {
        *sums.entry((error.slot.as_deref().unwrap_or_default(), error.xid)).or_insert(0) +=
            error.count;
    }
    for ((slot, xid), count) in sums {
        let own = gpus.iter().find(|(gpu, _)| {
            gpu.pci.value().is_some_and(|pci| crate::gpu::kernel_log::slot(pci) == slot)
        });
        let xid = xid.to_string();
        let place = bus_id(slot);
        let mut labels = match own {
            Some((_, names)) => names.own().to_vec(),
            None => vec![("gpu", ""), ("uuid", ""), ("pci_bus_id", place.as_str())],
        };
        labels.push(("xid", &xid));
        page.sample(&labels, count);
    }
}

fn of_verdicts(page: &mut Page, verdicts: &[Verdict]) {
    let places: Vec<String> =
        verdicts.iter().map(|one| bus_id(one.pci.as_deref().unwrap_or_default())).collect();
    let all = || verdicts.iter().zip(&places);
    let help = "What is to be done about the GPU, as the label says; 0 where that is nothing.";
    page.family("kdc_gpu_verdict", Kind::Gauge, help);
    for (verdict, place) in all() {
        let uuid = verdict.uuid.as_deref().unwrap_or_default();
        let labels = [("uuid", uuid), ("pci_bus_id", place), ("action", verdict.action.word())];
        page.sample(&labels, verdict.action != Action::None);
    }
    let help = "Whether new work is to be kept away from the GPU.";
    page.family("kdc_gpu_cordon", Kind::Gauge, help);
    for (verdict, place) in all() {
        let uuid = verdict.uuid.as_deref().unwrap_or_default();
        page.sample(&[("uuid", uuid), ("pci_bus_id", place)], verdict.cordon);
    }
}
