//! `undo`: take back everything kdc did.

use super::arguments::{BundleArguments, ClusterArguments, ConsentArguments};
use crate::show::{Complaint, Look};

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
        super::not_yet(look)
    }
}
