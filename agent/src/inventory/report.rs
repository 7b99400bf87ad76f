//! The document of `kdc-agent facts`: what the installer's checks see, and the inventory; with a hash
//! that changes only when somebody changed the machine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{Inventory, SCHEMA_VERSION};
use crate::facts::Facts;

/// All there is to know of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(title = "kdc-agent facts")]
pub struct Report {
    /// Form of this document.
    pub schema_version: u32,
    /// Version of the agent that looked.
    pub agent_version: String,
    /// When, as milliseconds since the epoch.
    pub collected_unix_ms: u64,
    /// `sha256:…` over the inventory without what changes by itself (health and error counters, what GPUs do, link
    /// states, addresses, routes, mounts, links of pods).
    pub content_hash: String,
    /// Hardware, and what runs right above it.
    pub inventory: Inventory,
    /// What the installer's checks judge by.
    pub facts: Facts,
}

impl Report {
    /// Put the document together.
    #[must_use]
    pub fn new(inventory: Inventory, facts: Facts) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            agent_version: facts.agent_version.clone(),
            collected_unix_ms: facts.clock_unix_ms,
            content_hash: content_hash(&inventory),
            inventory,
            facts,
        }
    }
}

/// Fields that change without anybody's doing, at any depth.
const CHANGING: &[&str] = &[
    "active",
    "addresses",
    "correctedAggregate",
    "correctedVolatile",
    "duplex",
    "errors",
    "health",
    "lldp",
    "live",
    "mounts",
    "processes",
    "recoveryAction",
    "retiredPages",
    "routes",
    "rowRemaps",
    "speedMbps",
    "state",
    "uncorrectedAggregate",
    "uncorrectedVolatile",
];

/// Kinds of links that come and go with pods and virtual machines.
const PASSING_LINKS: &[&str] = &["veth", "tun", "macvtap", "ipvlan", "macvlan"];

/// Hash of what stays until somebody changes the machine. Two equal machines states give equal hashes,
/// whatever the order of fields in a build.
#[must_use]
pub fn content_hash(inventory: &Inventory) -> String {
    let value = serde_json::to_value(inventory).unwrap_or_default();
    let text = steady(value).to_string();
    format!("sha256:{}", hex::encode(Sha256::digest(text)))
}

fn steady(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut pairs: Vec<(String, Value)> =
                map.into_iter().filter(|(key, _)| !CHANGING.contains(&key.as_str())).collect();
            pairs.sort_by(|left, right| left.0.cmp(&right.0));
            let pairs = pairs.into_iter().map(|(key, value)| (key, steady(value)));
            Value::Object(pairs.collect::<Map<_, _>>())
        }
        Value::Array(list) => {
            let passing = |value: &Value| {
                let kind = value.get("kind").and_then(Value::as_str);
                value.get("mtu").is_some() && kind.is_some_and(|kind| PASSING_LINKS.contains(&kind))
            };
            Value::Array(list.into_iter().filter(|value| !passing(value)).map(steady).collect())
        }
        other => other,
    }
}

/// The schema as it is checked in at `agent/schema/facts.schema.json`.
#[must_use]
pub fn json_schema() -> String {
    let schema = schemars::schema_for!(Report);
    let mut text = format!("{:#}", schema.as_value());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{Found, MemoryErrors, collect};

    const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/facts.schema.json");

    #[test]
    fn the_schema_that_is_checked_in_is_the_one_that_is_generated() {
        if std::env::var_os("KDC_WRITE_SCHEMA").is_some() {
            fs_err::write(PATH, json_schema()).expect("write schema");
        }
        let checked_in = fs_err::read_to_string(PATH).expect("schema is checked in");
        assert!(
            checked_in == json_schema(),
            "the schema drifted: run KDC_WRITE_SCHEMA=1 cargo test -p kdc-agent schema"
        );
    }

    #[test]
    fn the_hash_follows_the_hardware_and_not_what_changes_by_itself() {
        let place = tempfile::tempdir().unwrap();
        let mut inventory = collect(&crate::facts::Look::at(place.path()));
        let first = content_hash(&inventory);
        inventory.memory.errors =
            Found::present(MemoryErrors { corrected: 1, uncorrected: 0 }, "edac");
        inventory.network.routes = Found::present(Vec::new(), "netlink");
        assert_eq!(content_hash(&inventory), first);
        inventory.memory.total_bytes = Found::present(1, "/proc/meminfo");
        assert_ne!(content_hash(&inventory), first);
    }
}
