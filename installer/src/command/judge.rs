//! What the checks say about all nodes, and how it is shown.

use std::collections::{BTreeMap, BTreeSet};

use kdc_agent::check::{self, Finding, Needs, Verdict};
use kdc_bundles::index::Index;
use serde::Serialize;

use super::{
    CommandError,
    site::{Seen, Site},
};
use crate::{
    plan::{self, Inputs, fleet_check},
    show::{Complaint, Exit, table},
};

/// What was found, node by node and across nodes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Judged {
    event: &'static str,
    cluster: String,
    /// An install would be refused.
    pub(crate) refused: bool,
    nodes: Vec<JudgedNode>,
    across: Vec<Across>,
}

#[derive(Debug, Serialize)]
struct JudgedNode {
    node: String,
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Across {
    /// Nodes it is about; empty means all.
    nodes: Vec<String>,
    #[serde(flatten)]
    finding: Finding,
}

/// Judge every node and all of them together.
pub(crate) fn judge(site: &Site, seen: &Seen, inputs: &Inputs<'_>) -> Result<Judged, Complaint> {
    judge_with(site, seen, inputs.index, &|node, root| {
        Ok(plan::needs(inputs, node, root).map_err(CommandError::Plan)?)
    })
}

/// Judge what can be judged without a bundle: not its platforms, systems, packages and sizes.
pub(crate) fn judge_without_bundle(site: &Site, seen: &Seen) -> Result<Judged, Complaint> {
    let index = Index {
        version: kdc_bundles::index::INDEX_VERSION,
        name: String::new(),
        bundle_version: String::new(),
        piece_size: kdc_bundles::index::PIECE_SIZE,
        parameters: BTreeMap::new(),
        artifacts: Vec::new(),
        blobs: Vec::new(),
    };
    let mut judged =
        judge_with(site, seen, &index, &|node, root| Ok(bare_needs(site, seen, node, root)))?;
    judged.across.retain(|across| across.finding.id != "fleet-platform");
    for node in &mut judged.nodes {
        node.findings.retain(|finding| finding.id != "system");
    }
    let refused = judged.findings().any(|finding| finding.verdict.refuses());
    judged.refused = refused;
    Ok(judged)
}

fn bare_needs(site: &Site, seen: &Seen, name: &str, root: bool) -> Needs {
    let (cluster, host) = (&site.cluster, &site.profile.host);
    let role = cluster.nodes.iter().find(|node| node.name == name).map(|node| node.role);
    let minimum = role.and_then(|role| host.minimum.get(&role));
    // What only a bundle could fit or not is taken to fit.
    let facts = seen.facts.get(name);
    let platform = facts.map(|facts| facts.platform.clone());
    let system = facts.and_then(|facts| facts.os.value().cloned());
    Needs {
        cluster: cluster.name.clone(),
        root,
        platforms: platform.into_iter().collect(),
        systems: system.into_iter().collect(),
        cpus: minimum.map_or(1, |minimum| minimum.cpus),
        memory_bytes: minimum.map_or(0, |minimum| minimum.memory_mib.saturating_mul(1 << 20)),
        ports: role.map(|role| plan::ports(host, role)).unwrap_or_default(),
        modules: host.modules.clone(),
        disables_swap: cluster.settings.disable_swap,
        host_routes: cluster.network.cni == "host-routes",
        ..Needs::default()
    }
}

fn judge_with(
    site: &Site,
    seen: &Seen,
    index: &Index,
    needs: &dyn Fn(&str, bool) -> Result<Needs, Complaint>,
) -> Result<Judged, Complaint> {
    let profile = &site.profile;
    plan::checks::known(profile).map_err(CommandError::Plan)?;
    let mut nodes = Vec::new();
    for (name, facts) in
        site.cluster.nodes.iter().filter_map(|node| seen.facts.get_key_value(&node.name))
    {
        let root = seen.root.get(name).copied().unwrap_or(false);
        let findings = check::judge(facts, &needs(name, root)?);
        let asked = |finding| plan::checks::as_asked(profile, finding);
        let findings = findings.into_iter().map(asked).collect();
        nodes.push(JudgedNode { node: name.clone(), findings });
    }
    let across = fleet_check::judge(&fleet_check::Fleet {
        cluster: &site.cluster,
        index,
        facts: &seen.facts,
        clock_offset_ms: &seen.clock_offset_ms,
    });
    let across = across
        .into_iter()
        .map(|found| Across {
            nodes: found.nodes,
            finding: plan::checks::as_asked(profile, found.finding),
        })
        .collect();
    let cluster = site.cluster.name.clone();
    let mut judged = Judged { event: "check", cluster, refused: false, nodes, across };
    let refused = judged.findings().any(|finding| finding.verdict.refuses());
    judged.refused = refused;
    Ok(judged)
}

impl Judged {
    fn findings(&self) -> impl Iterator<Item = &Finding> {
        let of_nodes = self.nodes.iter().flat_map(|node| &node.findings);
        of_nodes.chain(self.across.iter().map(|across| &across.finding))
    }

