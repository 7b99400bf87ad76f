//! The one gate: whatever needs the licence's word asks [`Standing::allows`].
//!
//! The gate is asymmetric. Letting something in needs a licence; what is in stays in, and the way back never
//! asks: a restart, a repair or an upgrade is never refused what was admitted once.

use kdc_profiles::cluster::Role;
use serde::{Deserialize, Serialize};

use super::{
    count::Uncounted,
    document::Grant,
    state::{Standing, State},
};

/// What goes on in every state, said with each refusal.
pub const STILL_WORKS: &str = "everything that runs goes on; removing nodes, repair, restart, upgrade, undo, \
                               reading and exporting work as ever";

/// A node that is to be let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// What it will be.
    pub role: Role,
    /// GPUs in it, as far as is known.
    #[serde(default)]
    pub gpus: u32,
}

/// What may ask for the licence's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feature {
    /// Nodes that are no part of the cluster yet.
    Enrol(Vec<Candidate>),
    /// A paid component, by its name in the licence.
    Component {
        /// The name.
        name: String,
        /// How many of it there will be, where the licence limits that.
        wanted: u64,
        /// It is there already: then it goes on.
        in_use: bool,
    },
    /// To run what is there, restart, repair or upgrade it.
    KeepRunning,
    /// To remove, undo, read or export.
    WayBack,
    /// Metering and the basics of self-healing.
    Watching,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// It may go ahead.
    pub allowed: bool,
    /// Why, or why not, in a sentence.
    pub why: String,
    /// What the operator should hear although it is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

impl Decision {
    fn yes(why: impl Into<String>) -> Self {
        Self { allowed: true, why: why.into(), warning: None }
    }

    fn no(why: impl Into<String>) -> Self {
        Self { allowed: false, why: why.into(), warning: None }
    }
}

impl Standing {
    /// May this be done?
    #[must_use]
    pub fn allows(&self, feature: &Feature) -> Decision {
        let decision = match feature {
            Feature::KeepRunning => {
                return Decision::yes("what runs never needs the licence's word");
            }
            Feature::WayBack => return Decision::yes("the way back never needs a licence"),
            Feature::Watching => return Decision::yes("metering and self-healing stay on"),
            Feature::Component { in_use: true, name, .. } => {
                return Decision::yes(format!("`{name}` is in use already, and goes on"));
            }
            Feature::Enrol(candidates) => self.allows_nodes(candidates),
            Feature::Component { name, wanted, .. } => self.allows_component(name, *wanted),
        };
        Decision { warning: self.warning(), ..decision }
    }

    /// The licence counts nodes of this role.
    #[must_use]
    pub fn counts(&self, role: Role) -> bool {
        self.roles.is_empty() || self.roles.contains(&role)
    }

    fn allows_nodes(&self, candidates: &[Candidate]) -> Decision {
        if candidates.is_empty() {
            return Decision::yes("no node is added");
        }
        if self.basis.has_ended() {
            return Decision::no(format!("no node can be added: {}", self.reason));
        }
        let (present, missing) = self
            .count
            .as_ref()
            .map_or((0, 0), |count| (count.present(), count.nodes() - count.present()));
        // A candidate that counts already is in: asked again, it adds nothing.
        let counted = self.count.iter().flat_map(|count| &count.counted);
        let present_names: Vec<&str> =
            counted.filter(|node| !node.missing).map(|node| node.name.as_str()).collect();
        let is_new = |candidate: &&Candidate| !present_names.contains(&candidate.name.as_str());
        let added = candidates.iter().filter(is_new).filter(|node| self.counts(node.role)).count();
        let added = u32::try_from(added).unwrap_or(u32::MAX);
        let wanted = present.saturating_add(added);
        if let Some(limit) = self.max_nodes
            && added > 0
            && wanted > limit.saturating_add(self.allowance)
        {
            return Decision::no(self.too_many(candidates, wanted, limit));
        }
        let gpus =
            candidates.iter().filter(is_new).fold(0_u32, |sum, node| sum.saturating_add(node.gpus));
        let have = self.count.as_ref().map_or(0, super::Count::gpus);
        if let Some(limit) = self.max_gpus
            && gpus > 0
            && have.saturating_add(gpus) > limit
        {
            return Decision::no(format!(
                "{gpus} GPUs can't be added: {have} count, and the licence is for {limit}"
            ));
        }
        let limit = self.max_nodes.map_or("any number".to_owned(), |limit| limit.to_string());
        let places = match missing {
            0 => String::new(),
            gone => format!("; {gone} that show no sign of life give up their place"),
        };
        Decision::yes(format!("{wanted} of {limit} nodes with these{places}"))
    }

    fn too_many(&self, candidates: &[Candidate], wanted: u32, limit: u32) -> String {
        let names = |names: &mut dyn Iterator<Item = &str>| {
            let all: Vec<&str> = names.collect();
            let shown: Vec<String> = all.iter().take(20).map(|name| format!("`{name}`")).collect();
            let more = all.len().saturating_sub(20);
            let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
            if all.is_empty() { "none".to_owned() } else { shown.join(", ") + &rest }
        };
        let counted = || self.count.iter().flat_map(|count| &count.counted);
        let is_new = |node: &&Candidate| !counted().any(|known| known.name == node.name);
        let new = names(&mut candidates.iter().filter(is_new).map(|node| node.name.as_str()));
        let counted = names(&mut counted().filter(|node| !node.missing).map(|node| &*node.name));
        let whose = if self.license.is_some() { "the licence" } else { "the trial" };
        let beyond = match self.allowance {
            0 => String::new(),
            more => format!(" and {more} beyond that for now"),
        };
        format!(
            "{wanted} nodes would count, and {whose} is for {limit}{beyond}; counted now: {counted}; new: {new}"
        )
    }

