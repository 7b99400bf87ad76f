//! The nodes' logs, each sealed by its node, as one export.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kdc_agent::{
    audit::{export, key::NamedKey},
    wire::{AuditSections, Reply, RequestBody},
};
use kdc_profiles::cluster::Role;

use super::Whose;
use crate::{
    command::{
        CommandError,
        ending::all_or_refusal,
        site::{NodeLink, Site, agent_to_stage, close_all, links, open_all},
    },
    fleet::{each, wrong_answer},
    show::{Complaint, Screen, Silent},
    ssh::SshError,
};

/// Largest export.
pub(super) const MAX_EXPORT_BYTES: u64 = 2 << 30;

/// The agent's code for a node without a log.
const NO_LOG: &str = "AUDIT-004";

/// Nodes' logs.
pub(super) struct Gathered {
    /// An export.
    pub(super) file: Vec<u8>,
    /// The keys that the nodes state.
    pub(super) keys: Vec<NamedKey>,
    /// Nodes without a log.
    pub(super) without: Vec<String>,
    /// Why the cluster's heads are not in it.
    pub(super) unasked: Option<String>,
}

/// Ask the nodes.
pub(super) async fn gather(
    mut site: Site,
    whose: &Whose,
    screen: &Arc<Screen>,
) -> Result<Gathered, Complaint> {
    for name in &whose.only {
        if !site.cluster.nodes.iter().any(|node| node.name == *name) {
            return Err(CommandError::UnknownNode { node: name.clone() }.into());
        }
    }
    site.cluster.nodes.retain(|node| whose.only.is_empty() || whose.only.contains(&node.name));
    let agent = agent_to_stage(&whose.bundle, screen).await?;
    let parallel = site.parallel(whose.cluster.pace.parallel);
    let links = links(&site.cluster, site.is_local, &agent, screen, &Silent)?;
    open_all(&links, parallel, screen).await?;
    let first = site.cluster.nodes.iter().find(|node| node.role == Role::ControlPlane);
    let first = first.map(|node| node.name.clone());
    let answers = each(&links, parallel, |link| ask(link, first.as_deref())).await;
    close_all(&links, parallel).await;
    screen.settle();
    let answers = all_or_refusal(answers, ("KDC-010", "can't be asked for their audit logs"))?;
    let names = site.cluster.nodes.iter().map(|node| node.name.as_str());
    Ok(assemble(names.zip(answers), first.is_some())?)
}

async fn ask(
    link: &NodeLink<'_>,
    first_control_plane: Option<&str>,
) -> Result<Option<AuditSections>, SshError> {
    let node = link.node().to_owned();
    let heads = first_control_plane == Some(node.as_str());
    match link.ask(RequestBody::Audit { node, heads }).await {
        Ok(Reply::Audit(sections)) => Ok(Some(sections)),
        Ok(_) => Err(wrong_answer(link.node(), "audit")),
        Err(SshError::Agent { failure, .. }) if failure.code == NO_LOG => Ok(None),
        Err(error) => Err(error),
    }
}

fn assemble<'n>(
    answers: impl Iterator<Item = (&'n str, Option<AuditSections>)>,
    has_control_plane: bool,
) -> Result<Gathered, CommandError> {
    let mut gathered =
        Gathered { file: Vec::new(), keys: Vec::new(), without: Vec::new(), unasked: None };
    let mut has_heads = false;
    for (node, sections) in answers {
        let Some(AuditSections { log, heads, license, unasked }) = sections else {
            gathered.without.push(node.to_owned());
            continue;
        };
        let wrong = |reason: String| CommandError::NotAnExport {
            path: format!("the answer of node {node}").into(),
            reason,
        };
        has_heads |= heads.is_some();
        gathered.unasked = gathered.unasked.or(unasked);
        for (is_log, text) in [(true, Some(log)), (false, heads), (false, license)] {
            let Some(text) = text else { continue };
            let bytes = STANDARD.decode(text).map_err(|error| wrong(error.to_string()))?;
            let parsed = export::parse(&bytes).map_err(|error| wrong(error.to_string()))?;
            if let (true, [section]) = (is_log, parsed.as_slice()) {
                let key = section.title.key.parse().map_err(wrong)?;
                gathered.keys.push(NamedKey { node: node.to_owned(), key });
            }
            if (gathered.file.len() + bytes.len()) as u64 > MAX_EXPORT_BYTES {
                return Err(wrong(
                    "all logs together are too large: take some, with `--only`".to_owned(),
                ));
            }
            gathered.file.extend(bytes);
        }
    }
    if gathered.keys.is_empty() {
        return Err(CommandError::NoLogs);
    }
    if !has_heads && gathered.unasked.is_none() {
        gathered.unasked = Some(match has_control_plane {
            true => "it keeps none yet; kdc-control.service gathers them".to_owned(),
            false => "no control plane was asked".to_owned(),
        });
    }
    Ok(gathered)
}

#[cfg(test)]
mod tests {
    use kdc_agent::audit::{Entry, Log, Moment, Who};

    use super::*;

    #[test]
    fn nodes_without_logs_are_told_and_all_of_them_without_is_an_error() {
        let error = assemble([("w1", None)].into_iter(), false).err().unwrap();
        assert_eq!(error.code(), "KDC-037");
        let folder = tempfile::tempdir().unwrap();
        let log = Log::at(&folder.path().join("audit"));
        let moment = Moment { at_unix_ms: 1, boot: String::new() };
        log.append(&Entry::KubeconfigRead {}, &Who::part("serve"), &moment).unwrap();
        let section = STANDARD.encode(export::of_log(&log, "cp1", 1).unwrap());
        let sections = AuditSections { log: section, heads: None, license: None, unasked: None };
        let both = [("cp1", Some(sections)), ("w1", None)];
        let gathered = assemble(both.into_iter(), true).ok().unwrap();
        assert_eq!((gathered.keys.len(), &*gathered.keys[0].node), (1, "cp1"));
        assert_eq!(gathered.without, ["w1"]);
        assert!(gathered.unasked.unwrap().contains("keeps none yet"));
        let nonsense = AuditSections { log: "x".into(), heads: None, license: None, unasked: None };
        let error = assemble([("w1", Some(nonsense))].into_iter(), true).err().unwrap();
        assert_eq!(error.code(), "KDC-036");
    }
}
