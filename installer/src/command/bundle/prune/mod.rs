//! `bundle prune`: give room back.

mod cache;
mod nodes;

use crate::show::{Complaint, Look, Screen};

/// Remove content that nothing needs any more, from the builder's cache or from nodes
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install bundle prune cache --lock site.lock.yaml --bundle kdc.bundle --dry-run\n  \
    kdc-install bundle prune nodes -f cluster.yaml")]
pub(super) struct Prune {
    #[command(subcommand)]
    place: Place,
}

#[derive(Debug, clap::Subcommand)]
enum Place {
    Cache(cache::PruneCache),
    Nodes(nodes::PruneNodes),
}

impl Prune {
    pub(super) async fn run(&self, look: Look) -> Result<(), Complaint> {
        match &self.place {
            Place::Cache(command) => Ok(command.run(&Screen::new(look, 0, false))?),
            Place::Nodes(command) => command.run(look).await,
        }
    }
}
