//! The PCI part of the fake machine's `/sys`: drivers take and leave devices as the kernel has them do.

use std::io::ErrorKind;

use super::{Node, Tree, names_in, no};
use crate::host::{Attributes, HostError, Kind};

const PCI: &str = "/sys/bus/pci";

/// A device whose driver fails to take it, for tests: `/@stubborn/<driver>/<address>`.
const STUBBORN: &str = "/@stubborn";

/// A device whose driver won't let go of it, for tests: `/@clinging/<driver>/<address>`.
const CLINGING: &str = "/@clinging";

fn insert(tree: &mut Tree, path: String, kind: Kind, content: &str) {
    let mode = if kind == Kind::File { 0o644 } else { 0o777 };
    let node = Node { kind, attributes: Attributes::root(mode), content: content.into() };
    tree.insert(path, node);
}

fn text(tree: &Tree, path: &str) -> String {
    let node = tree.get(path);
    node.map(|node| String::from_utf8_lossy(&node.content).trim().to_owned()).unwrap_or_default()
}

/// The last part of where a device's link points.
fn link(tree: &Tree, address: &str, name: &str) -> Option<String> {
    let target = text(tree, &format!("{PCI}/devices/{address}/{name}"));
    Some(target.rsplit('/').next()?.to_owned()).filter(|name| !name.is_empty())
}

/// A driver's folder, as loading its module makes it.
pub(super) fn add_driver(tree: &mut Tree, driver: &str) {
    let folder = format!("{PCI}/drivers/{driver}");
    let kinds = [("", Kind::Directory), ("/bind", Kind::File), ("/unbind", Kind::File)];
    for (name, kind) in kinds {
        insert(tree, format!("{folder}{name}"), kind, "");
    }
}

/// What unloading a driver's module does.
pub(super) fn remove_driver(tree: &mut Tree, driver: &str) {
    let folder = format!("{PCI}/drivers/{driver}");
    for address in names_in(tree, &folder) {
        tree.remove(&format!("{PCI}/devices/{address}/driver"));
    }
    tree.retain(|path, _| *path != folder && !path.starts_with(&format!("{folder}/")));
}

/// Write a value below `/sys/bus/pci`; `None` if it is no file that acts.
pub(super) fn write(tree: &mut Tree, path: &str, value: &str) -> Option<Result<(), HostError>> {
    let rest = path.strip_prefix(PCI)?.strip_prefix('/')?;
    let parts: Vec<&str> = rest.split('/').collect();
    let value = value.trim();
    Some(match parts.as_slice() {
        ["devices", address, "driver_override"] => {
            let set = if value.is_empty() { "(null)" } else { value };
            insert(
                tree,
                format!("{PCI}/devices/{address}/driver_override"),
                Kind::File,
                &format!("{set}\n"),
            );
            Ok(())
        }
        ["drivers", driver, "unbind"]
            if link(tree, value, "driver").as_deref() == Some(*driver) =>
        {
            if tree.contains_key(&format!("{CLINGING}/{driver}/{value}")) {
                return Some(Err(no("set", path, ErrorKind::ResourceBusy)));
            }
            tree.remove(&format!("{PCI}/devices/{value}/driver"));
            tree.remove(&format!("{PCI}/drivers/{driver}/{value}"));
            if let Some(group) = link(tree, value, "iommu_group").filter(|_| *driver == "vfio-pci")
            {
                tree.remove(&format!("/dev/vfio/{group}"));
            }
            Ok(())
        }
        ["drivers", driver, "bind"] => bind(tree, path, driver, value),
        _ => Err(no("set", path, ErrorKind::InvalidInput)),
    })
}

fn bind(tree: &mut Tree, path: &str, driver: &str, address: &str) -> Result<(), HostError> {
    let only = text(tree, &format!("{PCI}/devices/{address}/driver_override"));
    let may = ["", "(null)", driver].contains(&only.as_str());
    let known = tree.contains_key(&format!("{PCI}/devices/{address}"));
    let there = tree.contains_key(&format!("{PCI}/drivers/{driver}"));
    if !may || !known || !there || link(tree, address, "driver").is_some() {
        return Err(no("set", path, ErrorKind::InvalidInput));
    }
    if tree.contains_key(&format!("{STUBBORN}/{driver}/{address}")) {
        return Err(no("set", path, ErrorKind::Other));
    }
    let target = format!("../../../../bus/pci/drivers/{driver}");
    insert(tree, format!("{PCI}/devices/{address}/driver"), Kind::Link, &target);
    insert(tree, format!("{PCI}/drivers/{driver}/{address}"), Kind::Link, address);
    if let Some(group) = link(tree, address, "iommu_group").filter(|_| driver == "vfio-pci") {
        insert(tree, format!("/dev/vfio/{group}"), Kind::Other, "");
    }
    Ok(())
}

/// What NVIDIA's `sriov-manage` does: all virtual functions of a card on or off. Which file tells what they offer is in
/// `/@vgpu-types`. `during`: before any offers something.
pub(super) fn manage_functions(tree: &mut Tree, on: bool, address: &str, during: bool) {
    let card = format!("{PCI}/devices/{address}");
    let total: u32 = text(tree, &format!("{card}/sriov_totalvfs")).parse().unwrap_or_default();
    let types = text(tree, "/@vgpu-types");
    for number in 0..total {
        // The first one is four behind the card itself.
        let (device, part) = ((number + 4) / 8, (number + 4) % 8);
        let function = address.replace(":00.0", &format!(":{device:02x}.{part}"));
        let folder = format!("{PCI}/devices/{function}");
        let link = format!("{card}/virtfn{number}");
        if !on {
            tree.remove(&link);
            tree.retain(|path, _| *path != folder && !path.starts_with(&format!("{folder}/")));
            continue;
        }
        insert(tree, folder.clone(), Kind::Directory, "");
        for (name, value) in
            [("class", "0x030200\n"), ("vendor", "0x10de\n"), ("device", "0x2235\n")]
        {
            insert(tree, format!("{folder}/{name}"), Kind::File, value);
        }
        insert(tree, format!("{folder}/physfn"), Kind::Link, &format!("../{address}"));
        insert(tree, link, Kind::Link, &format!("../{function}"));
        if !types.is_empty() && !during {
            let mut above = folder.clone();
            let parts: Vec<&str> = types.split('/').collect();
            for part in &parts[..parts.len() - 1] {
                above = format!("{above}/{part}");
                insert(tree, above.clone(), Kind::Directory, "");
            }
            insert(tree, format!("{folder}/{types}"), Kind::File, "");
        }
    }
    let now = if on { total } else { 0 };
    insert(tree, format!("{card}/sriov_numvfs"), Kind::File, &format!("{now}\n"));
}
