//! Network: links and what they are made of, addresses, routes, neighbours.

mod address;
mod lldp;
mod netlink;
mod rdma;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::netlink::{Entry, Table};
pub use self::{
    address::{LinkAddress, Route},
    lldp::LldpNeighbour,
    rdma::{Rdma, RdmaPort},
};
use super::{Found, disk::pci_address, sight::Sight};

const LINKS: &str = "/sys/class/net";
/// Most links; a node with 250 pods has about 300.
const MAX_LINKS: usize = 4096;

/// What the node is connected by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// All links of the node's own network namespace.
    pub links: Found<Vec<Link>>,
    /// Addresses. Not part of the content hash.
    pub addresses: Found<Vec<LinkAddress>>,
    /// Routes. Not part of the content hash.
    pub routes: Found<Vec<Route>>,
    /// RDMA devices.
    pub rdma: Found<Vec<Rdma>>,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// Name.
    pub name: String,
    /// `physical`, `loopback`, or what the kernel calls it (`bond`, `bridge`, `vlan`, `veth`, …).
    pub kind: String,
    /// MAC in use.
    pub mac: Found<String>,
    /// MAC that the hardware was made with.
    pub permanent_mac: Found<String>,
    /// Largest packet.
    pub mtu: Found<u64>,
    /// `up`, `down`, `unknown`… Not part of the content hash.
    pub state: Found<String>,
    /// Speed; absent while the link is down, and for links that have none.
    pub speed_mbps: Found<u64>,
    /// `full` or `half`.
    pub duplex: Found<String>,
    /// Driver.
    pub driver: Found<String>,
    /// PCI device it is.
    pub pci_address: Found<String>,
    /// NUMA node it is near to.
    pub numa_node: Found<u64>,
    /// Bond or bridge that it belongs to.
    pub master: Found<String>,
    /// How a bond is set.
    pub bond: Found<Bond>,
    /// Which VLAN it is, of which link.
    pub vlan: Found<Vlan>,
    /// How a bridge is set.
    pub bridge: Found<Bridge>,
    /// Virtual functions that it can be split into.
    pub sriov: Found<Sriov>,
    /// The switch's port. Not part of the content hash.
    pub lldp: Found<LldpNeighbour>,
}

/// Several links as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bond {
    /// `802.3ad`, `active-backup`, …
    pub mode: String,
    /// Its links.
    pub links: Found<Vec<String>>,
    /// The link in use, in modes with only one.
    pub active: Found<String>,
}

/// One VLAN of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Vlan {
    /// Number.
    pub id: u16,
    /// Link that it is carried by.
    pub parent: Option<String>,
}

/// A bridge of the kernel's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bridge {
    /// Its links.
    pub links: Vec<String>,
    /// It speaks spanning tree.
    pub spanning_tree: Found<bool>,
    /// It tells VLANs apart.
    pub vlan_filtering: Found<bool>,
}

/// How a network card can be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sriov {
    /// Virtual functions it could have.
    pub total: u64,
    /// Virtual functions it has.
    pub configured: u64,
}

/// Read it all.
pub(super) fn probe(sight: &Sight) -> Network {
    let table = netlink::ask(sight, Table::Links);
    let names: BTreeMap<u32, String> = table
        .value()
        .into_iter()
        .flat_map(|bytes| netlink::entries(Table::Links, bytes))
        .filter_map(|entry| Some((index(&entry)?, entry.text(NAME)?)))
        .collect();
    let source = table.source().to_owned();
    let links = table.map(|bytes| {
        let link = |entry: Entry| probe_link(sight, &entry, &names, &source);
        let entries = netlink::entries(Table::Links, &bytes).take(MAX_LINKS);
        let mut links: Vec<Link> = entries.filter_map(link).collect();
        links.sort_by(|left, right| left.name.cmp(&right.name));
        links
    });
    Network {
        links,
        addresses: address::probe_addresses(sight, &names),
        routes: address::probe_routes(sight, &names),
        rdma: rdma::probe(sight),
    }
}

