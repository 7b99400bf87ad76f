//! Acceptance: what the profile promises, proved from inside the cluster.
//!
//! On a control plane, with `kubectl` and the admin kubeconfig, and only what the profile claims:
//!
//! | Claim | Proof |
//! |---|---|
//! | `api-healthy` | the API server says it is ready |
//! | `nodes-ready` | every node is Ready |
//! | `pod-to-pod` | the test pod on each node fetches every other node's by address |
//! | `service-by-name` | the test pod on each node fetches the Service of all by name |
//! | `no-outside-traffic` | every node's own look ([`crate::traffic`]), handed in as made elsewhere |
//!
//! The test pods are a `DaemonSet` of tiny web servers in a namespace of its own. It is removed at the
//! end whatever happened, and one that a cut-off acceptance left is removed first.

mod error;
mod fetch;
mod manifests;
mod record;

use std::{collections::BTreeMap, time::Duration};

use kdc_profiles::profile::Acceptance;
use serde::Deserialize;

pub use error::AcceptError;
pub use record::{RECORD_PATH, forget, recorded};

use crate::{
    host::{Host, Program},
    step::kubectl::{self, ADMIN_CONF as ADMIN_KUBECONFIG},
    wire::{AcceptanceSubject, Proof},
};

const NAMESPACE: &str = "kdc-acceptance";
const POLL: Duration = Duration::from_secs(1);

/// What to prove.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Image with a busybox, present on every node; empty where no claim needs one.
    pub image: String,
    /// What it is about; the nodes named there must take part.
    pub subject: AcceptanceSubject,
    /// For everything together.
    pub timeout_secs: u64,
    /// Proofs that were made on the nodes already.
    pub elsewhere: Vec<Proof>,
}

/// Make the proof of every claim, in a stable order, those made elsewhere last; those that fail are in
/// the list too. When all of them hold, that is on record here before this answers.
///
/// # Errors
/// When the proofs can't be made (no kubeconfig, no `kubectl`) or the test objects stay.
pub fn accept(host: &dyn Host, asked: &Asked) -> Result<Vec<Proof>, AcceptError> {
    let mut proofs = prove(host, asked)?;
    proofs.extend(asked.elsewhere.iter().cloned());
    let traffic = asked.subject.claims.contains(&Acceptance::NoOutsideTraffic);
    if traffic && asked.elsewhere.is_empty() {
        let why = "could not look: no node was asked".to_owned();
        proofs.push(proof("nothing reaches outside", Err(why)));
    }
    record::keep(host, asked.subject.clone(), &proofs)?;
    Ok(proofs)
}

fn prove(host: &dyn Host, asked: &Asked) -> Result<Vec<Proof>, AcceptError> {
    if host.stat(ADMIN_KUBECONFIG)?.is_none() {
        return Err(AcceptError::NoKubeconfig);
    }
    let cluster = Cluster {
        host,
        ends_unix_ms: host.now_unix_ms() + asked.timeout_secs.saturating_mul(1000),
        total_secs: asked.timeout_secs,
    };
    let claims = &asked.subject.claims;
    let claimed = |claim| claims.contains(&claim);
    let pods = fetch::Wanted {
        pods: claimed(Acceptance::PodToPod),
        service: claimed(Acceptance::ServiceByName),
    };
    let (health, ready) = (claimed(Acceptance::ApiHealthy), claimed(Acceptance::NodesReady));
    if !(health || ready || pods.any()) {
        return Ok(Vec::new());
    }
    // Everything else is asked of the API: one that is not healthy is told though it isn't claimed.
    let api = cluster.prove_api()?;
    let (healthy, mut proofs) = (api.holds, Vec::new());
    if health || !healthy {
        proofs.push(api);
    }
    if !healthy {
        return Ok(proofs);
    }
    let nodes: Vec<String> = asked.subject.runs.keys().cloned().collect();
    if ready {
        proofs.extend(cluster.prove_nodes(&nodes)?);
    }
    if pods.any() {
        cluster.remove_namespace()?;
        let made = cluster.prove_pods(&asked.image, &nodes, pods);
        cluster.remove_namespace()?;
        proofs.extend(made?);
    }
    Ok(proofs)
}

struct Cluster<'a> {
    host: &'a dyn Host,
    ends_unix_ms: u64,
    total_secs: u64,
}

/// What of a list of objects is read.
#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
}

#[derive(Deserialize)]
struct NodeObject {
    metadata: Metadata,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Deserialize, Default)]
struct NodeStatus {
    #[serde(default)]
    conditions: Vec<NodeCondition>,
}

#[derive(Deserialize)]
struct NodeCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct PodObject {
    metadata: Metadata,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    #[serde(default)]
    node_name: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    #[serde(default)]
    phase: String,
    #[serde(rename = "podIP", default)]
    pod_ip: String,
}

/// A test pod that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pod {
    name: String,
    address: String,
}

fn proof(claim: impl Into<String>, result: Result<String, String>) -> Proof {
    let holds = result.is_ok();
    Proof { claim: claim.into(), holds, detail: result.unwrap_or_else(|reason| reason) }
}

