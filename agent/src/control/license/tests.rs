//! A cluster's life with its licence, turn by turn.

use std::collections::BTreeMap;

use kdc_bundles::signing::SigningKey;
use serde_json::{Value, json};

use super::{
    CONDITION, FINGERPRINT_ANNOTATION, TAINT,
    kept::{Kept, digest},
    publish::{Published, condition, taints},
    record::Record,
    turn::{Known, Turn, turn},
};
use crate::{
    control::node::NodeSeen,
    license::{
        Fingerprint, LicenseKeys, State, Timestamp,
        clock::Look,
        document::{License, samples},
        envelope::{Purpose, render},
        fingerprint::Part,
        keys::LicenseKey,
    },
};

const DAY: i64 = 86_400;
/// 2026-11-24.
const START: i64 = 1_795_478_400;

struct Vendor(SigningKey);

impl Vendor {
    fn new() -> Self {
        Self(SigningKey::generate().unwrap())
    }

    fn keys(&self) -> LicenseKeys {
        let key = LicenseKey::parse(&self.0.public().to_text(), "the vendor's key").unwrap();
        LicenseKeys::new(vec![key]).unwrap()
    }

    fn issue(&self, license: &License) -> String {
        let payload = license.to_payload().unwrap();
        let signature = self.0.sign_bytes(&Purpose::License.signed_bytes(&payload));
        render(self.0.id(), &payload, &signature).trim().to_owned()
    }
}

/// A licence from a day to a day, after the cluster's start.
fn license(id: &str, serial: u64, nodes: u32, (from, to): (i64, i64)) -> License {
    License {
        id: id.to_owned(),
        serial,
        max_nodes: Some(nodes),
        issued_at: at(from),
        not_before: at(from),
        expires_at: Some(at(to)),
        grace_days: 0,
        ..samples::license()
    }
}

fn at(day: i64) -> Timestamp {
    Timestamp::from_unix(START + day * DAY)
}

/// A cluster, as its leader sees it.
struct Cluster {
    vendor: Vendor,
    kept: Kept,
    text: Option<String>,
    nodes: BTreeMap<String, NodeSeen>,
    record: Record,
    machines: BTreeMap<String, Fingerprint>,
    now: i64,
}

impl Cluster {
    fn of(names: &[&str]) -> Self {
        let mut cluster = Self {
            vendor: Vendor::new(),
            kept: Kept::default(),
            text: None,
            nodes: BTreeMap::new(),
            record: Record::default(),
            machines: BTreeMap::new(),
            now: START,
        };
        for name in names {
            cluster.join(name, name);
        }
        cluster
    }

    /// A node appears, Ready; `machine` says on which.
    fn join(&mut self, name: &str, machine: &str) {
        let print = Fingerprint::of(&[(Part::MachineId, format!("{machine:0>32}"))]);
        let created = Timestamp::from_unix(self.now).to_string();
        let node = json!({
            "metadata": {
                "name": name, "resourceVersion": "1", "creationTimestamp": created,
                "annotations": { FINGERPRINT_ANNOTATION: serde_json::to_string(&print).unwrap() },
            },
            "status": { "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": created }] },
        });
        self.nodes.insert(name.to_owned(), NodeSeen::of(&node));
    }

    fn falls_silent(&mut self, name: &str) {
        let since = Timestamp::from_unix(self.now).to_string();
        let member = &mut self.nodes.get_mut(name).unwrap().member;
        (member.ready, member.since) = (false, since);
    }

    fn install(&mut self, license: &License) {
        self.kept.add(&self.vendor.issue(license), &self.vendor.keys());
        self.text = Some(self.kept.to_text());
    }

    fn remove(&mut self) {
        self.kept.remove(None);
        self.text = Some(self.kept.to_text());
    }

    /// So much later.
    fn after(&mut self, seconds: i64) -> Turn {
        self.now += seconds;
        let look = Look {
            wall: Timestamp::from_unix(self.now),
            boottime: self.now - START,
            boot_id: "boot".to_owned(),
            anchors: Vec::new(),
        };
        let turn = turn(
            &Known {
                kept: self.text.as_deref(),
                keys: &self.vendor.keys(),
                cluster: Some("7d1e"),
                nodes: &self.nodes,
                me: "",
                machines: &self.machines,
                look: &look,
            },
            &self.record,
        );
        self.record = turn.record.clone();
        self.machines = turn.machines.clone();
        turn
    }

    /// Days later; leaders look at the clock in between.
    fn after_days(&mut self, days: i64) -> Turn {
        for _ in 1..days {
            self.after(DAY);
        }
        self.after(DAY)
    }
}

