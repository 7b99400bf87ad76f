//! Profiles: what a cluster is made of, as data (`profiles/*.yaml`, embedded in the binary).
//!
//! ```
//! let profile = kdc_profiles::profile::shipped("single").unwrap();
//! assert!(profile.schedulable_control_plane);
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cluster::Role;

mod read;

pub use read::{SHIPPED, is_path, load, parse, shipped};

/// How many nodes of a role a profile takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Count {
    /// At least.
    pub min: u16,
    /// At most; absent means no limit.
    pub max: Option<u16>,
}

/// What a node must have, and what kdc sets on it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostNeeds {
    /// Kernel modules.
    #[serde(default)]
    pub modules: Vec<String>,
    /// Sysctls.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Package artifacts of the bundle.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Ports that must be free and let in, per role (`6443/tcp`).
    #[serde(default)]
    pub ports: BTreeMap<Role, Vec<String>>,
    /// Smallest node, per role.
    #[serde(default)]
    pub minimum: BTreeMap<Role, Minimum>,
}

/// Smallest node that a role runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Minimum {
    /// Logical CPUs.
    pub cpus: u32,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Free space under `/var/lib` on top of what the bundle needs, MiB.
    pub disk_mib: u64,
}

/// One thing a profile installs into the cluster. Every later part of the platform plugs in here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Component {
    /// Name (`cluster-dns`).
    pub name: String,
    /// What it is for, one line.
    pub description: String,
    /// Manifest template (tera) rendered with the cluster, the parameters and the nodes; absent
    /// where the distribution brings the component itself.
    #[serde(default)]
    pub manifests: Option<String>,
    /// Images it needs from the bundle (templates over the bundle's parameters).
    #[serde(default)]
    pub images: Vec<String>,
    /// Components that must be healthy first.
    #[serde(default)]
    pub after: Vec<String>,
    /// Workload that must be ready: `namespace/deployment/name`.
    #[serde(default)]
    pub ready: Vec<String>,
    /// What the licence must have for it, by its name there; absent for what every cluster may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entitlement: Option<String>,
}

/// What is proved from inside when the install is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Acceptance {
    /// The API server is healthy.
    ApiHealthy,
    /// Every node is Ready.
    NodesReady,
    /// A pod on each node reaches a pod on every other node.
    PodToPod,
    /// A Service answers by name.
    ServiceByName,
    /// Nothing tried to reach an outside address.
    NoOutsideTraffic,
}

impl Acceptance {
    /// Test pods prove it, so the bundle must bring an image for them.
    #[must_use]
    pub fn needs_pods(self) -> bool {
        matches!(self, Self::PodToPod | Self::ServiceByName)
    }
}

/// A profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    /// `single`, `cluster`.
    pub name: String,
    /// For people, one line.
    pub description: String,
    /// Distributions it runs on.
    pub distributions: Vec<String>,
    /// Nodes per role.
    pub nodes: BTreeMap<Role, Count>,
    /// Workloads may run on control-plane nodes.
    pub schedulable_control_plane: bool,
    /// Host needs.
    pub host: HostNeeds,
    /// Ids of checks that must be ok: a warning refuses too. Every check runs and is shown anyway.
    #[serde(default)]
    pub checks: Vec<String>,
    /// What is installed, in order.
    pub components: Vec<Component>,
    /// What is proved at the end.
    pub acceptance: Vec<Acceptance>,
}
