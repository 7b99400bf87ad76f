//! Who counts: distinct, enrolled nodes that show signs of life.
//!
//! Fair, and the same each time it is asked:
//!
//! - a node counts when its enrolment was completed, never while it is tried or after it failed;
//! - one machine under two names counts once ([`Fingerprint`]);
//! - a missed heartbeat neither frees a place nor takes one: a node that is silent is *missing* first, and
//!   its place may be taken by a node that was enrolled since; only after days it counts no more;
//! - who is over the limit is decided by age of enrolment, so that a reboot changes nothing: the newest is.

use std::collections::BTreeSet;

use kdc_profiles::cluster::Role;
use serde::{Deserialize, Serialize};

use super::{
    document::{CountRule, Window},
    fingerprint::Fingerprint,
    time::Timestamp,
};

/// A node whose enrolment was completed, as the API server or its receipt tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Enrolled {
    /// Its name.
    pub name: String,
    /// Its roles.
    pub roles: BTreeSet<Role>,
    /// When its enrolment was completed.
    pub enrolled_at: Timestamp,
    /// The last sign of life.
    pub seen_at: Timestamp,
    /// What machine it is; absent where it didn't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
    /// GPUs in it.
    #[serde(default)]
    pub gpus: u32,
}

/// A node that counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counted {
    /// Its name.
    pub name: String,
    /// When its enrolment was completed.
    pub enrolled_at: Timestamp,
    /// It has shown no sign of life for a while: a new node may take its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub missing: bool,
    /// GPUs in it.
    #[serde(default)]
    pub gpus: u32,
}

/// Why a node doesn't count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Uncounted {
    /// The licence doesn't count its role.
    Role,
    /// It is the same machine as another.
    Same {
        /// As which.
        machine: String,
    },
    /// It shows no sign of life, and another was enrolled in its place.
    Replaced {
        /// Which.
        by: String,
    },
    /// It has shown no sign of life for too long.
    Dead {
        /// The last one.
        since: Timestamp,
    },
}

impl Uncounted {
    /// In a few words for people.
    #[must_use]
    pub fn in_words(&self) -> String {
        match self {
            Self::Role => "the licence doesn't count its role".to_owned(),
            Self::Same { machine } => format!("is the same machine as `{machine}`"),
            Self::Replaced { by } => format!("is gone, and `{by}` stands in its place"),
            Self::Dead { since } => format!("has shown no sign of life since {since}"),
        }
    }
}

/// A node that doesn't count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// Why.
    #[serde(flatten)]
    pub why: Uncounted,
}

/// What counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Count {
    /// Nodes that count, first enrolled first.
    pub counted: Vec<Counted>,
    /// Nodes that don't, by name.
    pub left_out: Vec<LeftOut>,
}

impl Count {
    /// Count.
    #[must_use]
    pub fn of(nodes: &[Enrolled], rule: &CountRule, now: Timestamp) -> Self {
        let mut left_out = Vec::new();
        let mut by_age: Vec<&Enrolled> = nodes.iter().collect();
        by_age.sort_by(|left, right| {
            (left.enrolled_at, &left.name).cmp(&(right.enrolled_at, &right.name))
        });
        let mut leave = |node: &Enrolled, why| {
            left_out.push(LeftOut { name: node.name.clone(), why });
        };
        by_age.retain(|node| {
            let takes = rule.takes(&node.roles);
            if !takes {
                leave(node, Uncounted::Role);
            }
            takes
        });
        let mut machines: Vec<Enrolled> = Vec::new();
        for node in by_age {
            match machines.iter_mut().find(|machine| is_same(machine, node)) {
                // The machine lives as long as one of its names does.
                Some(machine) => {
                    machine.seen_at = machine.seen_at.max(node.seen_at);
                    machine.gpus = machine.gpus.max(node.gpus);
                    leave(node, Uncounted::Same { machine: machine.name.clone() });
                }
                None => machines.push(node.clone()),
            }
        }
        let replaced = replacements(&machines, &rule.window, now);
        let mut counted = Vec::new();
        for machine in &machines {
            let silent = now.since(machine.seen_at);
            if let Some((_, by)) = replaced.iter().find(|(name, _)| *name == machine.name) {
                leave(machine, Uncounted::Replaced { by: by.clone() });
            } else if silent > i64::from(rule.window.dead_seconds) {
                leave(machine, Uncounted::Dead { since: machine.seen_at });
            } else {
                counted.push(Counted {
                    name: machine.name.clone(),
                    enrolled_at: machine.enrolled_at,
                    missing: is_missing(machine, &rule.window, now),
                    gpus: machine.gpus,
                });
            }
        }
        left_out.sort_by(|left, right| left.name.cmp(&right.name));
        Self { counted, left_out }
    }