fn names<T>(map: &BTreeMap<String, T>) -> Vec<&str> {
    map.keys().map(String::as_str).collect()
}

fn reasons(turn: &Turn) -> Vec<&'static str> {
    turn.events.iter().map(|(_, reason, _)| *reason).collect()
}

#[test]
fn a_cluster_lives_through_every_state_and_is_told_of_each_once() {
    let mut cluster = Cluster::of(&["cp1", "w1", "w2"]);
    let first = cluster.after(0);
    assert_eq!((first.standing.state, reasons(&first)), (State::Trial, vec!["LicenseTrial"]));
    assert_eq!(reasons(&cluster.after(15)), Vec::<&str>::new());
    // A month later, with a node that comes too late.
    let expired = cluster.after_days(31);
    assert_eq!(expired.standing.state, State::Expired);
    assert_eq!(
        names(&expired.beyond),
        Vec::<&str>::new(),
        "those that were there stay as they are"
    );
    cluster.join("w3", "w3");
    let late = cluster.after(15);
    assert_eq!(names(&late.beyond), ["w3"]);
    assert_eq!(late.beyond["w3"].reason, "NotLetIn");
    // A licence for three; four are there.
    cluster.install(&license("lic-1", 1, 3, (31, 100)));
    let valid = cluster.after(15);
    assert_eq!(
        (valid.standing.state, names(&valid.beyond)),
        (State::Valid, vec![]),
        "not at the first look"
    );
    let over = cluster.after(601);
    assert_eq!((over.standing.state, names(&over.beyond)), (State::OverLimit, vec!["w3"]));
    assert_eq!(reasons(&over), ["LicenseOverLimit"]);
    // It clears by itself.
    cluster.nodes.remove("w1");
    let within = cluster.after(15);
    assert_eq!((within.standing.state, names(&within.beyond)), (State::Valid, vec![]));
    let ended = cluster.after_days(70);
    assert_eq!(ended.standing.state, State::Expired);
    assert_eq!(names(&ended.beyond), ["w3"], "it came when nothing could be added");
    cluster.remove();
    let removed = cluster.after(15);
    assert_eq!(
        (removed.standing.state, reasons(&removed)),
        (State::Unlicensed, vec!["Unlicensed"])
    );
    // And the way back: a licence again.
    cluster.install(&license("lic-2", 2, 5, (101, 200)));
    let back = cluster.after(15);
    assert_eq!((back.standing.state, names(&back.beyond)), (State::Valid, vec![]));
}

#[test]
fn the_end_is_told_60_30_14_7_and_1_days_before_once_each() {
    let mut cluster = Cluster::of(&["cp1"]);
    cluster.install(&license("lic-1", 1, 3, (0, 90)));
    let mut told = Vec::new();
    for day in 0..90 {
        let turn = if day == 0 { cluster.after(0) } else { cluster.after(DAY) };
        if reasons(&turn).contains(&"LicenseEnding") {
            told.push(90 - day);
        }
        assert!(!reasons(&cluster.after(0)).contains(&"LicenseEnding"), "told twice");
    }
    assert_eq!(told, [60, 30, 14, 7, 1]);
}

#[test]
fn a_dead_node_is_replaced_at_the_limit_and_a_missed_heartbeat_frees_nothing() {
    let mut cluster = Cluster::of(&["cp1", "w1", "w2"]);
    cluster.install(&license("lic-1", 1, 3, (0, 100)));
    assert_eq!(cluster.after(0).standing.nodes(), Some(3));
    cluster.now += 60;
    cluster.falls_silent("w2");
    assert_eq!(cluster.after(60).standing.nodes(), Some(3), "a missed heartbeat");
    cluster.now += 600;
    cluster.join("w3", "w3");
    for _ in 0..5 {
        let turn = cluster.after(300);
        assert_eq!((turn.standing.nodes(), turn.standing.state), (Some(3), State::Valid));
        assert_eq!(names(&turn.beyond), Vec::<&str>::new());
    }
}

#[test]
fn a_node_that_was_never_ready_does_not_count_and_one_machine_counts_once() {
    let mut cluster = Cluster::of(&["cp1"]);
    cluster.join("failed", "x");
    cluster.falls_silent("failed");
    assert_eq!(cluster.after(0).standing.nodes(), Some(1));
    cluster.join("clone", "cp1");
    let turn = cluster.after(15);
    assert_eq!(turn.standing.nodes(), Some(1));
    assert_eq!(turn.standing.left_out().len(), 1);
    // Once it was Ready it counts, also while it is not.
    cluster.join("late", "late");
    assert_eq!(cluster.after(15).standing.nodes(), Some(2));
    cluster.falls_silent("late");
    assert_eq!(cluster.after(15).standing.nodes(), Some(2));
}