    /// The findings that are not ok as rows, and how many are.
    pub(crate) fn render(&self) -> String {
        let mut rows = Vec::new();
        let mut row = |node: &str, finding: &Finding| {
            if finding.verdict != Verdict::Ok {
                rows.push(vec![
                    node.to_owned(),
                    finding.verdict.as_str().to_owned(),
                    finding.id.clone(),
                    finding.detail.clone(),
                ]);
                if let Some(fix) = &finding.fix {
                    rows.push(vec![String::new(), "  fix".into(), String::new(), fix.clone()]);
                }
            }
        };
        for node in &self.nodes {
            node.findings.iter().for_each(|finding| row(&node.node, finding));
        }
        for across in &self.across {
            let nodes = if across.nodes.is_empty() { "all".into() } else { across.nodes.join(",") };
            row(&nodes, &across.finding);
        }
        let count =
            |wanted: Verdict| self.findings().filter(|finding| finding.verdict == wanted).count();
        let mut text = if rows.is_empty() {
            String::new()
        } else {
            table::render(&["NODE", "VERDICT", "CHECK", "SEEN"], &rows)
        };
        text.push_str(&format!(
            "{} nodes: {} ok, {} warnings, {} failed, {} could not be looked at\n",
            self.nodes.len(),
            count(Verdict::Ok),
            count(Verdict::Warn),
            count(Verdict::Fail),
            count(Verdict::Unknown)
        ));
        text
    }

    /// The refusal, when there is one: each finding that refuses, with its fix.
    pub(crate) fn refusal(&self) -> Option<Complaint> {
        if !self.refused {
            return None;
        }
        let of_nodes = self.nodes.iter().flat_map(|node| {
            node.findings.iter().map(move |finding| (format!("node `{}`", node.node), finding))
        });
        let of_all = self.across.iter().map(|across| {
            let names: Vec<String> = across.nodes.iter().map(|node| format!("`{node}`")).collect();
            let who = if names.is_empty() {
                "the nodes".into()
            } else {
                format!("nodes {}", names.join(", "))
            };
            (who, &across.finding)
        });
        let parts: Vec<Complaint> = of_nodes
            .chain(of_all)
            .filter(|(_, finding)| finding.verdict.refuses())
            .map(|(who, finding)| {
                let text = format!("{who}: {} ({})", finding.detail, finding.title);
                Complaint::new(&format!("CHECK-{}", finding.id), Exit::Refused, text)
                    .maybe_hint(finding.fix.clone())
            })
            .collect();
        let ids: BTreeSet<&str> = parts.iter().map(|part| &*part.code).collect();
        let what = format!("{} check(s) refuse; nothing was changed", ids.len());
        Some(Complaint::new("KDC-011", Exit::Refused, what).parts(parts))
    }
}
