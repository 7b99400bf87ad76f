//! What a plan needs the licence's word for: nodes that are no part of the cluster yet, and paid components that
//! are not in it yet. Pure; the word itself is [`Standing::allows`], here as everywhere.
//!
//! Whatever is in the cluster is not asked about: not when a run goes on that was interrupted, not when a node
//! or a component is repaired or upgraded.

use std::collections::BTreeMap;

use kdc_agent::{
    facts::Facts,
    license::{
        Decision, Enrolled, Feature, Standing, Timestamp,
        entitlement::{Candidate, STILL_WORKS},
    },
};
use kdc_profiles::{
    cluster::{Cluster, Node},
    profile::{Component, Profile},
};
use serde::Serialize;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Nodes that are no part of the cluster yet.
    pub candidates: Vec<Candidate>,
    /// Paid components.
    pub components: Vec<AskedComponent>,
    /// Nodes that are, by their receipts: they count where no API server can be asked.
    pub enrolled: Vec<Enrolled>,
}

/// A paid component of the profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedComponent {
    /// Its name in the profile.
    pub name: String,
    /// What the licence must have.
    pub entitlement: String,
    /// It is in the cluster already.
    pub in_use: bool,
}

impl Asked {
    /// What a plan for this cluster would need.
    #[must_use]
    pub fn of(
        cluster: &Cluster,
        profile: &Profile,
        facts: &BTreeMap<String, Facts>,
        now: Timestamp,
    ) -> Self {
        let belongs = |node: &&Node| {
            facts.get(&node.name).is_some_and(|facts| {
                // What can't be read is no reason to count a node as new.
                !facts.ownership.runs.is_empty()
                    && facts.ownership.cluster.as_ref().is_none_or(|name| *name == cluster.name)
            })
        };
        let (inside, outside): (Vec<&Node>, Vec<&Node>) = cluster.nodes.iter().partition(belongs);
        let candidate = |node: &&Node| Candidate {
            name: node.name.clone(),
            role: node.role,
            gpus: gpus(facts.get(&node.name)),
        };
        let enrolled = |node: &&Node| Enrolled {
            name: node.name.clone(),
            roles: [node.role].into(),
            enrolled_at: now,
            seen_at: now,
            fingerprint: None,
            gpus: gpus(facts.get(&node.name)),
        };
        let is_there = |component: &Component| {
            facts.values().any(|facts| facts.ownership.components.contains(&component.name))
        };
        let component = |component: &Component| {
            Some(AskedComponent {
                name: component.name.clone(),
                entitlement: component.entitlement.clone()?,
                in_use: is_there(component),
            })
        };
        Self {
            candidates: outside.iter().map(candidate).collect(),
            components: profile.components.iter().filter_map(component).collect(),
            enrolled: inside.iter().map(enrolled).collect(),
        }
    }

    /// Nothing new: then the plan goes ahead, however the licence stands.
    #[must_use]
    pub fn is_nothing_new(&self) -> bool {
        self.candidates.is_empty() && self.components.iter().all(|component| component.in_use)
    }

    /// The licence's word on all of it.
    #[must_use]
    pub fn judge(&self, standing: Standing) -> Entitled {
        let nodes = standing.allows(&Feature::Enrol(self.candidates.clone()));
        let component = |component: &AskedComponent| {
            let feature = Feature::Component {
                name: component.entitlement.clone(),
                wanted: 1,
                in_use: component.in_use,
            };
            EntitledComponent {
                component: component.name.clone(),
                entitlement: component.entitlement.clone(),
                decision: standing.allows(&feature),
            }
        };
        let components: Vec<EntitledComponent> = self.components.iter().map(component).collect();
        let new_nodes = self.candidates.iter().map(|node| node.name.clone()).collect();
        Entitled { new_nodes, nodes, components, standing }
    }
}

/// As far as facts tell.
fn gpus(facts: Option<&Facts>) -> u32 {
    facts.and_then(|facts| facts.nvidia_gpus.value().copied()).unwrap_or(0)
}

/// The licence's word on a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entitled {
    /// Nodes that would be let in.
    pub new_nodes: Vec<String>,
    /// Whether they may be.
    pub nodes: Decision,
    /// Each paid component.
    pub components: Vec<EntitledComponent>,
    /// How the cluster stands.
    pub standing: Standing,
}

