use proptest::prelude::*;

use super::*;
use crate::heal::{Remedy, history::WINDOW};

fn at(seconds: u64) -> Moment {
    Moment { boot: "b".to_owned(), since_boot_ms: seconds * 1000 }
}

fn action(remedy: Remedy, subject: &str) -> Action {
    let text = String::new;
    Action { remedy, subject: subject.to_owned(), reason: text(), what: text(), origin: None }
}

fn finding(remedy: Remedy, subject: &str, state: State) -> Watched {
    Watched::new(remedy.kind(), subject, state, "").with_remedy(action(remedy, subject))
}

fn repairing() -> SelfHealing {
    SelfHealing { mode: Mode::Repair, ..SelfHealing::default() }
}

fn drift() -> Vec<Watched> {
    vec![finding(Remedy::SetSysctl, "s", State::Warn)]
}

fn why(decision: &Decision) -> &'static str {
    decision.held.first().map_or("acts", |held| held.why.word())
}

#[test]
fn nothing_is_done_unless_it_is_allowed_and_not_switched_off() {
    let mut per_kind = repairing();
    per_kind.kinds.insert(Kind::Sysctl, Mode::Report);
    let mut off = repairing();
    off.mode = Mode::Off;
    let stopped = Switch::Off("the file".to_owned());
    for (settings, switch, expected) in [
        (SelfHealing::default(), Switch::On, "not-allowed"),
        (per_kind, Switch::On, "not-allowed"),
        (off, Switch::On, "not-allowed"),
        (repairing(), stopped, "switched-off"),
        (repairing(), Switch::On, "acts"),
    ] {
        let decision = decide(&drift(), &History::default(), &settings, &switch, &at(0));
        assert_eq!(why(&decision), expected);
        assert_eq!(decision.act.is_empty(), expected != "acts");
    }
}

#[test]
fn the_same_thing_is_put_right_with_growing_pauses_and_then_no_more() {
    let mut history = History::default();
    let settings = repairing();
    for (second, expected) in [
        (0, "acts"),
        (29, "backoff"),
        (30, "acts"),
        (89, "backoff"),
        (90, "acts"),
        (3000, "conflict"),
        (3600, "conflict"),
        // The first of the three is more than an hour ago.
        (3601, "acts"),
        (3602, "conflict"),
    ] {
        let decision = decide(&drift(), &history, &settings, &Switch::On, &at(second));
        assert_eq!(why(&decision), expected, "second {second}");
        for action in &decision.act {
            history.begin(action, &at(second), 0).unwrap();
        }
    }
}

#[test]
fn a_kind_has_a_limit_of_its_own_over_all_its_things() {
    let many: Vec<Watched> =
        (0..20).map(|n| finding(Remedy::SetSysctl, &format!("s{n}"), State::Fail)).collect();
    let mut all = many.clone();
    all.push(finding(Remedy::PutBackFile, "f", State::Fail));
    let decision = decide(&all, &History::default(), &repairing(), &Switch::On, &at(0));
    assert_eq!(decision.act.len(), 13);
    assert_eq!(decision.held.len(), 8);
    assert!(decision.held.iter().all(|held| held.why.word() == "limit"));
    assert_eq!(decision.act.last().unwrap().subject, "f");
}

fn any_state() -> impl Strategy<Value = State> {
    prop_oneof![
        Just(State::Ok),
        Just(State::Warn),
        Just(State::Fail),
        Just(State::Unknown { reason: "no".to_owned() })
    ]
}

fn any_finding() -> impl Strategy<Value = Watched> {
    (0..Remedy::ALL.len(), 0..4_u8, any_state(), any::<bool>()).prop_map(
        |(remedy, subject, state, remedied)| {
            let mut found = finding(Remedy::ALL[remedy], &format!("s{subject}"), state);
            if !remedied {
                found.remedy = None;
            }
            found
        },
    )
}

fn any_mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Off), Just(Mode::Report), Just(Mode::Repair), Just(Mode::Repair)]
}

fn any_settings() -> impl Strategy<Value = SelfHealing> {
    (any_mode(), 1..6_u32, 1..4_u32, 1..600_u32, any::<bool>(), any_mode()).prop_map(
        |(mode, per_hour, per_subject, backoff_secs, restarts, sysctls)| SelfHealing {
            mode,
            kinds: [(Kind::Sysctl, sysctls)].into(),
            per_hour,
            per_subject,
            backoff_secs,
            interval_secs: 60,
            restarts,
        },
    )
}

/// Looks at intervals of that many seconds; sometimes the node boots anew.
fn any_life() -> impl Strategy<Value = Vec<(u64, bool, Vec<Watched>)>> {
    let look =
        (1..1500_u64, prop::bool::weighted(0.05), prop::collection::vec(any_finding(), 0..8));
    prop::collection::vec(look, 1..60)
}

proptest! {
    /// Whatever is found and whenever: no window of an hour sees more than the limits, nothing is
    /// done that is not allowed, and equal questions get equal answers.
    #[test]
    fn no_window_sees_more_than_the_limits(settings in any_settings(), life in any_life()) {
        let mut history = History::default();
        let (mut boot, mut since_boot, mut true_time) = (0_u32, 0, 0);
        let mut done: Vec<(u64, Kind, String)> = Vec::new();
        for (seconds, reboots, findings) in life {
            true_time += seconds;
            since_boot += seconds;
            if reboots {
                (boot, since_boot) = (boot + 1, 0);
            }
            let now = Moment { boot: boot.to_string(), since_boot_ms: since_boot * 1000 };
            let decision = decide(&findings, &history, &settings, &Switch::On, &now);
            prop_assert_eq!(&decision, &decide(&findings, &history, &settings, &Switch::On, &now));
            for action in &decision.act {
                let kind = action.remedy.kind();
                prop_assert_eq!(settings.mode_of(kind), Mode::Repair);
                prop_assert!(findings.iter().any(|found| found.remedy.as_ref() == Some(action)
                    && matches!(found.state, State::Warn | State::Fail)));
                history.begin(action, &now, 0).unwrap();
                done.push((true_time, kind, action.subject.clone()));
            }
            let wrong = findings.iter().filter(|found| found.remedy.is_some()
                && matches!(found.state, State::Warn | State::Fail)).count();
            prop_assert_eq!(decision.act.len() + decision.held.len(), wrong);
        }
        for (end, kind, subject) in &done {
            let within = |time: &u64| *time <= *end && end - time <= WINDOW.as_secs();
            let of_kind = done.iter().filter(|(time, other, _)| other == kind && within(time));
            prop_assert!(of_kind.clone().count() <= settings.limits_of(*kind).per_hour as usize);
            let on_it = of_kind.filter(|(_, _, other)| other == subject).count();
            prop_assert!(on_it <= settings.limits_of(*kind).per_subject as usize);
        }
    }

    /// Switched off is off, whatever is found and allowed.
    #[test]
    fn off_is_off(settings in any_settings(), findings in prop::collection::vec(any_finding(), 0..9)) {
        let switch = Switch::Off("the file".to_owned());
        let history = History::default();
        prop_assert!(decide(&findings, &history, &settings, &switch, &at(9)).act.is_empty());
        let settings = SelfHealing { mode: Mode::Off, ..settings };
        prop_assert!(decide(&findings, &history, &settings, &Switch::On, &at(9)).act.is_empty());
    }
}
