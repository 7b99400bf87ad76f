//! What a node's GPUs are for, as the cluster file says it: a node's `gpu`, or one of `spec.gpuClasses`.
//!
//! A node serves one purpose: HAMi does not work with virtual machines, and two device plugins on one node fight over
//! `nvidia.com/gpu`. So there is one **mode** a node, and a field that its mode would silently ignore is a mistake.
//! The reader resolves classes: whoever uses a [`super::Node`] looks at its `gpu` alone.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most GPUs one node has; indexes are below it.
pub const MAX_GPUS: u8 = 64;

/// What the GPUs of a node are for.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum GpuMode {
    /// Shared between pods by HAMi, memory and cores limited in each.
    Hami,
    /// Cut into hardware instances: by HAMi as pods ask for them, or as `geometry` says.
    Mig,
    /// Handed whole to virtual machines (VFIO).
    Passthrough,
    /// Cut into virtual GPUs for virtual machines (NVIDIA vGPU).
    Vgpu,
    /// Handed whole to pods.
    Whole,
}

/// Every mode with its word.
pub const GPU_MODES: &[(&str, GpuMode)] = &[
    ("hami", GpuMode::Hami),
    ("mig", GpuMode::Mig),
    ("passthrough", GpuMode::Passthrough),
    ("vgpu", GpuMode::Vgpu),
    ("whole", GpuMode::Whole),
];

impl GpuMode {
    /// The word for it in files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hami => "hami",
            Self::Mig => "mig",
            Self::Passthrough => "passthrough",
            Self::Vgpu => "vgpu",
            Self::Whole => "whole",
        }
    }
}

/// What HAMi's library in the containers tells on their standard error.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum CudaLog {
    /// Only what failed.
    Errors,
    /// What may fail too.
    Warnings,
    /// What it does too.
    Infos,
    /// Everything.
    Debugs,
}

/// Every level with its word.
pub const CUDA_LOGS: &[(&str, CudaLog)] = &[
    ("errors", CudaLog::Errors),
    ("warnings", CudaLog::Warnings),
    ("infos", CudaLog::Infos),
    ("debugs", CudaLog::Debugs),
];

/// How many times what a GPU has is given away: 1 to 10, kept in hundredths so that it compares and hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scaling(u16);

impl Scaling {
    /// What can be used.
    pub const EXPECTED: &'static str =
        "a number from 1 to 10 with at most two decimals, e.g. `1.5`";

    /// In hundredths.
    #[must_use]
    pub fn hundredths(self) -> u16 {
        self.0
    }

    /// As a number.
    #[must_use]
    pub fn value(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl FromStr for Scaling {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || Err(format!("`{text}` is not {}", Self::EXPECTED));
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty()
            || whole.len() > 2
            || !digits(whole)
            || !(1..=2).contains(&part.len())
            || !digits(part)
        {
            return refused();
        }
        let hundredths = format!("{whole}{part:0<2}").parse::<u16>().unwrap_or_default();
        if (100..=1000).contains(&hundredths) { Ok(Self(hundredths)) } else { refused() }
    }
}

impl fmt::Display for Scaling {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.value())
    }
}

impl Serialize for Scaling {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.value())
    }
}

impl<'de> Deserialize<'de> for Scaling {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        f64::deserialize(deserializer)?.to_string().parse().map_err(serde::de::Error::custom)
    }
}

/// GPUs of a node that are left alone; one that either list names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Excluded {
    /// By UUID, as `nvidia-smi -L` tells it.
    #[serde(default)]
    pub uuids: Vec<String>,
    /// By the driver's index.
    #[serde(default)]
    pub indexes: Vec<u8>,
}

impl Excluded {
    /// Nothing is left alone.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.uuids.is_empty() && self.indexes.is_empty()
    }

    /// This GPU is left alone.
    #[must_use]
    pub fn has(&self, uuid: &str, index: u32) -> bool {
        self.uuids.iter().any(|known| known == uuid)
            || self.indexes.iter().any(|known| u32::from(*known) == index)
    }
}

