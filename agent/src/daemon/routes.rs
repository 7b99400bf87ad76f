//! What the daemon decides, pure: which routes there should be, and what is to be done about it.
//!
//! ```text
//!  routes.json ──┐                       ┌─ Add     wanted and not in the kernel
//!  kernel table ─┼─► wanted() ─► decide()┤
//!  applied.json ─┘                       └─ Remove  ours by record and no longer wanted
//! ```
//!
//! A route that somebody else put there is never touched: only what the record names is removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use serde::{Deserialize, Serialize};

/// Most peers a file may name; far beyond what one L2 segment carries.
const MAX_PEERS: usize = 4096;

/// `/etc/kdc/routes.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RoutesFile {
    /// This node's pod range.
    pub pod_cidr: Cidr,
    /// The whole cluster's pod range.
    pub cluster_cidr: Cidr,
    /// The Service range.
    pub service_cidr: Cidr,
    /// Peer address → peer pod range.
    pub peers: BTreeMap<Ipv4Addr, Cidr>,
}

impl RoutesFile {
    /// From the file's text.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: Self = serde_json::from_str(text).map_err(|cause| cause.to_string())?;
        if file.peers.len() > MAX_PEERS {
            return Err(format!("{} peers; at most {MAX_PEERS} are allowed", file.peers.len()));
        }
        Ok(file)
    }
}

/// An IPv4 range such as `10.244.1.0/24`; host bits are cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    network: u32,
    prefix: u8,
}

impl Cidr {
    /// The range of that many leading bits around `address`.
    #[must_use]
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self { network: address.to_bits() & mask(prefix), prefix }
    }

    /// Is the address in the range?
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.network
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", Ipv4Addr::from_bits(self.network), self.prefix)
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bad = || format!("`{text}` is not an IPv4 range such as `10.244.1.0/24`");
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let (address, prefix) =
            (address.parse().map_err(|_| bad())?, prefix.parse().map_err(|_| bad())?);
        if prefix > 32 { Err(bad()) } else { Ok(Self::new(address, prefix)) }
    }
}

/// A route of the kernel's main table, or one that should be there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Where to.
    pub destination: Cidr,
    /// Next hop; absent for a range right on the link.
    pub via: Option<Ipv4Addr>,
    /// Link; absent where the next hop decides.
    pub device: Option<String>,
}

/// Parse `/proc/net/route`. Addresses are in the machine's byte order there, so little-endian on
/// every platform kdc is built for.
///
/// # Errors
/// When a line is not understood.
pub fn parse_kernel_routes(text: &str) -> Result<Vec<Route>, String> {
    let number = |hex: &str| u32::from_str_radix(hex, 16).ok();
    let route_of = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let device = fields.next()?.to_owned();
        let destination = Ipv4Addr::from(number(fields.next()?)?.to_le_bytes());
        let gateway = number(fields.next()?)?;
        let flags = number(fields.next()?)?;
        let netmask = number(fields.nth(3)?)?.swap_bytes();
        // RTF_UP without RTF_REJECT.
        Some((flags & 0x201 == 1).then(|| Route {
            destination: Cidr::new(destination, u8::try_from(netmask.count_ones()).unwrap_or(32)),
            via: (gateway != 0).then(|| Ipv4Addr::from(gateway.to_le_bytes())),
            device: Some(device),
        }))
    };
    let mut routes = Vec::new();
    for line in text.lines().skip(1) {
        let route =
            route_of(line).ok_or_else(|| format!("a route that makes no sense: `{line}`"))?;
        routes.extend(route);
    }
    Ok(routes)
}

