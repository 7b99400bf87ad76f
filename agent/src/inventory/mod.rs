//! Inventory: the hardware of a node, and what runs right above it, read without changing anything.
//!
//! | Word | Meaning |
//! |---|---|
//! | **probe** | a function that reads one kind of hardware below a root path (one file each here) |
//! | **found** | a value with its source; "absent" and "could not look" are different answers |
//! | **sight** | how a probe reads: bounded, and on a tape where the machine is to be recorded |
//!
//! Facts ([`crate::facts`]) are what the installer judges by, and cross the wire on each
//! connection; the inventory is for people, the API and labels, and stays on the node. A plain field
//! inside of a found list comes from where the list comes from.

mod bmc;
mod cpu;
mod disk;
mod dmi;
mod found;
mod gpu;
mod memory;
mod net;
mod pci;
mod record;
#[cfg(test)]
mod recorded_tests;
mod report;
mod sight;
mod smbios;
mod system;
mod table;
mod tpm;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::sight::Sight;
pub use self::{
    bmc::Bmc,
    cpu::{Cpu, NumaNode},
    disk::{Disk, Health, Mount, Nvme, Partition, Rook, Signature, Usage, Volume, is_network},
    dmi::{Firmware, Machine},
    found::Found,
    gpu::AskGpus,
    memory::{HugePages, Memory, MemoryErrors, Module},
    net::{
        Bond, Bridge, Link, LinkAddress, LldpNeighbour, Network, Rdma, RdmaPort, Route, Sriov, Vlan,
    },
    pci::{PciDevice, PciNames},
    record::{RecordError, record},
    report::{Report, content_hash, json_schema},
    system::System,
    table::render_table,
    tpm::Tpm,
};
use crate::{facts::Look, gpu::GpuReport};

/// The form of the document; a change that readers must know of raises it.
pub const SCHEMA_VERSION: u32 = 1;

/// All that was found on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    /// The machine as its maker names it.
    pub machine: Machine,
    /// What runs before the kernel.
    pub firmware: Firmware,
    /// Kernel, distribution and how they are set.
    pub system: System,
    /// All CPUs.
    pub cpu: Cpu,
    /// All memory.
    pub memory: Memory,
    /// Disks.
    pub disks: Found<Vec<Disk>>,
    /// What is built on disks.
    pub volumes: Found<Vec<Volume>>,
    /// What is mounted, without the kernel's own and what containers mount.
    pub mounts: Found<Vec<Mount>>,
    /// What the node is connected by.
    pub network: Network,
    /// PCI devices.
    pub pci: Found<Vec<PciDevice>>,
    /// GPUs of NVIDIA's.
    #[serde(default = "gpus_not_asked")]
    pub gpus: GpuReport,
    /// Trusted platform modules.
    pub tpm: Found<Vec<Tpm>>,
    /// The management controller.
    pub bmc: Bmc,
}

/// What an agent of before this part says of it.
fn gpus_not_asked() -> GpuReport {
    GpuReport::of_bus(Vec::new(), "the agent is too old to look")
}

/// Look at everything below this root. Writes nothing, waits for no device longer than three seconds and for a GPU of
/// NVIDIA's not longer than four; starts a program (this one) only for those. Devices and the kernel are asked only where
/// the root is `/`.
#[must_use]
pub fn collect(look: &Look) -> Inventory {
    see(&Sight::new(look), &AskGpus::Library)
}

/// The same, with another to ask about GPUs.
#[must_use]
pub fn collect_asking(look: &Look, gpus: &AskGpus) -> Inventory {
    see(&Sight::new(look), gpus)
}

fn see(sight: &Sight, ask: &AskGpus) -> Inventory {
    let pci = pci::probe(sight);
    let gpus = || gpu::probe(sight, ask, &pci);
    // A GPU takes its time; the others don't wait for it.
    let (gpus, mut inventory) = std::thread::scope(|threads| {
        let asked = gpu::is_worth_a_thread(ask, &pci).then(|| threads.spawn(gpus));
        let rest = see_rest(sight);
        // A thread that died has nothing to say, and is asked here.
        (asked.and_then(|asked| asked.join().ok()).unwrap_or_else(gpus), rest)
    });
    (inventory.gpus, inventory.pci) = (gpus, pci);
    inventory
}

fn see_rest(sight: &Sight) -> Inventory {
    let disk::Storage { disks, volumes, mounts } = disk::probe(sight);
    Inventory {
        machine: dmi::probe_machine(sight),
        firmware: dmi::probe_firmware(sight),
        system: system::probe(sight),
        cpu: cpu::probe(sight),
        memory: memory::probe(sight),
        disks,
        volumes,
        mounts,
        network: net::probe(sight),
        pci: Found::unknown("/sys/bus/pci", "it is looked at beside this"),
        gpus: gpus_not_asked(),
        tpm: tpm::probe(sight),
        bmc: bmc::probe(sight),
    }
}
