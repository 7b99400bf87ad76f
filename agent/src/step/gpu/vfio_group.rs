//! Which functions go to virtual machines together, and when none may. Pure.
//!
//! The IOMMU keeps groups apart, not devices: a virtual machine with one function of a group can reach the
//! others. So all of a group go together (a card's sound and USB functions too), bridges excepted, or none.

use super::pci::PciDevice;

/// Why a GPU is not handed over.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Refusal {
    #[error("there is no NVIDIA GPU in this machine")]
    NoGpu,
    #[error("there is no GPU at {address}")]
    Absent { address: String },
    #[error("no GPU of this node is `{name}`, which should stay")]
    NotExcepted { name: String },
    #[error("GPU {address} is in no IOMMU group")]
    NoGroup { address: String },
    #[error("GPU {address} shares IOMMU group {group} with {other}")]
    Shared { address: String, group: u32, other: String },
    #[error("GPU {address} is the machine's first screen")]
    Screen { address: String },
    #[error("GPU {address} has {count} virtual functions on")]
    Sliced { address: String, count: u32 },
    #[error("GPU {address} is in use: {by}")]
    InUse { address: String, by: String },
}

impl Refusal {
    /// The next thing to try.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::NoGpu => "take this mode off the node, or exclude fewer GPUs".to_owned(),
            Self::Absent { .. } => "look at `lspci -D -d 10de:` on the node".to_owned(),
            Self::NotExcepted { .. } => {
                "name it by its place in the order of addresses: a UUID is known only while NVIDIA's driver has the GPU"
                    .to_owned()
            }
            Self::NoGroup { .. } => {
                "switch the IOMMU (VT-d, AMD-Vi) on in the firmware, then run this again".to_owned()
            }
            Self::Shared { .. } => {
                "put the card into another slot, or switch ACS on in the firmware".to_owned()
            }
            Self::Screen { .. } => {
                "have the firmware show its screen elsewhere, or consent with `display: true`".to_owned()
            }
            Self::Sliced { .. } => "switch them off first: write 0 to its sriov_numvfs".to_owned(),
            Self::InUse { .. } => {
                "end what uses it (`systemctl stop nvidia-persistenced` for that one), then run this again"
                    .to_owned()
            }
        }
    }
}

/// The functions that go with these GPUs (all of NVIDIA's, if none is named), in the order of their addresses.
/// `screen`: the first screen may go too.
pub(crate) fn choose<'a>(
    all: &'a [PciDevice],
    named: &[String],
    screen: bool,
) -> Result<Vec<&'a PciDevice>, Refusal> {
    let mut gpus: Vec<&PciDevice> = Vec::new();
    for address in named {
        let found = all.iter().find(|device| device.address == *address && !device.is_bridge());
        gpus.push(found.ok_or_else(|| Refusal::Absent { address: address.clone() })?);
    }
    if named.is_empty() {
        gpus.extend(all.iter().filter(|device| device.is_nvidia_gpu()));
    }
    if gpus.is_empty() {
        return Err(Refusal::NoGpu);
    }
    let mut chosen: Vec<&PciDevice> = Vec::new();
    for gpu in &gpus {
        for device in with_its_group(gpu, &gpus, all, screen)? {
            if !chosen.iter().any(|known| known.address == device.address) {
                chosen.push(device);
            }
        }
    }
    chosen.sort_by(|left, right| left.address.cmp(&right.address));
    Ok(chosen)
}

fn with_its_group<'a>(
    gpu: &PciDevice,
    gpus: &[&PciDevice],
    all: &'a [PciDevice],
    screen: bool,
) -> Result<Vec<&'a PciDevice>, Refusal> {
    let address = gpu.address.clone();
    if gpu.boot_vga && !screen {
        return Err(Refusal::Screen { address });
    }
    if gpu.virtual_functions > 0 {
        return Err(Refusal::Sliced { address, count: gpu.virtual_functions });
    }
    let Some(group) = gpu.group else { return Err(Refusal::NoGroup { address }) };
    let mut taken = Vec::new();
    let members = all.iter().filter(|device| device.group == Some(group) && !device.is_bridge());
    for device in members {
        // A slice goes alone; a card goes with all its functions.
        let same_card = device.address == gpu.address
            || (!gpu.is_virtual && !device.is_virtual && device.slot() == gpu.slot());
        if !same_card && !gpus.iter().any(|gpu| gpu.address == device.address) {
            return Err(Refusal::Shared { address, group, other: device.words() });
        }
        taken.push(device);
    }
    Ok(taken)
}
