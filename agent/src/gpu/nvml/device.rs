//! One GPU, asked for everything. Each question stands alone: whatever one of them answers, the others are asked.

use std::{cell::Cell, collections::BTreeMap};

use nvml_wrapper::{
    Device, Nvml,
    bitmasks::device::ThrottleReasons,
    enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor},
    enums::device::UsedGpuMemory,
    error::NvmlError,
    struct_wrappers::device::{PciInfo, ProcessInfo},
};

use super::{
    fields::{self, Fields},
    found, in_words, raw,
};
use crate::{
    gpu::report::{
        Ecc, Gpu, GpuProcess, GpuState, Live, Memory, Mig, MigInstance, NvLink, Pcie,
        RecoveryAction, RetiredPages, RowRemaps, Switch,
    },
    inventory::Found,
};

/// Most programs listed of one GPU.
const MOST_PROCESSES: usize = 4096;
/// Most links; an NVLink 5 GPU has 18.
const MOST_LINKS: u32 = 64;
/// Most parts; a GPU can be cut into seven today.
const MOST_PARTS: u32 = 64;

/// Everything that changes slowly, in one call.
const SLOW_FIELDS: &[u32] = &[
    fields::RETIRED_SINGLE_BIT,
    fields::RETIRED_DOUBLE_BIT,
    fields::RETIRED_PENDING,
    fields::NVLINK_COUNT,
    fields::REMAPPED_CORRECTABLE,
    fields::REMAPPED_UNCORRECTABLE,
    fields::REMAP_PENDING,
    fields::REMAP_FAILURE,
    fields::RECOVERY_ACTION,
];

/// A device that is being asked, and the worst that its answers gave away.
pub(super) struct Asked<'d, 'n> {
    device: &'d Device<'n>,
    lost: Cell<bool>,
    wants_reset: Cell<bool>,
}

impl<'d, 'n> Asked<'d, 'n> {
    pub(super) fn new(device: &'d Device<'n>) -> Self {
        Self { device, lost: Cell::new(false), wants_reset: Cell::new(false) }
    }

    /// What its answers so far say of it.
    pub(super) fn state(&self) -> GpuState {
        if self.lost.get() {
            GpuState::Lost
        } else if self.wants_reset.get() {
            GpuState::ResetRequired
        } else {
            GpuState::Answers
        }
    }

