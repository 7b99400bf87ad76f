//! PCI devices: which driver holds each, and what it shares an IOMMU group with.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Found, sight::Sight};

const DEVICES: &str = "/sys/bus/pci/devices";
/// Where distributions keep the list of names.
const NAMES: &[&str] = &["/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids"];
const MAX_DEVICES: usize = 4096;

/// One function of a PCI device. Its numbers come from its `uevent` file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PciDevice {
    /// Domain, bus, device and function (`0000:17:00.0`).
    pub address: String,
    /// Class, subclass and interface (`030200`).
    pub class: String,
    /// Vendor (`10de`).
    pub vendor: String,
    /// Device (`2330`).
    pub device: String,
    /// Vendor and device of the board that holds it (`10de:16c1`).
    pub subsystem: Option<String>,
    /// What `pci.ids` calls it.
    pub names: Found<PciNames>,
    /// Driver that holds it.
    pub driver: Found<String>,
    /// Only this driver may take it.
    pub driver_override: Found<String>,
    /// IOMMU group; all of a group goes to a virtual machine, or none.
    pub iommu_group: Found<u32>,
    /// NUMA node it is near to.
    pub numa_node: Found<u32>,
}

impl PciDevice {
    /// A display controller or processing accelerator: what GPUs say they are.
    #[must_use]
    pub fn is_gpu(&self) -> bool {
        self.class.starts_with("03") || self.class.starts_with("12")
    }
}

/// Names of a PCI device, as far as they are listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PciNames {
    /// Vendor.
    pub vendor: Option<String>,
    /// Device.
    pub device: Option<String>,
    /// Subclass, or class where that has no name.
    pub class: Option<String>,
}

/// All devices; absent where there is no PCI bus.
pub(super) fn probe(sight: &Sight) -> Found<Vec<PciDevice>> {
    let names = match sight.names(DEVICES) {
        Found::Present { value, .. } if value.is_empty() => return Found::absent(DEVICES),
        Found::Present { value, .. } => value,
        Found::Absent { source } => return Found::absent(source),
        Found::Unknown { source, reason } => return Found::unknown(source, reason),
    };
    let mut devices: Vec<PciDevice> =
        names.iter().take(MAX_DEVICES).filter_map(|address| device(sight, address)).collect();
    name(sight, &mut devices);
    Found::present(devices, format!("{DEVICES}/*/uevent"))
}

fn device(sight: &Sight, address: &str) -> Option<PciDevice> {
    let at = |name: &str| format!("{DEVICES}/{address}/{name}");
    let uevent = sight.text(&at("uevent"));
    let fields = parse_uevent(uevent.value()?);
    let (vendor, device) = fields.get("PCI_ID")?.split_once(':')?;
    let lower = |text: &str| text.to_ascii_lowercase();
    Some(PciDevice {
        address: address.to_owned(),
        // Without leading zeros there: `C0330` for 0c0330.
        class: format!("{:0>6}", lower(fields.get("PCI_CLASS")?)),
        vendor: lower(vendor),
        device: lower(device),
        subsystem: fields.get("PCI_SUBSYS_ID").map(|id| lower(id)).filter(|id| id != "0000:0000"),
        names: Found::unknown(NAMES[0], "no list of names on this node"),
        driver: match fields.get("DRIVER") {
            Some(driver) => Found::present((*driver).to_owned(), at("uevent")),
            None => Found::absent(at("uevent")),
        },
        driver_override: match sight.text(&at("driver_override")) {
            Found::Present { value, source } if value == "(null)" => Found::absent(source),
            found => found,
        },
        iommu_group: sight
            .link_name(&at("iommu_group"))
            .parsed(|name| name.parse().map_err(|_| format!("`{name}` is no group"))),
        numa_node: match sight.text(&at("numa_node")) {
            // The kernel's word for "near to none".
            Found::Present { value, source } if value == "-1" => Found::absent(source),
            found => found.parsed(|text| text.parse().map_err(|_| format!("`{text}` is no node"))),
        },
    })
}

/// `KEY=value` lines.
pub(super) fn parse_uevent(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).collect()
}

/// Fill in names, from one pass over the list.
fn name(sight: &Sight, devices: &mut [PciDevice]) {
    let wanted = Wanted::of(devices);
    for path in NAMES {
        let lines = sight.excerpt(path, |text| pick(text, &wanted));
        let Some(lines) = lines.value() else { continue };
        let known = Known::parse(lines);
        for device in devices.iter_mut() {
            device.names = match known.names(device) {
                Some(names) => Found::present(names, *path),
                None => Found::absent(*path),
            };
        }
        return;
    }
}

/// The numbers whose names are needed.
struct Wanted<'a> {
    vendors: BTreeMap<&'a str, BTreeSet<&'a str>>,
    classes: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

impl<'a> Wanted<'a> {
    fn of(devices: &'a [PciDevice]) -> Self {
        let (mut vendors, mut classes) = (BTreeMap::new(), BTreeMap::new());
        for device in devices {
            let vendor: &mut BTreeSet<&str> = vendors.entry(device.vendor.as_str()).or_default();
            vendor.insert(&device.device);
            let (Some(class), Some(subclass)) = (device.class.get(..2), device.class.get(2..4))
            else {
                continue;
            };
            let class: &mut BTreeSet<&str> = classes.entry(class).or_default();
            class.insert(subclass);
        }
        Self { vendors, classes }
    }
}

