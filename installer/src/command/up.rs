//! `up`: a cluster without a cluster file.

use std::path::PathBuf;

use super::arguments::{BundleArguments, ConsentArguments, PaceArguments};
use crate::show::{Complaint, Look};

/// Make a cluster of this machine, or of the hosts named, without a cluster file
///
/// Without --host it is this very machine, without SSH. With --host the first one becomes the
/// control plane and the others workers. `up` is `apply` with a cluster file made for you;
/// --write-file keeps it for later changes.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  sudo kdc-install up --bundle kdc.bundle\n  \
    kdc-install up --bundle kdc.bundle --host root@10.0.0.11 --host root@10.0.0.12")]
pub(crate) struct Up {
    /// A server, `[user@]address[:port]`; repeat it for more. The first is the control plane
    #[arg(long = "host", value_name = "HOST")]
    pub(crate) hosts: Vec<String>,
    /// Name of the cluster
    #[arg(long, default_value = "kdc", value_name = "NAME")]
    pub(crate) name: String,
    /// Keep the cluster file that stands for this cluster
    #[arg(long, value_name = "FILE")]
    pub(crate) write_file: Option<PathBuf>,
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

impl Up {
    pub(crate) async fn run(&self, look: Look) -> Result<(), Complaint> {
        super::not_yet(look)
    }
}
