//! Who a disk is: names that stay, and what it hangs on.

use super::{
    BLOCK, Nvme,
    udev::{self, Record},
};
use crate::inventory::{Found, sight::Sight};

/// The first of several looks that found something; else the first that could not look; else none.
pub(super) fn first_of(looks: impl IntoIterator<Item = Found<String>>) -> Found<String> {
    let mut answer: Option<Found<String>> = None;
    for look in looks {
        if look.value().is_some() {
            return look;
        }
        match &answer {
            Some(Found::Unknown { .. }) => {}
            Some(_) if look.reason().is_none() => {}
            _ => answer = Some(look),
        }
    }
    answer.unwrap_or_else(|| Found::absent(BLOCK))
}

/// A name that stays: udev's, else the link in `/dev/disk/by-id` that leads here.
pub(super) fn by_id(sight: &Sight, name: &str, record: &Record) -> Found<String> {
    const FOLDER: &str = "/dev/disk/by-id";
    if record.source().is_some() {
        return record.by_id();
    }
    let leads_here = |id: &&String| {
        sight.link_name(&format!("{FOLDER}/{id}")).value().is_some_and(|target| target == name)
    };
    match sight.names(FOLDER) {
        Found::Present { value, source } => {
            match value.iter().filter(leads_here).min_by_key(|id| udev::rank(id)) {
                Some(id) => Found::present(format!("{FOLDER}/{id}"), source),
                None => Found::absent(source),
            }
        }
        Found::Absent { source } => Found::absent(source),
        Found::Unknown { source, reason } => Found::unknown(source, reason),
    }
}

/// virtio shows a number where others have a name.
pub(super) fn vendor(found: Found<String>) -> Found<String> {
    match found {
        Found::Present { value, source } if value.starts_with("0x") => Found::absent(source),
        found => found,
    }
}

/// udev's short serial number, else the driver's: NVMe, virtio, then SCSI's page 80h behind four
/// bytes of header.
pub(super) fn serial(sight: &Sight, name: &str, record: &Record) -> Found<String> {
    let at = |file: &str| format!("{BLOCK}/{name}/{file}");
    let page = sight
        .bytes(&at("device/vpd_pg80"))
        .map(|page| crate::inventory::sight::clean(page.get(4..).unwrap_or_default()));
    let page = match page {
        Found::Present { value, source } if value.is_empty() => Found::absent(source),
        page => page,
    };
    first_of([
        record.value(&["ID_SCSI_SERIAL", "ID_SERIAL_SHORT"]),
        sight.text(&at("device/serial")),
        sight.text(&at("serial")),
        page,
    ])
}

/// By the devices that the disk hangs on.
pub(super) fn transport(name: &str, link: &str) -> Found<String> {
    const SIGNS: &[(&str, &str)] = &[
        ("/usb", "usb"),
        ("/nvme", "nvme"),
        ("/virtio", "virtio"),
        ("/session", "iscsi"),
        ("/rport-", "fc"),
        ("/end_device-", "sas"),
        ("/ata", "sata"),
        ("/mmc", "mmc"),
        ("/vbd-", "xen"),
        ("/vmbus", "hyper-v"),
        ("/VMBUS", "hyper-v"),
    ];
    let source = format!("{BLOCK}/{name}");
    match SIGNS.iter().find(|(sign, _)| link.contains(sign)) {
        Some((_, transport)) => Found::present((*transport).to_owned(), source),
        None => Found::unknown(source, "none of the known kinds"),
    }
}

/// The PCI function on the way to a disk; that of the controller where several ways lead there.
pub(super) fn hangs_on(name: &str, link: &str, nvme: &Found<Nvme>) -> Found<String> {
    let source = format!("{BLOCK}/{name}");
    if let Some(address) = pci_address(link) {
        return Found::present(address.to_owned(), source);
    }
    let address = nvme.value().map(|nvme| &nvme.address);
    match address.filter(|address| address.value().is_some_and(|text| pci_address(text).is_some()))
    {
        Some(address) => address.clone(),
        None => Found::absent(source),
    }
}

/// The last PCI function on the way to a device.
pub(in crate::inventory) fn pci_address(link: &str) -> Option<&str> {
    let is_address = |part: &&str| {
        let bytes = part.as_bytes();
        bytes.len() >= 12
            && part.chars().all(|c| c.is_ascii_hexdigit() || c == ':' || c == '.')
            && bytes[bytes.len() - 2] == b'.'
            && part.matches(':').count() == 2
    };
    link.split('/').rfind(is_address)
}