/// Attributes of a link (linux/if_link.h).
const MAC: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const PARENT: u16 = 5;
const MASTER: u16 = 10;
const STATE: u16 = 16;
const INFO: u16 = 18;
const PERMANENT_MAC: u16 = 54;

fn index(entry: &Entry) -> Option<u32> {
    netlink::number(entry.fixed.get(4..)?)
}

fn probe_link(
    sight: &Sight,
    entry: &Entry,
    names: &BTreeMap<u32, String>,
    source: &str,
) -> Option<Link> {
    let name = entry.text(NAME)?;
    let at = |file: &str| format!("{LINKS}/{name}/{file}");
    let told = |value: Option<String>| match value {
        Some(value) => Found::present(value, source),
        None => Found::absent(source),
    };
    let info = entry.get(INFO);
    let told_kind = info.and_then(|info| netlink::attribute(info, 1)).map(super::sight::clean);
    let kind = kind_of(sight, entry, &name, told_kind);
    let physical = kind == "physical";
    let hardware = |found: Found<String>| match physical {
        true => found,
        false => Found::absent(found.source()),
    };
    let address = hardware_address(sight, &name, physical);
    let at_pci = |file: &str| {
        let address = address.value()?;
        Some(format!("/sys/bus/pci/devices/{address}/{file}"))
    };
    Some(Link {
        mac: told(entry.get(MAC).filter(|bytes| !bytes.is_empty()).map(mac)),
        permanent_mac: told(entry.get(PERMANENT_MAC).map(mac)),
        mtu: match entry.number(MTU) {
            Some(mtu) => Found::present(u64::from(mtu), source),
            None => Found::absent(source),
        },
        state: told(entry.get(STATE).and_then(|bytes| bytes.first()).map(|byte| state(*byte))),
        speed_mbps: speed(sight.text(&at("speed"))),
        duplex: match sight.text(&at("duplex")) {
            Found::Present { value, source } if value == "unknown" => Found::absent(source),
            // The driver refuses to answer while the link is down, and where it has none.
            Found::Unknown { source, .. } => Found::absent(source),
            found => found,
        },
        driver: match physical {
            true => hardware(sight.link_name(&at("device/driver"))),
            false => Found::absent(at("device/driver")),
        },
        numa_node: match at_pci("numa_node").map(|path| sight.text(&path)) {
            Some(Found::Present { value, source }) if value == "-1" => Found::absent(source),
            Some(found) => found.parsed(|text| text.parse().map_err(|_| format!("`{text}`"))),
            None => Found::absent(at("device")),
        },
        master: told(entry.number(MASTER).and_then(|index| names.get(&index).cloned())),
        bond: probe_bond(sight, &name, &kind),
        vlan: probe_vlan(entry, info, &kind, names, source),
        bridge: probe_bridge(sight, &name, &kind),
        sriov: match at_pci("sriov_totalvfs") {
            Some(path) => probe_sriov(sight, &path),
            None => Found::absent(at("device")),
        },
        lldp: match physical {
            true => lldp::probe(sight, index(entry)?),
            false => Found::absent(at("device")),
        },
        pci_address: address,
        kind,
        name,
    })
}

/// What the kernel names; else a device behind it makes it physical.
fn kind_of(sight: &Sight, entry: &Entry, name: &str, told: Option<String>) -> String {
    /// `ARPHRD_LOOPBACK`.
    const LOOPBACK: [u8; 2] = 772_u16.to_ne_bytes();
    match told {
        Some(told) if !told.is_empty() => told,
        _ if entry.fixed.get(2..4) == Some(&LOOPBACK) => "loopback".to_owned(),
        _ if sight.exists(&format!("{LINKS}/{name}/device")) => "physical".to_owned(),
        _ => "virtual".to_owned(),
    }
}

