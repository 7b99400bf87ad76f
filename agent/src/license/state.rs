//! How a cluster stands with its licence: one pure function over everything that is known.
//!
//! | State | When | A node or a paid component more |
//! |---|---|---|
//! | `Trial` | no licence, within thirty days of the first start | up to the trial's limit |
//! | `Valid` | a good licence, with a month or more to go | up to its limit |
//! | `ExpiringSoon` | less than thirty days to go | the same, with a warning |
//! | `Grace` | it ended, within its days of grace | the same, with a loud warning |
//! | `OverLimit` | more nodes than it allows, for a while | up to its allowance; clears itself |
//! | `Expired` | licence or trial ended, and the days of grace too | refused |
//! | `Unlicensed` | the licence was removed, and no trial is left | refused |
//! | `Invalid` | the file that was given is not good | as without that file |
//! | `ClockSuspect` | the clock is doubtful | allowed as usual, with a warning |
//!
//! Whatever the state: what runs goes on, and removing, reading, exporting, upgrade, repair and restart are
//! never asked about.

use std::collections::{BTreeMap, BTreeSet};

use kdc_profiles::cluster::Role;
use serde::{Deserialize, Serialize};

use super::{
    clock::Reading,
    count::{Count, Counted, Excess, LeftOut},
    document::{CountRule, Grant, License, LicenseKind, Overage, Phase},
    revocation::Revocations,
    time::Timestamp,
};

/// Days of the trial.
pub const TRIAL_DAYS: i64 = 30;

/// Nodes of the trial.
pub const TRIAL_NODES: u32 = 16;

/// The states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// No licence; the trial runs.
    Trial,
    /// A good licence.
    Valid,
    /// It ends within thirty days.
    ExpiringSoon,
    /// It ended, within its days of grace.
    Grace,
    /// More nodes than it allows.
    OverLimit,
    /// It ended, or the trial did.
    Expired,
    /// There was one, it was removed, and the trial is over.
    Unlicensed,
    /// The file that was given is not good.
    Invalid,
    /// The clock is doubtful.
    ClockSuspect,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 9] = [
        Self::Trial,
        Self::Valid,
        Self::ExpiringSoon,
        Self::Grace,
        Self::OverLimit,
        Self::Expired,
        Self::Unlicensed,
        Self::Invalid,
        Self::ClockSuspect,
    ];

    /// The word for it in metrics, events and listings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trial => "trial",
            Self::Valid => "valid",
            Self::ExpiringSoon => "expiring-soon",
            Self::Grace => "grace",
            Self::OverLimit => "over-limit",
            Self::Expired => "expired",
            Self::Unlicensed => "unlicensed",
            Self::Invalid => "invalid",
            Self::ClockSuspect => "clock-suspect",
        }
    }

    /// Nothing more is let in while it lasts.
    #[must_use]
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Expired | Self::Unlicensed)
    }
}

/// The trial's record, kept in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trial {
    /// The first start.
    pub started_at: Timestamp,
    /// There was a good licence at some time.
    #[serde(default)]
    pub was_licensed: bool,
}

impl Trial {
    /// When it ends.
    #[must_use]
    pub fn ends_at(&self) -> Timestamp {
        self.started_at.plus_days(TRIAL_DAYS)
    }
}

/// A file that was given and doesn't count, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// Its id, where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Why, with what to do.
    pub why: String,
}

/// Everything that a standing depends on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// What time it is.
    pub clock: &'a Reading,
    /// The UID of the namespace `kube-system`; absent before there is a cluster.
    pub cluster: Option<&'a str>,
    /// The trial's record; absent before the first start, which begins it.
    pub trial: Option<&'a Trial>,
    /// Licences whose signature is good, in any order.
    pub licenses: &'a [License],
    /// What the vendor took back.
    pub revoked: &'a Revocations,
    /// The newest file that was given, where it isn't one of these.
    pub refused: Option<&'a Refused>,
    /// Nodes whose enrolment was completed; absent where nobody could be asked.
    pub nodes: Option<&'a [super::Enrolled]>,
    /// How long they have been too many.
    pub excess: Excess,
}

