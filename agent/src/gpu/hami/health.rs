//! What each node's agent says of its own GPUs, in the annotation [`HEALTH_ANNOTATION`] of its node.
//!
//! An agent may write to its own node only, and changes the annotation only when something in it changed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The annotation.
pub const HEALTH_ANNOTATION: &str = "kdc.dev/gpu-health";

/// Longest text that is read.
const MAX_BYTES: usize = 64 * 1024;
/// Most GPUs of one node that are read.
const MAX_GPUS: usize = 64;

/// What is to be done about a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GpuVerdict {
    /// It may be used.
    Ok,
    /// It gets no new pods.
    Cordon,
}

/// One GPU, as its node's agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuCondition {
    /// UUID of the whole GPU.
    pub uuid: String,
    /// The driver's index, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// Model as the driver names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Memory.
    #[serde(default, rename = "memoryMiB", skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// It can be cut into instances; `None`: nobody could tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<bool>,
    /// What is to be done.
    pub verdict: GpuVerdict,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// All GPUs of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuHealth {
    /// Sorted by UUID.
    pub gpus: Vec<GpuCondition>,
}

impl GpuHealth {
    /// Read the annotation.
    ///
    /// # Errors
    /// What is wrong with it. What could not be read says nothing: neither that a GPU is well nor that it is sick.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("{} bytes; at most {MAX_BYTES} are read", text.len()));
        }
        let health: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if health.gpus.len() > MAX_GPUS {
            return Err(format!("{} GPUs; at most {MAX_GPUS} are read", health.gpus.len()));
        }
        if let Some(gpu) =
            health.gpus.iter().find(|gpu| !kdc_profiles::cluster::gpu::is_gpu_uuid(&gpu.uuid))
        {
            return Err(format!("`{}` is no GPU's UUID", gpu.uuid.escape_debug()));
        }
        Ok(health)
    }

    /// The annotation's text.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers serialise")
    }

    /// Verdict and reason by UUID.
    #[must_use]
    pub fn verdicts(&self) -> BTreeMap<&str, (GpuVerdict, &str)> {
        self.gpus
            .iter()
            .map(|gpu| (gpu.uuid.as_str(), (gpu.verdict, gpu.reason.as_str())))
            .collect()
    }
}
