//! Acceptance: what the profile promises, proved from inside the cluster.
//!
//! On a control plane, with `kubectl` and the admin kubeconfig: the API is ready, every node is
//! Ready; then a DaemonSet of tiny web servers is put into a namespace of its own, and from the pod
//! on each node every other pod is fetched by address, and a Service by name. The namespace is
//! removed at the end whatever happened, and one that a cut-off acceptance left is removed first.

mod error;
mod manifests;
mod record;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

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

/// `kubectl exec`s that run at once: each costs this node a process and the API server a stream.
const AT_ONCE: usize = 8;

/// How long one fetch may take; busybox's `wget -T` is broken in some builds, so kubectl's own
/// process is bounded instead.
const FETCH_SECS: u64 = 15;

/// Tries of a fetch: rules for a new Service and DNS records take a moment.
const FETCH_TRIES: u32 = 5;

/// What to prove.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Image with a busybox, present on every node.
    pub image: String,
    /// What it is about; the nodes named there must take part.
    pub subject: AcceptanceSubject,
    /// For everything together.
    pub timeout_secs: u64,
}

/// Make every proof, in a stable order; those that fail are in the list too. When all of them hold,
/// that is on record here before this answers.
///
/// # Errors
/// When the proofs can't be made (no kubeconfig, no `kubectl`) or the test objects stay.
pub fn accept(host: &dyn Host, asked: &Asked) -> Result<Vec<Proof>, AcceptError> {
    let proofs = prove(host, asked)?;
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
    let mut proofs = vec![cluster.prove_api()?];
    if proofs[0].holds {
        let nodes: Vec<String> = asked.subject.runs.keys().cloned().collect();
        proofs.extend(cluster.prove_nodes(&nodes)?);
        cluster.remove_namespace()?;
        let made = cluster.prove_pods(&asked.image, &nodes);
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

    fn prove_pods(&self, image: &str, nodes: &[String]) -> Result<Vec<Proof>, AcceptError> {
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
            Ok(pods) => Ok(self.fetch_all(&pods)),
            Err(reason) => Ok(vec![proof("a test pod runs on every node", Err(reason))]),
        }
    }

    /// Every ordered pair of nodes, and the Service from every node.
    fn fetch_all(&self, pods: &BTreeMap<String, Pod>) -> Vec<Proof> {
        let service = format!("{}.{NAMESPACE}", manifests::SERVICE);
        let mut fetches: Vec<Fetch> = Vec::new();
        for (from, pod) in pods {
            for (to, target) in pods.iter().filter(|(to, _)| *to != from) {
                fetches.push(Fetch {
                    claim: format!("pod on {from} reaches pod on {to}"),
                    pod: pod.name.clone(),
                    url: format!("http://{}:{}/", bracketed(&target.address), manifests::PORT),
                    answers: vec![to.clone()],
                });
            }
            fetches.push(Fetch {
                claim: format!("pod on {from} reaches Service {service} by name"),
                pod: pod.name.clone(),
                url: format!("http://{service}/"),
                answers: pods.keys().cloned().collect(),
            });
        }
        let next = AtomicUsize::new(0);
        let proofs: Mutex<BTreeMap<usize, Proof>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(fetches.len()) {
                scope.spawn(|| {
                    while let Some((place, fetch)) = {
                        let place = next.fetch_add(1, Ordering::Relaxed);
                        fetches.get(place).map(|fetch| (place, fetch))
                    } {
                        let made = proof(fetch.claim.clone(), self.fetch(fetch));
                        let mut proofs =
                            proofs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        proofs.insert(place, made);
                    }
                });
            }
        });
        let proofs = proofs.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        proofs.into_values().collect()
    }

    fn fetch(&self, fetch: &Fetch) -> Result<String, String> {
        let program = Self::kubectl(&[
            "exec", "-n", NAMESPACE, &fetch.pod, "--", "wget", "-q", "-O", "-", &fetch.url,
        ])
        .within_secs(FETCH_SECS);
        let mut last = String::new();
        for attempt in 0..FETCH_TRIES {
            if attempt > 0 {
                self.host.sleep(POLL);
            }
            match self.host.run(&program) {
                Ok(output) if output.good() => {
                    let text = output.text();
                    let answer = text.trim();
                    if fetch.answers.iter().any(|node| node == answer) {
                        return Ok(format!("answered by {answer}"));
                    }
                    last = format!("an unexpected answer: `{}`", answer.escape_default());
                }
                Ok(output) => last = output.tail(),
                Err(error) => last = error.to_string(),
            }
            if self.over() {
                break;
            }
        }
        Err(format!("{}: {last}", fetch.url))
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

struct Fetch {
    claim: String,
    pod: String,
    url: String,
    /// Node names that may answer.
    answers: Vec<String>,
}

fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
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
