//! Outside traffic: whether kdc, the kubelet, containerd or a pod of this node reaches for an address
//! outside the cluster. Looked at from inside the node; nothing is changed.
//!
//! Two witnesses, neither complete, so what each can see is said with the proof:
//! - *connection tracking* knows each flow that went out or tried to, with both addresses, for as long as
//!   its entry lives (30 s for a datagram, 2 min for a connection that nobody answers, days for one that
//!   stands). A flow that begins at a pod is the pod's; one that begins at the node is looked up among
//!   the node's sockets.
//! - *no-route counters* know every packet since the run began that had no route at all, but not whose.
//!
//! Ours are pods (also those on the node's own network), kubelet, containerd and kdc-agent: one of their
//! flows and the proof fails. Other software of the node is told as a warning. So are the node's own
//! name servers, which its owner chose, and the counters, which name nobody. Where connection tracking
//! can't be read, or is empty, the proof says so and does not hold.

mod counters;
mod flows;
mod owners;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use kdc_profiles::cidr::Cidr;

pub use self::counters::begin;
use self::{
    flows::{Flow, parse_flows},
    owners::{Owner, owner_of},
};
use crate::{
    facts::{Address, Known},
    host::{Host, Program},
    wire::Proof,
};

const TABLE: &str = "/proc/net/nf_conntrack";

/// Largest table that is read: 300,000 flows.
const MAX_TABLE_BYTES: u64 = 64 * 1024 * 1024;

/// Flows that are looked up and told; more of them say nothing new.
const MOST_TOLD: usize = 16;

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Name of this node, for the proof's words.
    pub node: String,
    /// Ranges that belong to the cluster: every node's address, pods, Services.
    pub inside: Vec<Cidr>,
    /// Ranges of pods.
    pub pods: Vec<Cidr>,
}

/// Prove it, with `own` as this node's addresses.
pub fn prove(host: &dyn Host, asked: &Asked, own: &Known<Vec<Address>>) -> Proof {
    let claim =
        format!("no pod, kubelet, containerd or kdc-agent of {} reaches outside", asked.node);
    let result = match own {
        Known::Known(own) => look(host, asked, own),
        Known::Unknown(why) => Err(format!("could not look: the node's own addresses: {why}")),
    };
    let holds = result.is_ok();
    Proof { claim, holds, detail: result.unwrap_or_else(|reason| reason) }
}

fn look(host: &dyn Host, asked: &Asked, own: &[Address]) -> Result<String, String> {
    let flows = read_flows(host).map_err(|why| format!("could not look: {why}"))?;
    if flows.is_empty() {
        return Err("could not look: connection tracking is off, it knows not one flow".to_owned());
    }
    let address = |own: &Address| own.address.split('/').next()?.parse::<IpAddr>().ok();
    let scope = Scope {
        asked,
        own: own.iter().filter_map(address).collect(),
        name_servers: name_servers(host),
    };
    let mut told = Told::default();
    for flow in &flows {
        scope.judge(flow, &mut told, &|flow| owner_of(host, flow));
    }
    told.warnings.extend(counters::since_begun(host));
    told.into_result(flows.len())
}

fn read_flows(host: &dyn Host) -> Result<Vec<Flow>, String> {
    if let Some(table) = host.read(TABLE, MAX_TABLE_BYTES).map_err(|error| error.to_string())? {
        return parse_flows(&String::from_utf8_lossy(&table));
    }
    let mut flows = Vec::new();
    for family in ["ipv4", "ipv6"] {
        let list = Program::new("conntrack").args(["-L", "-f", family]).within_secs(30);
        let output = host.run_checked(&list).map_err(|error| error.to_string())?;
        flows.extend(parse_flows(&output.text())?);
    }
    Ok(flows)
}

/// Name servers of the node, which its owner chose and cluster DNS forwards to.
fn name_servers(host: &dyn Host) -> BTreeSet<IpAddr> {
    let files = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
    // A file that can't be read names nobody: then what goes there counts as outside.
    let texts = files.iter().filter_map(|path| host.read_text(path).ok().flatten());
    let servers = |text: String| {
        let server = |line: &str| line.trim().strip_prefix("nameserver")?.trim().parse().ok();
        text.lines().filter_map(server).collect::<Vec<IpAddr>>()
    };
    texts.flat_map(servers).collect()
}

struct Scope<'a> {
    asked: &'a Asked,
    own: BTreeSet<IpAddr>,
    name_servers: BTreeSet<IpAddr>,
}

/// What was found, each line once.
#[derive(Default)]
struct Told {
    violations: BTreeSet<String>,
    warnings: BTreeSet<String>,
    /// Found by address and port, so that many flows to one place are looked up once.
    known: BTreeMap<(IpAddr, Option<u16>), Owner>,
}

impl Scope<'_> {
    fn judge(&self, flow: &Flow, told: &mut Told, owner: &dyn Fn(&Flow) -> Owner) {
        // The bridge's own address lies in the pods' range too.
        let of_node = self.own.contains(&flow.source);
        let of_pod = !of_node && self.asked.pods.iter().any(|range| range.contains(flow.source));
        if !(of_pod || of_node) || self.is_inside(flow.destination) {
            return;
        }
        let to = flow.to();
        if flow.port == Some(53) && self.name_servers.contains(&flow.destination) {
            told.warnings.insert(format!("names are asked of the node's own name server {to}"));
        } else if of_pod {
            told.violations.insert(format!("pod {} reached for {to}", flow.source));
        } else if told.violations.len() + told.warnings.len() < MOST_TOLD {
            let known = told.known.entry((flow.destination, flow.port));
            let owner = known.or_insert_with(|| owner(flow));
            if *owner == Owner::Peer {
                return;
            }
            let words = format!("{owner} reached for {to}");
            let list = if owner.is_ours() { &mut told.violations } else { &mut told.warnings };
            list.insert(words);
        }
    }

    /// Part of the cluster, this machine itself, or heard on the own link alone.
    fn is_inside(&self, address: IpAddr) -> bool {
        let near = match address {
            IpAddr::V4(v4) => v4.is_loopback() || v4.is_multicast() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_multicast() || v6.is_unicast_link_local(),
        };
        near || self.own.contains(&address)
            || self.asked.inside.iter().any(|range| range.contains(address))
    }
}

impl Told {
    fn into_result(self, flows: usize) -> Result<String, String> {
        let listed = |lines: BTreeSet<String>| {
            let left = lines.len().saturating_sub(MOST_TOLD);
            let mut listed: Vec<String> = lines.into_iter().take(MOST_TOLD).collect();
            if left > 0 {
                listed.push(format!("and {left} more"));
            }
            listed.join("; ")
        };
        let warned = match listed(self.warnings) {
            warnings if warnings.is_empty() => String::new(),
            warnings => format!("; warning: {warnings}"),
        };
        if self.violations.is_empty() {
            return Ok(format!("{flows} flows looked at{warned}"));
        }
        Err(format!("{}{warned}", listed(self.violations)))
    }
}

#[cfg(test)]
mod tests;