#[test]
fn a_machine_that_comes_back_has_its_old_place_whatever_its_name() {
    let mut cluster = Cluster::of(&["cp1", "w1"]);
    cluster.install(&license("lic-1", 1, 2, (0, 100)));
    cluster.after(0);
    let came = cluster.record.nodes["w1"].enrolled_at;
    cluster.nodes.remove("w1");
    assert_eq!(cluster.after(60).standing.nodes(), Some(1));
    cluster.join("other", "w1");
    assert_eq!(cluster.after(3600).standing.nodes(), Some(2));
    assert_eq!(cluster.record.nodes["other"].enrolled_at, came);
    assert!(cluster.record.gone.is_empty());
}

#[test]
fn a_bad_file_leaves_the_last_good_one_in_force_and_what_was_removed_stays_away() {
    let mut cluster = Cluster::of(&["cp1"]);
    cluster.install(&license("lic-1", 1, 3, (0, 100)));
    assert_eq!(cluster.after(0).standing.state, State::Valid);
    let good = cluster.kept.files[0].clone();
    // Somebody edits the ConfigMap by hand.
    for text in ["{", r#"{"files":["{}"]}"#] {
        cluster.text = Some(text.to_owned());
        let turn = cluster.after(15);
        assert_eq!(turn.standing.state, State::Invalid, "{text}");
        assert_eq!(turn.standing.basis, State::Valid, "{text}");
        assert_eq!(
            turn.standing.license.as_ref().map(|license| license.id.as_str()),
            Some("lic-1")
        );
    }
    let removed =
        Kept { files: vec!["{}".to_owned()], removed: vec![digest(&good)], ..Kept::default() };
    cluster.text = Some(removed.to_text());
    let turn = cluster.after(15);
    assert_eq!((turn.standing.license, turn.standing.basis), (None, State::Trial));
}

#[test]
fn a_clock_that_was_set_back_gives_no_free_time_and_stops_nothing() {
    let mut cluster = Cluster::of(&["cp1"]);
    cluster.install(&license("lic-1", 1, 3, (0, 40)));
    assert_eq!(cluster.after_days(39).standing.state, State::ExpiringSoon);
    let back = cluster.after(-25 * 3600);
    assert_eq!(
        (back.standing.state, back.standing.basis),
        (State::ClockSuspect, State::ExpiringSoon)
    );
    assert!(back.beyond.is_empty() && back.standing.clock.now >= at(39).plus_seconds(-1));
    assert!(reasons(&back).contains(&"LicenseClockSuspect"));
}

#[test]
fn copies_of_licences_come_back_but_not_what_was_removed_and_not_what_is_bad() {
    let (vendor, other) = (Vendor::new(), Vendor::new());
    let keys = vendor.keys();
    let (one, two) =
        (vendor.issue(&license("one", 1, 3, (0, 9))), vendor.issue(&license("two", 2, 3, (0, 9))));
    let mut copy = Kept::default();
    copy.add(&one, &keys);
    copy.add(&two, &keys);
    copy.files.push(other.issue(&license("foreign", 9, 99, (0, 9))));
    let restored = Kept::default().merge(&copy, &keys);
    assert_eq!(restored.files.len(), 2, "{restored:?}");
    let mut there = restored.clone();
    assert_eq!(there.remove(Some("one")), ["one"]);
    let merged = there.clone().merge(&copy, &keys);
    assert_eq!(merged.files, std::slice::from_ref(&two));
    // Installed again, it counts again, also after the copy came by.
    let mut again = merged;
    again.add(&one, &keys);
    assert!(again.merge(&copy, &keys).has(&one));
    let mut many = Kept::default();
    for serial in 1..20 {
        let id = format!("lic-{serial}");
        many.add(&vendor.issue(&license(&id, serial, 3, (0, 9))), &keys);
    }
    assert_eq!(many.files.len(), super::kept::MAX_FILES);
    let ids: Vec<String> = many.read(&keys).licenses.into_iter().map(|one| one.id).collect();
    assert_eq!(ids.first().map(String::as_str), Some("lic-12"), "the lowest serials made room");
}

