//! `bundle prune nodes`: what nothing in force needs leaves the nodes' stores.

use std::sync::Arc;

use kdc_agent::wire::{Reply, RequestBody};
use serde::Serialize;

use crate::{
    command::{
        arguments::{BundleArguments, ClusterArguments},
        carry_out::holder,
        ending::all_or_refusal,
        error::of_nodes,
        interrupt::until_ctrl_c,
        site::{Site, agent_to_stage, close_all, links, open_all},
    },
    fleet::{each, wrong_answer},
    show::{Complaint, Exit, Look, Screen, Silent, plain::render_bytes, table},
    ssh::SshError,
};

/// Remove from the nodes what nothing in force there needs
///
/// What the plans of runs in force name stays, so that they can be resumed or repaired without being
/// sent again. A node where a run goes on refuses, and nothing is removed from it.
#[derive(Debug, clap::Args)]
pub(super) struct PruneNodes {
    #[command(flatten)]
    cluster: ClusterArguments,
    #[command(flatten)]
    bundle: BundleArguments,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pruned {
    cluster: String,
    dry_run: bool,
    bytes: u64,
    nodes: Vec<PrunedNode>,
}

#[derive(Serialize)]
struct PrunedNode {
    node: String,
    files: u64,
    bytes: u64,
}

impl PruneNodes {
    pub(super) async fn run(&self, look: Look) -> Result<(), Complaint> {
        until_ctrl_c(|| !self.dry_run, self.prune(look)).await
    }

    async fn prune(&self, look: Look) -> Result<(), Complaint> {
        let site = Site::load(&self.cluster)?;
        let screen = Arc::new(Screen::new(look, site.cluster.nodes.len(), false));
        let agent = agent_to_stage(&self.bundle, &screen).await?;
        let parallel = site.parallel(self.cluster.pace.parallel);
        let links = links(&site.cluster, site.is_local, &agent, &screen, &Silent)?;
        open_all(&links, parallel, &screen).await?;
        let holder = holder();
        let holds =
            each(&links, parallel, |link| link.take_hold(&holder, &site.cluster.name)).await;
        all_or_refusal(holds, ("KDC-013", "can't be held for this command; nothing was changed"))?;
        let dry_run = self.dry_run;
        let answers = each(&links, parallel, |link| async move {
            match link.ask(RequestBody::Prune { dry_run }).await? {
                Reply::Pruned { files, bytes } => {
                    Ok(PrunedNode { node: link.node().to_owned(), files, bytes })
                }
                _ => Err(wrong_answer(link.node(), "prune")),
            }
        })
        .await;
        close_all(&links, parallel).await;
        let (pruned, failure) = sort(&site.cluster.name, dry_run, answers);
        if !pruned.nodes.is_empty() {
            screen.document(&pruned, || pruned.render());
        }
        failure.map_or(Ok(()), Err)
    }
}

/// The nodes that did it, and what is to be said of the others: that nothing was changed only where
/// nothing was.
fn sort(
    cluster: &str,
    dry_run: bool,
    answers: Vec<Result<PrunedNode, SshError>>,
) -> (Pruned, Option<Complaint>) {
    let all = answers.len();
    let (mut nodes, mut errors) = (Vec::new(), Vec::new());
    for answer in answers {
        match answer {
            Ok(node) => nodes.push(node),
            Err(error) => errors.push(error),
        }
    }
    let failure = if errors.is_empty() {
        None
    } else if dry_run || nodes.is_empty() {
        let what = "can't be pruned; nothing was changed";
        Some(of_nodes(("KDC-010", Exit::Refused), &errors, all, what))
    } else {
        let what = "are not pruned; the others are";
        let failure = of_nodes(("KDC-032", Exit::Interrupted), &errors, all, what);
        Some(failure.hint("repair those, then the same command again"))
    };
    let bytes = nodes.iter().map(|node| node.bytes).sum();
    (Pruned { cluster: cluster.to_owned(), dry_run, bytes, nodes }, failure)
}

impl Pruned {
    fn render(&self) -> String {
        let row = |node: &PrunedNode| {
            vec![node.node.clone(), node.files.to_string(), render_bytes(node.bytes)]
        };
        let rows: Vec<_> = self.nodes.iter().map(row).collect();
        let freed = if self.dry_run { "WOULD BE FREED" } else { "FREED" };
        table::render(&["NODE", "FILES", freed], &rows)
    }
}

#[cfg(test)]
mod tests {
    use kdc_agent::wire::Failure;

    use super::*;

    fn busy(node: &str) -> Result<PrunedNode, SshError> {
        let failure = Failure {
            code: "AGENT-024".to_owned(),
            message: "run r1 goes on".to_owned(),
            hint: Some("wait for it".to_owned()),
        };
        Err(SshError::Agent { node: node.to_owned(), failure: Box::new(failure) })
    }

    fn done(node: &str) -> Result<PrunedNode, SshError> {
        Ok(PrunedNode { node: node.to_owned(), files: 2, bytes: 2048 })
    }

    #[test]
    fn who_was_pruned_is_told_beside_who_was_not() {
        let (pruned, failure) = sort("c", false, vec![done("a"), busy("b"), done("d")]);
        assert_eq!((pruned.bytes, pruned.nodes.len()), (4096, 2));
        let failure = failure.unwrap();
        assert_eq!((&*failure.code, failure.exit), ("KDC-032", Exit::Interrupted));
        let said = failure.render(false);
        assert!(said.contains("1 of 3 node(s) are not pruned") && said.contains("`b`"), "{said}");

        for (dry_run, answers) in [(true, vec![done("a"), busy("b")]), (false, vec![busy("b")])] {
            let failure = sort("c", dry_run, answers).1.unwrap();
            assert_eq!((&*failure.code, failure.exit), ("KDC-010", Exit::Refused));
            assert!(failure.render(false).contains("nothing was changed"));
        }
        assert!(sort("c", false, vec![done("a")]).1.is_none());
    }
}