fn hardware_address(sight: &Sight, name: &str, physical: bool) -> Found<String> {
    let path = format!("{LINKS}/{name}");
    if !physical {
        return Found::absent(format!("{path}/device"));
    }
    match sight.link(&path) {
        Found::Present { value, source } => match pci_address(&value) {
            Some(address) => Found::present(address.to_owned(), source),
            None => Found::absent(source),
        },
        Found::Absent { source } => Found::absent(source),
        Found::Unknown { source, reason } => Found::unknown(source, reason),
    }
}

/// −1, an error or no file: there is none now.
fn speed(found: Found<String>) -> Found<u64> {
    match found {
        Found::Present { value, source } if value.starts_with('-') => Found::absent(source),
        Found::Present { value, source } if value == u32::MAX.to_string() => Found::absent(source),
        Found::Unknown { source, .. } => Found::absent(source),
        found => found.parsed(|text| text.parse().map_err(|_| format!("`{text}` is no speed"))),
    }
}

fn probe_bond(sight: &Sight, name: &str, kind: &str) -> Found<Bond> {
    let folder = format!("{LINKS}/{name}/bonding");
    if kind != "bond" {
        return Found::absent(folder);
    }
    let read = |file: &str| sight.text(&format!("{folder}/{file}"));
    let links = read("slaves").map(|text| split(&text));
    let active = read("active_slave");
    // `802.3ad 4`.
    read("mode").map(|mode| Bond {
        mode: mode.split(' ').next().unwrap_or_default().to_owned(),
        links,
        active,
    })
}

fn split(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

fn probe_vlan(
    entry: &Entry,
    info: Option<&[u8]>,
    kind: &str,
    names: &BTreeMap<u32, String>,
    source: &str,
) -> Found<Vlan> {
    const DATA: u16 = 2;
    const ID: u16 = 1;
    if kind != "vlan" {
        return Found::absent(source);
    }
    let data = info.and_then(|info| netlink::attribute(info, DATA));
    let id = data.and_then(|data| netlink::attribute(data, ID)).and_then(|id| id.get(..2));
    let Some(&[low, high]) = id else {
        return Found::unknown(source, "the kernel told no number");
    };
    let parent = entry.number(PARENT).and_then(|index| names.get(&index).cloned());
    Found::present(Vlan { id: u16::from_ne_bytes([low, high]), parent }, source)
}

fn probe_bridge(sight: &Sight, name: &str, kind: &str) -> Found<Bridge> {
    let folder = format!("{LINKS}/{name}/bridge");
    if kind != "bridge" {
        return Found::absent(folder);
    }
    let on = |file: &str| sight.flag(&format!("{folder}/{file}"));
    let (spanning_tree, vlan_filtering) = (on("stp_state"), on("vlan_filtering"));
    sight.names(&format!("{LINKS}/{name}/brif")).map(|links| Bridge {
        links,
        spanning_tree,
        vlan_filtering,
    })
}

fn probe_sriov(sight: &Sight, total: &str) -> Found<Sriov> {
    let configured = sight.number(&total.replace("totalvfs", "numvfs"));
    sight.number(total).parsed(|total| match configured {
        Found::Present { value, .. } => Ok(Sriov { total, configured: value }),
        _ => Err("it does not tell how many it has".to_owned()),
    })
}

/// `02:00:00:00:00:01`.
pub(super) fn mac(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// RFC 2863's states, in the kernel's order.
fn state(byte: u8) -> String {
    const STATES: [&str; 7] =
        ["unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up"];
    STATES.get(usize::from(byte)).map_or_else(|| byte.to_string(), |state| (*state).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_is_down_has_no_speed_and_that_is_no_failure() {
        for (found, wanted) in [
            (Found::present("-1".to_owned(), "s"), Found::absent("s")),
            (Found::present("4294967295".to_owned(), "s"), Found::absent("s")),
            (Found::unknown("s", "invalid input parameter"), Found::absent("s")),
            (Found::present("25000".to_owned(), "s"), Found::present(25_000, "s")),
        ] {
            assert_eq!(speed(found), wanted);
        }
        assert!(speed(Found::present("fast".to_owned(), "s")).reason().is_some());
    }
}
