//! The GPUs of this node: what they are, what is wrong with them, what is to be done about it; and how the cluster
//! shares them ([`hami`]).
//!
//! | Word | Meaning |
//! |---|---|
//! | **NVML** | the NVIDIA driver's library, `libnvidia-ml.so.1`; it may be missing, of another version, hang, or crash |
//! | **survey** | everything about every GPU, asked of NVML by a child process ([`Surveyor`]) |
//! | **sample** | what changes from second to second, told by a child that stays ([`Sampler`]) |
//! | **Xid** | an error of a GPU, by number, in the kernel's log and as an event of NVML |
//! | **verdict** | what is to be done about one GPU, and why ([`judge`]) |
//! | **watch** | the unit that does all of this again and again, and publishes it ([`watch`]) |
//!
//! Nothing of NVML runs in the process that asks: see [`child`].

mod asked;
pub mod child;
pub mod hami;
pub mod kernel_log;
mod library;
pub mod mig;
pub mod node;
mod nvml;
mod pci;
pub mod report;
pub mod sample;
mod sampler;
pub mod show;
mod survey;
mod unasked;
pub mod verdict;
pub mod watch;
pub mod xid;
mod xid_table;

pub use report::GpuReport;
pub use sampler::{Sampler, Seen};
pub use survey::{Settings, Surveyor};
pub use verdict::{Verdict, judge};

/// How many GPUs of NVIDIA's the PCI bus shows. NVML is not asked.
#[must_use]
pub fn on_bus(look: &crate::facts::Look) -> u32 {
    pci::count(look)
}