/// The routes that this node should have.
///
/// Without a default route `connect()` to a Service address fails before kube-proxy's rules can
/// rewrite it, so then the Service range is routed to the link that leads to the peers.
#[must_use]
pub fn wanted(file: &RoutesFile, kernel: &[Route]) -> BTreeSet<Route> {
    let mut routes: BTreeSet<Route> = file
        .peers
        .iter()
        .filter(|(_, range)| **range != file.pod_cidr)
        .map(|(address, range)| Route { destination: *range, via: Some(*address), device: None })
        .collect();
    let has_default = kernel.iter().any(|route| route.destination.prefix == 0);
    if !has_default {
        let device = Some(device_of_the_node(file, kernel));
        routes.insert(Route { destination: file.service_cidr, via: None, device });
    }
    routes
}

/// The link towards a peer; on a cluster of one node the first link that is not the pods' own.
fn device_of_the_node(file: &RoutesFile, kernel: &[Route]) -> String {
    let on_link = kernel.iter().filter(|route| {
        route.via.is_none()
            && route.destination != file.service_cidr
            && route.destination != file.pod_cidr
    });
    let towards = |peer: &Ipv4Addr| {
        let holding = on_link.clone().filter(|route| route.destination.contains(*peer));
        holding.max_by_key(|route| route.destination.prefix)
    };
    file.peers
        .keys()
        .find_map(towards)
        .or_else(|| on_link.clone().next())
        .and_then(|route| route.device.clone())
        .unwrap_or_else(|| "lo".to_owned())
}

/// One change of the kernel's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Put it there, in place of another route to the same range.
    Add(Route),
    /// Take it away: it is ours and no longer wanted.
    Remove(Route),
}

