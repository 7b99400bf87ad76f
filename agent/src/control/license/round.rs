//! One round of the leader about the licence: look, judge, write. The record comes first, so that the next leader goes on
//! where this one stopped, and nothing is told twice.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    LICENSE_MAP, RECORD_KEY, RECORD_MAP, STANDING_KEY, STANDING_MAP, clock,
    publish::{Published, cluster_event, condition, condition_patch, events_path, taints},
    record::Record,
    turn::{Known, Turn, turn},
};
use crate::{
    audit::{self, Entry},
    control::{
        api::{ApiServer, Kind, Patch, text},
        error::ControlError,
        node::NodeSeen,
        settings::{SETTINGS_MAP, Settings},
        sight::Sight,
        status::event,
        time,
        wanted::NAMESPACE,
    },
    facts::Look as Root,
    license::{Fingerprint, LicenseKeys},
};

/// What a leader remembers from round to round.
#[derive(Debug, Default)]
pub(in crate::control) struct LicenseMemory {
    keys: Option<LicenseKeys>,
    cluster: Option<String>,
    record: Option<Held>,
    published: Option<Published>,
    machines: BTreeMap<String, Fingerprint>,
    /// What was judged last, and when.
    judged: Option<(Option<String>, Settings, Instant)>,
    words: String,
}

/// The record, and the object it was read from or written to.
#[derive(Debug)]
struct Held {
    record: Record,
    saved: Record,
    version: Option<String>,
}

/// Judge and write, where something that an operator wrote changed or `period` went by; in words for the unit's status.
pub(in crate::control) async fn license_round(
    api: &ApiServer,
    sight: &Sight,
    (boot_id, period): (&str, Duration),
    memory: &mut LicenseMemory,
    may_write: &(dyn Fn() -> bool + Sync),
) -> Result<String, ControlError> {
    // Each node is held against each other: with thousands of them it is looked less often.
    let period = period.max(Duration::from_millis(12 * sight.nodes.len() as u64));
    let kept = sight.maps.get(LICENSE_MAP).and_then(|map| map.text.clone());
    let settings = sight.maps.get(SETTINGS_MAP).and_then(|map| map.text.as_deref());
    let settings = Settings::parse(settings);
    let is_old = |(text, known, at): &(Option<String>, Settings, Instant)| {
        *text != kept || *known != settings || at.elapsed() >= period
    };
    if !memory.judged.as_ref().is_none_or(is_old) {
        return Ok(memory.words.clone());
    }
    memory.load(api).await?;
    let me = own_name(&sight.nodes);
    let look = clock::look(&Root::machine(), boot_id);
    let keys = memory.keys.get_or_insert_with(built_in_keys);
    let Some(held) = &mut memory.record else { return Ok(String::new()) };
    let known = Known {
        kept: kept.as_deref(),
        keys,
        cluster: memory.cluster.as_deref(),
        nodes: &sight.nodes,
        me: &me,
        machines: &memory.machines,
        look: &look,
    };
    let turn = turn(&known, &held.record);
    held.record = turn.record.clone();
    let written = write(api, sight, &turn, memory, (&settings, may_write)).await;
    if let Err(error) = written {
        // What was written in between is read before the next turn.
        if error.is_conflict() {
            memory.published = None;
        }
        return Err(error);
    }
    memory.words = words(&turn);
    memory.machines = turn.machines;
    memory.judged = Some((kept, settings, Instant::now()));
    Ok(memory.words.clone())
}

/// The keys that this program was built with.
pub(super) fn built_in_keys() -> LicenseKeys {
    LicenseKeys::built_in().unwrap_or_else(|error| {
        tracing::error!("this program's licence keys can't be used, so no licence counts: {error}");
        LicenseKeys::default()
    })
}

/// The node whose kubelet says the machine id of this machine, if only one does.
pub(super) fn own_name(nodes: &BTreeMap<String, NodeSeen>) -> String {
    let id = Root::machine().text("/etc/machine-id").unwrap_or_default();
    let id = id.trim();
    let mut mine = nodes.values().filter(|node| !id.is_empty() && node.member.told.0 == id);
    match (mine.next(), mine.next()) {
        (Some(node), None) => node.name.clone(),
        _ => String::new(),
    }
}

impl LicenseMemory {
    /// What is not known yet.
    async fn load(&mut self, api: &ApiServer) -> Result<(), ControlError> {
        if self.cluster.is_none() {
            let namespace = api.get(Kind::Namespace, NAMESPACE).await?;
            let uid = namespace.map(|one| text(&one["metadata"]["uid"]).to_owned());
            self.cluster = uid.filter(|uid| !uid.is_empty());
        }
        if self.record.as_ref().is_none_or(|held| held.version.is_none()) {
            let (saved, version) = read_record(api).await?;
            let mine = self.record.take();
            let record = mine.map_or_else(|| saved.clone(), |mine| mine.record.merge(&saved));
            self.record = Some(Held { record, saved, version });
        }
        Ok(())
    }
}

