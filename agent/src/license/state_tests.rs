use std::collections::BTreeSet;

use kdc_profiles::cluster::Role;

use super::*;
use crate::license::{
    Enrolled,
    clock::{self, ClockRecord, Doubt, Look},
    document::{
        Window,
        samples::{day, license},
    },
    entitlement::{Candidate, Feature},
    time::DAY,
};

/// A cluster that is asked how it stands.
struct Site {
    clock: Reading,
    trial: Option<Trial>,
    licenses: Vec<License>,
    revoked: Revocations,
    refused: Option<Refused>,
    nodes: Option<Vec<Enrolled>>,
    excess: Excess,
}

impl Site {
    fn at(day_text: &str) -> Self {
        Self {
            clock: Reading::sure(day(day_text)),
            trial: Some(Trial { started_at: day("2026-01-01"), was_licensed: false }),
            licenses: Vec::new(),
            revoked: Revocations::default(),
            refused: None,
            nodes: Some(Vec::new()),
            excess: Excess::default(),
        }
    }

    fn with(mut self, license: License) -> Self {
        self.licenses.push(license);
        self
    }

    fn nodes(mut self, names: &[&str]) -> Self {
        self.nodes = Some(names.iter().map(|name| self.node(name)).collect());
        self
    }

    fn node(&self, name: &str) -> Enrolled {
        Enrolled {
            name: name.to_owned(),
            roles: BTreeSet::from([Role::Worker]),
            enrolled_at: day("2026-01-02"),
            seen_at: self.clock.now,
            fingerprint: None,
            gpus: 0,
        }
    }

    /// It has been so for long enough.
    fn for_long(mut self) -> Self {
        self.excess = Excess { since: Some(self.clock.now.plus_days(-1)), samples: 100 };
        self
    }

    fn judge(&self) -> Standing {
        judge(&Inputs {
            clock: &self.clock,
            cluster: Some("uid-1"),
            trial: self.trial.as_ref(),
            licenses: &self.licenses,
            revoked: &self.revoked,
            refused: self.refused.as_ref(),
            nodes: self.nodes.as_deref(),
            excess: self.excess,
        })
    }
}

fn one_more() -> Feature {
    enrol(&["new"])
}

fn enrol(names: &[&str]) -> Feature {
    let role = Role::Worker;
    let candidate = |name: &&str| Candidate { name: (*name).to_owned(), role, gpus: 0 };
    Feature::Enrol(names.iter().map(candidate).collect())
}

fn component(name: &str, in_use: bool) -> Feature {
    Feature::Component { name: name.to_owned(), wanted: 1, in_use }
}

/// What no state refuses.
fn the_way_back() -> [Feature; 5] {
    let in_use = component("gpu-sharing", true);
    [Feature::KeepRunning, Feature::WayBack, Feature::Watching, in_use, enrol(&[])]
}

/// Every state of the table with a site that is in it.
fn every_state() -> Vec<(State, bool, Site)> {
    let mut invalid = Site::at("2026-06-01").with(license()).nodes(&["a"]);
    invalid.refused = Some(Refused { id: None, why: "the signature is not good".to_owned() });
    let mut unlicensed = Site::at("2026-06-01");
    unlicensed.trial = Some(Trial { was_licensed: true, ..unlicensed.trial.unwrap() });
    let mut suspect = Site::at("2026-06-01").with(license()).nodes(&["a"]);
    let (wall, floor) = (day("2026-05-01"), day("2026-06-01"));
    let because = "it was seen last".to_owned();
    suspect.clock.doubt = Some(Doubt::Behind { wall, floor, because });
    vec![
        (State::Trial, true, Site::at("2026-01-15")),
        (State::Valid, true, Site::at("2026-06-01").with(license())),
        (State::ExpiringSoon, true, Site::at("2026-12-15").with(license())),
        (State::Grace, true, Site::at("2027-01-10").with(license())),
        (
            State::OverLimit,
            false,
            Site::at("2026-06-01").with(license()).nodes(&["a", "b", "c", "d"]).for_long(),
        ),
        (State::Expired, false, Site::at("2027-02-01").with(license())),
        (State::Unlicensed, false, unlicensed),
        (State::Invalid, true, invalid),
        (State::ClockSuspect, true, suspect),
    ]
}

