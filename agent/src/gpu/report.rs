//! What is known of the GPUs of a node: [`GpuReport`].
//!
//! Every field says where it came from, and "this GPU has no such thing" (a consumer card without ECC) is another answer
//! than "it could not be asked" (the GPU is lost, the driver is too old). One sick GPU takes nothing from the others.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::library::Library;
use crate::inventory::Found;

/// The GPUs of one node, by PCI address, and how far the driver's library (NVML) answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuReport {
    /// How far NVML answered. Where it didn't, the GPUs below are what the PCI bus shows.
    pub library: Library,
    /// Version of the driver, e.g. `580.95.05`.
    pub driver_version: Found<String>,
    /// Version of NVML itself, e.g. `13.580.95.05`.
    pub nvml_version: Found<String>,
    /// Newest CUDA that the driver can do, e.g. `13.0`.
    pub cuda_version: Found<String>,
    /// Every NVIDIA GPU that NVML or the PCI bus shows.
    pub gpus: Vec<Gpu>,
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// Can it be asked?
    pub state: GpuState,
    /// NVML's number of it, which may be another after a reboot.
    pub index: Found<u32>,
    /// PCI address as `/sys/bus/pci/devices` writes it, e.g. `0000:01:00.0`.
    pub pci: Found<String>,
    /// Its name for good, e.g. `GPU-4c3e…`.
    pub uuid: Found<String>,
    /// e.g. `NVIDIA H100 80GB HBM3`.
    pub model: Found<String>,
    /// Serial number of the board.
    pub serial: Found<String>,
    /// The kernel driver that holds it: `nvidia`, `nouveau`, `vfio-pci`; absent where none does.
    pub kernel_driver: Found<String>,
    /// CUDA compute capability, e.g. `9.0`.
    pub compute_capability: Found<String>,
    /// Does the driver keep it initialised while nobody uses it?
    pub persistence: Found<bool>,
    /// How it is cut into parts.
    pub mig: Mig,
    /// Error correction.
    pub ecc: Ecc,
    /// Pages of memory taken out of use (before Ampere).
    pub retired_pages: RetiredPages,
    /// Rows of memory replaced by spare ones (Ampere and later).
    pub row_remaps: RowRemaps,
    /// Links to other GPUs and switches.
    pub nvlinks: Found<Vec<NvLink>>,
    /// What the driver itself says is to be done.
    pub recovery_action: Found<RecoveryAction>,
    /// What changes from second to second.
    pub live: Live,
    /// Who uses it.
    pub processes: Found<Vec<GpuProcess>>,
}

/// Can a GPU be asked?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum GpuState {
    /// It answers.
    Answers,
    /// It fell off the bus.
    Lost,
    /// It wants a reset before it does anything.
    ResetRequired,
    /// Another driver has it (`vfio-pci`), or none has: NVML doesn't see it.
    NotNvidias,
    /// Asking it goes wrong for a reason that lies in it: NVML has no handle for it, hangs, or crashes.
    Breaks {
        /// What happened.
        reason: String,
    },
    /// It was not asked, for a reason that lies elsewhere.
    NotAsked {
        /// Why.
        reason: String,
    },
}

/// How a GPU is cut into parts (Multi-Instance GPU).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mig {
    /// Whether it is, and will be after the next reset.
    pub mode: Found<Switch>,
    /// The parts.
    pub instances: Found<Vec<MigInstance>>,
}

/// Something that is switched on or off by the next reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Switch {
    /// Now.
    pub current: bool,
    /// After the next reset.
    pub pending: bool,
}

/// One part of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MigInstance {
    /// Its name, e.g. `MIG-…`.
    pub uuid: Found<String>,
    /// e.g. `NVIDIA A100-SXM4-40GB MIG 1g.5gb`.
    pub name: Found<String>,
    /// Id of its GPU instance.
    pub gpu_instance: Found<u32>,
    /// Id of its compute instance.
    pub compute_instance: Found<u32>,
    /// Its memory.
    pub memory: Found<Memory>,
}

/// Memory of a GPU or of a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// All of it.
    pub total_bytes: u64,
    /// In use by programs.
    pub used_bytes: u64,
    /// Free.
    pub free_bytes: u64,
    /// Kept by the driver; 0 where an old driver counts it as used.
    pub reserved_bytes: u64,
}

