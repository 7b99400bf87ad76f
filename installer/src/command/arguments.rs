//! Flags that several commands share.

use std::path::PathBuf;

/// A cluster's name as the cluster file takes it, so that a wrong one is told before any work.
pub(crate) fn cluster_name(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let framed = text.starts_with('-') || text.ends_with('-');
    if (1..=63).contains(&text.len()) && text.bytes().all(fits) && !framed {
        return Ok(text.to_owned());
    }
    Err("expected lower-case letters, digits and `-` (1 to 63)".to_owned())
}

/// Which cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct ClusterArguments {
    /// The cluster file
    #[arg(short, long, value_name = "FILE", default_value = "cluster.yaml")]
    pub(crate) file: PathBuf,
    /// The cluster's one node is this very machine: work on it without SSH
    #[arg(long)]
    pub(crate) local: bool,
    #[command(flatten)]
    pub(crate) pace: PaceArguments,
}

/// How many nodes at once.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct PaceArguments {
    /// Nodes worked on at once [default: `spec.settings.parallel` of the cluster file, or 50]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) parallel: Option<u16>,
}

/// Which bundle, and whose signature counts.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct BundleArguments {
    /// The bundle: a file, one of its parts, or a folder or stick that holds it; several times for
    /// parts on several sticks. It is verified before anything touches a node
    #[arg(long, value_name = "PATH")]
    pub(crate) bundle: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) keys: KeyArguments,
}

/// Whose signature counts.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct KeyArguments {
    /// Public key or trust file; may be given several times [default: /etc/kdc-install/trust.yaml,
    /// else ~/.config/kdc/trusted/*.pub]
    #[arg(long = "key", value_name = "KEY.pub")]
    pub(crate) keys: Vec<PathBuf>,
}

/// How a cluster is installed, and what is kept of it: what `apply` and `up` take alike.
#[derive(Debug, clap::Args)]
pub(crate) struct InstallArguments {
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

/// Answers given beforehand.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct ConsentArguments {
    /// Don't ask, go ahead
    #[arg(short, long)]
    pub(crate) yes: bool,
}