    /// How many nodes count.
    #[must_use]
    pub fn nodes(&self) -> u32 {
        u32::try_from(self.counted.len()).unwrap_or(u32::MAX)
    }

    /// How many of them show signs of life: places that a new node can't take.
    #[must_use]
    pub fn present(&self) -> u32 {
        let present = self.counted.iter().filter(|node| !node.missing).count();
        u32::try_from(present).unwrap_or(u32::MAX)
    }

    /// GPUs in the nodes that count.
    #[must_use]
    pub fn gpus(&self) -> u32 {
        self.counted.iter().fold(0, |sum: u32, node| sum.saturating_add(node.gpus))
    }

    /// The nodes over a limit: the newest.
    #[must_use]
    pub fn over(&self, limit: u32) -> Vec<String> {
        let within = usize::try_from(limit).unwrap_or(usize::MAX);
        self.counted.iter().skip(within).map(|node| node.name.clone()).collect()
    }
}

fn is_same(machine: &Enrolled, node: &Enrolled) -> bool {
    match (&machine.fingerprint, &node.fingerprint) {
        (Some(left), Some(right)) => left.is_same_machine(right),
        // Without a fingerprint only the name can tell.
        _ => machine.name == node.name,
    }
}

fn is_missing(node: &Enrolled, window: &Window, now: Timestamp) -> bool {
    now.since(node.seen_at) > i64::from(window.missing_seconds)
}

/// Each missing node with the node that was enrolled after it fell silent; each stands in for one only.
fn replacements(machines: &[Enrolled], window: &Window, now: Timestamp) -> Vec<(String, String)> {
    let mut missing: Vec<&Enrolled> =
        machines.iter().filter(|node| is_missing(node, window, now)).collect();
    missing.sort_by(|left, right| (left.seen_at, &left.name).cmp(&(right.seen_at, &right.name)));
    let mut fresh = machines.iter().filter(|node| !is_missing(node, window, now)).peekable();
    let mut pairs = Vec::new();
    for gone in missing {
        // Both go up in time: who came before this one fell silent came before the next, too.
        while fresh.next_if(|node| node.enrolled_at < gone.seen_at).is_some() {}
        if let Some(node) = fresh.next() {
            pairs.push((gone.name.clone(), node.name.clone()));
        }
    }
    pairs
}

/// How long the nodes have been too many; what is kept between two looks. Clears itself with the first look
/// that finds them within the limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Excess {
    /// Since when, and in how many looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Looks in a row that found too many.
    #[serde(default)]
    pub samples: u32,
}

impl Excess {
    /// What is kept after one look more.
    #[must_use]
    pub fn after(self, is_over: bool, now: Timestamp) -> Self {
        if !is_over {
            return Self::default();
        }
        // A clock that went back must not make it last for ever, nor begin anew.
        let since = self.since.map_or(now, |since| since.min(now));
        Self { since: Some(since), samples: self.samples.saturating_add(1) }
    }

    /// It has lasted.
    #[must_use]
    pub fn has_lasted(&self, window: &Window, now: Timestamp) -> bool {
        let seconds = self.since.map_or(0, |since| now.since(since));
        self.samples >= window.samples && seconds >= i64::from(window.over_seconds)
    }

    /// Seconds since the limit was passed.
    #[must_use]
    pub fn seconds(&self, now: Timestamp) -> i64 {
        self.since.map_or(0, |since| now.since(since).max(0))
    }
}

#[cfg(test)]
#[path = "count_tests.rs"]
mod tests;
