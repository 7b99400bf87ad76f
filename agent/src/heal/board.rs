//! What the daemon knows of what self-healing may do and did: for the API and metrics, and told as
//! events. Findings go to the board of all that is watched ([`super::watch::board`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::{Deed, End, Held, Kind, Mode, Report, Why, watch::board::Board as Watching};
use crate::{
    api::page::{Kind as Sample, Page},
    daemon::events::Events,
};

/// Held-back actions that `/v1/health` shows.
const MOST_SHOWN: usize = 64;

/// Who looked, on the board of all that is watched.
const LOOKER: &str = "drift";

/// What `/v1/health` says of self-healing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealingHealth {
    /// When it was looked last, in milliseconds since 1970.
    pub looked_unix_ms: u64,
    /// What the configuration says of kinds that it does not name.
    pub mode: Mode,
    /// By what repairs are switched off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub off: Option<String>,
    /// Why nothing was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// What is held back, the first 64.
    pub held: Vec<Held>,
}

/// What is kept of a look.
#[derive(Debug, Default)]
struct Known {
    health: Option<HealingHealth>,
    held: BTreeMap<&'static str, u64>,
    counts: BTreeMap<String, u64>,
    /// What was told as held back.
    told_held: BTreeSet<(String, &'static str)>,
    /// The newest deed that was told.
    newest_deed: Option<u64>,
}

/// The last look; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board {
    known: Arc<Mutex<Known>>,
}

impl Board {
    /// A look came in: keep it, and tell what changed. Answers a line for the unit's status.
    pub(crate) fn take(
        &self,
        report: Report,
        watched: &Watching,
        events: &Events,
    ) -> Option<String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.tell_deeds(&report.deeds, events);
        known.counts.clone_from(&report.counts);
        if report.skipped.is_none() {
            // Services are told by those who watch them; here they are only started again.
            let drift = report.findings.iter().filter(|one| one.kind != Kind::Service);
            watched.post(LOOKER, drift.cloned().collect(), events, report.at_unix_ms);
            known.tell_held(&report.held, events);
        }
        let line = in_a_line(&report);
        known.held.clear();
        for held in &report.held {
            *known.held.entry(held.why.word()).or_default() += 1;
        }
        known.health = Some(health(report));
        line
    }

    /// What `/v1/health` says.
    pub(crate) fn health(&self) -> Option<HealingHealth> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).health.clone()
    }

    /// The families of self-healing.
    pub(crate) fn tell(&self, page: &mut Page) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(health) = &known.health else { return };
        let help = "Actions of self-healing, by remedy and how they came out; lasts over restarts.";
        page.family("kdc_heal_actions_total", Sample::Counter, help);
        for (key, number) in &known.counts {
            let (remedy, outcome) = key.split_once(' ').unwrap_or((key, ""));
            page.sample(&[("remedy", remedy), ("outcome", outcome)], *number);
        }
        let help = "Actions that are held back now, by reason.";
        page.family("kdc_heal_held", Sample::Gauge, help);
        for why in Why::WORDS {
            page.sample(&[("why", why)], known.held.get(why).copied().unwrap_or_default());
        }
        let help = "When everything was looked at last, in seconds since 1970.";
        let seconds = health.looked_unix_ms as f64 / 1000.0;
        page.single("kdc_heal_last_look_timestamp_seconds", Sample::Gauge, help, seconds);
        let help = "Whether repairs are switched off, whatever the configuration allows.";
        page.single("kdc_heal_switched_off", Sample::Gauge, help, health.off.is_some());
    }
}

impl Known {
    /// Deeds of before this process began were told by the one before.
    fn tell_deeds(&mut self, deeds: &[Deed], events: &Events) {
        let newest = deeds.last().map_or(0, |deed| deed.number);
        let told = self.newest_deed.unwrap_or(newest);
        for deed in deeds.iter().filter(|deed| deed.number > told) {
            let (kind, reason) = match &deed.end {
                End::Done => ("repair-done", deed.action.reason.clone()),
                End::Failed { why } => ("repair-failed", why.clone()),
                End::Begun => ("repair-cut-off", deed.action.reason.clone()),
            };
            let action = &deed.action;
            events.push(
                kind,
                reason,
                &[
                    ("subject", &action.subject),
                    ("remedy", &action.remedy.as_str()),
                    ("what", &action.what),
                ],
            );
        }
        self.newest_deed = Some(newest.max(told));
    }