/// What is to be done, removals first.
#[must_use]
pub fn decide(
    wanted: &BTreeSet<Route>,
    applied: &BTreeSet<Route>,
    kernel: &[Route],
) -> Vec<Action> {
    let present = |route: &Route| {
        kernel.iter().any(|there| {
            there.destination == route.destination
                && there.via == route.via
                && (route.device.is_none() || there.device == route.device)
        })
    };
    let replaced: BTreeSet<Cidr> = wanted.iter().map(|route| route.destination).collect();
    let gone = applied.difference(wanted).filter(|route| !replaced.contains(&route.destination));
    let removals = gone.filter(|route| present(route)).cloned().map(Action::Remove);
    let additions = wanted.iter().filter(|route| !present(route)).cloned().map(Action::Add);
    removals.chain(additions).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.to_owned().try_into().unwrap()
    }

    fn file() -> RoutesFile {
        RoutesFile::parse(
            r#"{"podCidr":"10.244.0.0/24","clusterCidr":"10.244.0.0/16","serviceCidr":"10.96.0.0/12",
                "peers":{"10.66.0.12":"10.244.1.0/24","10.66.0.13":"10.244.2.0/24"}}"#,
        )
        .unwrap()
    }

    fn link(destination: &str, device: &str) -> Route {
        Route { destination: cidr(destination), via: None, device: Some(device.into()) }
    }

    fn peer(destination: &str, via: &str) -> Route {
        Route { destination: cidr(destination), via: Some(via.parse().unwrap()), device: None }
    }

    #[test]
    fn the_kernels_table_is_read_with_its_byte_order() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
            eth0\t00000000\t01 00 bad\n";
        assert!(parse_kernel_routes(text).is_err());
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
            eth0\t0001F40A\t0C00420A\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            eth0\t0000420A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            *\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0\n";
        let routes = parse_kernel_routes(text).unwrap();
        let mut first = peer("10.244.1.0/24", "10.66.0.12");
        first.device = Some("eth0".into());
        assert_eq!(routes, [first, link("10.66.0.0/24", "eth0")]);
    }

    #[test]
    fn the_service_range_gets_a_route_only_where_there_is_no_default_one() {
        let kernel = [link("10.244.0.0/24", "cni0"), link("10.66.0.0/24", "eth1")];
        assert_eq!(
            wanted(&file(), &kernel),
            BTreeSet::from([
                peer("10.244.1.0/24", "10.66.0.12"),
                peer("10.244.2.0/24", "10.66.0.13"),
                link("10.96.0.0/12", "eth1"),
            ])
        );
        let mut default = link("0.0.0.0/0", "eth1");
        default.via = Some(Ipv4Addr::new(10, 66, 0, 1));
        assert_eq!(wanted(&file(), &[kernel[1].clone(), default]).len(), 2);
    }

    #[test]
    fn a_cluster_of_one_node_routes_services_to_its_own_link() {
        let mut single = file();
        single.peers.clear();
        let kernel = [link("10.244.0.0/24", "cni0"), link("10.66.0.0/24", "eth0")];
        assert_eq!(wanted(&single, &kernel), [link("10.96.0.0/12", "eth0")].into());
        assert_eq!(wanted(&single, &[]), [link("10.96.0.0/12", "lo")].into());
    }

    #[test]
    fn only_what_is_missing_is_added_and_only_what_is_ours_is_removed() {
        let (one, two) = (peer("10.244.1.0/24", "10.66.0.12"), peer("10.244.2.0/24", "10.66.0.13"));
        let theirs = peer("10.9.0.0/16", "10.66.0.1");
        let kernel = [one.clone(), theirs.clone()];
        let both = BTreeSet::from([one.clone(), two.clone()]);
        assert_eq!(decide(&both, &both, &kernel), [Action::Add(two.clone())]);
        assert_eq!(decide(&BTreeSet::new(), &both, &kernel), [Action::Remove(one.clone())]);
        // A peer that moved: the new route takes the old one's place in one call.
        let moved = peer("10.244.1.0/24", "10.66.0.99");
        assert_eq!(decide(&[moved.clone()].into(), &[one].into(), &kernel), [Action::Add(moved)]);
    }

    #[test]
    fn a_file_that_makes_no_sense_says_why() {
        for (text, part) in [
            ("{}", "podCidr"),
            (r#"{"podCidr":"10.0.0.0/33"}"#, "not an IPv4 range"),
            (r#"{"podCidr":"fd00::/64"}"#, "not an IPv4 range"),
            (r#"{"podCIDR":"10.0.0.0/8"}"#, "podCIDR"),
        ] {
            let reason = RoutesFile::parse(text).unwrap_err();
            assert!(reason.contains(part), "{text}: {reason}");
        }
    }

    fn any_routes() -> impl Strategy<Value = BTreeSet<Route>> {
        prop::collection::btree_set(
            (0_u8..6, 1_u8..4).prop_map(|(range, via)| {
                peer(&format!("10.244.{range}.0/24"), &format!("10.66.0.{via}"))
            }),
            0..6,
        )
    }

    proptest! {
        /// Carrying out what was decided settles it: the second look finds nothing to do, and what
        /// others put there is still there.
        #[test]
        fn deciding_settles(wanted in any_routes(), applied in any_routes(), others in any_routes()) {
            // One route a range: the kernel's table and a routes file can't hold two.
            let unique = |routes: BTreeSet<Route>| -> BTreeMap<Cidr, Route> {
                routes.into_iter().map(|route| (route.destination, route)).collect()
            };
            let (wanted, applied) = (unique(wanted), unique(applied));
            let mut kernel = unique(others);
            kernel.extend(applied.clone());
            let set = |routes: &BTreeMap<Cidr, Route>| routes.values().cloned().collect::<BTreeSet<_>>();
            let table = |routes: &BTreeMap<Cidr, Route>| routes.values().cloned().collect::<Vec<_>>();
            let strangers: Vec<Cidr> =
                kernel.keys().filter(|range| !applied.contains_key(range)).copied().collect();
            for action in decide(&set(&wanted), &set(&applied), &table(&kernel)) {
                match action {
                    Action::Add(route) => { kernel.insert(route.destination, route); }
                    Action::Remove(route) => { kernel.remove(&route.destination); }
                }
            }
            prop_assert!(decide(&set(&wanted), &set(&wanted), &table(&kernel)).is_empty());
            prop_assert!(strangers.iter().all(|range| kernel.contains_key(range)));
        }
    }
}
