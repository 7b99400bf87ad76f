//! The cluster file's JSON Schema, so that editors complete and check it while it is written.
//!
//! These types mirror what the reader takes; a test below holds the two together. What a schema
//! can't say (addresses that differ, ranges that do not overlap) only the reader knows.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Role,
    gpu::{CudaLog, GpuMode},
};
use crate::healing;

#[derive(Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename_all = "camelCase", title = "kdc cluster file")]
#[expect(dead_code, reason = "only its schema is used")]
struct ClusterFile {
    /// Always `kdc.dev/v1`.
    api_version: ApiVersion,
    /// Always `Cluster`.
    kind: Kind,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize, JsonSchema)]
enum ApiVersion {
    #[serde(rename = "kdc.dev/v1")]
    V1,
}

#[derive(Deserialize, JsonSchema)]
enum Kind {
    Cluster,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct Metadata {
    /// Name of the cluster.
    #[schemars(regex(pattern = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
    name: String,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
struct Spec {
    /// `single`, `cluster` or the path of a profile file. Default: by the number of nodes.
    profile: Option<String>,
    /// How Kubernetes is put on a node. Default: `kubeadm`.
    distribution: Option<Distribution>,
    /// The servers.
    #[schemars(length(min = 1, max = 5000))]
    nodes: Vec<Node>,
    /// SSH settings for every node.
    ssh: Option<Ssh>,
    /// What the GPUs of several nodes are for. A node's own `gpu` goes over it as a whole.
    #[schemars(length(max = 100))]
    gpu_classes: Option<Vec<GpuClass>>,
    network: Option<Network>,
    settings: Option<Settings>,
    /// How far the nodes may mend themselves. Default: what is not as wanted is told.
    self_healing: Option<SelfHealing>,
    /// The licence.
    license: Option<License>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
struct License {
    /// The licence's file, relative to this one. Default: what is installed in the cluster counts.
    file: Option<String>,
    /// Nodes over the limit get a taint that keeps new pods away. Default: false.
    taint_over_limit: Option<bool>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Distribution {
    Kubeadm,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Cni {
    HostRoutes,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct Node {
    /// Name in Kubernetes.
    #[schemars(regex(pattern = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
    name: String,
    role: Role,
    /// IP address other nodes reach it by.
    address: std::net::IpAddr,
    ssh: Option<Ssh>,
    /// Kubernetes labels.
    labels: Option<BTreeMap<String, Option<String>>>,
    /// Kubernetes taints, `key=value:Effect`.
    taints: Option<Vec<String>>,
    /// What its GPUs are for.
    gpu: Option<Gpu>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
struct Gpu {
    /// What they are for.
    mode: GpuMode,
    /// `hami`: pods that may share one GPU. Default: the cluster's.
    #[schemars(range(min = 1, max = 256))]
    split_count: Option<u16>,
    /// `hami`: memory given away, as a multiple of what there is; above 1 it is overcommitted.
    #[schemars(range(min = 1, max = 10))]
    memory_scaling: Option<f64>,
    /// `hami`: cores given away, as a multiple of what there is.
    #[schemars(range(min = 1, max = 10))]
    core_scaling: Option<f64>,
    /// `hami`: memory of a GPU that can't tell its own (GB10).
    #[schemars(range(min = 1, max = 1_048_576))]
    #[serde(rename = "preconfiguredMemoryMiB")]
    preconfigured_memory_mib: Option<u32>,
    /// `hami`: kubelet hears which NUMA node a GPU belongs to. Only `true` can take effect.
    numa_topology: Option<bool>,
    /// `hami`: what the library in containers logs.
    log_level: Option<CudaLog>,
    /// `mig`: instances by profile on every GPU. Without it HAMi makes them as pods ask.
    geometry: Option<BTreeMap<String, u8>>,
    /// GPUs left alone (not with mode `whole`).
    exclude: Option<Excluded>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct Excluded {
    /// By UUID, as `nvidia-smi -L` tells it.
    uuids: Option<Vec<String>>,
    /// By the driver's index.
    indexes: Option<Vec<u8>>,
}

/// `nodes` or `nodeSelector` says whom it is for; the rest is as in a node's `gpu`.
#[derive(Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
struct GpuClass {
    /// Name of the class.
    #[schemars(regex(pattern = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
    name: String,
    /// Names from `spec.nodes`.
    nodes: Option<Vec<String>>,
    /// Labels that the nodes have in this file.
    node_selector: Option<BTreeMap<String, Option<String>>>,
    mode: GpuMode,
    #[schemars(range(min = 1, max = 256))]
    split_count: Option<u16>,
    #[schemars(range(min = 1, max = 10))]
    memory_scaling: Option<f64>,
    #[schemars(range(min = 1, max = 10))]
    core_scaling: Option<f64>,
    #[schemars(range(min = 1, max = 1_048_576))]
    #[serde(rename = "preconfiguredMemoryMiB")]
    preconfigured_memory_mib: Option<u32>,
    numa_topology: Option<bool>,
    log_level: Option<CudaLog>,
    geometry: Option<BTreeMap<String, u8>>,
    exclude: Option<Excluded>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
struct Ssh {
    /// Login name (default `root`).
    user: Option<String>,
    /// Port (default 22).
    #[schemars(range(min = 1))]
    port: Option<u16>,
    /// Pinned host key: `SHA256:…` fingerprint or a whole public key line.
    host_key: Option<String>,
    /// One jump host: `[user@]host[:port]`.
    jump: Option<String>,
    /// Pinned host key of the jump host.
    jump_host_key: Option<String>,
    /// Private key file.
    identity: Option<String>,
    /// known_hosts file to trust.
    known_hosts: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
struct Network {
    /// Range for pods; each node gets a /24 of it. Default: `10.244.0.0/16`.
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    /// Range for Services. Default: `10.96.0.0/12`.
    #[serde(rename = "serviceCIDR")]
    service_cidr: Option<String>,
    /// Pod network. Default: `host-routes`.
    cni: Option<Cni>,
    /// `host:port` clients use. Default: the first control plane's address and 6443.
    control_plane_endpoint: Option<String>,
    /// Cluster DNS domain. Default: `cluster.local`.
    cluster_domain: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
struct Settings {
    /// Turn swap off (undone by `undo`). Default: false, and swap that is on is a refusal.
    disable_swap: Option<bool>,
    /// Nodes worked on at once. Default: 50.
    #[schemars(range(min = 1, max = 1000))]
    parallel: Option<u16>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
struct SelfHealing {
    /// For every kind that `kinds` does not name. Default: `report`.
    mode: Option<healing::Mode>,
    /// Otherwise for some kinds.
    kinds: Option<BTreeMap<healing::Kind, healing::Mode>>,
    /// Most actions of one kind within an hour. Default: 12.
    #[schemars(range(min = 1, max = 60))]
    per_hour: Option<u32>,
    /// Most actions on one thing within an hour. Default: 3.
    #[schemars(range(min = 1, max = 10))]
    per_subject: Option<u32>,
    /// Seconds before the second action on one thing; doubles with each. Default: 30.
    #[schemars(range(min = 1, max = 3600))]
    backoff_secs: Option<u32>,
    /// Seconds between two looks. Default: 60.
    #[schemars(range(min = 1, max = 3600))]
    interval_secs: Option<u32>,
    /// A repair may restart a service, or have systemd read its units again. Default: false.
    restarts: Option<bool>,
}

/// The schema as it is checked in at `profiles/schema/cluster.schema.json`.
#[must_use]
pub fn json_schema() -> String {
    let schema = schemars::schema_for!(ClusterFile);
    let mut text = format!("{:#}", schema.as_value());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/cluster.schema.json");

    #[test]
    fn the_schema_that_is_checked_in_is_the_one_that_is_generated() {
        if std::env::var_os("KDC_WRITE_SCHEMA").is_some() {
            fs_err::write(PATH, json_schema()).expect("write schema");
        }
        let checked_in = fs_err::read_to_string(PATH).expect("schema is checked in");
        assert!(
            checked_in == json_schema(),
            "the schema drifted: run KDC_WRITE_SCHEMA=1 cargo test -p kdc-profiles schema"
        );
    }

    /// Fields that the reader says it knows at the place of an unknown field.
    fn reader_fields(text: &str, field: &str) -> BTreeSet<String> {
        let problems = super::super::parse(text, "x").expect_err("an unknown field");
        let problem = problems
            .list()
            .iter()
            .find(|problem| problem.field == field)
            .unwrap_or_else(|| panic!("{field}: {problems}"));
        let list = problem.expected.strip_prefix("one of ").expect("a list of fields");
        list.split(", ").map(str::to_owned).collect()
    }

    #[test]
    fn schema_and_reader_know_the_same_fields() {
        let schema: serde_json::Value = serde_json::from_str(&json_schema()).expect("JSON");
        let properties = |value: &serde_json::Value| -> BTreeSet<String> {
            let map = value["properties"].as_object().expect("properties");
            map.keys().cloned().collect()
        };
        for (name, text, field) in [
            ("", "qqqqqq: 1", "qqqqqq"),
            ("Metadata", "metadata: {qqqqqq: 1}", "metadata.qqqqqq"),
            ("Spec", "spec: {qqqqqq: 1}", "spec.qqqqqq"),
            ("Node", "spec: {nodes: [{qqqqqq: 1}]}", "spec.nodes[0].qqqqqq"),
            ("Gpu", "spec: {nodes: [{gpu: {qqqqqq: 1}}]}", "spec.nodes[0].gpu.qqqqqq"),
            (
                "Excluded",
                "spec: {nodes: [{gpu: {exclude: {qqqqqq: 1}}}]}",
                "spec.nodes[0].gpu.exclude.qqqqqq",
            ),
            (
                "GpuClass",
                "spec: {nodes: [], gpuClasses: [{qqqqqq: 1}]}",
                "spec.gpuClasses[0].qqqqqq",
            ),
            ("Ssh", "spec: {ssh: {qqqqqq: 1}}", "spec.ssh.qqqqqq"),
            ("Network", "spec: {network: {qqqqqq: 1}}", "spec.network.qqqqqq"),
            ("Settings", "spec: {settings: {qqqqqq: 1}}", "spec.settings.qqqqqq"),
            ("License", "spec: {license: {qqqqqq: 1}}", "spec.license.qqqqqq"),
            ("SelfHealing", "spec: {selfHealing: {qqqqqq: 1}}", "spec.selfHealing.qqqqqq"),
        ] {
            let of = if name.is_empty() { &schema } else { &schema["$defs"][name] };
            assert_eq!(properties(of), reader_fields(text, field), "{name}");
        }
    }
}