#[test]
fn every_state_of_the_table_is_reached_and_decides_as_the_table_says() {
    let states = every_state();
    assert_eq!(states.iter().map(|(state, ..)| *state).collect::<Vec<_>>(), State::ALL);
    for (state, takes_one_more, site) in states {
        let standing = site.judge();
        assert_eq!(standing.state, state, "{}", standing.reason);
        let decision = standing.allows(&one_more());
        assert_eq!(decision.allowed, takes_one_more, "{state:?}: {}", decision.why);
        let is_quiet =
            matches!(state, State::Trial | State::Valid | State::Expired | State::Unlicensed);
        assert_eq!(standing.warning().is_none(), is_quiet, "{state:?}: {:?}", standing.warning());
    }
}

#[test]
fn in_no_state_is_what_runs_or_the_way_back_refused() {
    for (state, _, site) in every_state() {
        for feature in the_way_back() {
            let decision = site.judge().allows(&feature);
            assert!(decision.allowed, "{state:?} {feature:?}: {}", decision.why);
        }
    }
}

#[test]
fn no_licence_a_bad_licence_and_over_the_limit_are_three_states_with_three_texts() {
    let text = |wanted: State| {
        let (.., site) = every_state().into_iter().find(|(state, ..)| *state == wanted).unwrap();
        site.judge().reason
    };
    let [none, bad, over] = [State::Unlicensed, State::Invalid, State::OverLimit].map(text);
    assert!(none.contains("no licence is installed"), "{none}");
    assert!(bad.contains("the signature is not good"), "{bad}");
    assert!(over.contains("4 nodes count and licence `lic-1` is for 3; over it: `d`"), "{over}");
}

#[test]
fn a_cluster_goes_through_trial_end_licence_over_limit_end_and_removal() {
    let mut site = Site::at("2026-01-10").nodes(&["a", "b", "c"]);
    assert_eq!(site.judge().state, State::Trial);
    site.clock = Reading::sure(day("2026-01-31"));
    assert_eq!(site.judge().state, State::Expired);
    assert!(site.judge().reason.contains("the trial ended on 2026-01-31"));
    site = site.with(license());
    site.trial = Some(Trial { was_licensed: true, ..site.trial.unwrap() });
    assert_eq!(site.judge().state, State::Valid);
    site = site.nodes(&["a", "b", "c", "d"]).for_long();
    assert_eq!(site.judge().state, State::OverLimit);
    site.clock = Reading::sure(day("2027-02-01"));
    assert_eq!(site.judge().state, State::Expired);
    site.licenses.clear();
    assert_eq!(site.judge().state, State::Unlicensed);
}

// Section 8.2 of the contract: what users of other products complain about, a row a test.

#[test]
fn portainer_7980_firezone_5941_the_warning_goes_when_the_nodes_are_gone() {
    let over = Site::at("2026-06-01").with(license()).nodes(&["a", "b", "c", "d"]).for_long();
    let standing = over.judge();
    assert_eq!(standing.state, State::OverLimit);
    let mut after = Site::at("2026-06-01").with(license()).nodes(&["a", "b", "c"]);
    after.excess = standing.excess;
    let standing = after.judge();
    assert_eq!((standing.state, standing.warning()), (State::Valid, None));
    assert_eq!(standing.excess, Excess::default());
}

#[test]
fn portainer_8852_a_node_whose_enrolment_failed_never_counts() {
    // Only completed enrolments are ever in the list; a node that is tried again is a candidate again.
    let site = Site::at("2026-06-01").with(license()).nodes(&["a", "b"]);
    for _ in 0..3 {
        let decision = site.judge().allows(&one_more());
        assert!(decision.allowed && decision.why.starts_with("3 of 3"), "{}", decision.why);
    }
}

#[test]
fn portainer_8687_removing_nodes_needs_no_licence() {
    for (state, _, site) in every_state() {
        assert!(site.judge().allows(&Feature::WayBack).allowed, "{state:?}");
    }
}

