//! How far the NVIDIA driver's library answered: absent, garbage, hung and crashed are answers, too.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far NVML answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Library {
    /// It answered.
    Answered,
    /// It was not asked.
    NotAsked {
        /// Why not.
        reason: String,
    },
    /// There is none on this node: no driver is installed, or its path is another.
    Absent {
        /// What the loader said.
        reason: String,
    },
    /// There is a file of that name which can't be used.
    Unusable {
        /// What the loader said.
        reason: String,
    },
    /// The library is there, the kernel module is not loaded.
    DriverNotLoaded,
    /// The kernel module is of another version than the library: the driver was updated under it.
    VersionMismatch,
    /// It refuses to begin, for another reason.
    Failed {
        /// What it said.
        reason: String,
    },
    /// It did not answer in time and was stopped.
    Hung {
        /// What it was doing.
        during: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// It took its process down with it.
    Crashed {
        /// What it was doing.
        during: String,
        /// How the process ended, e.g. `signal 11`.
        ended: String,
    },
    /// An earlier question sleeps in the driver and can't be ended, so no other is asked.
    Stuck {
        /// The process that sleeps.
        pid: u32,
    },
}

impl Library {
    /// Did it answer, at least for some of the GPUs?
    #[must_use]
    pub fn answered(&self) -> bool {
        matches!(self, Self::Answered)
    }

    /// Its state in one word, as it is written.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::NotAsked { .. } => "notAsked",
            Self::Absent { .. } => "absent",
            Self::Unusable { .. } => "unusable",
            Self::DriverNotLoaded => "driverNotLoaded",
            Self::VersionMismatch => "versionMismatch",
            Self::Failed { .. } => "failed",
            Self::Hung { .. } => "hung",
            Self::Crashed { .. } => "crashed",
            Self::Stuck { .. } => "stuck",
        }
    }

    /// In words, for a table and a log.
    #[must_use]
    pub fn in_words(&self) -> String {
        match self {
            Self::Answered => "answers".to_owned(),
            Self::NotAsked { reason } => format!("was not asked ({reason})"),
            Self::Absent { reason } => format!("not installed ({reason})"),
            Self::Unusable { reason } => format!("can't be used ({reason})"),
            Self::DriverNotLoaded => "the NVIDIA kernel module is not loaded".to_owned(),
            Self::VersionMismatch => {
                "the NVIDIA kernel module is of another version than the driver's library"
                    .to_owned()
            }
            Self::Failed { reason } => format!("refuses to begin ({reason})"),
            Self::Hung { during, seconds } => {
                format!("did not answer within {seconds} s ({during})")
            }
            Self::Crashed { during, ended } => format!("crashed: {ended} ({during})"),
            Self::Stuck { pid } => format!("process {pid} sleeps in the driver and can't be ended"),
        }
    }

    /// The next thing to try, where something is wrong.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Answered | Self::NotAsked { .. } => None,
            Self::Absent { .. } => {
                Some("install the NVIDIA driver, if these GPUs are for containers")
            }
            Self::Unusable { .. } => Some("install the driver's library (libnvidia-ml.so.1) again"),
            Self::DriverNotLoaded => {
                Some("`modprobe nvidia`; then `dmesg | grep -i nvrm` says why")
            }
            Self::VersionMismatch => {
                Some("the driver was updated: reboot, or unload and load the NVIDIA modules")
            }
            Self::Failed { .. } => Some("`nvidia-smi` and `dmesg | grep -i nvrm` on this node"),
            Self::Hung { .. } | Self::Stuck { .. } => {
                Some("a GPU or the driver hangs: `dmesg | grep -i nvrm`; a reboot frees it")
            }
            Self::Crashed { .. } => {
                Some("`nvidia-smi` and `dmesg` on this node; install the driver again")
            }
        }
    }
}
