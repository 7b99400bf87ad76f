//! From all that is known to how the licence stands, what is remembered and who is told. Pure.

use std::collections::{BTreeMap, BTreeSet};

use kdc_profiles::cluster::Role;

use super::{
    CLOCK_ANNOTATION, FINGERPRINT_ANNOTATION,
    clock::{of_audit_logs, of_others, of_time_servers},
    kept::{Kept, Read},
    record::{NodeRecord, Record},
};
use crate::{
    audit::{Head, heads::MAX_HEAD_BYTES, publish::HEAD_ANNOTATION},
    control::node::NodeSeen,
    license::{
        Enrolled, Fingerprint, Inputs, LicenseKeys, Standing, State, Timestamp, Trial,
        clock::{self, Anchor, Look},
        fingerprint::Part,
        open,
        state::{Refused, judge},
    },
};

/// Days before an end at which it is told.
const TELL_DAYS: &[i64] = &[60, 30, 14, 7, 1];
/// Longest text of a fingerprint that is read.
const MAX_FINGERPRINT: usize = 32 * 1024;

/// All that is known.
pub(in crate::control) struct Known<'a> {
    /// The text of the ConfigMap; `None`: there is none.
    pub(in crate::control) kept: Option<&'a str>,
    pub(in crate::control) keys: &'a LicenseKeys,
    /// UID of the namespace `kube-system`.
    pub(in crate::control) cluster: Option<&'a str>,
    pub(in crate::control) nodes: &'a BTreeMap<String, NodeSeen>,
    /// The node that this runs on.
    pub(in crate::control) me: &'a str,
    /// What machines the nodes were at the last turn.
    pub(in crate::control) machines: &'a BTreeMap<String, Fingerprint>,
    pub(in crate::control) look: &'a Look,
}

/// What follows.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::control) struct Turn {
    pub(in crate::control) standing: Standing,
    pub(in crate::control) record: Record,
    /// Nodes that the licence does not let in, with the reason.
    pub(in crate::control) beyond: BTreeMap<String, Beyond>,
    /// For people: it is good, reason, words.
    pub(in crate::control) events: Vec<(bool, &'static str, String)>,
    /// What machines the nodes are.
    pub(in crate::control) machines: BTreeMap<String, Fingerprint>,
}

/// Why a node is beyond the licence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control) struct Beyond {
    /// For programs.
    pub(in crate::control) reason: &'static str,
    /// For people.
    pub(in crate::control) words: String,
}

/// Judge.
pub(in crate::control) fn turn(known: &Known<'_>, record: &Record) -> Turn {
    let mut record = record.clone();
    let read = read_files(known, &record);
    let look = with_anchors(known, &read);
    let (reading, clock) = clock::judge(&record.clock, &look);
    record.clock = clock;
    let now = reading.now;
    record.trial.get_or_insert(Trial { started_at: now, was_licensed: false });
    let (enrolled, new) = enrol(known, &mut record, now);
    let standing = judge(&Inputs {
        clock: &reading,
        cluster: known.cluster,
        trial: record.trial.as_ref(),
        licenses: &read.licenses,
        revoked: &read.revoked,
        refused: read.refused.as_ref(),
        nodes: Some(&enrolled),
        excess: record.excess,
    });
    record.excess = standing.excess;
    for name in &new {
        if let Some(node) = record.nodes.get_mut(name) {
            node.admitted = !standing.basis.has_ended();
        }
    }
    remember_license(&mut record, &read, &standing);
    let beyond = beyond(&standing, &record);
    let events = events(&mut record, &standing);
    let machine = |node: Enrolled| Some((node.name, node.fingerprint?));
    let machines = enrolled.into_iter().filter_map(machine).collect();
    Turn { standing, record, beyond, events, machines }
}