#[test]
fn what_is_kept_and_remembered_is_read_again_and_bounded() {
    let mut cluster = Cluster::of(&["cp1", "w1"]);
    cluster.install(&license("lic-1", 1, 1, (0, 100)));
    cluster.after(0);
    cluster.nodes.remove("w1");
    cluster.after(700);
    assert_eq!(Kept::parse(&cluster.kept.to_text()), Ok(cluster.kept.clone()));
    assert_eq!(Record::parse(&cluster.record.to_text()), Ok(cluster.record.clone()));
    let long = " ".repeat(super::record::MAX_BYTES + 1);
    assert!(
        Record::parse(&long).is_err()
            && Kept::parse(&long).is_err()
            && Published::parse(&long).is_err()
    );
    // A trial begins once: who knows an earlier start is right.
    let mut other = cluster.record.clone();
    other.trial.as_mut().unwrap().started_at = at(-5);
    assert_eq!(cluster.record.clone().merge(&other).trial.unwrap().started_at, at(-5));
    assert_eq!(other.clone().merge(&cluster.record).trial.unwrap().started_at, at(-5));
}

#[test]
fn it_is_written_down_when_something_changed_and_once_an_hour() {
    let mut cluster = Cluster::of(&["cp1"]);
    let first = cluster.after(0);
    let (saved, told) = (cluster.record.clone(), Published::of(&first, None));
    let later = cluster.after(15);
    assert!(!cluster.record.differs_from(&saved));
    assert!(!Published::of(&later, None).differs_from(&told));
    let hour = cluster.after(3600);
    assert!(cluster.record.differs_from(&saved));
    assert!(Published::of(&hour, None).differs_from(&told));
    let saved = cluster.record.clone();
    cluster.join("w1", "w1");
    let more = cluster.after(1);
    assert!(cluster.record.differs_from(&saved));
    assert!(Published::of(&more, None).differs_from(&Published::of(&hour, None)));
}

#[test]
fn every_node_may_read_how_it_stands_and_nobody_s_name_is_in_it() {
    let mut cluster = Cluster::of(&["cp1"]);
    cluster.install(&license("lic-1", 1, 3, (0, 100)));
    let turn = cluster.after(0);
    let published = Published::of(&turn, Some("7d1e"));
    let text = published.to_text();
    assert!(!text.contains(&samples::license().customer), "{text}");
    assert_eq!(Published::parse(&text), Ok(published));
}

#[test]
fn a_taint_is_ours_to_put_and_to_take_and_others_stay() {
    let ours = json!({ "key": TAINT.0, "effect": TAINT.1 });
    let theirs = json!({ "key": "a", "value": "b", "effect": "NoExecute" });
    let node = |taints: &[&Value]| {
        NodeSeen::of(
            &json!({ "metadata": { "name": "w1", "resourceVersion": "7" }, "spec": { "taints": taints } }),
        )
    };
    let list = |patch: Option<Value>| patch.map(|patch| patch["spec"]["taints"].clone());
    for (there, wanted, patched) in [
        (vec![], false, None),
        (vec![&theirs], false, None),
        (vec![&ours, &theirs], true, None),
        (vec![&theirs], true, Some(json!([theirs, ours]))),
        (vec![&ours, &theirs], false, Some(json!([theirs]))),
        (vec![&ours], false, Some(json!([]))),
    ] {
        assert_eq!(list(taints(&node(&there), wanted)), patched, "{there:?} {wanted}");
    }
    // It moves nothing that runs.
    assert_eq!(TAINT.1, "NoSchedule");
    let patch = taints(&node(&[]), true).unwrap();
    assert_eq!(
        patch["metadata"]["resourceVersion"], "7",
        "who writes in between is not overwritten"
    );
}

#[test]
fn a_node_that_was_never_beyond_the_licence_has_no_condition() {
    let node = |said: Option<(&str, &str)>| {
        let conditions: Vec<Value> = said
            .map(
                |(status, reason)| json!({ "type": CONDITION, "status": status, "reason": reason }),
            )
            .into_iter()
            .collect();
        NodeSeen::of(
            &json!({ "metadata": { "name": "w1" }, "status": { "conditions": conditions } }),
        )
    };
    let word =
        |said: Option<(&'static str, &'static str, String)>| said.map(|said| (said.0, said.1));
    let over = Some(("OverLimit", "too many"));
    for (there, beyond, wanted) in [
        (None, None, None),
        (None, over, Some(("False", "OverLimit"))),
        (Some(("False", "OverLimit")), over, None),
        (Some(("False", "NotLetIn")), over, Some(("False", "OverLimit"))),
        (Some(("False", "OverLimit")), None, Some(("True", "Within"))),
        (Some(("True", "Within")), None, None),
    ] {
        assert_eq!(word(condition(&node(there), beyond)), wanted, "{there:?} {beyond:?}");
    }
}
