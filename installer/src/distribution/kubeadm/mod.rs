//! kubeadm: the documents it reads, written by serde for the API version its bundle names, and the
//! kubelet unit it expects.
//!
//! Decided here, and why:
//! - `podSubnet` is left out: the planner gives each node its range and the agent keeps the routes,
//!   so the controller manager must not hand out ranges of its own (`docs/decisions/0005-…`).
//! - The one bootstrap token that `kubeadm init` insists on has a short life and a value that only
//!   kubeadm knows; joins use tokens minted on demand. No document holds a secret.
//! - `node-ip` is pinned: a node without a default route can't find its own address.
//! - kubelet never collects images: an air-gapped node could not pull them again.

mod documents;

use std::{collections::BTreeMap, net::IpAddr};

use kdc_agent::facts::CgroupVersion;
use kdc_profiles::cluster::{Cluster, Role};

use self::documents::{
    ApiEndpoint, ApiServer, BootstrapToken, ClusterConfiguration, Conntrack, ExtraArgs,
    InitConfiguration, JoinConfiguration, KubeProxyConfiguration, KubeletConfiguration, Networking,
    NodeRegistration, Timeouts,
};
use super::parameters::{ConfigApi, Parameters, Taint};

/// How long kubeadm waits for a control plane: twenty minutes carry even an emulated machine.
const CONTROL_PLANE_TIMEOUT: &str = "20m0s";

/// How long the token lives that `kubeadm init` makes by itself and nobody uses.
const UNUSED_TOKEN_TTL: &str = "1m0s";

/// `kubelet.service`.
pub const KUBELET_UNIT: &str = include_str!("kubelet.service");

/// Drop-in `10-kubeadm.conf`, with the files that kubeadm writes for kubelet.
pub const KUBELET_DROP_IN: &str = include_str!("10-kubeadm.conf");

/// What the documents need to know of the node they are for.
#[derive(Debug, Clone, Copy)]
pub struct NodeFacts<'a> {
    /// Name in Kubernetes.
    pub name: &'a str,
    /// Address other nodes reach it by.
    pub address: IpAddr,
    /// Its cgroup hierarchy.
    pub cgroup: CgroupVersion,
}

/// What the documents need to know of the whole cluster.
#[derive(Debug, Clone, Copy)]
pub struct ClusterFacts<'a> {
    /// Cluster file.
    pub cluster: &'a Cluster,
    /// Bundle parameters.
    pub parameters: &'a Parameters,
    /// cgroup hierarchy of the first control plane: the kubelet configuration of the cluster has
    /// its driver, and nodes that differ override it.
    pub cgroup: CgroupVersion,
    /// Workloads may run on control planes.
    pub schedulable_control_plane: bool,
    /// Some node can't set `nf_conntrack_max` (network namespace): kube-proxy must not try.
    pub leave_conntrack: bool,
    /// Some node's root lacks `CAP_SYS_RESOURCE`: kube-proxy must not lower its OOM score.
    pub leave_oom_score: bool,
}

/// Beginnings of the image references that a node of that role can't do without. kubeadm alone
/// knows the tags of etcd and the cluster DNS, so those end where the tag begins.
#[must_use]
pub fn required_images(parameters: &Parameters, role: Role) -> Vec<String> {
    let (prefix, version) = (&parameters.image_prefix, &parameters.kubernetes_version);
    let of_release = |name: &str| format!("{prefix}/{name}:{version}");
    let mut images = vec![parameters.pause_image.clone(), of_release("kube-proxy")];
    if role == Role::ControlPlane {
        let programs = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"];
        images.extend(programs.map(of_release));
        images.push(format!("{prefix}/etcd:"));
    }
    // It may be put on any node; up to 1.20 without a folder of its own.
    images.push(format!("{prefix}/coredns"));
    images
}

/// Driver that fits a hierarchy.
#[must_use]
pub fn cgroup_driver(version: CgroupVersion) -> &'static str {
    match version {
        CgroupVersion::V1 => "cgroupfs",
        CgroupVersion::V2 => "systemd",
    }
}

/// Documents for `kubeadm init` on the first control plane.
///
/// # Errors
/// When a document can't be written as YAML, which these types never cause.
pub fn init_documents(
    facts: &ClusterFacts<'_>,
    node: &NodeFacts<'_>,
) -> Result<String, serde_yaml::Error> {
    let api = facts.parameters.config_api;
    let taints = if facts.schedulable_control_plane {
        Vec::new()
    } else {
        vec![facts.parameters.control_plane_taint.clone()]
    };
    let init = InitConfiguration {
        api_version: api.api_version(),
        kind: "InitConfiguration",
        bootstrap_tokens: vec![BootstrapToken { ttl: UNUSED_TOKEN_TTL }],
        local_api_endpoint: ApiEndpoint {
            advertise_address: node.address.to_string(),
            bind_port: 6443,
        },
        node_registration: registration(facts, node, Some(taints)),
        timeouts: timeouts(api),
    };
    let documents = [
        serde_yaml::to_string(&init)?,
        serde_yaml::to_string(&cluster_configuration(facts))?,
        serde_yaml::to_string(&kubelet_configuration(facts))?,
        serde_yaml::to_string(&proxy_configuration(facts))?,
    ];
    Ok(documents.join("---\n"))
}

