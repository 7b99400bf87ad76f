//! One round of the leader: from what there is, conclude, write.

use std::collections::BTreeSet;

use serde_json::json;

use super::{
    api::{ApiServer, Kind, Patch},
    audit::Remembered,
    conclude::{Actions, Snapshot, conclude},
    error::ControlError,
    progress::{Patience, Phase},
    sight::Sight,
    status::{STATUS_KEY, STATUS_MAP, condition, event},
    time,
    wanted::{WANTED_KEY, WANTED_MAP, Wanted},
};
use crate::{
    audit::{self, Entry},
    gpu::hami::{CONFIG_KEY, CONFIG_MAP, DEFAULTS_KEY, DEFAULTS_MAP, effective::Defaults},
};

/// Annotation of the config's ConfigMap: nodes whose entries are kdc's.
pub const OWNED_ANNOTATION: &str = "kdc.dev/hami-nodes";

/// How a round came out.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Look again soon.
    pub(super) busy: bool,
    /// Nothing is wanted, and nothing of kdc's is left.
    pub(super) withdrawn: bool,
    /// For the unit's status.
    pub(super) words: String,
}

/// What a leader remembers from round to round.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The status that was written last.
    status: Option<String>,
    /// Heads of audit logs.
    pub(super) heads: Remembered,
}

/// Conclude and write; nothing is written once `may_write` says no.
pub(super) async fn round(
    api: &ApiServer,
    sight: Sight,
    patience: &Patience,
    memory: &mut Memory,
    may_write: &(dyn Fn() -> bool + Sync),
) -> Result<Told, ControlError> {
    let quiet = |words: String| Told { words, ..Told::default() };
    let Some(wanted) = sight.maps.get(WANTED_MAP) else {
        return Ok(quiet(format!("there is no ConfigMap {WANTED_MAP}: nothing is wanted")));
    };
    let wanted = Wanted::parse(wanted.text.as_deref().unwrap_or_default())
        .map_err(|reason| ControlError::Wanted { map: WANTED_MAP, key: WANTED_KEY, reason })?;
    if !sight.maps.contains_key(CONFIG_MAP) && !wanted.of_hami().is_empty() {
        return Ok(quiet(format!("there is no ConfigMap {CONFIG_MAP}: HAMi is not installed")));
    }
    let snapshot = snapshot(sight, wanted)?;
    let actions = conclude(&snapshot, patience);
    write(api, &actions, &snapshot, memory, may_write).await?;
    let withdrawn = actions.is_idle()
        && snapshot.wanted.of_hami().is_empty()
        && snapshot.owned.is_empty()
        && snapshot.nodes.values().all(|node| !node.is_marked());
    Ok(Told { busy: actions.busy, withdrawn, words: words(&actions) })
}

/// What a round concludes from.
pub(super) fn snapshot(mut sight: Sight, wanted: Wanted) -> Result<Snapshot, ControlError> {
    let defaults = match sight.maps.get(DEFAULTS_MAP).and_then(|map| map.text.as_deref()) {
        // The plugin does not even start with a text that can't be read.
        Some(text) => Defaults::parse(text).map_err(|reason| ControlError::Wanted {
            map: DEFAULTS_MAP,
            key: DEFAULTS_KEY,
            reason,
        })?,
        None => Defaults::default(),
    };
    let config = sight.maps.remove(CONFIG_MAP).unwrap_or_default();
    let owned = config.owned.split(',').filter(|name| !name.is_empty()).map(str::to_owned);
    Ok(Snapshot {
        now: time::now().as_secs(),
        wanted,
        owned: owned.collect(),
        config: config.text,
        defaults,
        nodes: sight.nodes,
        pods: sight.pods,
    })
}