/// Those lines of `pci.ids` that name something wanted. Vendors and `C` classes stand at the margin,
/// what belongs to them is indented by one tab, subsystems by two.
fn pick(text: &str, wanted: &Wanted) -> Vec<String> {
    let mut inner: Option<&BTreeSet<&str>> = None;
    let mut picked = Vec::new();
    for line in text.lines() {
        let bytes = line.as_bytes();
        match bytes.first() {
            None | Some(b'#') => continue,
            Some(b'\t') => {
                let Some(inner) = inner else { continue };
                if bytes.get(1) == Some(&b'\t') {
                    continue;
                }
                let id = line[1..].split_once(' ').map_or("", |(id, _)| id);
                if inner.contains(id) {
                    picked.push(line.to_owned());
                }
                continue;
            }
            Some(_) => {}
        }
        let Some((id, rest)) = line.split_once(' ') else { continue };
        inner = match id {
            "C" => wanted.classes.get(rest.split(' ').next().unwrap_or_default()),
            id => wanted.vendors.get(id),
        };
        if inner.is_some() {
            picked.push(line.to_owned());
        }
    }
    picked
}

/// Names by number: `10de`, `10de 2330`, `C 03`, `C 03 02`.
struct Known<'a>(BTreeMap<String, &'a str>);

impl<'a> Known<'a> {
    fn parse(lines: &'a [String]) -> Self {
        let (mut known, mut outer) = (BTreeMap::new(), String::new());
        for line in lines {
            let Some((id, name)) = line.trim_start().split_once("  ") else { continue };
            if line.starts_with('\t') {
                known.insert(format!("{outer} {id}"), name);
            } else {
                id.clone_into(&mut outer);
                known.insert(outer.clone(), name);
            }
        }
        Self(known)
    }

    fn names(&self, device: &PciDevice) -> Option<PciNames> {
        let get = |key: String| self.0.get(&key).map(|name| (*name).to_owned());
        let (class, subclass) = (device.class.get(..2)?, device.class.get(2..4)?);
        let names = PciNames {
            vendor: get(device.vendor.clone()),
            device: get(format!("{} {}", device.vendor, device.device)),
            class: get(format!("C {class} {subclass}")).or_else(|| get(format!("C {class}"))),
        };
        (names.vendor.is_some() || names.class.is_some()).then_some(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: &str = "# comment\n\n1000  Other\n\t2330  Not this\n10de  NVIDIA Corporation\n\
        \t2330  GH100 [H100 SXM5 80GB]\n\t\t10de 16c1  a subsystem\n\t2331  Not this\n\
        C 03  Display controller\n\t00  VGA\n\t02  3D controller\n";

    fn made(address: &str, uevent: &str) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("sys/bus/pci/devices").join(address);
        fs_err::create_dir_all(&folder).unwrap();
        fs_err::write(folder.join("uevent"), uevent).unwrap();
        fs_err::write(folder.join("numa_node"), "-1\n").unwrap();
        fs_err::write(folder.join("driver_override"), "(null)\n").unwrap();
        std::os::unix::fs::symlink("../../../../kernel/iommu_groups/7", folder.join("iommu_group"))
            .unwrap();
        fs_err::create_dir_all(place.path().join("usr/share/misc")).unwrap();
        fs_err::write(place.path().join("usr/share/misc/pci.ids"), IDS).unwrap();
        place
    }

    #[test]
    fn a_device_has_its_numbers_names_and_neighbours() {
        let uevent = "DRIVER=nvidia\nPCI_CLASS=30200\nPCI_ID=10DE:2330\nPCI_SUBSYS_ID=10DE:16C1\n";
        let place = made("0000:17:00.0", uevent);
        let look = crate::facts::Look::at(place.path());
        let found = probe(&Sight::new(&look));
        let device = &found.value().unwrap()[0];
        assert!(device.is_gpu());
        assert_eq!((device.class.as_str(), device.device.as_str()), ("030200", "2330"));
        assert_eq!(device.subsystem.as_deref(), Some("10de:16c1"));
        assert_eq!(device.iommu_group.value(), Some(&7));
        assert_eq!(device.driver.value().map(String::as_str), Some("nvidia"));
        assert!(matches!(device.numa_node, Found::Absent { .. }));
        assert!(matches!(device.driver_override, Found::Absent { .. }));
        let names = device.names.value().unwrap();
        assert_eq!(names.device.as_deref(), Some("GH100 [H100 SXM5 80GB]"));
        assert_eq!(names.class.as_deref(), Some("3D controller"));
    }

    #[test]
    fn a_device_without_a_driver_is_not_a_device_that_could_not_be_read() {
        let place = made("0000:00:01.0", "PCI_CLASS=C0330\nPCI_ID=8086:0001\n");
        let look = crate::facts::Look::at(place.path());
        let found = probe(&Sight::new(&look));
        let device = &found.value().unwrap()[0];
        assert_eq!(device.class, "0c0330");
        assert!(matches!(device.driver, Found::Absent { .. }));
        let nowhere = tempfile::tempdir().unwrap();
        let look = crate::facts::Look::at(nowhere.path());
        assert!(matches!(probe(&Sight::new(&look)), Found::Absent { .. }));
    }
}
