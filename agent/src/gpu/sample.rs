//! What is read of every GPU once a second, and what the driver says in between.

use serde::{Deserialize, Serialize};

use super::report::{GpuState, Live, RecoveryAction, RowRemaps};
use crate::inventory::Found;

/// One GPU at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuSample {
    /// NVML's number of it.
    pub index: u32,
    /// Its PCI address.
    pub pci: Option<String>,
    /// Its name for good.
    pub uuid: Option<String>,
    /// Can it be asked?
    pub state: GpuState,
    /// What the driver says is to be done.
    pub recovery_action: Found<RecoveryAction>,
    /// Rows of memory replaced by spare ones.
    pub row_remaps: RowRemaps,
    /// What changes from second to second.
    pub live: Live,
}

/// An error that the driver reported (an Xid), as NVML tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NvmlXid {
    /// PCI address of the GPU.
    pub pci: Option<String>,
    /// Its number.
    pub xid: u64,
}