/// The document for `kubeadm join` of a worker, without its discovery part: the node adds that.
///
/// # Errors
/// When the document can't be written as YAML, which these types never cause.
pub fn join_document(
    facts: &ClusterFacts<'_>,
    node: &NodeFacts<'_>,
) -> Result<String, serde_yaml::Error> {
    let api = facts.parameters.config_api;
    serde_yaml::to_string(&JoinConfiguration {
        api_version: api.api_version(),
        kind: "JoinConfiguration",
        node_registration: registration(facts, node, None),
        timeouts: timeouts(api),
    })
}

fn registration(
    facts: &ClusterFacts<'_>,
    node: &NodeFacts<'_>,
    taints: Option<Vec<Taint>>,
) -> NodeRegistration {
    let mut arguments = BTreeMap::from([("node-ip", node.address.to_string())]);
    if node.cgroup != facts.cgroup {
        arguments.insert("cgroup-driver", cgroup_driver(node.cgroup).to_owned());
    }
    let api = facts.parameters.config_api;
    NodeRegistration {
        name: node.name.to_owned(),
        cri_socket: facts.parameters.cri_socket.clone(),
        image_pull_policy: (api != ConfigApi::V1Beta2).then_some("IfNotPresent"),
        kubelet_extra_args: ExtraArgs::new(api, arguments),
        taints,
    }
}

/// v1beta4 has them beside the node; before, only the API server's has a field.
fn timeouts(api: ConfigApi) -> Option<Timeouts> {
    (api == ConfigApi::V1Beta4).then_some(Timeouts {
        control_plane_component_health_check: CONTROL_PLANE_TIMEOUT,
        kubelet_health_check: "10m0s",
        kubernetes_api_call: "5m0s",
        tls_bootstrap: "10m0s",
        discovery: "10m0s",
    })
}

fn cluster_configuration(facts: &ClusterFacts<'_>) -> ClusterConfiguration {
    let (network, api) = (&facts.cluster.network, facts.parameters.config_api);
    let timeout = (api != ConfigApi::V1Beta4).then_some(CONTROL_PLANE_TIMEOUT);
    ClusterConfiguration {
        api_version: api.api_version(),
        kind: "ClusterConfiguration",
        cluster_name: facts.cluster.name.clone(),
        kubernetes_version: facts.parameters.kubernetes_version.clone(),
        image_repository: facts.parameters.image_prefix.clone(),
        control_plane_endpoint: network.control_plane_endpoint.clone(),
        networking: Networking {
            service_subnet: network.service_cidr.clone(),
            dns_domain: network.cluster_domain.clone(),
        },
        api_server: timeout.map(|timeout| ApiServer { timeout_for_control_plane: timeout }),
    }
}

fn kubelet_configuration(facts: &ClusterFacts<'_>) -> KubeletConfiguration {
    KubeletConfiguration {
        api_version: "kubelet.config.k8s.io/v1beta1",
        kind: "KubeletConfiguration",
        cgroup_driver: cgroup_driver(facts.cgroup),
        fail_swap_on: true,
        // 100 turns the collection of images off.
        image_gc_high_threshold_percent: 100,
        image_gc_low_threshold_percent: 99,
        // The defaults are 15 % and 10 % of the disk: 38 GiB of a 250 GiB one. Below that kubelet
        // deletes images that nobody can pull again here, and evicts kube-proxy for the lack.
        eviction_hard: BTreeMap::from([
            ("imagefs.available", "1Gi"),
            ("memory.available", "100Mi"),
            ("nodefs.available", "1Gi"),
            ("nodefs.inodesFree", "2%"),
        ]),
    }
}

fn proxy_configuration(facts: &ClusterFacts<'_>) -> KubeProxyConfiguration {
    KubeProxyConfiguration {
        api_version: "kubeproxy.config.k8s.io/v1alpha1",
        kind: "KubeProxyConfiguration",
        mode: "iptables",
        cluster_cidr: facts.cluster.network.pod_cidr.clone(),
        conntrack: facts.leave_conntrack.then_some(Conntrack { max_per_core: 0, min: 0 }),
        oom_score_adj: facts.leave_oom_score.then_some(0),
    }
}

#[cfg(test)]
mod tests;
