//! What is done now, and why the rest is held back. Pure: no clock, no files, no panic.
//!
//! A remedy is carried out only if every line of this holds, in this order:
//!
//! 1. the thing was seen to be wrong (unknown is never repaired);
//! 2. nobody switched repairs off: the file on the node, the configuration, the history that can't
//!    be read;
//! 3. fewer than `perSubject` actions on this thing within an hour. More mean that somebody else
//!    writes it, and then kdc stops and says so;
//! 4. the backoff since the last action on it has passed: `backoffSecs`, doubled with each;
//! 5. fewer than `perHour` actions of this kind within an hour.

use std::time::Duration;

use kdc_profiles::healing::Limits;
use serde::{Deserialize, Serialize};

use super::{Action, History, Kind, Mode, Moment, SelfHealing, State, Watched};

/// Whether repairs are switched off as a whole, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Switch {
    /// They are not; the configuration says which are allowed.
    On,
    /// They are; by what, in words.
    Off(String),
}

/// Why a remedy is not carried out now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Why {
    /// The configuration doesn't allow it.
    NotAllowed {
        /// What it says of this kind.
        mode: Mode,
    },
    /// Repairs are switched off.
    SwitchedOff {
        /// By what.
        by: String,
    },
    /// It was put right so often within an hour that somebody else must be writing it.
    Conflict {
        /// Actions on it within the hour.
        actions: u32,
    },
    /// The last action on it was too short a while ago.
    Backoff {
        /// Seconds until it is tried again.
        seconds: u64,
    },
    /// As many actions of this kind as are allowed within an hour.
    Limit {
        /// The kind.
        kind: Kind,
        /// Actions within the hour.
        actions: u32,
    },
}

impl Why {
    /// Every word of [`Why::word`].
    pub const WORDS: [&'static str; 5] =
        ["not-allowed", "switched-off", "conflict", "backoff", "limit"];

    /// The word for it in metrics and events.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::NotAllowed { .. } => "not-allowed",
            Self::SwitchedOff { .. } => "switched-off",
            Self::Conflict { .. } => "conflict",
            Self::Backoff { .. } => "backoff",
            Self::Limit { .. } => "limit",
        }
    }

    /// In a few words for people.
    #[must_use]
    pub fn in_words(&self) -> String {
        match self {
            Self::NotAllowed { mode } => {
                format!("the configuration says `{}` for it", mode.as_str())
            }
            Self::SwitchedOff { by } => format!("repairs are switched off: {by}"),
            Self::Conflict { actions } => format!(
                "put right {actions} times within an hour, and something else writes it each time: \
                 find out who"
            ),
            Self::Backoff { seconds } => format!("tried again in {seconds} s"),
            Self::Limit { kind, actions } => {
                format!("{actions} actions on things of kind `{}` within an hour", kind.as_str())
            }
        }
    }
}

/// A remedy that is not carried out now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// The remedy.
    pub action: Action,
    /// Why not.
    #[serde(flatten)]
    pub why: Why,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Now, in this order.
    pub act: Vec<Action>,
    /// Not now.
    pub held: Vec<Held>,
}

/// Longest backoff.
const MOST_BACKOFF: Duration = Duration::from_secs(3600);

/// Decide.
#[must_use]
pub fn decide(
    findings: &[Watched],
    history: &History,
    settings: &SelfHealing,
    switch: &Switch,
    now: &Moment,
) -> Decision {
    let mut decision = Decision::default();
    for finding in findings {
        if !matches!(finding.state, State::Warn | State::Fail) {
            continue;
        }
        let Some(action) = &finding.remedy else { continue };
        match why_not(action, &decision, history, settings, switch, now) {
            None => decision.act.push(action.clone()),
            Some(why) => decision.held.push(Held { action: action.clone(), why }),
        }
    }
    decision
}

fn why_not(
    action: &Action,
    decision: &Decision,
    history: &History,
    settings: &SelfHealing,
    switch: &Switch,
    now: &Moment,
) -> Option<Why> {
    let kind = action.remedy.kind();
    let mode = settings.mode_of(kind);
    if mode != Mode::Repair {
        return Some(Why::NotAllowed { mode });
    }
    if let Switch::Off(by) = switch {
        return Some(Why::SwitchedOff { by: by.clone() });
    }
    let chosen = || decision.act.iter().filter(|chosen| chosen.remedy.kind() == kind);
    let twice = count(chosen().filter(|chosen| chosen.subject == action.subject));
    let actions = count(history.on(kind, &action.subject, now)) + twice;
    let limits = settings.limits_of(kind);
    if actions >= limits.per_subject {
        return Some(Why::Conflict { actions });
    }
    let pause = backoff(limits, actions);
    let last = history.on(kind, &action.subject, now).map(|deed| now.since(&deed.at)).min();
    let passed = if twice > 0 { Some(Duration::ZERO) } else { last };
    if let Some(passed) = passed.filter(|passed| *passed < pause) {
        return Some(Why::Backoff { seconds: (pause - passed).as_secs().max(1) });
    }
    let actions = count(history.of(kind, now)) + count(chosen());
    (actions >= limits.per_hour).then_some(Why::Limit { kind, actions })
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

/// The pause after that many actions on one thing; none before the first.
fn backoff(limits: Limits, actions: u32) -> Duration {
    let Some(doublings) = actions.checked_sub(1) else { return Duration::ZERO };
    let first = Duration::from_secs(u64::from(limits.backoff_secs));
    first.saturating_mul(1 << doublings.min(20)).min(MOST_BACKOFF)
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
