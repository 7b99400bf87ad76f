//! What is known of how the node stands: findings by who looked, for those who ask; and an event for
//! each that changed.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    api::page::{Kind as Family, Page},
    daemon::events::Events,
    heal::{State, Watched},
};

/// Most findings of one looker; more are left out, and that is told.
const MOST: usize = 256;

/// Every finding of the node. The driver's helpers write, answers read.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<BTreeMap<&'static str, Vec<Watched>>>);

impl Board {
    /// These are all findings of that looker now. What changed since its last ones is an event each;
    /// of its first ones only what is wrong.
    pub(crate) fn post(
        &self,
        looker: &'static str,
        mut findings: Vec<Watched>,
        events: &Events,
        now_unix_ms: u64,
    ) {
        let left_out = findings.len().saturating_sub(MOST);
        findings.truncate(MOST);
        if left_out > 0 {
            tracing::warn!(looker, left_out, "too many findings");
        }
        let mut board = self.lock();
        let before = board.remove(looker);
        let first = before.is_none();
        let before = before.unwrap_or_default();
        for finding in &mut findings {
            let old = before.iter().find(|old| old.subject == finding.subject);
            let same = old.filter(|old| old.state.word() == finding.state.word());
            finding.since_unix_ms = same.and_then(|old| old.since_unix_ms).or(Some(now_unix_ms));
            let wrong = matches!(finding.state, State::Warn | State::Fail);
            // What nobody has looked at yet can't have changed.
            if same.is_none() && (wrong || !first && old.is_some()) {
                tell(finding, old, events);
            }
        }
        for old in before.iter().filter(|old| old.state != State::Ok) {
            if !findings.iter().any(|finding| finding.subject == old.subject) {
                let fields: [(&str, &dyn std::fmt::Display); 3] =
                    [("subject", &old.subject), ("state", &"gone"), ("before", &old.state.word())];
                events.push(
                    "finding-closed",
                    "it is no longer there, or as the others again",
                    &fields,
                );
            }
        }
        board.insert(looker, findings);
    }

    /// All of them, what is wrong first.
    pub(crate) fn findings(&self) -> Vec<Watched> {
        let mut all: Vec<Watched> = self.lock().values().flatten().cloned().collect();
        all.sort_by_key(|finding| match finding.state {
            State::Fail => 0,
            State::Warn => 1,
            State::Unknown { .. } => 2,
            State::Ok => 3,
        });
        all
    }

    /// How many there are of each kind and state.
    pub(crate) fn tell(&self, page: &mut Page) {
        let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        let board = self.lock();
        for finding in board.values().flatten() {
            for word in ["ok", "warn", "fail", "unknown"] {
                let count = counts.entry((finding.kind.as_str(), word)).or_default();
                *count += u64::from(finding.state.word() == word);
            }
        }
        page.family(
            "kdc_watch_findings",
            Family::Gauge,
            "Watched things of this node, by how they stand.",
        );
        for ((kind, state), count) in counts {
            page.sample(&[("kind", kind), ("state", state)], count);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Vec<Watched>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(finding: &Watched, old: Option<&Watched>, events: &Events) {
    let (state, before) = (finding.state.word(), old.map_or("unseen", |old| old.state.word()));
    let hint = finding.hint.as_deref().unwrap_or("nothing is to be done");
    let kind = finding.kind.as_str();
    let fields: [(&str, &dyn std::fmt::Display); 5] = [
        ("kind", &kind),
        ("subject", &finding.subject),
        ("state", &state),
        ("before", &before),
        ("hint", &hint),
    ];
    let event = match (&finding.state, old) {
        (State::Ok, _) => "finding-closed",
        (_, Some(old)) if old.state != State::Ok => "finding-changed",
        _ => "finding-opened",
    };
    events.push(event, format!("{}: {}", finding.subject, finding.text), &fields);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::page::Format, heal::Kind};

    fn finding(subject: &str, state: State) -> Watched {
        Watched::new(Kind::Disk, subject, state, "x")
    }

    fn told(events: &Events) -> Vec<String> {
        let told = events.after(None).events;
        let one = |field: &str, event: &crate::daemon::events::Event| event.fields[field].clone();
        told.iter()
            .map(|event| {
                let (subject, before, state) =
                    (one("subject", event), one("before", event), one("state", event));
                format!("{subject} {before} {state}")
            })
            .collect()
    }

    #[test]
    fn each_change_is_one_event_and_a_first_look_tells_only_what_is_wrong() {
        let (board, events) = (Board::default(), Events::new(100));
        let unknown = || State::Unknown { reason: "x".to_owned() };
        let first =
            vec![finding("a", State::Ok), finding("b", State::Fail), finding("c", unknown())];
        board.post("watch", first.clone(), &events, 1);
        board.post("watch", first, &events, 2);
        assert_eq!(told(&events), ["b unseen fail"]);
        let later =
            vec![finding("a", State::Warn), finding("c", State::Ok), finding("d", State::Ok)];
        board.post("watch", later, &events, 3);
        assert_eq!(told(&events)[1..], ["a ok warn", "c unknown ok", "b fail gone"]);
        // Another looker's are its own.
        board.post("drift", vec![finding("e", State::Fail)], &events, 4);
        board.post("watch", Vec::new(), &events, 5);
        assert_eq!(told(&events)[4..], ["e unseen fail", "a warn gone"]);
        let left: Vec<String> = board.findings().into_iter().map(|one| one.subject).collect();
        assert_eq!(left, ["e"]);
    }

    #[test]
    fn what_is_wrong_comes_first_with_the_time_since_when_and_is_counted() {
        let (board, events) = (Board::default(), Events::new(1));
        board.post("watch", vec![finding("a", State::Ok), finding("b", State::Warn)], &events, 7);
        board.post("watch", vec![finding("a", State::Ok), finding("b", State::Fail)], &events, 9);
        let all = board.findings();
        assert_eq!((all[0].subject.as_str(), all[0].since_unix_ms), ("b", Some(9)));
        assert_eq!(all[1].since_unix_ms, Some(7));
        let mut page = Page::new(Format::Classic, String::new());
        board.tell(&mut page);
        let page = page.finish();
        for line in [
            "kdc_watch_findings{kind=\"disk\",state=\"fail\"} 1",
            "kdc_watch_findings{kind=\"disk\",state=\"warn\"} 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
    }
}
