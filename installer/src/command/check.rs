//! `check`: look at every node, judge, change nothing.

use super::arguments::{BundleArguments, ClusterArguments};
use crate::show::{Complaint, Look};

/// Look at every node and say what would stop an install; changes nothing
///
/// Connects, reads facts, judges each node and all of them together (names, addresses, clocks,
/// disk space, ports, foreign software). Ends with exit code 3 if anything fails or could not be
/// looked at. Without a bundle the `kdc-agent` beside kdc-install does the looking.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  kdc-install check\n  \
    kdc-install check -f site.yaml --bundle kdc.bundle --output json")]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
    #[command(flatten)]
    pub(crate) bundle: BundleArguments,
}

impl Check {
    pub(crate) async fn run(&self, look: Look) -> Result<(), Complaint> {
        super::not_yet(look)
    }
}