#[test]
fn portainer_7644_nobody_is_locked_out_whatever_happens() {
    for (state, _, site) in every_state() {
        assert!(site.judge().allows(&Feature::KeepRunning).allowed, "{state:?}");
        assert!(site.judge().allows(&Feature::Watching).allowed, "{state:?}");
    }
}

#[test]
fn portainer_8965_12515_nothing_counts_twice_and_who_counts_is_listed() {
    let site = Site::at("2026-06-01").with(license()).nodes(&["a", "a", "b", "b", "c"]).for_long();
    let standing = site.judge();
    assert_eq!((standing.state, standing.nodes()), (State::Valid, Some(3)));
    let lines = standing.explain().join("\n");
    for name in ["counts: `a`", "counts: `b`", "counts: `c`", "is the same machine as `a`"] {
        assert!(lines.contains(name), "{name}: {lines}");
    }
}

#[test]
fn redis_docs_2963_3285_3294_an_ended_licence_blocks_neither_upgrade_nor_recovery() {
    let standing = Site::at("2028-01-01").with(license()).nodes(&["a", "b", "c"]).judge();
    assert_eq!(standing.state, State::Expired);
    for feature in [Feature::KeepRunning, component("gpu-sharing", true)] {
        assert!(standing.allows(&feature).allowed);
    }
}

#[test]
fn voltdb_6102_what_was_admitted_is_never_asked_again() {
    // The fourth node came in under an allowance that has ended since: adding is over, recovery is not.
    let overage = Overage { percent: 0, nodes: 1, days: Some(1) };
    let with_overage = License { overage, ..license() };
    let site = Site::at("2026-06-01").with(with_overage).nodes(&["a", "b", "c", "d"]);
    let mut later = site;
    later.excess = Excess { since: Some(later.clock.now.plus_days(-2)), samples: 9 };
    let standing = later.judge();
    assert!(!standing.allows(&one_more()).allowed);
    for feature in the_way_back() {
        assert!(standing.allows(&feature).allowed);
    }
}

#[test]
fn cockroach_35342_24701_52794_98589_the_end_is_a_date_and_no_licence_is_not_zero() {
    let licensed = Site::at("2026-12-15").with(license()).judge();
    assert_eq!(licensed.expires_at, Some(day("2027-01-01")));
    assert!(licensed.reason.contains("ends in 17 days, on 2027-01-01"), "{}", licensed.reason);
    let endless = License { kind: LicenseKind::Perpetual, expires_at: None, ..license() };
    let endless = Site::at("2026-12-15").with(endless).judge();
    assert_eq!((endless.expires_at, endless.state), (None, State::Valid));
    let mut none = Site::at("2026-12-15");
    none.trial = None;
    assert_eq!(none.judge().expires_at, Some(day("2027-01-14")), "the trial's end");
}

#[test]
fn gitlab_333851_281177_292751_window_and_tolerance_are_the_licences_own() {
    let window = Window { samples: 3, over_seconds: 3600, ..Window::default() };
    let overage = Overage { percent: 40, ..Overage::default() };
    let mut stated = license();
    stated.count.window = window;
    stated.overage = overage;
    let mut site = Site::at("2026-06-01").with(stated).nodes(&["a", "b", "c"]);
    // 40 % of 3 is one node more, let in and named.
    let decision = site.judge().allows(&one_more());
    assert!(decision.allowed, "{}", decision.why);
    site = site.nodes(&["a", "b", "c", "d"]);
    let start = site.clock.now;
    for (minutes, state) in
        [(0, State::Valid), (30, State::Valid), (59, State::Valid), (60, State::OverLimit)]
    {
        site.clock = Reading::sure(start.plus_seconds(minutes * 60));
        for node in site.nodes.iter_mut().flatten() {
            node.seen_at = site.clock.now;
        }
        let standing = site.judge();
        assert_eq!(standing.state, state, "after {minutes} minutes");
        site.excess = standing.excess;
    }
    let decision = site.judge().allows(&one_more());
    assert!(!decision.allowed && decision.why.contains("and 1 beyond that"), "{}", decision.why);
}

