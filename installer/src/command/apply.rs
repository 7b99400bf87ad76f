//! `apply`: make the nodes what the cluster file says.

use std::path::PathBuf;

use super::arguments::{BundleArguments, ConsentArguments, PaceArguments};
use crate::show::{Complaint, Look};

/// Make the nodes what the cluster file says, or carry out a saved plan
///
/// Checks everything first and refuses before anything changes. The nodes then work by
/// themselves: if this command ends, by Ctrl-C, a crash or a lost connection, they carry on, and
/// running `apply` again from any machine watches them, goes on where they stopped, and finishes.
/// When everything is as wanted already it says so and writes nothing.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  kdc-install apply --bundle kdc.bundle\n  \
    kdc-install apply -f site.yaml --bundle kdc.bundle --kubeconfig site.kubeconfig\n  \
    kdc-install apply plan.json --bundle kdc.bundle --yes")]
pub(crate) struct Apply {
    /// A plan saved by `plan -o`; carried out as it is, or refused
    #[arg(value_name = "PLAN", conflicts_with = "file")]
    pub(crate) plan: Option<PathBuf>,
    /// The cluster file [default: cluster.yaml]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) pace: PaceArguments,
    #[command(flatten)]
    pub(crate) bundle: BundleArguments,
    #[command(flatten)]
    pub(crate) consent: ConsentArguments,
    /// Where to save the admin kubeconfig (mode 0600) [default: ./CLUSTER.kubeconfig]
    #[arg(long, value_name = "OUT")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Where to save the run report [default: ./kdc-report-CLUSTER-TIME.json]
    #[arg(long, value_name = "OUT")]
    pub(crate) report: Option<PathBuf>,
}

impl Apply {
    pub(crate) async fn run(&self, look: Look) -> Result<(), Complaint> {
        super::not_yet(look)
    }
}
