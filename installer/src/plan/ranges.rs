//! Which pod range each node gets: the one whose number is the node's own address, so that it can
//! be read off (10.66.0.11 → 10.244.11.0/24), does not depend on the order of the file, and does
//! not move when other nodes come or go.
//!
//! Numbers wrap around at the size of the pod range. Where two addresses wrap onto one number, the
//! lower address keeps it and the other gets the next free one; with servers on one segment no
//! larger than the pod range that does not happen. See `docs/decisions/0005-pod-ranges.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use kdc_profiles::{
    cidr::Cidr,
    cluster::{Cluster, NODE_POD_PREFIX, Node},
};

use super::PlanError;

/// Range by node name.
pub(super) type Ranges = BTreeMap<String, Cidr>;

/// A range for every node.
pub(super) fn assign(cluster: &Cluster) -> Result<Ranges, PlanError> {
    let pods: Cidr = cluster.network.pod_cidr.parse()?;
    let room = pods.parts(NODE_POD_PREFIX);
    let full = || PlanError::PodRangeFull { range: pods.to_string(), nodes: cluster.nodes.len() };
    if room < cluster.nodes.len() as u128 {
        return Err(full());
    }
    let mut nodes: Vec<&Node> = cluster.nodes.iter().collect();
    nodes.sort_by_key(|node| node.address);
    let mut taken: BTreeSet<u128> = BTreeSet::new();
    let mut numbers: BTreeMap<&str, u128> = BTreeMap::new();
    let mut displaced = Vec::new();
    for node in nodes {
        let home = number(node.address) % room;
        if taken.insert(home) {
            numbers.insert(&node.name, home);
        } else {
            displaced.push((node, home));
        }
    }
    for (node, home) in displaced {
        let free =
            (1..room).map(|step| (home + step) % room).find(|number| !taken.contains(number));
        let free = free.ok_or_else(full)?;
        taken.insert(free);
        numbers.insert(&node.name, free);
    }
    let mut ranges = Ranges::new();
    for (name, number) in numbers {
        let range = pods.part(NODE_POD_PREFIX, number).ok_or_else(full)?;
        ranges.insert(name.to_owned(), range);
    }
    Ok(ranges)
}

/// Range of one node.
pub(super) fn of(ranges: &Ranges, node: &Node) -> Result<Cidr, PlanError> {
    ranges
        .get(&node.name)
        .copied()
        .ok_or_else(|| PlanError::MissingFacts { node: node.name.clone() })
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::samples;

    #[test]
    fn a_node_gets_the_range_of_its_address_and_keeps_it_when_others_come_and_go() {
        let mut cluster = samples::cluster_of(40);
        let all = assign(&cluster).expect("ranges");
        assert_eq!(all["cp1"].to_string(), "10.244.11.0/24");
        cluster.nodes.reverse();
        assert_eq!(assign(&cluster).expect("ranges"), all);
        cluster.nodes.retain(|node| node.name != "w5");
        let fewer = assign(&cluster).expect("ranges");
        assert!(fewer.iter().all(|(name, range)| all[name] == *range));
    }

    #[test]
    fn colliding_addresses_get_ranges_of_their_own_and_a_full_range_is_told() {
        let mut cluster = samples::cluster_of(4);
        cluster.network.pod_cidr = "10.244.0.0/22".to_owned();
        cluster.nodes[1].address = "10.0.4.11".parse().expect("address");
        let ranges = assign(&cluster).expect("ranges");
        let distinct: BTreeSet<String> = ranges.values().map(ToString::to_string).collect();
        assert_eq!(distinct.len(), 4);
        cluster.network.pod_cidr = "10.244.0.0/23".to_owned();
        assert!(matches!(assign(&cluster), Err(PlanError::PodRangeFull { nodes: 4, .. })));
    }
}
