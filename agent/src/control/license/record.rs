//! What the leader remembers of licence and nodes, in the cluster and as a copy on control planes. Losing both is no
//! error: the trial begins anew then, and so does the clock's floor.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::license::{Excess, Fingerprint, State, Timestamp, Trial, clock::ClockRecord};

/// Longest text that is read: an object holds no more than that.
pub const MAX_BYTES: usize = 1024 * 1024;
/// Nodes that are gone and remembered.
const MAX_GONE: usize = 64;
/// For how many days.
const GONE_DAYS: i64 = 30;
/// The floor is written down this often, in seconds.
const FLOOR_EVERY: i64 = 3600;

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    /// The clock's floor.
    #[serde(default)]
    pub clock: ClockRecord,
    /// How long nodes have been too many.
    #[serde(default)]
    pub excess: Excess,
    /// Nodes that were Ready at some time, by name.
    #[serde(default)]
    pub nodes: BTreeMap<String, NodeRecord>,
    /// Nodes that are gone, the last one at the end: the same machine gets its old place back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<Gone>,
    /// The file of the licence that was in force last: it stays in force where what was given is not good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<String>,
    /// What people were told.
    #[serde(default)]
    pub told: ToldLast,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRecord {
    /// When it came.
    pub enrolled_at: Timestamp,
    /// The licence let nodes in then.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub admitted: bool,
    /// Since when it shows no sign of life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_since: Option<Timestamp>,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_true(value: &bool) -> bool {
    *value
}

/// A node that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gone {
    /// Its name.
    pub name: String,
    /// Since when.
    pub at: Timestamp,
    /// What was known of it.
    #[serde(flatten)]
    pub node: NodeRecord,
    /// What machine it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
}

/// What people were told last, so that it is told once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ToldLast {
    /// The state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// The licence in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Days before the end, of those at which it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<i64>,
}

impl Record {
    /// Read the text.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("{} bytes; at most {MAX_BYTES} are read", text.len()));
        }
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// The text.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers serialise")
    }

    /// This side's record with what the other knows better: the earlier start of the trial, the later floor.
    #[must_use]
    pub fn merge(mut self, other: &Self) -> Self {
        self.trial = match (self.trial, other.trial) {
            (Some(mine), Some(theirs)) => Some(Trial {
                started_at: mine.started_at.min(theirs.started_at),
                was_licensed: mine.was_licensed || theirs.was_licensed,
            }),
            (mine, theirs) => mine.or(theirs),
        };
        self.clock = self.clock.merge(other.clock.clone());
        for (name, node) in &other.nodes {
            // Only of nodes that are there: the others are gone, and that is known here.
            if let Some(mine) = self.nodes.get_mut(name) {
                mine.enrolled_at = mine.enrolled_at.min(node.enrolled_at);
            }
        }
        self
    }

    /// It is worth being written down again: more than the clock went on, or the clock for a while.
    #[must_use]
    pub fn differs_from(&self, saved: &Self) -> bool {
        let bare = |record: &Self| {
            let excess = Excess { since: record.excess.since, samples: 0 };
            let bare = Self { clock: ClockRecord::default(), excess, ..record.clone() };
            (bare, record.clock.ahead.is_some())
        };
        bare(self) != bare(saved)
            || self.clock.floor.since(saved.clock.floor) >= FLOOR_EVERY
            || self.clock.boot_id != saved.clock.boot_id
    }

    /// A node was removed.
    pub fn bury(&mut self, name: &str, fingerprint: Option<Fingerprint>, now: Timestamp) {
        let Some(node) = self.nodes.remove(name) else { return };
        self.gone.push(Gone { name: name.to_owned(), at: now, node, fingerprint });
    }

    /// Forget who is gone for long, and all but the last few.
    pub fn forget_gone(&mut self, now: Timestamp) {
        self.gone.retain(|gone| now.since(gone.at) < GONE_DAYS * 86_400);
        let surplus = self.gone.len().saturating_sub(MAX_GONE);
        self.gone.drain(..surplus);
    }

    /// What is known of a machine that was here before.
    pub fn exhume(&mut self, name: &str, fingerprint: Option<&Fingerprint>) -> Option<NodeRecord> {
        let is_it = |gone: &Gone| match (&gone.fingerprint, fingerprint) {
            (Some(then), Some(now)) => then.is_same_machine(now),
            _ => gone.name == name,
        };
        let place = self.gone.iter().rposition(is_it)?;
        Some(NodeRecord { silent_since: None, ..self.gone.remove(place).node })
    }
}
