//! The plan: from cluster file, profile, bundle index and facts to every step on every node. Pure.
//!
//! A plan always holds the *whole* list of steps, whatever is in place already, and depends only on
//! facts that an install does not change: so equal inputs give an equal digest, an interrupted run
//! is known again by it, and "nothing to do" is the answer of the nodes (`Survey`), not of the plan.

use std::collections::BTreeMap;

use kdc_agent::{
    facts::{CgroupVersion, Facts, Known},
    step::NodePlan,
};
use kdc_bundles::index::{Digest, Index};
use kdc_profiles::{
    cluster::{Cluster, Node, Role},
    profile::Profile,
};
use serde::{Deserialize, Serialize};

pub mod checks;
pub mod entitled;
mod error;
pub mod fleet_check;
mod gpu;
mod node;
mod ranges;
mod render;
#[cfg(test)]
pub(crate) mod samples;
mod saved;
mod select;
mod sizes;

pub use error::PlanError;
pub use render::{render, summary};
pub use saved::{Drift, SavedPlanError};
pub use sizes::{needs, ports};

use crate::distribution::{kubeadm::ClusterFacts, parameters::Parameters};

/// Everything a plan depends on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Proved cluster file.
    pub cluster: &'a Cluster,
    /// Its profile.
    pub profile: &'a Profile,
    /// The bundle's index, whose signature was checked.
    pub index: &'a Index,
    /// Digest of the index's bytes as signed.
    pub index_digest: &'a Digest,
    /// Facts by node name.
    pub facts: &'a BTreeMap<String, Facts>,
}

/// Which bundle a plan is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BundleRef {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Digest of the signed index.
    pub index: Digest,
}

/// One node's share of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlannedNode {
    /// Name.
    pub name: String,
    /// Role.
    pub role: Role,
    /// Address.
    pub address: String,
    /// Its range for pods.
    pub pod_cidr: String,
    /// Digest over the facts that the steps depend on; another one means drift.
    pub facts: Digest,
    /// Blobs the steps use, sorted.
    pub blobs: Vec<Digest>,
    /// Bytes of those blobs: what is sent to a node that has none of them.
    pub bytes_to_send: u64,
    /// Most bytes in use below each path while the plan is carried out.
    pub peak_disk_bytes: BTreeMap<String, u64>,
    /// The steps.
    pub plan: NodePlan,
}

/// A value that some nodes wait for, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gate {
    /// Name of the value (`join`, `joined`).
    pub value: String,
    /// Steps that must be done before the value exists, `node/step`, sorted.
    pub after: Vec<String>,
    /// Nodes that wait for it, sorted.
    pub awaited_by: Vec<String>,
}

/// The plan for a whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterPlan {
    /// `kdc.dev/v1`.
    pub api_version: String,
    /// `Plan`.
    pub kind: String,
    /// Version of kdc that planned.
    pub kdc_version: String,
    /// Cluster name.
    pub cluster: String,
    /// Profile name.
    pub profile: String,
    /// Distribution.
    pub distribution: String,
    /// Bundle.
    pub bundle: BundleRef,
    /// Digest over what the cluster file says, SSH settings and pacing left out.
    pub cluster_file: Digest,
    /// Image for acceptance's pods, if the bundle has one.
    pub test_image: Option<String>,
    /// Nodes, sorted by role (control planes first) and name.
    pub nodes: Vec<PlannedNode>,
    /// What waits for what across nodes.
    pub gates: Vec<Gate>,
}

impl ClusterPlan {
    /// The plan of one node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&PlannedNode> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// Name of the control plane that is made first and mints join credentials.
    #[must_use]
    pub fn first_control_plane(&self) -> Option<&str> {
        let first = self.nodes.iter().find(|node| node.role == Role::ControlPlane);
        first.map(|node| node.name.as_str())
    }

    /// Digest over the whole plan: equal inputs, equal digest.
    ///
    /// # Errors
    /// Never in practice: a plan always serialises.
    pub fn digest(&self) -> Result<Digest, serde_json::Error> {
        Ok(Digest::of(&serde_json::to_vec(self)?))
    }
}

/// Plan a cluster.
///
/// # Errors
/// When facts of a node are missing, or the bundle lacks something the plan needs.
pub fn plan(inputs: &Inputs<'_>) -> Result<ClusterPlan, PlanError> {
    let cluster = inputs.cluster;
    checks::known(inputs.profile)?;
    let parameters = Parameters::read(inputs.index)?;
    let mut nodes: Vec<&Node> = cluster.nodes.iter().collect();
    nodes.sort_by(|left, right| (left.role, &left.name).cmp(&(right.role, &right.name)));
    let first = first_control_plane(&nodes)?;
    for node in &nodes {
        gpu::check(node)?;
    }
    let ranges = ranges::assign(cluster)?;
    let mut peers = BTreeMap::new();
    for node in &nodes {
        peers.insert(node.address.to_string(), ranges::of(&ranges, node)?.to_string());
    }
    let context = node::Context {
        peers: &peers,
        inputs,
        parameters: &parameters,
        kubeadm: cluster_facts(inputs, &parameters, first)?,
        ranges: &ranges,
        nodes: &nodes,
    };
    let planned = nodes.iter().map(|node| plan_node(&context, node)).collect::<Result<_, _>>()?;
    Ok(ClusterPlan {
        api_version: kdc_profiles::cluster::API_VERSION.to_owned(),
        kind: "Plan".to_owned(),
        kdc_version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: cluster.name.clone(),
        profile: inputs.profile.name.clone(),
        distribution: cluster.distribution.clone(),
        bundle: BundleRef {
            name: inputs.index.name.clone(),
            version: inputs.index.bundle_version.clone(),
            index: inputs.index_digest.clone(),
        },
        cluster_file: cluster_digest(cluster)?,
        test_image: parameters.test_image.clone(),
        gates: gates(first, &nodes),
        nodes: planned,
    })
}

