//! Checks across nodes: what no node can know by itself. Pure.
//!
//! A finding names the nodes it is about; ids stand in `docs/checks.md` beside those of the node
//! checks.

use std::{collections::BTreeMap, net::IpAddr};

use kdc_agent::{
    check::{Finding, Verdict},
    facts::{Facts, Known},
};
use kdc_bundles::index::{ArtifactKind, Index};
use kdc_profiles::{cidr::Cidr, cluster::Cluster};

/// How far a clock may be off the median of all: certificates made on one node must not lie in the
/// future of another, and kubeadm gives them no slack.
pub const MAX_SKEW_MS: u64 = 30_000;

/// What one answer across nodes is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetFinding {
    /// Nodes it is about, sorted; empty when it holds for all.
    pub nodes: Vec<String>,
    /// The finding.
    pub finding: Finding,
}

/// What the checks look at.
#[derive(Debug, Clone, Copy)]
pub struct Fleet<'a> {
    /// Cluster file.
    pub cluster: &'a Cluster,
    /// Bundle index.
    pub index: &'a Index,
    /// Facts by node name.
    pub facts: &'a BTreeMap<String, Facts>,
    /// Each node's clock minus the installer's at the moment of the answer, milliseconds.
    pub clock_offset_ms: &'a BTreeMap<String, i64>,
}

/// Ids and titles of the checks across nodes.
pub const CHECKS: &[(&str, &str)] = &[
    ("facts", "every node was looked at"),
    ("fleet-hostname", "host names differ"),
    ("fleet-machine-id", "machine ids differ"),
    ("fleet-address", "addresses are the nodes' own"),
    ("fleet-clock", "clocks agree"),
    ("fleet-name", "names are the host names"),
    ("fleet-ranges", "pod and Service ranges are free"),
    ("fleet-platform", "the bundle serves every platform"),
    ("fleet-ownership", "no node is in another cluster"),
];

/// Judge all nodes together: every check says something, ok included, in a fixed order.
#[must_use]
pub fn judge(fleet: &Fleet<'_>) -> Vec<FleetFinding> {
    let judges: [fn(&Fleet<'_>) -> Vec<Told>; 9] = [
        facts_are_there,
        hostnames,
        machine_ids,
        addresses,
        clocks,
        names,
        pod_and_service_ranges,
        platforms,
        ownership,
    ];
    let mut findings = Vec::new();
    for ((id, title), judge) in CHECKS.iter().zip(judges) {
        let told = judge(fleet);
        if told.is_empty() {
            let detail = format!("{} nodes", fleet.cluster.nodes.len());
            let ok = Told { nodes: Vec::new(), verdict: Verdict::Ok, detail, fix: None };
            findings.push(ok.finding(id, title));
        }
        findings.extend(told.into_iter().map(|told| told.finding(id, title)));
    }
    findings
}

struct Told {
    nodes: Vec<String>,
    verdict: Verdict,
    detail: String,
    fix: Option<String>,
}

impl Told {
    fn new(nodes: &[&str], verdict: Verdict, detail: String, fix: &str) -> Self {
        let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        Self { nodes, verdict, detail, fix: Some(fix.to_owned()) }
    }

    fn finding(self, id: &str, title: &str) -> FleetFinding {
        let Self { nodes, verdict, detail, fix } = self;
        let finding = Finding { id: id.to_owned(), title: title.to_owned(), verdict, detail, fix };
        FleetFinding { nodes, finding }
    }
}

fn facts_are_there(fleet: &Fleet<'_>) -> Vec<Told> {
    let missing: Vec<&str> = fleet
        .cluster
        .nodes
        .iter()
        .filter(|node| !fleet.facts.contains_key(&node.name))
        .map(|node| node.name.as_str())
        .collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let detail = format!("no facts of {}", missing.join(", "));
    vec![Told::new(&missing, Verdict::Unknown, detail, "see why they could not be reached")]
}

/// Nodes by a value they share with others.
fn shared<'a>(
    facts: &'a BTreeMap<String, Facts>,
    value: impl Fn(&'a Facts) -> Option<&'a str>,
) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut by_value: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (node, facts) in facts {
        if let Some(value) = value(facts) {
            by_value.entry(value).or_default().push(node);
        }
    }
    by_value.retain(|_, nodes| nodes.len() > 1);
    by_value
}