    fn allows_component(&self, name: &str, wanted: u64) -> Decision {
        if self.basis == State::Trial {
            return Decision::yes(format!("`{name}` is part of the trial"));
        }
        if self.basis.has_ended() {
            return Decision::no(format!("`{name}` can't be added: {}", self.reason));
        }
        match self.features.get(name) {
            Some(Grant::Limit(limit)) if wanted > *limit => Decision::no(format!(
                "the licence has `{name}` up to {limit}, and {wanted} are wanted"
            )),
            Some(grant) if grant.is_some() => Decision::yes(format!("the licence has `{name}`")),
            _ => Decision::no(format!("the licence doesn't have `{name}`")),
        }
    }

    /// What the operator should hear whatever is asked.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let states = [State::ExpiringSoon, State::Grace, State::OverLimit];
        let mut warnings = Vec::new();
        if states.contains(&self.basis) || self.state == State::Invalid {
            warnings.push(self.reason.clone());
        }
        if let Some(doubt) = &self.clock.doubt
            && self.state != State::ClockSuspect
        {
            warnings.push(doubt.in_words());
        } else if self.state == State::ClockSuspect {
            warnings.push(self.reason.clone());
        }
        (!warnings.is_empty()).then(|| warnings.join("; "))
    }

    /// Everything that explains the standing, a line each: which nodes count, which don't and why.
    #[must_use]
    pub fn explain(&self) -> Vec<String> {
        let mut lines = vec![format!("{}: {}", self.state.as_str(), self.reason)];
        if let Some(count) = &self.count {
            for node in &count.counted {
                let note = if self.over.contains(&node.name) { ", over the limit" } else { "" };
                let missing = if node.missing { ", shows no sign of life" } else { "" };
                let (name, since) = (&node.name, node.enrolled_at);
                lines.push(format!("counts: `{name}`, enrolled {since}{missing}{note}"));
            }
            for left in &count.left_out {
                lines.push(format!("doesn't count: `{}` {}", left.name, left.why.in_words()));
            }
        }
        for (name, grant) in &self.features {
            lines.push(format!("feature `{name}`: {grant}"));
        }
        lines.push(format!("in every state: {STILL_WORKS}"));
        lines
    }
}

/// The standing in one sentence.
pub(super) fn reason(standing: &Standing) -> String {
    let beneath = beneath(standing);
    match standing.state {
        State::Invalid => {
            let why = standing.refused.as_ref().map_or("", |refused| refused.why.as_str());
            format!("the licence file that was given is not good: {why}; without it: {beneath}")
        }
        State::ClockSuspect => {
            let doubt = standing.clock.doubt.as_ref().map(super::clock::Doubt::in_words);
            format!("{}; {beneath}", doubt.unwrap_or_default())
        }
        _ => beneath,
    }
}

fn beneath(standing: &Standing) -> String {
    let now = standing.clock.now;
    let end = standing.expires_at.map(super::Timestamp::day).unwrap_or_default();
    let days = |until: Option<super::Timestamp>| {
        let seconds = until.map_or(0, |until| until.since(now));
        (seconds + super::time::DAY - 1) / super::time::DAY
    };
    let name = standing
        .license
        .as_ref()
        .map_or("the trial".to_owned(), |license| format!("licence `{}`", license.id));
    match standing.basis {
        State::Trial => {
            format!(
                "no licence; the trial runs for {} more days, to {end}",
                days(standing.expires_at)
            )
        }
        State::Valid | State::Invalid | State::ClockSuspect => match standing.expires_at {
            Some(_) => format!("{name} is good until {end}"),
            None => format!("{name} is good without an end"),
        },
        State::ExpiringSoon => {
            format!(
                "{name} ends in {} days, on {end}: ask for its renewal",
                days(standing.expires_at)
            )
        }
        State::Grace => format!(
            "{name} ended on {end}; new nodes are let in for {} more days of grace: install its renewal now",
            days(standing.grace_until)
        ),
        State::OverLimit => over_limit(standing, &name),
        State::Expired if standing.license.is_some() => {
            format!("{name} ended on {end}, and its grace is over: install its renewal")
        }
        State::Expired => {
            format!("the trial ended on {end}, and no licence is installed: install one")
        }
        State::Unlicensed => {
            "no licence is installed any more, and the trial is over: install one".to_owned()
        }
    }
}

fn over_limit(standing: &Standing, name: &str) -> String {
    let count = standing.nodes().unwrap_or(0);
    let over: Vec<String> = standing.over.iter().map(|node| format!("`{node}`")).collect();
    let over = over.join(", ");
    match standing.max_nodes {
        Some(limit) if count > limit => format!(
            "{count} nodes count and {name} is for {limit}; over it: {over}. Remove {} or install a licence for \
             more: it clears by itself",
            count - limit
        ),
        _ => {
            let gpus = standing.count.as_ref().map_or(0, super::Count::gpus);
            let limit = standing.max_gpus.unwrap_or(0);
            format!("{gpus} GPUs count and {name} is for {limit}; over it: those of {over}")
        }
    }
}

/// Why a node doesn't count, for listings that have it in a column of its own.
#[must_use]
pub fn word_of(why: &Uncounted) -> &'static str {
    match why {
        Uncounted::Role => "role",
        Uncounted::Same { .. } => "same-machine",
        Uncounted::Replaced { .. } => "replaced",
        Uncounted::Dead { .. } => "dead",
    }
}