/// The licence's word on a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EntitledComponent {
    /// Its name in the profile.
    pub component: String,
    /// What the licence must have.
    pub entitlement: String,
    /// Whether it does.
    #[serde(flatten)]
    pub decision: Decision,
}

impl Entitled {
    /// Every reason why the plan can't be carried out.
    #[must_use]
    pub fn refusals(&self) -> Vec<String> {
        let nodes = (!self.nodes.allowed).then(|| self.nodes.why.clone());
        let refused = self.components.iter().filter(|component| !component.decision.allowed);
        let component = |component: &EntitledComponent| {
            format!("component `{}`: {}", component.component, component.decision.why)
        };
        nodes.into_iter().chain(refused.map(component)).collect()
    }

    /// Who counts, who doesn't, which limit, what works anyway: a line each, for a refusal.
    #[must_use]
    pub fn explained(&self) -> Vec<String> {
        let mut lines = self.standing.explain();
        // Said by its own line, in the end.
        lines.retain(|line| !line.contains(STILL_WORKS));
        lines.push(STILL_WORKS.to_owned());
        lines
    }

    /// The plan's paragraph about it.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text =
            format!("\nLicence\n  {}: {}\n", self.standing.state.as_str(), self.standing.reason);
        if !self.new_nodes.is_empty() {
            text.push_str(&format!(
                "  new nodes {}: {}\n",
                self.new_nodes.join(", "),
                self.nodes.why
            ));
        }
        for EntitledComponent { component, entitlement, decision } in &self.components {
            let word = if decision.allowed { "entitled" } else { "NOT entitled" };
            let why = &decision.why;
            text.push_str(&format!("  component {component} (`{entitlement}`) {word}: {why}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use kdc_agent::{
        facts::{Known, Ownership},
        license::{
            Inputs, LicenseKeys, Trial,
            clock::Reading,
            count::Excess,
            document::{CountRule, Grant, License, LicenseKind, Overage},
            revocation::Revocations,
            state::judge,
        },
    };

    use super::*;
    use crate::plan::samples;

    fn now() -> Timestamp {
        Timestamp::parse("2026-06-01T00:00:00Z").unwrap()
    }

    fn license(nodes: u32) -> License {
        License {
            id: "lic-1".to_owned(),
            serial: 1,
            kind: LicenseKind::Subscription,
            customer: "Example GmbH".to_owned(),
            issued_at: now(),
            not_before: now(),
            expires_at: Some(now().plus_days(365)),
            grace_days: 14,
            max_nodes: Some(nodes),
            max_gpus: None,
            overage: Overage::default(),
            count: CountRule::default(),
            features: BTreeMap::from([("dashboards".to_owned(), Grant::Allowed(true))]),
            cluster_ids: Vec::new(),
            supersedes: Vec::new(),
            crit: Vec::new(),
        }
    }

    fn standing(license: Option<License>, nodes: &[Enrolled], trial_days: i64) -> Standing {
        let trial = Trial { started_at: now().plus_days(-trial_days), was_licensed: false };
        judge(&Inputs {
            clock: &Reading::sure(now()),
            cluster: None,
            trial: Some(&trial),
            licenses: license.as_slice(),
            revoked: &Revocations::default(),
            refused: None,
            nodes: Some(nodes),
            excess: Excess::default(),
        })
    }

    /// The sample cluster with these nodes part of it already.
    fn asked(inside: &[&str], components: &[(&str, Option<&str>)], installed: &[&str]) -> Asked {
        let cluster = samples::cluster();
        let mut facts = samples::facts(&cluster);
        for (name, facts) in &mut facts {
            if inside.contains(&name.as_str()) {
                facts.ownership = Ownership {
                    cluster: Some(cluster.name.clone()),
                    runs: vec!["r1".to_owned()],
                    components: installed.iter().map(|name| (*name).to_owned()).collect(),
                };
            }
        }
        let mut profile = kdc_profiles::profile::shipped("cluster").unwrap();
        for (name, entitlement) in components {
            profile.components.push(Component {
                name: (*name).to_owned(),
                description: "d".to_owned(),
                manifests: None,
                images: Vec::new(),
                after: Vec::new(),
                ready: Vec::new(),
                entitlement: entitlement.map(str::to_owned),
            });
        }
        Asked::of(&cluster, &profile, &facts, now())
    }

    fn names() -> Vec<String> {
        samples::cluster().nodes.into_iter().map(|node| node.name).collect()
    }

    #[test]
    fn nodes_without_a_receipt_are_new_and_one_too_many_is_refused_with_everything_named() {
        let all = names();
        let (new, old) = all.split_last().unwrap();
        let old: Vec<&str> = old.iter().map(String::as_str).collect();
        let asked = asked(&old, &[], &[]);
        assert_eq!(asked.candidates.iter().map(|node| &node.name).collect::<Vec<_>>(), [new]);
        let limit = u32::try_from(old.len()).unwrap();
        let refused = asked.judge(standing(Some(license(limit)), &asked.enrolled, 0));
        let text = refused.refusals().join("\n");
        assert!(text.contains(&format!("the licence is for {limit}")), "{text}");
        assert!(text.contains(&format!("new: `{new}`")), "{text}");
        let lines = refused.explained().join("\n");
        assert!(lines.contains(&format!("counts: `{}`", old[0])), "{lines}");
        assert!(lines.contains("removing nodes, repair, restart"), "{lines}");
        let allowed = asked.judge(standing(Some(license(limit + 1)), &asked.enrolled, 0));
        assert_eq!(allowed.refusals(), Vec::<String>::new());
        assert!(allowed.render().contains(&format!("new nodes {new}: ")), "{}", allowed.render());
    }

    #[test]
    fn what_is_in_the_cluster_needs_no_word_even_when_everything_has_ended() {
        let all = names();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let asked = asked(&all, &[("boards", Some("dashboards"))], &["boards"]);
        assert!(asked.is_nothing_new());
        let entitled = asked.judge(standing(None, &asked.enrolled, 400));
        assert_eq!(entitled.refusals(), Vec::<String>::new());
    }

    #[test]
    fn paid_components_are_asked_for_by_their_entitlement_and_free_ones_are_not() {
        let components =
            [("boards", Some("dashboards")), ("teleport", Some("teleport")), ("free", None)];
        let asked = asked(&[], &components, &[]);
        assert_eq!(asked.components.len(), 2);
        let entitled = asked.judge(standing(Some(license(50)), &[], 0));
        let refusals = entitled.refusals();
        assert_eq!(refusals.len(), 1, "{refusals:?}");
        assert!(refusals[0].contains("component `teleport`: the licence doesn't have"));
        let text = entitled.render();
        assert!(text.contains("component boards (`dashboards`) entitled: "), "{text}");
        assert!(text.contains("component teleport (`teleport`) NOT entitled: "), "{text}");
        // The trial has everything, until it ends.
        assert!(asked.judge(standing(None, &[], 3)).refusals().is_empty());
        assert_eq!(asked.judge(standing(None, &[], 31)).refusals().len(), 3);
    }

    #[test]
    fn a_receipt_that_can_not_be_read_makes_no_node_new() {
        let cluster = samples::cluster();
        let mut facts = samples::facts(&cluster);
        for facts in facts.values_mut() {
            facts.ownership.runs = vec!["unreadable: torn".to_owned()];
        }
        let profile = kdc_profiles::profile::shipped("cluster").unwrap();
        assert!(Asked::of(&cluster, &profile, &facts, now()).is_nothing_new());
        // A node of another cluster is new here, whatever it is there.
        for facts in facts.values_mut() {
            facts.ownership.cluster = Some("another".to_owned());
        }
        let asked = Asked::of(&cluster, &profile, &facts, now());
        assert_eq!(asked.candidates.len(), cluster.nodes.len());
    }

    #[test]
    fn every_gpu_of_a_new_node_counts() {
        let cluster = samples::cluster();
        let mut facts = samples::facts(&cluster);
        let first = &cluster.nodes[0].name;
        facts.get_mut(first).unwrap().nvidia_gpus = Known::Known(8);
        let profile = kdc_profiles::profile::shipped("cluster").unwrap();
        let asked = Asked::of(&cluster, &profile, &facts, now());
        for (max, refused) in [(8, false), (7, true)] {
            let license = License { max_gpus: Some(max), ..license(50) };
            let refusals = asked.judge(standing(Some(license), &[], 0)).refusals();
            assert_eq!(!refusals.is_empty(), refused, "{max}: {refusals:?}");
            assert!(refusals.iter().all(|why| why.contains("GPU")), "{refusals:?}");
        }
    }

    #[test]
    fn the_builds_own_keys_can_be_read() {
        LicenseKeys::built_in().unwrap();
    }
}