/// What a node's GPUs are for. What is left out has HAMi's cluster-wide default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gpu {
    /// What they are for.
    pub mode: GpuMode,
    /// Pods that may share one GPU (`hami`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_count: Option<u16>,
    /// Memory given away, as a multiple of what there is (`hami`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_scaling: Option<Scaling>,
    /// Cores given away, as a multiple of what there is (`hami`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core_scaling: Option<Scaling>,
    /// Memory of a GPU that can't tell its own (`hami`).
    #[serde(default, rename = "preconfiguredMemoryMiB", skip_serializing_if = "Option::is_none")]
    pub preconfigured_memory_mib: Option<u32>,
    /// Kubelet hears which NUMA node a GPU belongs to (`hami`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub numa_topology: bool,
    /// What the library in containers logs (`hami`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<CudaLog>,
    /// Instances by profile on every GPU (`mig`); empty: HAMi makes them as pods ask.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub geometry: BTreeMap<String, u8>,
    /// GPUs left alone.
    #[serde(default, skip_serializing_if = "Excluded::is_empty")]
    pub exclude: Excluded,
}

impl Gpu {
    /// That mode, and everything else by default.
    #[must_use]
    pub fn of(mode: GpuMode) -> Self {
        Self {
            mode,
            split_count: None,
            memory_scaling: None,
            core_scaling: None,
            preconfigured_memory_mib: None,
            numa_topology: false,
            log_level: None,
            geometry: BTreeMap::new(),
            exclude: Excluded::default(),
        }
    }

    /// HAMi's device plugin runs here: shared GPUs, or instances that it makes itself.
    #[must_use]
    pub fn is_for_hami(&self) -> bool {
        match self.mode {
            GpuMode::Hami => true,
            GpuMode::Mig => self.geometry.is_empty(),
            GpuMode::Passthrough | GpuMode::Vgpu | GpuMode::Whole => false,
        }
    }
}

/// A whole GPU's UUID as the driver tells it, in its own letters: HAMi compares byte by byte.
#[must_use]
pub fn is_gpu_uuid(text: &str) -> bool {
    let Some(uuid) = text.strip_prefix("GPU-") else { return false };
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    uuid.len() == 36
        && uuid.bytes().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => hex(byte),
        })
}

/// A MIG profile as the driver names it: `1g.10gb`, `1g.10gb+me`, `1c.3g.40gb`.
#[must_use]
pub fn is_mig_profile(text: &str) -> bool {
    let (profile, attributes) = text.split_once('+').unwrap_or((text, "me"));
    let sized = |part: &str, unit: &str| {
        let number = part.strip_suffix(unit).unwrap_or_default();
        (1..=3).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    let parts: Vec<&str> = profile.split('.').collect();
    let shaped = match parts.as_slice() {
        [slices, memory] => sized(slices, "g") && sized(memory, "gb"),
        [compute, slices, memory] => {
            sized(compute, "c") && sized(slices, "g") && sized(memory, "gb")
        }
        _ => false,
    };
    let named = |word: &str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.')
    };
    shaped && attributes.split('.').all(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scaling_is_taken_exactly_or_refused() {
        for (text, hundredths) in
            [("1", 100), ("1.0", 100), ("1.5", 150), ("1.85", 185), ("10", 1000)]
        {
            let scaling: Scaling = text.parse().unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(scaling.hundredths(), hundredths, "{text}");
            let json = serde_json::to_string(&scaling).expect("a number");
            assert_eq!(
                serde_json::from_str::<Scaling>(&json).expect("the same"),
                scaling,
                "{json}"
            );
        }
        for text in ["0", "0.99", "10.01", "1.234", "1.", ".5", "", "-1", "1e1", "one", "100"] {
            assert!(text.parse::<Scaling>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_of_gpus_and_profiles_are_taken_only_as_the_driver_writes_them() {
        let uuid = "GPU-00552014-5c87-89ac-b1a6-7b53aa24b0ec";
        assert!(is_gpu_uuid(uuid));
        for text in ["", &uuid.to_uppercase(), &uuid[4..], &uuid.replace("GPU", "MIG"), "GPU-1"] {
            assert!(!is_gpu_uuid(text), "{text}");
        }
        for text in ["1g.10gb", "7g.141gb", "1g.10gb+me", "1c.3g.40gb"] {
            assert!(is_mig_profile(text), "{text}");
        }
        for text in ["", "1g", "1g.10", "all", "g.gb", "1g.10gb+", "1G.10GB"] {
            assert!(!is_mig_profile(text), "{text}");
        }
    }
}
