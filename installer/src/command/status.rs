//! `status`: what kdc has done on each node, and how the cluster is.

use super::arguments::{BundleArguments, ClusterArguments};
use crate::show::{Complaint, Look};

/// Show the runs on every node, what is in force, and whether it is Ready; changes nothing
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  kdc-install status\n  \
    kdc-install status --output json | jq '.nodes[] | select(.ready | not)'")]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
    #[command(flatten)]
    pub(crate) bundle: BundleArguments,
}

impl Status {
    pub(crate) async fn run(&self, look: Look) -> Result<(), Complaint> {
        super::not_yet(look)
    }
}
