//! Everything that a round looks at, as it is now: listed once, or kept from what the API server tells by itself
//! ([`super::watch`]).

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    api::{ApiServer, Kind, text},
    error::ControlError,
    license::{LICENSE_KEY, LICENSE_MAP},
    node::NodeSeen,
    progress::PodSeen,
    round::OWNED_ANNOTATION,
    settings::{SETTINGS_KEY, SETTINGS_MAP},
    wanted::{WANTED_KEY, WANTED_MAP},
};
use crate::gpu::hami::{CONFIG_KEY, CONFIG_MAP, DEFAULTS_KEY, DEFAULTS_MAP, POD_SELECTOR};

/// The ConfigMaps that are read, each for one key.
pub(super) const MAPS: &[(&str, &str)] = &[
    (WANTED_MAP, WANTED_KEY),
    (CONFIG_MAP, CONFIG_KEY),
    (DEFAULTS_MAP, DEFAULTS_KEY),
    (LICENSE_MAP, LICENSE_KEY),
    (SETTINGS_MAP, SETTINGS_KEY),
];

/// A ConfigMap, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct MapSeen {
    /// The text under its key.
    pub(super) text: Option<String>,
    /// Nodes whose entries are kdc's, with commas between.
    pub(super) owned: String,
}

impl MapSeen {
    /// From its object.
    pub(super) fn of(map: &Value, key: &str) -> Self {
        let owned = text(&map["metadata"]["annotations"][OWNED_ANNOTATION]).to_owned();
        Self { text: map["data"][key].as_str().map(str::to_owned), owned }
    }
}

/// A plugin's pod, and the node it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) node: String,
    pub(super) pod: PodSeen,
}

impl Placed {
    /// From its object.
    pub(super) fn of(pod: &Value) -> Self {
        let conditions = pod["status"]["conditions"].as_array();
        let is_ready = |one: &Value| one["type"] == "Ready" && one["status"] == "True";
        let seen = PodSeen {
            name: text(&pod["metadata"]["name"]).to_owned(),
            uid: text(&pod["metadata"]["uid"]).to_owned(),
            ready: conditions.is_some_and(|all| all.iter().any(is_ready)),
            leaving: !pod["metadata"]["deletionTimestamp"].is_null(),
            image: text(&pod["spec"]["containers"][0]["image"]).to_owned(),
        };
        Self { node: text(&pod["spec"]["nodeName"]).to_owned(), pod: seen }
    }
}

/// What there is.
#[derive(Debug, Clone, Default)]
pub(super) struct Sight {
    /// By name, of [`MAPS`].
    pub(super) maps: BTreeMap<String, MapSeen>,
    pub(super) nodes: BTreeMap<String, NodeSeen>,
    /// By node.
    pub(super) pods: BTreeMap<String, Vec<PodSeen>>,
}

impl Sight {
    /// List everything.
    pub(super) async fn list(api: &ApiServer) -> Result<Self, ControlError> {
        let mut maps = BTreeMap::new();
        for (name, key) in MAPS {
            if let Some(map) = api.get(Kind::ConfigMap, name).await? {
                maps.insert((*name).to_owned(), MapSeen::of(&map, key));
            }
        }
        let nodes = api.list(Kind::Node, None, NodeSeen::of).await?;
        let placed = api.list(Kind::Pod, Some(POD_SELECTOR), Placed::of).await?;
        let nodes = nodes.into_iter().map(|node| (node.name.clone(), node)).collect();
        Ok(Self { maps, nodes, pods: by_node(placed) })
    }
}

/// Pods by the node they are on.
pub(super) fn by_node(placed: impl IntoIterator<Item = Placed>) -> BTreeMap<String, Vec<PodSeen>> {
    let mut pods: BTreeMap<String, Vec<PodSeen>> = BTreeMap::new();
    for Placed { node, pod } in placed {
        pods.entry(node).or_default().push(pod);
    }
    pods
}