/// What a standing says of the licence in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InForce {
    /// Its id.
    pub id: String,
    /// Its serial.
    pub serial: u64,
    /// What kind it is.
    #[serde(rename = "type")]
    pub kind: LicenseKind,
    /// Whom it was issued to.
    pub customer: String,
}

/// How a cluster stands with its licence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// In one word, the one that is shown.
    pub state: State,
    /// What a node more is judged by: the state without a bad file or a doubtful clock.
    pub basis: State,
    /// In one sentence.
    pub reason: String,
    /// The time it was judged by.
    pub clock: Reading,
    /// The licence in force; absent in a trial and without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<InForce>,
    /// When licence or trial ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When the days of grace end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_until: Option<Timestamp>,
    /// Nodes that are allowed; absent means any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_nodes: Option<u32>,
    /// Nodes above that which are let in still.
    #[serde(default)]
    pub allowance: u32,
    /// GPUs that are allowed; absent means any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_gpus: Option<u32>,
    /// Only nodes with one of these roles count; empty means all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub roles: BTreeSet<Role>,
    /// What counts; absent where nobody could be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<Count>,
    /// The newest nodes above the limit, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub over: Vec<String>,
    /// How long it has been too many: to be kept until the next look.
    pub excess: Excess,
    /// Paid components by name.
    #[serde(default)]
    pub features: BTreeMap<String, Grant>,
    /// Why the newest file doesn't count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
}

/// What applies: a licence, or the trial.
struct Terms<'a> {
    phase: State,
    license: Option<&'a License>,
    expires_at: Option<Timestamp>,
    grace_until: Option<Timestamp>,
    max_nodes: Option<u32>,
    overage: Overage,
    count: CountRule,
}

/// Judge. Pure: no clock, no files, no panic.
#[must_use]
pub fn judge(inputs: &Inputs<'_>) -> Standing {
    let now = inputs.clock.now;
    let (chosen, refused) = choose(inputs);
    let terms = match chosen {
        Some(license) => of_license(license, now),
        None => of_trial(inputs.trial, now),
    };
    let count = inputs.nodes.map(|nodes| Count::of(nodes, &terms.count, now));
    let max_gpus = terms.license.and_then(|license| license.max_gpus);
    let over = over(count.as_ref(), terms.max_nodes, max_gpus);
    // Nobody could be asked: neither too many nor few enough.
    let excess = match count {
        Some(_) => inputs.excess.after(!over.is_empty(), now),
        None => inputs.excess,
    };
    let is_over = !over.is_empty() && excess.has_lasted(&terms.count.window, now);
    let basis = if is_over && !terms.phase.has_ended() { State::OverLimit } else { terms.phase };
    let mut standing = Standing {
        state: shown(basis, refused.is_some(), inputs.clock.doubt.is_some()),
        basis,
        reason: String::new(),
        clock: inputs.clock.clone(),
        license: terms.license.map(InForce::of),
        expires_at: terms.expires_at,
        grace_until: terms.grace_until,
        max_nodes: terms.max_nodes,
        allowance: terms
            .max_nodes
            .map_or(0, |limit| terms.overage.allowance(limit, excess.seconds(now))),
        max_gpus,
        roles: terms.count.roles,
        count,
        over,
        excess,
        features: terms.license.map(|license| license.features.clone()).unwrap_or_default(),
        refused,
    };
    standing.reason = super::entitlement::reason(&standing);
    standing
}

/// A bad file is what the operator did last and has to hear of; then what is refused; then what is doubtful.
fn shown(basis: State, refused: bool, doubt: bool) -> State {
    match basis {
        _ if refused => State::Invalid,
        State::Expired | State::Unlicensed | State::OverLimit => basis,
        _ if doubt => State::ClockSuspect,
        _ => basis,
    }
}