/// The files that count. Where nothing that was given can be read, the licence that was in force last stays so.
fn read_files(known: &Known<'_>, record: &Record) -> Read {
    let kept = known.kept.map(Kept::parse);
    let (mut read, removed) = match &kept {
        None => (Read::default(), None),
        Some(Ok(kept)) => (kept.read(known.keys), Some(&kept.removed)),
        Some(Err(why)) => {
            let why = format!(
                "ConfigMap {} can't be read: {why}; install the licence again",
                super::LICENSE_MAP
            );
            (Read { refused: Some(Refused { id: None, why }), ..Read::default() }, None)
        }
    };
    if let Some(last) = record.in_force.as_ref().filter(|_| read.refused.is_some())
        && removed.is_none_or(|removed| !removed.contains(&super::kept::digest(last)))
        && !read.files.contains(last)
        && let Ok(opened) = open(last.as_bytes(), known.keys)
    {
        read.licenses.push(opened.license);
        read.files.push(last.clone());
    }
    read
}

fn with_anchors(known: &Known<'_>, read: &Read) -> Look {
    let mut look = known.look.clone();
    let issued = read.licenses.iter().map(|license| license.issued_at).max();
    look.anchors.extend(issued.map(|at| (Anchor::LicenseIssued, at)));
    let others = known.nodes.values().filter(|node| node.name != known.me && node.member.ready);
    let beats = others.filter_map(|node| Timestamp::parse(&node.member.beat)).collect();
    look.anchors.extend(of_others(beats));
    let heads = known.nodes.values().filter_map(|node| node.annotations.get(HEAD_ANNOTATION));
    // Whoever has a node may sign what he likes: what many say alike is believed, and no signature costs time here.
    let heads = heads.filter(|head| head.len() <= MAX_HEAD_BYTES);
    let heads = heads.filter_map(|head| serde_json::from_str::<Head>(head).ok());
    let written = heads.filter_map(|head| i64::try_from(head.at / 1000).ok());
    look.anchors.extend(of_audit_logs(written.map(Timestamp::from_unix).collect()));
    let mine = known.nodes.get(known.me);
    let kept = mine.and_then(|node| node.annotations.get(CLOCK_ANNOTATION)).map(String::as_str);
    look.anchors.extend(of_time_servers(kept, look.wall));
    look
}

/// Nodes that are part of the cluster, and who of them is new. A node that was never Ready is none yet: its enrolment is
/// tried still, or failed.
fn enrol(known: &Known<'_>, record: &mut Record, now: Timestamp) -> (Vec<Enrolled>, Vec<String>) {
    let gone = record.nodes.keys().filter(|name| !known.nodes.contains_key(*name));
    for name in gone.cloned().collect::<Vec<_>>() {
        record.bury(&name, known.machines.get(&name).cloned(), now);
    }
    record.forget_gone(now);
    let (mut enrolled, mut new) = (Vec::new(), Vec::new());
    for (name, node) in known.nodes {
        let fingerprint = fingerprint_of(node);
        if !record.nodes.contains_key(name) {
            if !node.member.ready {
                continue;
            }
            let before = record.exhume(name, fingerprint.as_ref());
            let created = Timestamp::parse(&node.member.created).unwrap_or(now).min(now);
            let fresh = || {
                new.push(name.clone());
                NodeRecord { enrolled_at: created, admitted: true, silent_since: None }
            };
            let entry = before.unwrap_or_else(fresh);
            record.nodes.insert(name.clone(), entry);
        }
        let Some(entry) = record.nodes.get_mut(name) else { continue };
        entry.silent_since = match (node.member.ready, entry.silent_since) {
            (true, _) => None,
            (false, Some(since)) => Some(since.min(now)),
            (false, None) => Some(Timestamp::parse(&node.member.since).unwrap_or(now).min(now)),
        };
        let role = if node.member.control_plane { Role::ControlPlane } else { Role::Worker };
        enrolled.push(Enrolled {
            name: name.clone(),
            roles: BTreeSet::from([role]),
            enrolled_at: entry.enrolled_at,
            seen_at: entry.silent_since.unwrap_or(now),
            fingerprint,
            gpus: gpus_of(node),
        });
    }
    (enrolled, new)
}