fn hostnames(fleet: &Fleet<'_>) -> Vec<Told> {
    let tell = |(name, nodes): (&str, Vec<&str>)| {
        let detail = format!("{} all have the host name `{name}`", nodes.join(", "));
        let fix = "give each server its own: `hostnamectl set-hostname NAME`";
        Told::new(&nodes, Verdict::Fail, detail, fix)
    };
    shared(fleet.facts, |facts| Some(&facts.hostname)).into_iter().map(tell).collect()
}

fn machine_ids(fleet: &Fleet<'_>) -> Vec<Told> {
    let tell = |(_, nodes): (&str, Vec<&str>)| {
        let detail = format!("{} have the same /etc/machine-id: cloned disks", nodes.join(", "));
        let fix = "on all but one: `rm /etc/machine-id && systemd-machine-id-setup`, then reboot";
        Told::new(&nodes, Verdict::Fail, detail, fix)
    };
    let ids = shared(fleet.facts, |facts| facts.machine_id.value().map(String::as_str));
    let mut told: Vec<Told> = ids.into_iter().map(tell).collect();
    for (node, facts) in fleet.facts {
        if let Known::Unknown(reason) = &facts.machine_id {
            let detail = format!("could not read /etc/machine-id: {reason}");
            told.push(Told::new(&[node], Verdict::Unknown, detail, "make it readable"));
        }
    }
    told
}

/// Addresses a node has, without their prefix lengths.
fn own_addresses(facts: &Facts) -> Result<Vec<Cidr>, &str> {
    match &facts.addresses {
        Known::Unknown(reason) => Err(reason),
        Known::Known(list) => Ok(list
            .iter()
            .filter_map(|address| {
                let (ip, _) = address.address.split_once('/')?;
                let ip: IpAddr = ip.parse().ok()?;
                Cidr::around(ip, if ip.is_ipv4() { 32 } else { 128 })
            })
            .collect()),
    }
}

fn addresses(fleet: &Fleet<'_>) -> Vec<Told> {
    let mut told = Vec::new();
    let mut holders: BTreeMap<IpAddr, Vec<&str>> = BTreeMap::new();
    for node in &fleet.cluster.nodes {
        let Some(facts) = fleet.facts.get(&node.name) else { continue };
        let own = match own_addresses(facts) {
            Ok(own) => own,
            Err(reason) => {
                let detail = format!("could not read its addresses: {reason}");
                told.push(Told::new(&[&node.name], Verdict::Unknown, detail, "run as root"));
                continue;
            }
        };
        if !own.iter().any(|own| own.address() == node.address) {
            let list: Vec<String> = own.iter().map(|own| own.address().to_string()).collect();
            let detail = format!(
                "{} is not an address of the node, which has {}",
                node.address,
                if list.is_empty() { "none".to_owned() } else { list.join(", ") },
            );
            let fix = "put the address that other nodes reach it by into `address`; behind NAT, \
                       set the address for SSH as `HostName` in ~/.ssh/config";
            told.push(Told::new(&[&node.name], Verdict::Fail, detail, fix));
        }
        for own in own {
            holders.entry(own.address()).or_default().push(&node.name);
        }
    }
    // Only addresses of the cluster file: link-local and the like may repeat.
    for node in &fleet.cluster.nodes {
        if let Some(nodes) = holders.get(&node.address).filter(|nodes| nodes.len() > 1) {
            let detail = format!("{} is set on {}", node.address, nodes.join(" and "));
            let fix = "give each server an address of its own";
            told.push(Told::new(nodes, Verdict::Fail, detail, fix));
        }
    }
    told
}