#[test]
fn dotcms_8777_octopus_2881_a_refusal_says_which_count_which_limit_which_nodes_and_what_works() {
    let standing = Site::at("2026-06-01").with(license()).nodes(&["a", "b", "c"]).judge();
    let decision = standing.allows(&enrol(&["d", "e"]));
    assert!(!decision.allowed);
    assert_eq!(
        decision.why,
        "5 nodes would count, and the licence is for 3; counted now: `a`, `b`, `c`; new: `d`, `e`"
    );
    assert!(standing.explain().last().unwrap().contains("removing nodes, repair, restart"));
}

#[test]
fn octopus_1982_a_candidate_does_not_count_itself() {
    let standing = Site::at("2026-06-01").with(license()).nodes(&["a", "b"]).judge();
    assert!(standing.allows(&one_more()).allowed);
    // Asked again after it was made, it stands among the counted, and adds nothing.
    let standing = Site::at("2026-06-01").with(license()).nodes(&["a", "b", "new"]).judge();
    let decision = standing.allows(&one_more());
    assert!(decision.allowed && decision.why.starts_with("3 of 3"), "{}", decision.why);
}

#[test]
fn authentik_12289_24798_letting_in_needs_a_licence_and_unwinding_never_does() {
    let standing = Site::at("2028-01-01").with(license()).judge();
    assert!(!standing.allows(&one_more()).allowed);
    assert!(!standing.allows(&component("gpu-sharing", false)).allowed);
    assert!(standing.allows(&Feature::WayBack).allowed);
}

#[test]
fn authentik_9051_9292_14451_no_licence_is_not_over_the_limit_and_ended_ones_lend_no_places() {
    let mut fresh = Site::at("2026-01-05").nodes(&["a", "b", "c", "d"]);
    fresh.trial = None;
    assert_eq!(fresh.judge().state, State::Trial);
    let nodes = [&"a", &"b", &"c", &"d"].map(|name| *name);
    let ended = Site::at("2026-03-01").nodes(&nodes).for_long();
    let standing = ended.judge();
    assert_eq!((standing.state, standing.over.len()), (State::Expired, 0));
    // A licence that names no limit has none; and an ended larger one doesn't outlive its end.
    let unlimited = License { max_nodes: None, ..license() };
    let standing = Site::at("2026-06-01").with(unlimited).nodes(&nodes).for_long().judge();
    assert_eq!((standing.state, standing.max_nodes), (State::Valid, None));
    let large = License {
        id: "lic-0".to_owned(),
        serial: 9,
        max_nodes: Some(100),
        expires_at: Some(day("2026-02-01")),
        ..license()
    };
    let standing = Site::at("2026-06-01").with(large).with(license()).judge();
    assert_eq!(standing.max_nodes, Some(3));
}

#[test]
fn risingwave_18401_a_refusal_is_at_enrolment_with_its_reason_and_paid_features_are_apart() {
    let standing = Site::at("2026-06-01").with(license()).nodes(&["a"]).judge();
    assert!(standing.allows(&one_more()).allowed, "a feature that lacks refuses no node");
    let decision = standing.allows(&component("teleport", false));
    assert!(
        !decision.allowed && decision.why.contains("doesn't have `teleport`"),
        "{}",
        decision.why
    );
    assert!(standing.allows(&component("gpu-sharing", false)).allowed);
}

#[test]
fn dotcms_9116_the_answer_is_there_before_anything_is_written() {
    // The judgement is a value: asking for a node leaves no trace of it.
    let site = Site::at("2026-06-01").with(license()).nodes(&["a", "b", "c"]);
    let before = site.judge();
    assert!(!before.allows(&one_more()).allowed);
    assert_eq!(site.judge(), before);
}

#[test]
fn dotcms_11881_a_missed_heartbeat_changes_nothing() {
    let mut site = Site::at("2026-06-01").with(license()).nodes(&["a", "b", "c"]);
    for node in site.nodes.iter_mut().flatten() {
        node.seen_at = site.clock.now.plus_seconds(-120);
    }
    let standing = site.judge();
    assert_eq!((standing.state, standing.nodes()), (State::Valid, Some(3)));
    assert!(!standing.allows(&one_more()).allowed, "its place is not free at once");
}

