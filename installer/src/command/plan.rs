//! `plan`: what `apply` would do, as data.

use std::path::PathBuf;

use super::arguments::{BundleArguments, ClusterArguments};
use crate::show::{Complaint, Look};

/// Show what `apply` would do, where, why and in which order; changes nothing
///
/// The plan names every step on every node, the bytes that will be sent and the space that each
/// node needs at most. A saved plan can be reviewed, and `apply PLAN` carries out exactly that
/// plan or refuses when the nodes, the cluster file or the bundle have changed since.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  kdc-install plan --bundle kdc.bundle\n  \
    kdc-install plan --bundle kdc.bundle -o plan.json\n  \
    kdc-install plan --bundle kdc.bundle --output json | jq .nodes")]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
    #[command(flatten)]
    pub(crate) bundle: BundleArguments,
    /// Also save the plan here, for `apply PLAN`
    #[arg(short = 'o', long = "save", value_name = "PLAN")]
    pub(crate) save: Option<PathBuf>,
}

impl Plan {
    pub(crate) async fn run(&self, look: Look) -> Result<(), Complaint> {
        super::not_yet(look)
    }
}