/// The licence in force, and why the newest one isn't it.
fn choose<'a>(inputs: &Inputs<'a>) -> (Option<&'a License>, Option<Refused>) {
    let mut refused = inputs.refused.cloned();
    let mut best: Option<&License> = None;
    let newest = inputs.licenses.iter().max_by_key(|license| license.serial);
    for license in inputs.licenses {
        let why = why_not(license, inputs);
        if let Some(why) = why {
            if newest.is_some_and(|newest| newest.id == license.id) && refused.is_none() {
                refused = Some(Refused { id: Some(license.id.clone()), why });
            }
        } else if license.phase(inputs.clock.now) != Phase::NotYet
            && best.is_none_or(|best| is_better(license, best, inputs.clock.now))
        {
            best = Some(license);
        }
    }
    (best, refused)
}

/// One that has ended gives way to one that hasn't, whatever their serials; else the one that replaces.
fn is_better(license: &License, best: &License, now: Timestamp) -> bool {
    let has_ended = |license: &License| license.phase(now) == Phase::Expired;
    match (has_ended(license), has_ended(best)) {
        (false, true) => !best.supersedes.contains(&license.id),
        (true, false) => license.supersedes.contains(&best.id),
        _ => license.replaces(best),
    }
}

fn why_not(license: &License, inputs: &Inputs<'_>) -> Option<String> {
    if inputs.revoked.has(license) {
        return Some(format!("licence `{}` was revoked by the vendor", license.id));
    }
    (!license.is_for(inputs.cluster)).then(|| {
        format!(
            "licence `{}` is for other clusters, and this one is {}",
            license.id,
            inputs.cluster.unwrap_or("not known yet")
        )
    })
}

fn of_license(license: &License, now: Timestamp) -> Terms<'_> {
    Terms {
        phase: match license.phase(now) {
            Phase::Valid | Phase::NotYet => State::Valid,
            Phase::Soon => State::ExpiringSoon,
            Phase::Grace => State::Grace,
            Phase::Expired => State::Expired,
        },
        license: Some(license),
        expires_at: license.expires_at,
        grace_until: license.expires_at.map(|end| end.plus_days(i64::from(license.grace_days))),
        max_nodes: license.max_nodes,
        overage: license.overage,
        count: license.count.clone(),
    }
}

fn of_trial(trial: Option<&Trial>, now: Timestamp) -> Terms<'static> {
    let trial = trial.copied().unwrap_or(Trial { started_at: now, was_licensed: false });
    let phase = match (now < trial.ends_at(), trial.was_licensed) {
        (true, _) => State::Trial,
        (false, true) => State::Unlicensed,
        (false, false) => State::Expired,
    };
    Terms {
        phase,
        license: None,
        expires_at: Some(trial.ends_at()),
        grace_until: None,
        max_nodes: Some(TRIAL_NODES),
        overage: Overage::default(),
        count: CountRule::default(),
    }
}

/// The newest nodes that make it too many, by nodes or by GPUs.
fn over(count: Option<&Count>, max_nodes: Option<u32>, max_gpus: Option<u32>) -> Vec<String> {
    let Some(count) = count else { return Vec::new() };
    let mut over = max_nodes.map(|limit| count.over(limit)).unwrap_or_default();
    let mut gpus = 0_u32;
    for Counted { name, gpus: here, .. } in &count.counted {
        gpus = gpus.saturating_add(*here);
        if *here > 0 && max_gpus.is_some_and(|limit| gpus > limit) && !over.contains(name) {
            over.push(name.clone());
        }
    }
    over
}

impl InForce {
    fn of(license: &License) -> Self {
        Self {
            id: license.id.clone(),
            serial: license.serial,
            kind: license.kind,
            customer: license.customer.clone(),
        }
    }
}

impl Standing {
    /// Nodes that don't count, with the reason.
    #[must_use]
    pub fn left_out(&self) -> &[LeftOut] {
        self.count.as_ref().map(|count| count.left_out.as_slice()).unwrap_or_default()
    }

    /// How many nodes count.
    #[must_use]
    pub fn nodes(&self) -> Option<u32> {
        self.count.as_ref().map(Count::nodes)
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