    fn ask<T>(
        &self,
        call: &str,
        question: impl FnOnce(&Device<'n>) -> Result<T, NvmlError>,
    ) -> Found<T> {
        let answer = question(self.device);
        match &answer {
            Err(NvmlError::GpuLost) => self.lost.set(true),
            Err(NvmlError::ResetRequired) => self.wants_reset.set(true),
            Ok(_) | Err(_) => {}
        }
        found(call, answer)
    }

    pub(super) fn recovery_action(fields: &Fields) -> Found<RecoveryAction> {
        fields.get(fields::RECOVERY_ACTION).map(RecoveryAction::from)
    }

    fn memory(&self) -> Found<Memory> {
        let newest = self.ask("nvmlDeviceGetMemoryInfo_v2", |device| {
            device.memory_info().map(|memory| Memory {
                total_bytes: memory.total,
                used_bytes: memory.used,
                free_bytes: memory.free,
                reserved_bytes: memory.reserved,
            })
        });
        if newest.reason().is_some() {
            let older = self.ask("nvmlDeviceGetMemoryInfo", raw::memory);
            if older.value().is_some() {
                return older;
            }
        }
        newest
    }

    pub(super) fn live(&self) -> Live {
        let fields = Fields::ask(self.device, &[fields::MEMORY_TEMPERATURE]);
        let used = "nvmlDeviceGetUtilizationRates";
        Live {
            memory: self.memory(),
            gpu_percent: self.ask(used, |device| device.utilization_rates().map(|used| used.gpu)),
            memory_percent: self
                .ask(used, |device| device.utilization_rates().map(|used| used.memory)),
            encoder_percent: self.ask("nvmlDeviceGetEncoderUtilization", |device| {
                device.encoder_utilization().map(|used| used.utilization)
            }),
            decoder_percent: self.ask("nvmlDeviceGetDecoderUtilization", |device| {
                device.decoder_utilization().map(|used| used.utilization)
            }),
            sm_clock_mhz: self
                .ask("nvmlDeviceGetClockInfo SM", |device| device.clock_info(Clock::SM)),
            memory_clock_mhz: self
                .ask("nvmlDeviceGetClockInfo MEM", |device| device.clock_info(Clock::Memory)),
            power_milliwatts: self.ask("nvmlDeviceGetPowerUsage", Device::power_usage),
            power_limit_milliwatts: self
                .ask("nvmlDeviceGetEnforcedPowerLimit", Device::enforced_power_limit),
            energy_millijoules: self
                .ask("nvmlDeviceGetTotalEnergyConsumption", Device::total_energy_consumption),
            temperature_celsius: self.ask("nvmlDeviceGetTemperature", |device| {
                device.temperature(TemperatureSensor::Gpu)
            }),
            memory_temperature_celsius: fields.get(fields::MEMORY_TEMPERATURE),
            throttle_reasons: self.ask("nvmlDeviceGetCurrentClocksThrottleReasons", |device| {
                device.current_throttle_reasons().map(in_names)
            }),
            pcie: self.pcie(),
        }
    }

    fn pcie(&self) -> Pcie {
        Pcie {
            generation: self
                .ask("nvmlDeviceGetCurrPcieLinkGeneration", Device::current_pcie_link_gen),
            generation_max: self
                .ask("nvmlDeviceGetMaxPcieLinkGeneration", Device::max_pcie_link_gen),
            width: self.ask("nvmlDeviceGetCurrPcieLinkWidth", Device::current_pcie_link_width),
            width_max: self.ask("nvmlDeviceGetMaxPcieLinkWidth", Device::max_pcie_link_width),
            replays: self.ask("nvmlDeviceGetPcieReplayCounter", Device::pcie_replay_counter),
        }
    }

    fn ecc(&self) -> Ecc {
        let count = |error, counter| {
            self.ask("nvmlDeviceGetTotalEccErrors", |device| {
                device.total_ecc_errors(error, counter)
            })
        };
        Ecc {
            mode: self.ask("nvmlDeviceGetEccMode", |device| {
                device.is_ecc_enabled().map(|mode| Switch {
                    current: mode.currently_enabled,
                    pending: mode.pending_enabled,
                })
            }),
            corrected_volatile: count(MemoryError::Corrected, EccCounter::Volatile),
            uncorrected_volatile: count(MemoryError::Uncorrected, EccCounter::Volatile),
            corrected_aggregate: count(MemoryError::Corrected, EccCounter::Aggregate),
            uncorrected_aggregate: count(MemoryError::Uncorrected, EccCounter::Aggregate),
        }
    }

    fn mig(&self) -> Mig {
        let mode = self.ask("nvmlDeviceGetMigMode", |device| {
            device
                .mig_mode()
                .map(|mode| Switch { current: mode.current == 1, pending: mode.pending == 1 })
        });
        let call = "nvmlDeviceGetMigDeviceHandleByIndex";
        let instances = match &mode {
            Found::Present { value: Switch { current: false, .. }, .. } | Found::Absent { .. } => {
                Found::absent(mode.source())
            }
            Found::Unknown { source, reason } => Found::unknown(source, reason),
            Found::Present { .. } => self.ask(call, parts),
        };
        Mig { mode, instances }
    }

    fn nvlinks(&self, fields: &Fields) -> Found<Vec<NvLink>> {
        let one = |link| {
            let wrapped = self.device.link_wrapper_for(link);
            NvLink {
                link,
                active: self.ask("nvmlDeviceGetNvLinkState", |_| wrapped.is_active()),
                remote: self.ask("nvmlDeviceGetNvLinkRemotePciInfo_v2", |_| {
                    wrapped.remote_pci_info().map(|info| address(&info))
                }),
            }
        };
        fields.get(fields::NVLINK_COUNT).map(|count| {
            (0..u32::try_from(count).unwrap_or(u32::MAX).min(MOST_LINKS)).map(one).collect()
        })
    }

    fn processes(&self) -> Found<Vec<GpuProcess>> {
        let computing =
            self.ask("nvmlDeviceGetComputeRunningProcesses_v3", Device::running_compute_processes);
        let drawing = self
            .ask("nvmlDeviceGetGraphicsRunningProcesses_v3", Device::running_graphics_processes);
        // A program that does both is in both lists, with the same memory.
        let mut all = BTreeMap::new();
        for process in drawing.value().into_iter().chain(computing.value()).flatten() {
            let process = of_nvml(process);
            all.insert((process.pid, process.gpu_instance, process.compute_instance), process);
        }
        let all = all.into_values().take(MOST_PROCESSES).collect();
        // A card for computing has no graphics to ask for.
        if computing.value().is_some() { computing.map(|_| all) } else { drawing.map(|_| all) }
    }
}

fn of_nvml(process: &ProcessInfo) -> GpuProcess {
    GpuProcess {
        pid: process.pid,
        used_bytes: match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        },
        gpu_instance: process.gpu_instance_id,
        compute_instance: process.compute_instance_id,
    }
}

