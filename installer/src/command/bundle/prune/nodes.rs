//! `bundle prune nodes`: what nothing in force needs leaves the nodes' stores.

use std::sync::Arc;

use kdc_agent::wire::{Reply, RequestBody};
use serde::Serialize;

use crate::{
    command::{
        arguments::{BundleArguments, ClusterArguments},
        carry_out::holder,
        ending::all_or_refusal,
        interrupt::until_ctrl_c,
        site::{Site, agent_to_stage, close_all, links, open_all},
    },
    fleet::{each, wrong_answer},
    show::{Complaint, Look, Screen, Silent, plain::render_bytes, table},
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
        let nodes = all_or_refusal(answers, ("KDC-010", "can't be pruned"))?;
        let bytes = nodes.iter().map(|node| node.bytes).sum();
        let cluster = site.cluster.name.clone();
        let pruned = Pruned { cluster, dry_run, bytes, nodes };
        screen.document(&pruned, || pruned.render());
        Ok(())
    }
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
