//! What is wanted of GPUs: the ConfigMap `kdc-gpu`, which `kdc-install apply` writes and nobody else.
//!
//! A file on each control plane would be as many truths as there are control planes.

use std::collections::BTreeMap;

use kdc_profiles::cluster::{Cluster, gpu::Gpu};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{rights::list, status::STATUS_MAP};
use crate::gpu::hami;

/// The ConfigMap.
pub const WANTED_MAP: &str = "kdc-gpu";
/// Its key.
pub const WANTED_KEY: &str = "gpu.json";
/// Where HAMi and kdc's ConfigMaps are.
pub const NAMESPACE: &str = "kube-system";

/// What every node's GPUs are for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Wanted {
    /// By node name; nodes without GPUs, or of which nothing was said, are not here.
    pub nodes: BTreeMap<String, Gpu>,
}

impl Wanted {
    /// What a cluster file says.
    #[must_use]
    pub fn of(cluster: &Cluster) -> Self {
        let said =
            cluster.nodes.iter().filter_map(|node| Some((node.name.clone(), node.gpu.clone()?)));
        Self { nodes: said.collect() }
    }

    /// Read the ConfigMap's text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > hami::MAX_TEXT {
            return Err(format!("{} bytes; at most {} are read", text.len(), hami::MAX_TEXT));
        }
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// Nodes that HAMi's plugin is to run on.
    #[must_use]
    pub fn of_hami(&self) -> BTreeMap<String, Gpu> {
        self.nodes
            .iter()
            .filter(|(_, gpu)| gpu.is_for_hami())
            .map(|(name, gpu)| (name.clone(), gpu.clone()))
            .collect()
    }

    /// The ConfigMap, as a list for `kubectl apply`.
    #[must_use]
    pub fn manifests(&self) -> String {
        list(&[self.map()])
    }

    /// The same and what the controller tells of it, for `kubectl delete`.
    pub(crate) fn all_objects(&self) -> String {
        let metadata = json!({ "name": STATUS_MAP, "namespace": NAMESPACE });
        let told = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata });
        list(&[self.map(), told])
    }

    fn map(&self) -> Value {
        let text = serde_json::to_string(self).expect("texts and numbers serialise");
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": WANTED_MAP, "namespace": NAMESPACE },
            "data": { WANTED_KEY: text },
        })
    }
}
