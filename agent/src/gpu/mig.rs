//! MIG instances of this node's GPUs, looked at and changed by a child process (`kdc-agent gpu-instances`).
//!
//! The parent hands over one [`Question`] on standard input and reads one [`Answer`]. The child decides nothing: what goes,
//! what is made and where comes as [`Order`]s. It stops at the first that fails and puts nothing back, since it may be the
//! one that crashes or hangs; whoever asked looks again and brings back what was.

use std::{
    io::{self, Read, Write},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::{nvml, report::Library};

/// A child that takes longer ends itself, whatever its parent does: switching MIG on resets a GPU, which takes seconds.
const LONGEST_SECS: u32 = 300;

/// Largest question, in bytes.
const MAX_QUESTION: u64 = 1024 * 1024;

/// What the child is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Question {
    /// Tell every GPU's instances.
    Look,
    /// Carry these out.
    Change(Vec<GpuOrders>),
}

/// What is to be done on one GPU, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuOrders {
    /// Which GPU.
    pub uuid: String,
    /// What to do.
    pub orders: Vec<Order>,
}

/// One change of a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Order {
    /// Switch MIG on or off.
    Mode {
        /// Wanted.
        on: bool,
    },
    /// Take a GPU instance away, with its compute instances.
    Destroy {
        /// Its number.
        instance: u32,
    },
    /// Make a GPU instance with compute instances in it.
    Create {
        /// The driver's number of the profile.
        profile: u32,
        /// First slice.
        start: u32,
        /// Slices.
        size: u32,
        /// What to make in it; nothing named: one compute instance over all of it.
        parts: Vec<Part>,
    },
}

/// What the child told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Answer {
    /// The driver's library can't be used.
    Refused {
        /// Why.
        library: Library,
    },
    /// Every GPU.
    Seen {
        /// By NVML's number.
        gpus: Vec<CutGpu>,
    },
    /// Everything was done.
    Done,
    /// The driver refused an order; those before it were carried out.
    Stopped {
        /// What was tried, in words.
        doing: String,
        /// What the driver said.
        reason: String,
    },
}

/// A GPU, and how it is cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CutGpu {
    /// NVML's number.
    pub index: u32,
    /// Its UUID.
    pub uuid: String,
    /// PCI address, as `/sys` writes it.
    pub pci: String,
    /// Its model.
    pub model: String,
    /// Whether MIG is on; nothing where the card or its driver has none.
    pub mode: Option<Mode>,
    /// What the driver offers. Some drivers tell it only while MIG is on.
    pub profiles: Vec<CutProfile>,
    /// GPU instances, by first slice.
    pub instances: Vec<CutInstance>,
    /// Programs on it.
    pub processes: Vec<CutProcess>,
}

/// Whether MIG is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mode {
    /// Now.
    pub current: bool,
    /// After the GPU's next reset.
    pub pending: bool,
}

/// A profile of GPU instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CutProfile {
    /// The driver's number of it.
    pub id: u32,
    /// `1g.10gb`.
    pub name: String,
    /// Slices of memory that it takes.
    pub size: u32,
    /// Slices of compute that it has.
    pub compute_slices: u32,
    /// First slices at which the driver allows it.
    pub starts: Vec<u32>,
}

/// A GPU instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CutInstance {
    /// The driver's number of it.
    pub id: u32,
    /// The driver's number of its profile.
    pub profile: u32,
    /// First slice.
    pub start: u32,
    /// Slices.
    pub size: u32,
    /// Its compute instances, by first slice.
    pub parts: Vec<Part>,
}

/// A compute instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// The driver's number of its profile.
    pub profile: u32,
    /// First slice of compute in its GPU instance.
    pub start: u32,
    /// Slices.
    pub size: u32,
    /// The driver's number of it, where it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// Under which name kubelet hands it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
}

/// A program on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CutProcess {
    /// Its process id.
    pub pid: u32,
    /// The GPU instance that it runs on, where the driver says so.
    pub instance: Option<u32>,
}

/// Do as standard input asks, and tell what came of it. NVML is loaded into this process.
///
/// # Errors
/// When the question can't be read, or the answer not be written.
pub fn answer(
    library: Option<PathBuf>,
    input: &mut impl Read,
    output: &mut impl Write,
) -> io::Result<()> {
    // Nobody catches the signal: it ends the process.
    nix::unistd::alarm::set(LONGEST_SECS);
    let question: Question = serde_json::from_reader(input.take(MAX_QUESTION))?;
    let answer = match nvml::open(library.as_deref()) {
        Err(library) => Answer::Refused { library },
        Ok(nvml) => match question {
            Question::Look => match nvml::mig::look(&nvml) {
                Ok(gpus) => Answer::Seen { gpus },
                Err(library) => Answer::Refused { library },
            },
            Question::Change(orders) => match nvml::mig::change(&nvml, &orders) {
                Ok(()) => Answer::Done,
                Err(nvml::mig::Failure { doing, reason }) => Answer::Stopped { doing, reason },
            },
        },
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    output.write_all(&bytes)?;
    output.flush()
}