/// Error correction. Volatile counts begin again with the driver, aggregate ones never do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ecc {
    /// Whether it is on.
    pub mode: Found<Switch>,
    /// Corrected errors since the driver was loaded.
    pub corrected_volatile: Found<u64>,
    /// Uncorrected errors since the driver was loaded.
    pub uncorrected_volatile: Found<u64>,
    /// Corrected errors of its life.
    pub corrected_aggregate: Found<u64>,
    /// Uncorrected errors of its life.
    pub uncorrected_aggregate: Found<u64>,
}

/// Pages of memory taken out of use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetiredPages {
    /// For several single-bit errors.
    pub single_bit: Found<u64>,
    /// For a double-bit error.
    pub double_bit: Found<u64>,
    /// Does one wait for a reboot?
    pub pending: Found<bool>,
}

/// Rows of memory replaced by spare ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RowRemaps {
    /// For correctable errors.
    pub correctable: Found<u64>,
    /// For uncorrectable errors.
    pub uncorrectable: Found<u64>,
    /// Does one wait for a reset?
    pub pending: Found<bool>,
    /// Was there no spare row left?
    pub failed: Found<bool>,
}

/// A link to another GPU or a switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NvLink {
    /// Its number on this GPU.
    pub link: u32,
    /// Is it up?
    pub active: Found<bool>,
    /// PCI address at its other end.
    pub remote: Found<String>,
}

/// What the driver says is to be done about a GPU (NVML field 230).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RecoveryAction {
    /// Nothing.
    None,
    /// Reset the GPU.
    ResetGpu,
    /// Reboot the node.
    RebootNode,
    /// Stop peer-to-peer traffic with it.
    DrainPeers,
    /// Take work away from it, then reset it.
    DrainAndReset,
    /// Something this kdc doesn't know: a human reads the driver's documentation.
    Other(u64),
}

impl From<u64> for RecoveryAction {
    /// By the numbers of `nvml.h`. Newer headers have more (5: IMEX, 6: bus reset, 7: system reboot), whose meaning
    /// has moved between versions: those stay numbers.
    fn from(number: u64) -> Self {
        match number {
            0 => Self::None,
            1 => Self::ResetGpu,
            2 => Self::RebootNode,
            3 => Self::DrainPeers,
            4 => Self::DrainAndReset,
            other => Self::Other(other),
        }
    }
}

/// What changes from second to second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Live {
    /// Memory.
    pub memory: Found<Memory>,
    /// Share of the last sample period in which something ran. Not to be had of a GPU cut into parts.
    pub gpu_percent: Found<u32>,
    /// Share of it in which memory was read or written.
    pub memory_percent: Found<u32>,
    /// Share of it in which video was encoded.
    pub encoder_percent: Found<u32>,
    /// Share of it in which video was decoded.
    pub decoder_percent: Found<u32>,
    /// Clock of the processors.
    pub sm_clock_mhz: Found<u32>,
    /// Clock of the memory.
    pub memory_clock_mhz: Found<u32>,
    /// Power drawn.
    pub power_milliwatts: Found<u32>,
    /// Power it may draw.
    pub power_limit_milliwatts: Found<u32>,
    /// Energy used since the driver was loaded.
    pub energy_millijoules: Found<u64>,
    /// Temperature of the die.
    pub temperature_celsius: Found<u32>,
    /// Temperature of the memory.
    pub memory_temperature_celsius: Found<u64>,
    /// Why it runs slower than it could, in NVML's words (`swPowerCap`); `gpuIdle` is one of them.
    pub throttle_reasons: Found<Vec<String>>,
    /// Its place on the bus.
    pub pcie: Pcie,
}

/// The PCI Express link of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pcie {
    /// Generation it runs at; lower while idle.
    pub generation: Found<u32>,
    /// Generation it could run at here.
    pub generation_max: Found<u32>,
    /// Lanes in use.
    pub width: Found<u32>,
    /// Lanes it could use here.
    pub width_max: Found<u32>,
    /// Packets sent again since the driver was loaded.
    pub replays: Found<u32>,
}

/// A program that uses a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GpuProcess {
    /// Its process id on the host.
    pub pid: u32,
    /// Memory it holds on the GPU; nothing where the driver can't say.
    pub used_bytes: Option<u64>,
    /// The GPU instance it runs in.
    pub gpu_instance: Option<u32>,
    /// The compute instance it runs in.
    pub compute_instance: Option<u32>,
}
