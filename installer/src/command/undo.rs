//! `undo`: take back everything kdc did.

use std::sync::Arc;

use kdc_agent::wire::Outcome;
use kdc_profiles::cluster::{Node, Role};

use super::{
    CommandError,
    arguments::{BundleArguments, ClusterArguments, ConsentArguments},
    carry_out::holder,
    ending::{all_or_refusal, render_rows, row_of},
    error::of_node,
    interrupt::until_ctrl_c,
    report::Notebook,
    site::{NodeLink, Site, agent_to_stage, close_all, links, open_all, started},
};
use crate::{
    fleet::{
        conduct::{NodeEnd, NodeResult},
        each,
        take_back::take_back,
    },
    show::{Complaint, Exit, Look, News, Observer, Screen},
    ssh::AgentBinary,
};

/// Take back everything kdc did on the nodes; the cluster and its data are gone afterwards
///
/// Workers first, control planes last. Every file, package, unit, sysctl and route is put back as
/// it was before; what was there already is left alone. An undo that stopped goes on when it is
/// run again.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  kdc-install undo\n  kdc-install undo --yes --only w3")]
pub(crate) struct Undo {
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
    #[command(flatten)]
    pub(crate) bundle: BundleArguments,
    #[command(flatten)]
    pub(crate) consent: ConsentArguments,
    /// Only this node; may be given several times
    #[arg(long, value_name = "NODE")]
    pub(crate) only: Vec<String>,
}

impl Undo {
    pub(crate) async fn run(&self, look: Look) -> Result<(), Complaint> {
        let mut site = Site::load(&self.cluster)?;
        choose(&mut site.cluster.nodes, &self.only)?;
        let screen = Arc::new(Screen::new(look, site.cluster.nodes.len(), true));
        let agent = agent_to_stage(&self.bundle, &screen).await?;
        self.agree(&site, &screen)?;
        let notebook = Notebook::new(screen.as_ref());
        let work = self.undo(&site, &agent, &screen, &notebook);
        until_ctrl_c(|| notebook.has_changed(), work).await
    }

    fn agree(&self, site: &Site, screen: &Screen) -> Result<(), Complaint> {
        if self.consent.yes {
            return Ok(());
        }
        let names: Vec<&str> = site.cluster.nodes.iter().map(|node| node.name.as_str()).collect();
        let question = format!(
            "Take cluster `{}` off {}? Its data is gone afterwards",
            site.cluster.name,
            names.join(", ")
        );
        match screen.confirm(&question) {
            Some(true) => Ok(()),
            Some(false) => Err(CommandError::Declined.into()),
            None => Err(CommandError::NobodyToAsk { command: "undo" }.into()),
        }
    }

    async fn undo(
        &self,
        site: &Site,
        agent: &AgentBinary,
        screen: &Arc<Screen>,
        notebook: &Notebook<'_>,
    ) -> Result<(), Complaint> {
        let began = std::time::Instant::now();
        let parallel = site.parallel(self.cluster.pace.parallel);
        let links = links(&site.cluster, site.is_local, agent, screen, notebook)?;
        notebook.news(&started("undo", site));
        open_all(&links, parallel, screen).await?;
        let holder = holder();
        let holds =
            each(&links, parallel, |link| link.take_hold(&holder, &site.cluster.name)).await;
        all_or_refusal(holds, ("KDC-013", "can't be held for this command; nothing was changed"))?;
        let results = in_order(&site.cluster.nodes, &links, parallel).await;
        let rows: Vec<_> = site
            .cluster
            .nodes
            .iter()
            .zip(&results)
            .filter_map(|(node, result)| {
                result.as_ref().map(|result| row_of(&node.name, node.role, result))
            })
            .collect();
        let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        notebook.news(&News::Finished { elapsed_ms, nodes: rows.clone() });
        screen.table(&render_rows(&rows));
        if !self.only.is_empty() && site.cluster.nodes.iter().any(|node| node.gpu.is_some()) {
            screen.say(
                "what the cluster has of these nodes' GPU settings goes once they are out of the cluster file: \
                 `kdc-install apply`",
            );
        }
        let failure = failure_of(&site.cluster.nodes, &results);
        close_all(&links, parallel).await;
        failure.map_or(Ok(()), Err)
    }
}