#[test]
fn crate_8306_the_text_names_the_way_out() {
    let site = Site::at("2026-06-01").with(license()).nodes(&["a", "b", "c", "d", "e"]).for_long();
    let reason = site.judge().reason;
    assert!(reason.contains("Remove 2 or install a licence for more"), "{reason}");
}

// Section 9.8 of the contract, as far as it isn't beside the part that it is about.

#[test]
fn a_future_issue_date_makes_the_clock_doubtful_and_lets_the_licence_count() {
    let future =
        License { issued_at: day("2026-09-01"), not_before: day("2026-09-01"), ..license() };
    let look = Look {
        wall: day("2026-06-01"),
        boottime: 10,
        boot_id: "b".to_owned(),
        anchors: vec![(clock::Anchor::LicenseIssued, future.issued_at)],
    };
    let record = ClockRecord { floor: day("2026-06-01"), ..ClockRecord::default() };
    let mut site = Site::at("2026-06-01").with(future).nodes(&["a"]);
    site.clock = clock::judge(&record, &look).0;
    let standing = site.judge();
    assert_eq!((standing.state, standing.basis), (State::ClockSuspect, State::Valid));
    assert!(standing.allows(&one_more()).allowed);
}

#[test]
fn a_clock_set_back_buys_no_time() {
    let look = Look {
        wall: day("2026-06-01"),
        boottime: 10,
        boot_id: "b".to_owned(),
        anchors: Vec::new(),
    };
    let record = ClockRecord { floor: day("2027-02-01"), ..ClockRecord::default() };
    let mut site = Site::at("2026-06-01").with(license());
    site.clock = clock::judge(&record, &look).0;
    let standing = site.judge();
    assert_eq!(standing.state, State::Expired);
    assert!(!standing.allows(&one_more()).allowed);
    assert!(standing.warning().unwrap().contains("set the clock"));
}

#[test]
fn a_licence_that_begins_later_leaves_what_is_in_force() {
    let next = License {
        id: "lic-2".to_owned(),
        serial: 2,
        not_before: day("2027-01-01"),
        expires_at: Some(day("2028-01-01")),
        max_nodes: Some(5),
        ..license()
    };
    let site = |at: &str| Site::at(at).with(license()).with(next.clone()).judge();
    assert_eq!(site("2026-06-01").max_nodes, Some(3));
    let after = site("2027-01-01");
    assert_eq!((after.state, after.max_nodes), (State::Valid, Some(5)));
}

#[test]
fn revoked_licences_and_those_of_other_clusters_do_not_count_and_say_so() {
    let mut site = Site::at("2026-06-01").with(license());
    site.revoked.revoked.push("lic-1".to_owned());
    let standing = site.judge();
    assert_eq!((standing.state, standing.basis), (State::Invalid, State::Expired));
    assert!(standing.reason.contains("revoked by the vendor"), "{}", standing.reason);
    let elsewhere = License { cluster_ids: vec!["uid-9".to_owned()], ..license() };
    let standing = Site::at("2026-01-05").with(elsewhere).judge();
    assert_eq!((standing.state, standing.basis), (State::Invalid, State::Trial));
    assert!(standing.reason.contains("is for other clusters"), "{}", standing.reason);
    assert!(standing.allows(&one_more()).allowed, "the trial goes on");
}

#[test]
fn a_bad_file_leaves_the_last_good_licence_in_force() {
    let mut site = Site::at("2026-06-01").with(license()).nodes(&["a", "b", "c"]);
    site.refused = Some(Refused { id: Some("lic-2".to_owned()), why: "it was changed".to_owned() });
    let standing = site.judge();
    assert_eq!(
        (standing.state, standing.basis, standing.max_nodes),
        (State::Invalid, State::Valid, Some(3))
    );
    assert!(!standing.allows(&one_more()).allowed);
    site = site.nodes(&["a", "b"]);
    let decision = site.judge().allows(&one_more());
    assert!(decision.allowed && decision.warning.unwrap().contains("it was changed"));
}

#[test]
fn where_nobody_could_be_asked_nobody_is_over_and_nothing_clears() {
    let mut site = Site::at("2026-06-01").with(license()).for_long();
    let excess = site.excess;
    site.nodes = None;
    let standing = site.judge();
    assert_eq!((standing.state, standing.excess, standing.nodes()), (State::Valid, excess, None));
}