    /// That the configuration doesn't allow it is no news, nor that it waits a little.
    fn tell_held(&mut self, held: &[Held], events: &Events) {
        let telling =
            |held: &&Held| !matches!(held.why, Why::NotAllowed { .. } | Why::Backoff { .. });
        let mut told = BTreeSet::new();
        for held in held.iter().filter(telling) {
            let key = (held.action.subject.clone(), held.why.word());
            if !self.told_held.contains(&key) {
                let fields: [(&'static str, &dyn std::fmt::Display); 3] = [
                    ("subject", &held.action.subject),
                    ("remedy", &held.action.remedy.as_str()),
                    ("why", &held.why.word()),
                ];
                events.push("repair-held", held.why.in_words(), &fields);
            }
            told.insert(key);
        }
        self.told_held = told;
    }
}

fn health(report: Report) -> HealingHealth {
    let Report { at_unix_ms: looked_unix_ms, mode, off, skipped, mut held, .. } = report;
    held.truncate(MOST_SHOWN);
    HealingHealth { looked_unix_ms, mode, off, skipped, held }
}

/// For the unit's status: what is not as wanted; nothing where all is.
pub(super) fn in_a_line(report: &Report) -> Option<String> {
    let wrong = report.findings.iter().filter(|one| matches!(one.state.word(), "warn" | "fail"));
    let wrong: Vec<&str> = wrong.map(|one| one.subject.as_str()).collect();
    let first = wrong.first()?;
    Some(match wrong.len() {
        1 => format!("not as wanted: {first}"),
        many => format!("not as wanted: {first} and {} more (`kdc-agent heal`)", many - 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::page::Format,
        heal::{Action, Moment, Remedy, State, Watched},
    };

    fn report(state: State) -> Report {
        let finding = Watched::new(Kind::Sysctl, "sysctl a", state, "a is 0 and not 1");
        Report {
            at_unix_ms: 1000,
            mode: Mode::Repair,
            off: None,
            skipped: None,
            findings: vec![finding],
            act: Vec::new(),
            held: Vec::new(),
            deeds: Vec::new(),
            counts: BTreeMap::new(),
            unseen: 0,
            interval_secs: 60,
        }
    }

    fn action() -> Action {
        let (reason, what) = ("a is 0".to_owned(), "set a".to_owned());
        let subject = "sysctl a".to_owned();
        Action { remedy: Remedy::SetSysctl, subject, reason, what, origin: None }
    }

    fn deed(number: u64, end: End) -> Deed {
        let at = Moment { boot: String::new(), since_boot_ms: 0 };
        Deed { number, at, at_unix_ms: 0, action: action(), end }
    }

    fn kinds(events: &Events) -> Vec<String> {
        events.after(None).events.iter().map(|event| event.kind.clone()).collect()
    }

    #[test]
    fn each_change_and_each_deed_is_told_once() {
        let (board, watched, events) = (Board::default(), Watching::default(), Events::default());
        let mut first = report(State::Fail);
        // Of before this process.
        first.deeds = vec![deed(7, End::Done)];
        assert_eq!(board.take(first, &watched, &events).unwrap(), "not as wanted: sysctl a");
        board.take(report(State::Fail), &watched, &events);
        board.take(report(State::Warn), &watched, &events);
        let mut last = report(State::Ok);
        last.deeds = vec![deed(7, End::Done), deed(8, End::Failed { why: "no".to_owned() })];
        last.deeds.push(deed(9, End::Done));
        assert_eq!(board.take(last.clone(), &watched, &events), None);
        board.take(last, &watched, &events);
        assert_eq!(
            kinds(&events),
            ["finding-opened", "finding-changed", "repair-failed", "repair-done", "finding-closed",]
        );
    }

    #[test]
    fn what_is_held_back_is_told_unless_it_only_waits_or_was_never_allowed() {
        let (board, watched, events) = (Board::default(), Watching::default(), Events::default());
        let held = |why| {
            let mut report = report(State::Fail);
            report.held = vec![Held { action: action(), why }];
            board.take(report, &watched, &events);
        };
        held(Why::NotAllowed { mode: Mode::Report });
        held(Why::Backoff { seconds: 3 });
        held(Why::Conflict { actions: 3 });
        held(Why::Conflict { actions: 3 });
        assert_eq!(kinds(&events), ["finding-opened", "repair-held"]);
    }

    #[test]
    fn a_look_that_was_skipped_closes_nothing() {
        let (board, watched, events) = (Board::default(), Watching::default(), Events::default());
        board.take(report(State::Fail), &watched, &events);
        let mut skipped = report(State::Ok);
        skipped.findings.clear();
        skipped.skipped = Some("a run is at work".to_owned());
        board.take(skipped, &watched, &events);
        board.take(report(State::Fail), &watched, &events);
        assert_eq!(kinds(&events), ["finding-opened"]);
    }

    #[test]
    fn metrics_name_remedies_and_outcomes() {
        let (board, watched, events) = (Board::default(), Watching::default(), Events::default());
        let mut one = report(State::Fail);
        one.counts.insert("set-sysctl done".to_owned(), 3);
        board.take(one, &watched, &events);
        let mut page = Page::new(Format::Classic, String::new());
        board.tell(&mut page);
        let text = page.finish();
        for line in [
            "kdc_heal_actions_total{remedy=\"set-sysctl\",outcome=\"done\"} 3",
            "kdc_heal_held{why=\"conflict\"} 0",
            "kdc_heal_switched_off 0",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