/// Keep only the nodes named; all, when none is.
fn choose(nodes: &mut Vec<Node>, only: &[String]) -> Result<(), Complaint> {
    for name in only {
        if !nodes.iter().any(|node| node.name == *name) {
            return Err(CommandError::UnknownNode { node: name.clone() }.into());
        }
    }
    nodes.retain(|node| only.is_empty() || only.contains(&node.name));
    Ok(())
}

/// Workers first; control planes only when every worker is undone. By node, `None` where it did
/// not come to that.
async fn in_order(
    nodes: &[Node],
    links: &[NodeLink<'_>],
    parallel: usize,
) -> Vec<Option<NodeResult>> {
    let mut results: Vec<Option<NodeResult>> = nodes.iter().map(|_| None).collect();
    for role in [Role::Worker, Role::ControlPlane] {
        let places: Vec<usize> =
            (0..nodes.len()).filter(|place| nodes[*place].role == role).collect();
        let chosen: Vec<&NodeLink<'_>> = places.iter().map(|place| &links[*place]).collect();
        let ended = take_back(&chosen, parallel).await;
        let good = ended.iter().all(|result| result.end.is_taken_back());
        for (place, result) in places.into_iter().zip(ended) {
            results[place] = Some(result);
        }
        if !good {
            break;
        }
    }
    results
}

fn failure_of(nodes: &[Node], results: &[Option<NodeResult>]) -> Option<Complaint> {
    let mut parts = Vec::new();
    for (node, result) in nodes.iter().zip(results) {
        let name = &node.name;
        match result.as_ref().map(|result| &result.end) {
            Some(end) if end.is_taken_back() => {}
            Some(NodeEnd::Run(Outcome::Failed { step, failure })) => parts.push(
                Complaint::from_agent(name, failure, Exit::Interrupted)
                    .cause(format!("step `{step}` could not be taken back")),
            ),
            Some(NodeEnd::Lost(error)) => parts.push(of_node(error, Exit::Interrupted)),
            Some(_) => {
                let text = format!("node `{name}`: the undo keeps ending without a word");
                parts.push(Complaint::new("KDC-022", Exit::Interrupted, text));
            }
            None => {
                let text = format!("node `{name}` was left alone: a worker is not undone yet");
                parts.push(Complaint::new("KDC-028", Exit::Interrupted, text));
            }
        }
    }
    if parts.is_empty() {
        return None;
    }
    let text = format!("{} of {} node(s) are not undone yet", parts.len(), nodes.len());
    Some(
        Complaint::new("KDC-029", Exit::Interrupted, text).parts(parts).hint(
            "run `undo` again: it goes on where it stopped; leave a dead node out with `--only`",
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kdc_agent::wire::Failure;

    use super::*;

    #[test]
    fn a_worker_that_is_not_undone_leaves_the_control_plane_alone_and_both_are_named() {
        let nodes = crate::plan::samples::cluster().nodes;
        let failure =
            Failure { code: "STEP-007".into(), message: "no such file".into(), hint: None };
        let failed = Outcome::Failed { step: "packages".to_owned(), failure };
        for (end, code, words) in [
            (failed, "STEP-007", "step `packages` could not be taken back"),
            (Outcome::Interrupted, "KDC-022", "keeps ending without a word"),
        ] {
            let (run, end) = ("r1".to_owned(), NodeEnd::Run(end));
            let worker = NodeResult { run, end, elapsed: Duration::ZERO, sent_bytes: 0 };
            let complaint = failure_of(&nodes, &[None, Some(worker)]).unwrap();
            assert_eq!((&*complaint.code, complaint.exit), ("KDC-029", Exit::Interrupted));
            let codes: Vec<&str> = complaint.parts.iter().map(|part| &*part.code).collect();
            assert_eq!(codes, ["KDC-028", code]);
            let text = complaint.render(false);
            for word in ["node `cp1` was left alone", "node `w1`", words, "--only"] {
                assert!(text.contains(word), "{word}: {text}");
            }
        }
    }
}