/// The record in the cluster, and the version of its object.
pub(super) async fn read_record(api: &ApiServer) -> Result<(Record, Option<String>), ControlError> {
    let Some(map) = api.get(Kind::ConfigMap, RECORD_MAP).await? else {
        return Ok((Record::default(), None));
    };
    let version = text(&map["metadata"]["resourceVersion"]).to_owned();
    let record = Record::parse(text(&map["data"][RECORD_KEY])).unwrap_or_else(|why| {
        tracing::warn!("ConfigMap {RECORD_MAP} can't be read and is begun anew: {why}");
        Record::default()
    });
    Ok((record, Some(version)))
}

/// Write a ConfigMap of one key: make it where there was none, else put it where it still is what was read.
pub(super) async fn put_map(
    api: &ApiServer,
    (name, key): (&str, &str),
    value: &str,
    version: Option<&str>,
) -> Result<(), ControlError> {
    let mut map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": name, "namespace": api.namespace() }, "data": { key: value },
    });
    match version {
        Some(version) => {
            map["metadata"]["resourceVersion"] = version.into();
            api.replace(Kind::ConfigMap, &map).await
        }
        None => api.create(Kind::ConfigMap, &map).await,
    }
}

async fn write(
    api: &ApiServer,
    sight: &Sight,
    turn: &Turn,
    memory: &mut LicenseMemory,
    (settings, may_write): (&Settings, &(dyn Fn() -> bool + Sync)),
) -> Result<(), ControlError> {
    if !may_write() {
        return Ok(());
    }
    if let Some(held) = &mut memory.record
        && held.record.differs_from(&held.saved)
    {
        let version = held.version.take();
        let text = held.record.to_text();
        put_map(api, (RECORD_MAP, RECORD_KEY), &text, version.as_deref()).await?;
        held.saved = held.record.clone();
        held.version = read_record(api).await?.1;
    }
    if !may_write() {
        return Ok(());
    }
    let published = Published::of(turn, memory.cluster.as_deref());
    if memory.published.as_ref().is_none_or(|before| published.differs_from(before)) {
        let there = api.get(Kind::ConfigMap, STANDING_MAP).await?;
        let version = there.as_ref().map(|map| text(&map["metadata"]["resourceVersion"]));
        put_map(api, (STANDING_MAP, STANDING_KEY), &published.to_text(), version).await?;
        memory.published = Some(published);
    }
    let now = time::now().as_secs();
    for (good, reason, words) in &turn.events {
        tracing::info!(reason, "{words}");
        let (state, reason_why) = ((*reason).to_owned(), words.clone());
        audit::note_from_control(&Entry::LicenceState { state, reason: reason_why });
        api.create_at(&events_path(), &cluster_event(*good, reason, words, now)).await?;
    }
    tell_nodes(api, sight, turn, settings, may_write).await
}

async fn tell_nodes(
    api: &ApiServer,
    sight: &Sight,
    turn: &Turn,
    settings: &Settings,
    may_write: &(dyn Fn() -> bool + Sync),
) -> Result<(), ControlError> {
    let now = time::now().as_secs();
    for (name, node) in &sight.nodes {
        let beyond = turn.beyond.get(name);
        let taint = taints(node, settings.taint_over_license && beyond.is_some());
        let said = condition(node, beyond.map(|why| (why.reason, why.words.as_str())));
        if !may_write() {
            return Ok(());
        }
        if let Some(patch) = taint {
            api.patch(Kind::Node, (name, None), (Patch::Merge, &patch)).await?;
        }
        if let Some(said) = said {
            let reason = if beyond.is_some() { "NodeBeyondLicense" } else { "NodeWithinLicense" };
            tracing::info!(node = name, reason, "{}", said.2);
            let patch: Value = condition_patch(&said, now);
            api.patch(Kind::Node, (name, Some("status")), (Patch::Strategic, &patch)).await?;
            let event = event(name, beyond.is_none(), reason, &said.2, now);
            api.create(Kind::Event, &event).await?;
        }
    }
    Ok(())
}

fn words(turn: &Turn) -> String {
    let standing = &turn.standing;
    let limit = standing.max_nodes.map_or("any".to_owned(), |limit| limit.to_string());
    let nodes = standing.nodes().unwrap_or_default();
    format!("licence: {}, {nodes} of {limit} nodes", standing.state.as_str())
}
