//! What a look or a repair tells: for the daemon, for people, for programs.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Action, Deed, Held, Mode, Moment, Watched, drift};
use crate::host::{Attributes, Host, HostError};

/// Most bytes of a report or of the memory that are read.
pub(crate) const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// How long what a process with more rights saw stands for what another may not see.
const SEEN_FOR_SECS: u64 = 900;

/// Deeds that are told.
pub(super) const DEEDS_TOLD: usize = 32;

/// How everything stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// When it was looked, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// What the configuration says of kinds that it does not name.
    pub mode: Mode,
    /// By what repairs are switched off, whatever the configuration allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub off: Option<String>,
    /// Why nothing was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// Everything that is watched.
    pub findings: Vec<Watched>,
    /// What is to be done now.
    #[serde(default)]
    pub act: Vec<Action>,
    /// What could be done and is held back.
    pub held: Vec<Held>,
    /// What was done last, oldest first.
    pub deeds: Vec<Deed>,
    /// How many actions came out how (`set-sysctl done`), since the history began.
    pub counts: BTreeMap<String, u64>,
    /// Things that could not be looked at for want of rights.
    #[serde(default)]
    pub unseen: usize,
    /// Seconds until the next look.
    pub interval_secs: u32,
}

impl Report {
    /// How many findings are in each state.
    #[must_use]
    pub fn states(&self) -> BTreeMap<&'static str, usize> {
        let mut states: BTreeMap<&'static str, usize> =
            ["ok", "warn", "fail", "unknown"].map(|word| (word, 0)).into();
        for finding in &self.findings {
            *states.entry(finding.state.word()).or_default() += 1;
        }
        states
    }
}

/// What is remembered from one look to the next, in a file that goes with a reboot.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Memory {
    /// Since when each thing stands as it does: its state, and milliseconds since 1970.
    since: BTreeMap<String, (String, u64)>,
    pub(super) drift: drift::Memory,
    /// What a process with more rights saw.
    seen: Vec<Watched>,
    seen_at: Option<Moment>,
}

impl Memory {
    /// Read it; what makes no sense is forgotten, since it only saves work.
    pub(super) fn load(host: &dyn Host, path: &str) -> Self {
        let bytes = host.read(path, MAX_BYTES).ok().flatten().unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    pub(super) fn save(&self, host: &dyn Host, path: &str) -> Result<(), HostError> {
        let text = serde_json::to_vec(self).expect("texts and numbers");
        host.write(path, &text, Attributes::root(0o600))
    }

    /// Say since when each finding stands, and put what others saw where this process may not look.
    pub(super) fn settle(
        &mut self,
        findings: &mut [Watched],
        all_rights: bool,
        now: &Moment,
        now_unix_ms: u64,
    ) {
        if all_rights {
            self.seen = findings.to_vec();
            self.seen_at = Some(now.clone());
        }
        let fresh = self.seen_at.as_ref().is_some_and(|at| now.since(at).as_secs() < SEEN_FOR_SECS);
        for finding in findings.iter_mut() {
            if fresh
                && finding.state.word() == "unknown"
                && let Some(seen) = self.seen.iter().find(|seen| seen.subject == finding.subject)
            {
                *finding = seen.clone();
            }
            let word = finding.state.word();
            let known = self.since.get(&finding.subject).filter(|(before, _)| before == word);
            let since = known.map_or(now_unix_ms, |(_, since)| *since);
            self.since.insert(finding.subject.clone(), (word.to_owned(), since));
            finding.since_unix_ms = Some(since);
        }
        let subjects: BTreeSet<&str> = findings.iter().map(|one| one.subject.as_str()).collect();
        self.since.retain(|subject, _| subjects.contains(subject.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heal::{Kind, State};

    fn at(seconds: u64) -> Moment {
        Moment { boot: "a".to_owned(), since_boot_ms: seconds * 1000 }
    }

    fn finding(state: State) -> Watched {
        Watched::new(Kind::Module, "module m", state, "")
    }

    #[test]
    fn since_when_lasts_as_long_as_the_state() {
        let mut memory = Memory::default();
        let mut since = |state, ms| {
            let mut findings = [finding(state)];
            memory.settle(&mut findings, false, &at(0), ms);
            findings[0].since_unix_ms.unwrap()
        };
        assert_eq!(since(State::Ok, 5), 5);
        assert_eq!(since(State::Ok, 6), 5);
        assert_eq!(since(State::Warn, 7), 7);
        assert_eq!(since(State::Warn, 8), 7);
        assert_eq!(since(State::Ok, 9), 9);
    }

    #[test]
    fn what_one_may_not_see_another_has_seen_for_a_while() {
        let mut memory = Memory::default();
        memory.settle(&mut [finding(State::Fail)], true, &at(0), 0);
        let mut word = |seconds| {
            let mut findings = [finding(State::Unknown { reason: "no right".to_owned() })];
            memory.settle(&mut findings, false, &at(seconds), 0);
            findings[0].state.word()
        };
        assert_eq!(word(60), "fail");
        assert_eq!(word(899), "fail");
        assert_eq!(word(900), "unknown");
    }
}