fn plan_node(context: &node::Context<'_>, node: &Node) -> Result<PlannedNode, PlanError> {
    let facts = facts_of(context.inputs, &node.name)?;
    let selection = select::Selection::of(context.inputs.index, context.parameters, facts, node)?;
    let steps = node::steps(context, node, facts, &selection)?;
    let blobs = selection.blobs();
    Ok(PlannedNode {
        name: node.name.clone(),
        role: node.role,
        address: node.address.to_string(),
        pod_cidr: ranges::of(context.ranges, node)?.to_string(),
        facts: facts_digest(facts)?,
        bytes_to_send: sizes::sum(context.inputs.index, &blobs)?,
        peak_disk_bytes: sizes::peak_disk(context.inputs.index, &selection)?,
        blobs,
        plan: NodePlan {
            node: node.name.clone(),
            cluster: context.inputs.cluster.name.clone(),
            index: context.inputs.index_digest.clone(),
            steps,
        },
    })
}

/// Facts of a node.
pub(crate) fn facts_of<'a>(inputs: &Inputs<'a>, node: &str) -> Result<&'a Facts, PlanError> {
    inputs.facts.get(node).ok_or_else(|| PlanError::MissingFacts { node: node.to_owned() })
}

/// This build makes one control plane; more than one comes with high availability.
fn first_control_plane<'n>(nodes: &[&'n Node]) -> Result<&'n Node, PlanError> {
    let mut control_planes = nodes.iter().filter(|node| node.role == Role::ControlPlane);
    let first = control_planes.next().ok_or(PlanError::NoControlPlane)?;
    match control_planes.next() {
        None => Ok(first),
        Some(second) => Err(PlanError::SeveralControlPlanes { second: second.name.clone() }),
    }
}

fn cgroup_of(facts: &Facts, node: &str) -> Result<CgroupVersion, PlanError> {
    match &facts.cgroup {
        Known::Known(version) => Ok(*version),
        Known::Unknown(reason) => {
            Err(PlanError::UnknownCgroup { node: node.to_owned(), reason: reason.clone() })
        }
    }
}

fn cluster_facts<'a>(
    inputs: &Inputs<'a>,
    parameters: &'a Parameters,
    first: &Node,
) -> Result<ClusterFacts<'a>, PlanError> {
    let mut facts = Vec::with_capacity(inputs.cluster.nodes.len());
    for node in &inputs.cluster.nodes {
        facts.push(facts_of(inputs, &node.name)?);
    }
    let lacks = |fact: &Known<bool>| fact.value() == Some(&false);
    Ok(ClusterFacts {
        cluster: inputs.cluster,
        parameters,
        cgroup: cgroup_of(facts_of(inputs, &first.name)?, &first.name)?,
        schedulable_control_plane: inputs.profile.schedulable_control_plane,
        leave_conntrack: facts.iter().any(|facts| lacks(&facts.conntrack_max_writable)),
        leave_oom_score: facts.iter().any(|facts| lacks(&facts.cap_sys_resource)),
    })
}

/// Which nodes wait for which value.
fn gates(first: &Node, nodes: &[&Node]) -> Vec<Gate> {
    let workers: Vec<String> =
        nodes.iter().filter(|node| node.name != first.name).map(|node| node.name.clone()).collect();
    let joins = workers.iter().map(|name| format!("{name}/{}", node::JOIN_STEP)).collect();
    let join = Gate {
        value: "join".to_owned(),
        after: vec![format!("{}/{}", first.name, node::INIT_STEP)],
        awaited_by: workers,
    };
    let joined =
        Gate { value: "joined".to_owned(), after: joins, awaited_by: vec![first.name.clone()] };
    if join.awaited_by.is_empty() { vec![joined] } else { vec![join, joined] }
}

/// The cluster as steps see it: no SSH settings, no pacing, nodes sorted by name.
fn without_access(cluster: &Cluster) -> Cluster {
    let mut told = cluster.clone();
    told.ssh = kdc_profiles::cluster::Ssh::default();
    told.settings.parallel = 0;
    // Where the licence's file lies changes no step.
    told.license = told
        .license
        .map(|license| kdc_profiles::cluster::License { file: None, ..license })
        .filter(|license| *license != kdc_profiles::cluster::License::default());
    for node in &mut told.nodes {
        node.ssh = kdc_profiles::cluster::Ssh::default();
    }
    told.nodes.sort_by(|left, right| left.name.cmp(&right.name));
    told
}

fn cluster_digest(cluster: &Cluster) -> Result<Digest, PlanError> {
    let json = serde_json::to_vec(&without_access(cluster)).map_err(PlanError::Json)?;
    Ok(Digest::of(&json))
}

/// Only what steps depend on and an install does not change.
fn facts_digest(facts: &Facts) -> Result<Digest, PlanError> {
    let told = (
        &facts.platform,
        &facts.machine_id,
        &facts.cgroup,
        facts.cap_sys_resource.value() == Some(&false),
        facts.conntrack_max_writable.value() == Some(&false),
    );
    // Said only where there is one, so that a plan from before this was asked fits its nodes still.
    let gpu = facts.has_nvidia_gpu().then_some("nvidia gpu");
    let json = match gpu {
        Some(gpu) => serde_json::to_vec(&(told, gpu)),
        None => serde_json::to_vec(&told),
    };
    Ok(Digest::of(&json.map_err(PlanError::Json)?))
}

#[cfg(test)]
mod tests;