/// Records first, then what they announce: the config, then the pod that is to read it, then what people are told.
async fn write(
    api: &ApiServer,
    actions: &Actions,
    seen: &Snapshot,
    memory: &mut Memory,
    may_write: &(dyn Fn() -> bool + Sync),
) -> Result<(), ControlError> {
    let now = seen.now;
    for (node, patch) in &actions.patches {
        if !may_write() {
            return Ok(());
        }
        api.patch(Kind::Node, (node, None), (Patch::Merge, patch)).await?;
        acted("node-marked", node, &patch["metadata"].to_string());
    }
    if let Some((text, owned)) = &actions.config {
        if !may_write() {
            return Ok(());
        }
        tracing::info!(nodes = owned.len(), "the settings are written");
        write_config(api, seen, text, owned).await?;
        let nodes: Vec<&str> = owned.iter().map(String::as_str).collect();
        acted("settings-written", CONFIG_MAP, &format!("nodes: {}", nodes.join(", ")));
    }
    for (pod, uid) in &actions.deletes {
        if !may_write() {
            return Ok(());
        }
        tracing::info!(
            pod,
            "the device plugin's pod is deleted, so that another reads the settings"
        );
        api.delete_pod(pod, uid).await?;
        acted("pod-deleted", pod, "so that another reads the settings");
    }
    for (node, good, reason, words) in &actions.events {
        tracing::info!(node, reason, "{words}");
        api.create(Kind::Event, &event(node, *good, reason, words, now)).await?;
    }
    for (node, said) in &actions.conditions {
        let patch = json!({ "status": { "conditions": [condition(said, now)] } });
        // Strategic: conditions of others stay.
        api.patch(Kind::Node, (node, Some("status")), (Patch::Strategic, &patch)).await?;
    }
    tell(api, actions, memory).await
}

/// What was changed in the cluster goes on record.
fn acted(action: &str, subject: &str, detail: &str) {
    let [action, subject, detail] = [action, subject, detail].map(str::to_owned);
    audit::note_from_control(&Entry::ControlActed { action, subject, detail });
}

/// The object as it is now, with another text, if it still says what was concluded from. Its version goes with it: who
/// writes in between is not overwritten.
async fn write_config(
    api: &ApiServer,
    seen: &Snapshot,
    text: &str,
    owned: &BTreeSet<String>,
) -> Result<(), ControlError> {
    let config = api.get(Kind::ConfigMap, CONFIG_MAP).await?;
    let mut config = config
        .filter(|config| config["data"][CONFIG_KEY].as_str() == seen.config.as_deref())
        .ok_or_else(|| ControlError::overtaken(CONFIG_MAP))?;
    config["data"][CONFIG_KEY] = text.into();
    let names = owned.iter().cloned().collect::<Vec<_>>().join(",");
    config["metadata"]["annotations"][OWNED_ANNOTATION] = names.into();
    api.replace(Kind::ConfigMap, &config).await
}

async fn tell(api: &ApiServer, actions: &Actions, memory: &mut Memory) -> Result<(), ControlError> {
    let text = actions.status.to_text();
    if memory.status.as_ref() == Some(&text) {
        return Ok(());
    }
    write_status(api, &text).await?;
    memory.status = Some(text);
    Ok(())
}

async fn write_status(api: &ApiServer, text: &str) -> Result<(), ControlError> {
    match api.get(Kind::ConfigMap, STATUS_MAP).await? {
        Some(map) if map["data"][STATUS_KEY].as_str() == Some(text) => Ok(()),
        Some(mut map) => {
            map["data"] = json!({ STATUS_KEY: text });
            api.replace(Kind::ConfigMap, &map).await
        }
        None => {
            let metadata = json!({ "name": STATUS_MAP, "namespace": api.namespace() });
            let map = json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { STATUS_KEY: text },
            });
            api.create(Kind::ConfigMap, &map).await
        }
    }
}

fn words(actions: &Actions) -> String {
    let nodes = &actions.status.nodes;
    let applied = nodes.values().filter(|node| node.phase == Some(Phase::Applied)).count();
    let problems = actions.status.problems.len();
    format!("GPU settings: {applied} of {} nodes as wanted, {problems} problems", nodes.len())
}