/// What its agent says; else what its kubelet does, whoever made it part of the cluster.
fn fingerprint_of(node: &NodeSeen) -> Option<Fingerprint> {
    let text = node.annotations.get(FINGERPRINT_ANNOTATION);
    let text = text.filter(|text| text.len() <= MAX_FINGERPRINT);
    let told = text.and_then(|text| serde_json::from_str::<Fingerprint>(text).ok());
    let told = told.filter(|told| told.is_well_formed() && !told.is_empty());
    let (machine, board) = node.member.told.clone();
    let of_kubelet = || Fingerprint::of(&[(Part::MachineId, machine), (Part::ProductUuid, board)]);
    Some(told.unwrap_or_else(of_kubelet)).filter(|fingerprint| !fingerprint.is_empty())
}

fn gpus_of(node: &NodeSeen) -> u32 {
    let gpus = node.health().map_or(0, |health| health.gpus.len());
    u32::try_from(gpus).unwrap_or(u32::MAX)
}

fn remember_license(record: &mut Record, read: &Read, standing: &Standing) {
    let Some(in_force) = &standing.license else {
        record.in_force = None;
        return;
    };
    if let Some(trial) = &mut record.trial {
        trial.was_licensed = true;
    }
    let place = read.licenses.iter().position(|license| license.id == in_force.id);
    if let Some(file) = place.and_then(|place| read.files.get(place)) {
        record.in_force = Some(file.clone());
    }
}

/// The newest above limit and allowance; and after the end those that came since.
fn beyond(standing: &Standing, record: &Record) -> BTreeMap<String, Beyond> {
    let mut beyond = BTreeMap::new();
    if standing.basis == State::OverLimit {
        let within = usize::try_from(standing.allowance).unwrap_or(usize::MAX);
        for name in standing.over.iter().skip(within) {
            let words =
                format!("this node is among the newest above the limit: {}", standing.reason);
            beyond.insert(name.clone(), Beyond { reason: "OverLimit", words });
        }
    }
    if standing.basis.has_ended() {
        let counted = standing.count.iter().flat_map(|count| &count.counted);
        for node in counted {
            if record.nodes.get(&node.name).is_some_and(|known| !known.admitted) {
                let words =
                    format!("this node came when no node could be added: {}", standing.reason);
                beyond.insert(node.name.clone(), Beyond { reason: "NotLetIn", words });
            }
        }
    }
    beyond
}

/// What is to be told, once.
fn events(record: &mut Record, standing: &Standing) -> Vec<(bool, &'static str, String)> {
    let mut events = Vec::new();
    let license = standing.license.as_ref().map(|license| license.id.clone());
    let another = record.told.state.is_none() || record.told.license != license;
    if record.told.state != Some(standing.state) || another {
        events.push((is_good(standing.state), reason_of(standing.state), standing.reason.clone()));
        (record.told.state, record.told.license) = (Some(standing.state), license);
    }
    let left = standing.expires_at.map(|end| end.since(standing.clock.now));
    let days = left
        .filter(|left| *left > 0)
        .and_then(|left| TELL_DAYS.iter().rev().find(|days| left <= **days * 86_400).copied());
    if another {
        // How long it lasts was told with the state.
        record.told.days = days;
    } else if days != record.told.days {
        let nearer = match (days, record.told.days) {
            (Some(now), Some(before)) => now < before,
            (Some(_), None) => true,
            (None, _) => false,
        };
        record.told.days = days;
        if nearer && let Some(end) = standing.expires_at {
            let words = format!("{}; the end is on {}", standing.reason, end.day());
            events.push((false, "LicenseEnding", words));
        }
    }
    events
}

fn is_good(state: State) -> bool {
    matches!(state, State::Trial | State::Valid)
}

/// The reason of the event, and of nothing else.
pub(in crate::control) fn reason_of(state: State) -> &'static str {
    match state {
        State::Trial => "LicenseTrial",
        State::Valid => "LicenseValid",
        State::ExpiringSoon => "LicenseExpiringSoon",
        State::Grace => "LicenseGrace",
        State::OverLimit => "LicenseOverLimit",
        State::Expired => "LicenseExpired",
        State::Unlicensed => "Unlicensed",
        State::Invalid => "LicenseInvalid",
        State::ClockSuspect => "LicenseClockSuspect",
    }
}
