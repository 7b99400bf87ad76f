//! `kubeconfig`: the admin kubeconfig of a running cluster.

use std::path::PathBuf;

use super::arguments::{BundleArguments, ClusterArguments};
use crate::show::{Complaint, Look};

/// Fetch the admin kubeconfig from a control plane, to stdout or into a file only you can read
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  kdc-install kubeconfig -o ~/.kube/config\n  \
    kubectl --kubeconfig <(kdc-install kubeconfig) get nodes")]
pub(crate) struct Kubeconfig {
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
    #[command(flatten)]
    pub(crate) bundle: BundleArguments,
    /// Write it here, mode 0600, instead of to stdout
    #[arg(short = 'o', long = "save", value_name = "OUT")]
    pub(crate) save: Option<PathBuf>,
}

impl Kubeconfig {
    pub(crate) async fn run(&self, look: Look) -> Result<(), Complaint> {
        super::not_yet(look)
    }
}