#[test]
fn a_dead_node_gives_up_its_place_at_the_limit_to_one_new_node() {
    let mut site = Site::at("2026-06-01").with(license()).nodes(&["a", "b", "c"]);
    site.nodes.as_mut().unwrap()[2].seen_at = site.clock.now.plus_seconds(-3600);
    let standing = site.judge();
    assert_eq!(standing.nodes(), Some(3), "it counts still");
    assert!(standing.allows(&one_more()).allowed);
    assert!(!standing.allows(&enrol(&["new", "newer"])).allowed);
    // Once the new one is in, it stands in the place of the dead, and the limit holds.
    let new = Enrolled { enrolled_at: site.clock.now, ..site.node("new") };
    site.nodes.as_mut().unwrap().push(new);
    let standing = site.judge();
    assert_eq!((standing.nodes(), standing.over.len()), (Some(3), 0));
    assert!(!standing.allows(&enrol(&["newer"])).allowed);
}

#[test]
fn only_nodes_of_the_roles_that_the_licence_counts_need_a_place() {
    let mut workers = license();
    workers.count.roles = BTreeSet::from([Role::Worker]);
    let standing = Site::at("2026-06-01").with(workers).nodes(&["a", "b", "c"]).judge();
    let with = |role| Feature::Enrol(vec![Candidate { name: "d".to_owned(), role, gpus: 0 }]);
    assert!(standing.allows(&with(Role::ControlPlane)).allowed);
    assert!(!standing.allows(&with(Role::Worker)).allowed);
}

#[test]
fn gpus_have_a_limit_of_their_own() {
    let mut site = Site::at("2026-06-01")
        .with(License { max_nodes: None, max_gpus: Some(8), ..license() })
        .nodes(&["a", "b"]);
    for node in site.nodes.iter_mut().flatten() {
        node.gpus = 3;
    }
    let with =
        |gpus| Feature::Enrol(vec![Candidate { name: "c".to_owned(), role: Role::Worker, gpus }]);
    let standing = site.judge();
    assert!(standing.allows(&with(2)).allowed && standing.allows(&with(0)).allowed);
    let decision = standing.allows(&with(3));
    assert!(!decision.allowed && decision.why.contains("licence is for 8"), "{}", decision.why);
    site.nodes.as_mut().unwrap()[1].gpus = 6;
    let standing = site.for_long().judge();
    assert_eq!((standing.state, standing.over), (State::OverLimit, vec!["b".to_owned()]));
    assert!(standing.reason.contains("9 GPUs count"), "{}", standing.reason);
}

#[test]
fn features_with_a_number_are_allowed_that_often() {
    let mut limited = license();
    limited.features.insert("vms".to_owned(), Grant::Limit(10));
    limited.features.insert("off".to_owned(), Grant::Allowed(false));
    let standing = Site::at("2026-06-01").with(limited).judge();
    let ask = |name: &str, wanted| {
        let name = name.to_owned();
        standing.allows(&Feature::Component { name, wanted, in_use: false }).allowed
    };
    assert!(ask("vms", 10) && !ask("vms", 11) && !ask("off", 1) && !ask("other", 1));
    // The trial has everything.
    assert!(Site::at("2026-01-05").judge().allows(&component("anything", false)).allowed);
}

#[test]
fn a_standing_is_published_and_read_again() {
    for (state, _, site) in every_state() {
        let standing = site.judge();
        let text = serde_json::to_string(&standing).unwrap();
        assert_eq!(serde_json::from_str::<Standing>(&text).unwrap(), standing, "{state:?}");
    }
}

#[test]
fn the_trial_is_thirty_days_from_the_first_start() {
    let mut site = Site::at("2026-01-01");
    site.clock = Reading::sure(day("2026-01-01").plus_seconds(30 * DAY - 1));
    assert_eq!(site.judge().state, State::Trial);
    site.clock = Reading::sure(day("2026-01-31"));
    assert_eq!(site.judge().state, State::Expired);
    assert!(!site.judge().allows(&one_more()).allowed);
}
