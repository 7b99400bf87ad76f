//! The fields of kubeadm's documents that kdc sets; what is left out has kubeadm's default.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::distribution::parameters::{ConfigApi, Taint};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InitConfiguration {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    pub(super) bootstrap_tokens: Vec<BootstrapToken>,
    #[serde(rename = "localAPIEndpoint")]
    pub(super) local_api_endpoint: ApiEndpoint,
    pub(super) node_registration: NodeRegistration,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) timeouts: Option<Timeouts>,
}

/// A token whose value kubeadm makes up itself.
#[derive(Serialize)]
pub(super) struct BootstrapToken {
    pub(super) ttl: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ApiEndpoint {
    pub(super) advertise_address: String,
    pub(super) bind_port: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeRegistration {
    pub(super) name: String,
    pub(super) cri_socket: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) image_pull_policy: Option<&'static str>,
    pub(super) kubelet_extra_args: ExtraArgs,
    /// An empty list means no taint, an absent one kubeadm's default for the role.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) taints: Option<Vec<Taint>>,
}

/// Extra arguments: a map up to v1beta3, a list from v1beta4 on.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum ExtraArgs {
    Map(BTreeMap<&'static str, String>),
    List(Vec<Argument>),
}

#[derive(Serialize)]
pub(super) struct Argument {
    name: &'static str,
    value: String,
}

impl ExtraArgs {
    pub(super) fn new(api: ConfigApi, arguments: BTreeMap<&'static str, String>) -> Self {
        match api {
            ConfigApi::V1Beta2 | ConfigApi::V1Beta3 => Self::Map(arguments),
            ConfigApi::V1Beta4 => Self::List(
                arguments.into_iter().map(|(name, value)| Argument { name, value }).collect(),
            ),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Timeouts {
    pub(super) control_plane_component_health_check: &'static str,
    pub(super) kubelet_health_check: &'static str,
    #[serde(rename = "kubernetesAPICall")]
    pub(super) kubernetes_api_call: &'static str,
    pub(super) tls_bootstrap: &'static str,
    pub(super) discovery: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct JoinConfiguration {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    pub(super) node_registration: NodeRegistration,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) timeouts: Option<Timeouts>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ClusterConfiguration {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    pub(super) cluster_name: String,
    pub(super) kubernetes_version: String,
    pub(super) image_repository: String,
    pub(super) control_plane_endpoint: String,
    pub(super) networking: Networking,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) api_server: Option<ApiServer>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Networking {
    pub(super) service_subnet: String,
    pub(super) dns_domain: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ApiServer {
    pub(super) timeout_for_control_plane: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KubeletConfiguration {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    pub(super) cgroup_driver: &'static str,
    pub(super) fail_swap_on: bool,
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub(super) image_gc_high_threshold_percent: u8,
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub(super) image_gc_low_threshold_percent: u8,
    pub(super) eviction_hard: std::collections::BTreeMap<&'static str, &'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KubeProxyConfiguration {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    pub(super) mode: &'static str,
    #[serde(rename = "clusterCIDR")]
    pub(super) cluster_cidr: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) conntrack: Option<Conntrack>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) oom_score_adj: Option<i32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Conntrack {
    pub(super) max_per_core: u32,
    pub(super) min: u32,
}
