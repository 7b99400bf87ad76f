//! Addresses and routes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::netlink::{self, Entry, Table};
use crate::inventory::{Found, sight::Sight};

/// Most entries that are kept of each table.
const MAX_ADDRESSES: usize = 4096;
const MAX_ROUTES: usize = 4096;
/// The table of the node's own addresses repeats what the links say.
const LOCAL: u32 = 255;

/// An address of a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LinkAddress {
    /// Link.
    pub link: String,
    /// Address with prefix length.
    pub address: String,
    /// `global`, `link`, `host` or `site`.
    pub scope: String,
    /// It stays until somebody takes it away; others were lent (DHCP, router advertisements).
    pub permanent: bool,
}

/// A route, of any table but that of the node's own addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Where to (`default`, `10.0.0.0/8`).
    pub destination: String,
    /// `unicast`, `blackhole`, `unreachable`, …
    pub kind: String,
    /// Next hop.
    pub gateway: Option<String>,
    /// Through this link.
    pub link: Option<String>,
    /// More next hops, where there are several (`via 10.0.0.1 dev eth0`).
    pub hops: Vec<String>,
    /// Lower comes first.
    pub metric: u32,
    /// Table (254: main).
    pub table: u32,
    /// Who set it (`kernel`, `boot`, `static`, `dhcp`, `ra`, `bird`, or a number).
    pub protocol: String,
}

/// Addresses of all links.
pub(super) fn probe_addresses(
    sight: &Sight,
    names: &BTreeMap<u32, String>,
) -> Found<Vec<LinkAddress>> {
    netlink::ask(sight, Table::Addresses).map(|bytes| {
        let mut list: Vec<LinkAddress> = netlink::entries(Table::Addresses, &bytes)
            .filter_map(|entry| address(&entry, names))
            .take(MAX_ADDRESSES)
            .collect();
        list.sort();
        list
    })
}

fn address(entry: &Entry, names: &BTreeMap<u32, String>) -> Option<LinkAddress> {
    /// `IFA_ADDRESS`, and `IFA_LOCAL` which is the node's own end of a point-to-point link.
    const ADDRESS: u16 = 1;
    const LOCAL_END: u16 = 2;
    const PERMANENT: u8 = 0x80;
    let &[_, prefix, flags, scope, ref index @ ..] = entry.fixed else { return None };
    let own = entry.get(LOCAL_END).or_else(|| entry.get(ADDRESS)).and_then(ip)?;
    let index = netlink::number(index)?;
    Some(LinkAddress {
        link: names.get(&index).cloned().unwrap_or_else(|| format!("link {index}")),
        address: format!("{own}/{prefix}"),
        scope: scope_name(scope),
        permanent: flags & PERMANENT != 0,
    })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::V4(Ipv4Addr::from(bytes)));
    }
    Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)))
}

fn scope_name(scope: u8) -> String {
    match scope {
        0 => "global".to_owned(),
        200 => "site".to_owned(),
        253 => "link".to_owned(),
        254 => "host".to_owned(),
        other => other.to_string(),
    }
}

/// Routes of all tables but the local one.
pub(super) fn probe_routes(sight: &Sight, names: &BTreeMap<u32, String>) -> Found<Vec<Route>> {
    netlink::ask(sight, Table::Routes).map(|bytes| {
        let mut list: Vec<Route> = netlink::entries(Table::Routes, &bytes)
            .filter_map(|entry| route(&entry, names))
            .take(MAX_ROUTES)
            .collect();
        list.sort();
        list
    })
}

fn route(entry: &Entry, names: &BTreeMap<u32, String>) -> Option<Route> {
    const DESTINATION: u16 = 1;
    const LINK: u16 = 4;
    const GATEWAY: u16 = 5;
    const METRIC: u16 = 6;
    const HOPS: u16 = 9;
    const TABLE: u16 = 15;
    const VIA: u16 = 18;
    /// A copy that the kernel keeps for one destination.
    const CLONED: u32 = 0x200;
    let &[_, length, _, _, table, protocol, _, kind, ref flags @ ..] = entry.fixed else {
        return None;
    };
    let table = entry.number(TABLE).unwrap_or(u32::from(table));
    if table == LOCAL || netlink::number(flags)? & CLONED != 0 {
        return None;
    }
    let named = |index: u32| names.get(&index).cloned().unwrap_or_else(|| format!("link {index}"));
    let destination = match entry.get(DESTINATION).and_then(ip) {
        Some(address) => format!("{address}/{length}"),
        None => "default".to_owned(),
    };
    // A next hop of the other family: two bytes of family, then the address.
    let via = || entry.get(VIA).and_then(|bytes| ip(bytes.get(2..)?));
    Some(Route {
        destination,
        kind: kind_name(kind),
        gateway: entry.get(GATEWAY).and_then(ip).or_else(via).map(|address| address.to_string()),
        link: entry.number(LINK).map(named),
        hops: entry.get(HOPS).map(|bytes| hops(bytes, &named)).unwrap_or_default(),
        metric: entry.number(METRIC).unwrap_or(0),
        table,
        protocol: protocol_name(protocol),
    })
}