impl Cluster<'_> {
    fn kubectl(arguments: &[&str]) -> Program {
        kubectl::kubectl(arguments.iter().copied()).within_secs(30)
    }

    fn read<T: serde::de::DeserializeOwned>(&self, arguments: &[&str]) -> Result<T, AcceptError> {
        let what = arguments.iter().take(2).copied().collect::<Vec<_>>().join(" ");
        let output = self.host.run(&Self::kubectl(arguments))?;
        if !output.good() {
            return Err(AcceptError::Kubectl { what, reason: output.tail() });
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|cause| AcceptError::Kubectl { what, reason: cause.to_string() })
    }

    fn over(&self) -> bool {
        self.host.now_unix_ms() >= self.ends_unix_ms
    }

    /// Ask until it holds or the time is over; the last reason is the detail then.
    fn wait_for<T>(
        &self,
        mut look: impl FnMut() -> Result<Result<T, String>, AcceptError>,
    ) -> Result<Result<T, String>, AcceptError> {
        loop {
            match look()? {
                Ok(found) => return Ok(Ok(found)),
                Err(reason) if self.over() => {
                    return Ok(Err(format!("not within {} s: {reason}", self.total_secs)));
                }
                Err(_) => self.host.sleep(POLL),
            }
        }
    }

    fn prove_api(&self) -> Result<Proof, AcceptError> {
        let ready = self.wait_for(|| {
            let output = self.host.run(&Self::kubectl(&["get", "--raw", "/readyz"]))?;
            Ok(if output.good() { Ok(output.text()) } else { Err(output.tail()) })
        })?;
        Ok(proof("the API server is healthy", ready))
    }

    fn prove_nodes(&self, wanted: &[String]) -> Result<Vec<Proof>, AcceptError> {
        let mut proofs = Vec::new();
        for name in wanted {
            let ready = self.wait_for(|| {
                let nodes: List<NodeObject> = self.read(&["get", "nodes", "-o", "json"])?;
                let node = nodes.items.iter().find(|node| node.metadata.name == *name);
                Ok(readiness(node))
            })?;
            proofs.push(proof(format!("node {name} is Ready"), ready));
        }
        Ok(proofs)
    }

    fn prove_pods(
        &self,
        image: &str,
        nodes: &[String],
        wanted: fetch::Wanted,
    ) -> Result<Vec<Proof>, AcceptError> {
        let objects = manifests::objects(NAMESPACE, image).to_string();
        let apply = Self::kubectl(&["apply", "-f", "-"]).with_input(objects);
        let output = self.host.run(&apply)?;
        if !output.good() {
            let what = "apply".to_owned();
            return Err(AcceptError::Kubectl { what, reason: output.tail() });
        }
        let pods = self.wait_for(|| {
            let pods: List<PodObject> =
                self.read(&["get", "pods", "-n", NAMESPACE, "-o", "json"])?;
            Ok(pods_by_node(pods, nodes))
        })?;
        match pods {
            Ok(pods) => Ok(self.fetch_all(&pods, wanted)),
            Err(reason) => Ok(vec![proof("a test pod runs on every node", Err(reason))]),
        }
    }

    /// Remove our namespace and wait until it is gone. Has a minute of its own: cleaning up must
    /// not fail because the proofs took their time.
    fn remove_namespace(&self) -> Result<(), AcceptError> {
        const SECONDS: u64 = 120;
        let gone = || -> Result<bool, AcceptError> {
            let arguments = ["get", "namespace", NAMESPACE, "--ignore-not-found", "-o", "name"];
            let output = self.host.run(&Self::kubectl(&arguments))?;
            Ok(output.good() && output.text().trim().is_empty())
        };
        if gone()? {
            return Ok(());
        }
        let delete = ["delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false"];
        let until = self.host.now_unix_ms() + SECONDS * 1000;
        loop {
            // Again and again: an API server that just restarts must not leave it there.
            self.host.run(&Self::kubectl(&delete))?;
            if gone()? {
                return Ok(());
            }
            if self.host.now_unix_ms() >= until {
                return Err(AcceptError::Stays { seconds: SECONDS });
            }
            self.host.sleep(POLL);
        }
    }
}

fn readiness(node: Option<&NodeObject>) -> Result<String, String> {
    let node = node.ok_or("it is not registered")?;
    match node.status.conditions.iter().find(|condition| condition.kind == "Ready") {
        Some(ready) if ready.status == "True" => Ok("Ready".to_owned()),
        Some(ready) => Err(ready.message.clone()),
        None => Err("its kubelet has not reported yet".to_owned()),
    }
}

/// One running test pod with an address on every wanted node, or which nodes lack one.
fn pods_by_node(pods: List<PodObject>, nodes: &[String]) -> Result<BTreeMap<String, Pod>, String> {
    let mut found = BTreeMap::new();
    for pod in pods.items {
        if pod.status.phase == "Running" && !pod.status.pod_ip.is_empty() {
            let address = pod.status.pod_ip;
            found.insert(pod.spec.node_name, Pod { name: pod.metadata.name, address });
        }
    }
    let lacking: Vec<&str> =
        nodes.iter().filter(|node| !found.contains_key(*node)).map(String::as_str).collect();
    if lacking.is_empty() {
        found.retain(|node, _| nodes.contains(node));
        return Ok(found);
    }
    Err(format!("no test pod runs on {}", lacking.join(", ")))
}

#[cfg(test)]
mod tests;
