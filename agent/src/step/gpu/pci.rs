//! PCI devices and their IOMMU groups, as `/sys` has them.

use crate::{
    host::{Host, Kind},
    step::change::StepError,
};

/// NVIDIA's vendor number.
pub(crate) const NVIDIA: u16 = 0x10de;

const DEVICES: &str = "/sys/bus/pci/devices";

/// One function of a PCI device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PciDevice {
    /// `0000:01:00.0`.
    pub(crate) address: String,
    /// Class, subclass and interface: `0x030200`.
    pub(crate) class: u32,
    pub(crate) vendor: u16,
    pub(crate) device: u16,
    /// The driver it is bound to.
    pub(crate) driver: Option<String>,
    /// The one driver that may have it, if that was set.
    pub(crate) driver_override: Option<String>,
    /// Its IOMMU group.
    pub(crate) group: Option<u32>,
    /// The machine's first screen.
    pub(crate) boot_vga: bool,
    /// Virtual functions that are on.
    pub(crate) virtual_functions: u32,
    /// It is a virtual function itself.
    pub(crate) is_virtual: bool,
}

impl PciDevice {
    /// A GPU of NVIDIA's: something that shows or computes, and no slice of one.
    pub(crate) fn is_nvidia_gpu(&self) -> bool {
        self.vendor == NVIDIA && matches!(self.class >> 8, 0x0300 | 0x0302) && !self.is_virtual
    }

    /// A bridge, which stays with the host.
    pub(crate) fn is_bridge(&self) -> bool {
        self.class >> 16 == 0x06
    }

    /// Domain, bus and device without the function.
    pub(crate) fn slot(&self) -> &str {
        self.address.rsplit_once('.').map_or(&self.address, |(slot, _)| slot)
    }

    /// Below `/sys`.
    pub(crate) fn path(&self, file: &str) -> String {
        format!("{DEVICES}/{}/{file}", self.address)
    }

    /// What it is, for people.
    pub(crate) fn words(&self) -> String {
        let kind = match self.class >> 16 {
            0x01 => "storage",
            0x02 => "network",
            0x03 => "display",
            0x04 => "sound",
            0x06 => "bridge",
            0x0c => "serial bus",
            _ => "other",
        };
        format!("{} ({kind}, {:04x}:{:04x})", self.address, self.vendor, self.device)
    }
}

/// `0000:01:00.0`, and nothing that could leave its folder.
pub(crate) fn is_address(text: &str) -> bool {
    let shape = b"xxxx:xx:xx.x";
    let fits = |(shape, byte): (&u8, u8)| match shape {
        b'x' => byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase(),
        exact => *exact == byte,
    };
    text.len() == shape.len() && shape.iter().zip(text.bytes()).all(fits)
}

fn number(text: Option<String>) -> Option<u32> {
    let text = text?;
    let text = text.trim();
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The last part of where a link points.
fn link_name(host: &dyn Host, path: &str) -> Result<Option<String>, StepError> {
    if host.stat(path)?.is_none_or(|stat| stat.kind != Kind::Link) {
        return Ok(None);
    }
    let target = host.read_link(path)?;
    Ok(Some(target.rsplit('/').next().unwrap_or_default().to_owned()))
}

/// One function; `None` if there is none at this address.
pub(crate) fn device(host: &dyn Host, address: &str) -> Result<Option<PciDevice>, StepError> {
    if !is_address(address) {
        return Err(StepError::Format {
            what: "a PCI address".to_owned(),
            reason: format!("`{address}` is not like 0000:01:00.0"),
        });
    }
    let at = |file: &str| format!("{DEVICES}/{address}/{file}");
    let read = |file: &str| host.read_text(&at(file));
    let Some(class) = number(read("class")?) else { return Ok(None) };
    let id = |text| number(text).and_then(|id| u16::try_from(id).ok()).unwrap_or_default();
    let set = read("driver_override")?.map(|text| text.trim().to_owned());
    Ok(Some(PciDevice {
        address: address.to_owned(),
        class,
        vendor: id(read("vendor")?),
        device: id(read("device")?),
        driver: link_name(host, &at("driver"))?,
        driver_override: set.filter(|name| !name.is_empty() && name != "(null)"),
        group: link_name(host, &at("iommu_group"))?.and_then(|name| name.parse().ok()),
        boot_vga: number(read("boot_vga")?) == Some(1),
        virtual_functions: number(read("sriov_numvfs")?).unwrap_or_default(),
        is_virtual: host.stat(&at("physfn"))?.is_some(),
    }))
}

/// All functions of the machine.
pub(crate) fn devices(host: &dyn Host) -> Result<Vec<PciDevice>, StepError> {
    let mut found = Vec::new();
    for address in host.list(DEVICES)?.unwrap_or_default() {
        found.extend(device(host, &address)?);
    }
    Ok(found)
}

/// The machine isolates devices from each other: the only proof that its IOMMU is on.
pub(crate) fn has_groups(host: &dyn Host) -> Result<bool, StepError> {
    Ok(host.list("/sys/kernel/iommu_groups")?.is_some_and(|groups| !groups.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_address_is_one() {
        assert!(is_address("0000:01:00.0") && is_address("00ff:e1:1f.7"));
        for text in ["", "01:00.0", "0000:01:00", "0000:01:00.00", "../../x:00.0", "0000:0G:00.0"] {
            assert!(!is_address(text), "{text}");
        }
    }
}