/// Every part that a GPU is cut into. Numbers without a part lie between those with one.
fn parts(device: &Device<'_>) -> Result<Vec<MigInstance>, NvmlError> {
    let mut parts = Vec::new();
    for number in 0..device.mig_device_count()?.min(MOST_PARTS) {
        let part = match device.mig_device_by_index(number) {
            Ok(part) => part,
            Err(NvmlError::NotFound | NvmlError::InvalidArg) => continue,
            Err(error) => return Err(error),
        };
        let asked = Asked::new(&part);
        parts.push(MigInstance {
            uuid: asked.ask("nvmlDeviceGetUUID", Device::uuid),
            name: asked.ask("nvmlDeviceGetName", Device::name),
            gpu_instance: asked.ask("nvmlDeviceGetGpuInstanceId", raw::gpu_instance),
            compute_instance: asked.ask("nvmlDeviceGetComputeInstanceId", raw::compute_instance),
            memory: asked.memory(),
        });
    }
    Ok(parts)
}

/// As `/sys/bus/pci/devices` writes it; NVML has eight digits of domain and capital letters.
pub(super) fn address(info: &PciInfo) -> String {
    let function = info.bus_id.rsplit('.').next().and_then(|text| text.parse::<u8>().ok());
    format!("{:04x}:{:02x}:{:02x}.{}", info.domain, info.bus, info.device, function.unwrap_or(0))
}

/// `SW_POWER_CAP` as `swPowerCap`.
fn in_names(reasons: ThrottleReasons) -> Vec<String> {
    reasons
        .iter_names()
        .map(|(name, _)| {
            let mut words = name.split('_').map(str::to_lowercase);
            let first = words.next().unwrap_or_default();
            words.fold(first, |mut all, word| {
                let mut letters = word.chars();
                all.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
                all.extend(letters);
                all
            })
        })
        .collect()
}

/// Ask one GPU for everything.
pub(super) fn read(nvml: &Nvml, index: u32) -> Gpu {
    let device = match nvml.device_by_index(index) {
        Ok(device) => device,
        Err(error) => {
            let state = match error {
                NvmlError::GpuLost => GpuState::Lost,
                NvmlError::ResetRequired => GpuState::ResetRequired,
                _ => GpuState::Breaks { reason: in_words(&error) },
            };
            let source = "nvmlDeviceGetHandleByIndex_v2";
            return Gpu::unasked(Some(index), state, source, &in_words(&error));
        }
    };
    let asked = Asked::new(&device);
    let fields = Fields::ask(&device, SLOW_FIELDS);
    let mut gpu = Gpu {
        state: GpuState::Answers,
        index: Found::present(index, "nvmlDeviceGetHandleByIndex_v2"),
        pci: asked.ask("nvmlDeviceGetPciInfo_v3", |device| Ok(address(&device.pci_info()?))),
        uuid: asked.ask("nvmlDeviceGetUUID", Device::uuid),
        model: asked.ask("nvmlDeviceGetName", Device::name),
        serial: asked.ask("nvmlDeviceGetSerial", Device::serial),
        // The bus knows; whoever asked looks there.
        kernel_driver: Found::unknown("/sys/bus/pci/devices", "it was not looked for"),
        compute_capability: asked.ask("nvmlDeviceGetCudaComputeCapability", |device| {
            device.cuda_compute_capability().map(|cuda| format!("{}.{}", cuda.major, cuda.minor))
        }),
        persistence: asked.ask("nvmlDeviceGetPersistenceMode", Device::is_in_persistent_mode),
        mig: asked.mig(),
        ecc: asked.ecc(),
        retired_pages: RetiredPages {
            single_bit: fields.get(fields::RETIRED_SINGLE_BIT),
            double_bit: fields.get(fields::RETIRED_DOUBLE_BIT),
            pending: fields.is_set(fields::RETIRED_PENDING),
        },
        row_remaps: RowRemaps {
            correctable: fields.get(fields::REMAPPED_CORRECTABLE),
            uncorrectable: fields.get(fields::REMAPPED_UNCORRECTABLE),
            pending: fields.is_set(fields::REMAP_PENDING),
            failed: fields.is_set(fields::REMAP_FAILURE),
        },
        nvlinks: asked.nvlinks(&fields),
        recovery_action: Asked::recovery_action(&fields),
        live: asked.live(),
        processes: asked.processes(),
    };
    gpu.state = asked.state();
    gpu
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_to_run_slower_is_written_as_other_words_are() {
        let reasons = ThrottleReasons::SW_POWER_CAP | ThrottleReasons::GPU_IDLE;
        assert_eq!(in_names(reasons), ["gpuIdle", "swPowerCap"]);
        assert!(in_names(ThrottleReasons::NONE).is_empty());
    }

    #[test]
    fn an_address_is_written_as_sysfs_does() {
        let info = PciInfo {
            bus: 0xc1,
            bus_id: "00010000:C1:00.0".to_owned(),
            device: 0,
            domain: 0x10000,
            pci_device_id: 0,
            pci_sub_system_id: None,
        };
        assert_eq!(address(&info), "10000:c1:00.0");
    }
}