/// `struct rtnexthop`: length, flags, weight less one, link; then attributes.
fn hops(bytes: &[u8], named: &dyn Fn(u32) -> String) -> Vec<String> {
    const MAX_HOPS: usize = 64;
    let (mut rest, mut list) = (bytes, Vec::new());
    while let Some(length) =
        rest.get(..2).map(|two| usize::from(u16::from_ne_bytes([two[0], two[1]])))
        && let Some(hop) = rest.get(..length.max(8))
        && list.len() < MAX_HOPS
    {
        let link = netlink::number(&hop[4..]).map(named).unwrap_or_default();
        list.push(match netlink::attribute(&hop[8..], 5).and_then(ip) {
            Some(gateway) => format!("via {gateway} dev {link}"),
            None => format!("dev {link}"),
        });
        rest = rest.get(length.max(8).next_multiple_of(4)..).unwrap_or_default();
    }
    list
}

fn kind_name(kind: u8) -> String {
    match kind {
        1 => "unicast",
        2 => "local",
        3 => "broadcast",
        4 => "anycast",
        5 => "multicast",
        6 => "blackhole",
        7 => "unreachable",
        8 => "prohibit",
        9 => "throw",
        other => return other.to_string(),
    }
    .to_owned()
}

fn protocol_name(protocol: u8) -> String {
    match protocol {
        1 => "redirect",
        2 => "kernel",
        3 => "boot",
        4 => "static",
        9 => "ra",
        12 => "bird",
        16 => "dhcp",
        186 => "bgp",
        other => return other.to_string(),
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One message of a table.
    fn message(kind: u16, fixed: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = fixed.to_vec();
        for (kind, value) in attributes {
            body.extend((value.len() as u16 + 4).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut message = (body.len() as u32 + 16).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.resize(16, 0);
        message.extend(body);
        message
    }

    fn names() -> BTreeMap<u32, String> {
        BTreeMap::from([(2, "eth0".to_owned()), (3, "eth1".to_owned())])
    }

    #[test]
    fn an_address_is_the_nodes_own_end_with_its_prefix() {
        let mut fixed = vec![2, 24, 0x80, 0];
        fixed.extend(2_u32.to_ne_bytes());
        let bytes = message(20, &fixed, &[(1, &[10, 0, 0, 9]), (2, &[10, 0, 0, 1])]);
        let entry = netlink::entries(Table::Addresses, &bytes).next().unwrap();
        let found = address(&entry, &names()).unwrap();
        assert_eq!((found.link.as_str(), found.address.as_str()), ("eth0", "10.0.0.1/24"));
        assert!(found.permanent);
    }

    #[test]
    fn routes_have_their_hops_and_the_local_table_is_left_out() {
        let fixed = |table: u8| vec![2, 0, 0, 0, table, 16, 0, 1, 0, 0, 0, 0];
        let mut hop = vec![16, 0, 0, 0];
        hop.extend(3_u32.to_ne_bytes());
        hop.extend([8, 0, 5, 0, 10, 0, 0, 254]);
        let index = 2_u32.to_ne_bytes();
        let bytes = [
            message(
                24,
                &fixed(254),
                &[(4, &index), (5, &[10, 0, 0, 1]), (6, &100_u32.to_ne_bytes())],
            ),
            message(24, &fixed(255), &[(4, &index)]),
            message(24, &fixed(254), &[(9, &[hop.clone(), hop].concat())]),
        ]
        .concat();
        let routes: Vec<Route> = netlink::entries(Table::Routes, &bytes)
            .filter_map(|entry| route(&entry, &names()))
            .collect();
        assert_eq!(routes.len(), 2);
        assert_eq!(routes[0].destination, "default");
        assert_eq!(routes[0].gateway.as_deref(), Some("10.0.0.1"));
        assert_eq!((routes[0].metric, routes[0].protocol.as_str()), (100, "dhcp"));
        assert_eq!(routes[1].hops, ["via 10.0.0.254 dev eth1", "via 10.0.0.254 dev eth1"]);
    }
}
