//! `init`: a commented cluster file to start from.

use std::path::PathBuf;

use crate::show::{Complaint, Screen};

/// Write a commented cluster file; asks for the addresses if none are given
///
/// Every setting is in the file, with its default and what it is for.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  kdc-install init\n  \
    kdc-install init --control-plane root@10.0.0.11 --worker root@10.0.0.12 -f site.yaml")]
pub(crate) struct Init {
    /// Where to write it
    #[arg(short, long, value_name = "FILE", default_value = "cluster.yaml")]
    pub(crate) file: PathBuf,
    /// Name of the cluster
    #[arg(long, default_value = "kdc", value_name = "NAME")]
    pub(crate) name: String,
    /// Profile: `single` or `cluster` [default: by the number of nodes]
    #[arg(long, value_name = "PROFILE")]
    pub(crate) profile: Option<String>,
    /// Control plane, `[user@]address[:port]`
    #[arg(long, value_name = "HOST")]
    pub(crate) control_plane: Option<String>,
    /// Worker, `[user@]address[:port]`; repeat it for more
    #[arg(long = "worker", value_name = "HOST")]
    pub(crate) workers: Vec<String>,
    /// Overwrite a file that is there
    #[arg(long)]
    pub(crate) force: bool,
}

impl Init {
    pub(crate) fn run(&self, screen: &Screen) -> Result<(), Complaint> {
        super::not_yet(screen.look())
    }
}