fn clocks(fleet: &Fleet<'_>) -> Vec<Told> {
    let mut told = Vec::new();
    let mut offsets: Vec<i64> = Vec::new();
    for node in fleet.facts.keys() {
        match fleet.clock_offset_ms.get(node) {
            Some(offset) => offsets.push(*offset),
            None => {
                let detail = "its clock was not compared".to_owned();
                told.push(Told::new(&[node], Verdict::Unknown, detail, "check again"));
            }
        }
    }
    offsets.sort_unstable();
    // The lower of the middle two, so that of two nodes one is the measure of the other.
    let Some(median) = offsets.get(offsets.len().saturating_sub(1) / 2).copied() else {
        return told;
    };
    for (node, offset) in fleet.clock_offset_ms {
        let off = offset.abs_diff(median);
        if off > MAX_SKEW_MS && fleet.facts.contains_key(node) {
            let side = if *offset > median { "ahead of" } else { "behind" };
            let detail = format!("its clock is {} s {side} the others (at most 30 s)", off / 1000);
            let fix = "set the clock (`date -s`, `hwclock --systohc`) or start a time service";
            told.push(Told::new(&[node], Verdict::Fail, detail, fix));
        }
    }
    told
}

fn names(fleet: &Fleet<'_>) -> Vec<Told> {
    let mut told = Vec::new();
    for node in &fleet.cluster.nodes {
        let Some(facts) = fleet.facts.get(&node.name) else { continue };
        let short = facts.hostname.split('.').next().unwrap_or_default();
        if short == node.name {
            continue;
        }
        let other = fleet.cluster.nodes.iter().find(|other| other.name == short);
        let (verdict, fix) = match other {
            // Two entries swapped: the wrong server would become the control plane.
            Some(_) => (Verdict::Fail, "swap the addresses in the cluster file, or rename"),
            None => (
                Verdict::Warn,
                "works: Kubernetes will know it by the cluster file's name; rename the server to \
                 avoid confusion",
            ),
        };
        let detail = match other {
            Some(other) => format!("its host name is `{}`, which is another node's", other.name),
            None => format!("its host name is `{}`", facts.hostname),
        };
        told.push(Told::new(&[&node.name], verdict, detail, fix));
    }
    told
}

fn pod_and_service_ranges(fleet: &Fleet<'_>) -> Vec<Told> {
    let network = &fleet.cluster.network;
    let mut told = Vec::new();
    for (what, field, range) in
        [("pod", "podCIDR", &network.pod_cidr), ("Service", "serviceCIDR", &network.service_cidr)]
    {
        let Ok(range) = range.parse::<Cidr>() else { continue };
        for (node, facts) in fleet.facts {
            let Some(list) = facts.addresses.value() else { continue };
            // The node's own bridge for pods stands in the pod range once it is installed.
            let ours = facts.ownership.cluster.as_deref() == Some(fleet.cluster.name.as_str());
            if ours {
                continue;
            }
            for address in list {
                let Some((ip, prefix)) = address.address.split_once('/') else { continue };
                let (Ok(ip), Ok(prefix)) = (ip.parse::<IpAddr>(), prefix.parse::<u8>()) else {
                    continue;
                };
                if !Cidr::around(ip, prefix).is_some_and(|network| network.overlaps(&range)) {
                    continue;
                }
                let detail = format!(
                    "{what} range {range} overlaps {} on {}",
                    address.address, address.link
                );
                let fix = format!("choose another `spec.network.{field}`");
                told.push(Told::new(&[node], Verdict::Fail, detail, &fix));
            }
        }
    }
    told
}

fn platforms(fleet: &Fleet<'_>) -> Vec<Told> {
    let mut told = Vec::new();
    for (node, facts) in fleet.facts {
        let served = fleet.index.artifacts.iter().any(|artifact| {
            artifact.kind == ArtifactKind::Agent
                && artifact.platform.as_deref().is_none_or(|of| of == facts.platform)
        });
        if !served {
            let detail = format!("the bundle has nothing for {}", facts.platform);
            let fix = "use a bundle that is built for every platform of the cluster";
            told.push(Told::new(&[node], Verdict::Fail, detail, fix));
        }
    }
    told
}

fn ownership(fleet: &Fleet<'_>) -> Vec<Told> {
    let mut told = Vec::new();
    for (node, facts) in fleet.facts {
        if let Some(other) = &facts.ownership.cluster
            && *other != fleet.cluster.name
        {
            let detail = format!("the node belongs to the cluster `{other}`");
            let fix = "undo that cluster first (`kdc-install undo` with its cluster file)";
            told.push(Told::new(&[node], Verdict::Fail, detail, fix));
        }
    }
    told
}

#[cfg(test)]
#[path = "fleet_check_tests.rs"]
mod tests;
