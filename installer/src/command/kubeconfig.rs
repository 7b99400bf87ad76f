//! `kubeconfig`: the admin kubeconfig of a running cluster.

use std::{path::PathBuf, sync::Arc};

use kdc_agent::wire::{Reply, RequestBody, SecretText};
use kdc_profiles::cluster::Role;

use super::{
    arguments::{BundleArguments, ClusterArguments},
    error::of_node,
    report::{ensure_writable, write_private},
    site::{NodeLink, Site, agent_to_stage, close_all, links, open_all},
};
use crate::{
    fleet::wrong_answer,
    show::{Complaint, Exit, Look, Screen},
    ssh::SshError,
};

/// The agent's code for a node without admin kubeconfig.
const NO_KUBECONFIG: &str = "AGENT-028";

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
        let mut site = Site::load(&self.cluster)?;
        if let Some(path) = &self.save {
            ensure_writable(path)?;
        }
        site.cluster.nodes.retain(|node| node.role == Role::ControlPlane);
        let screen = Arc::new(Screen::new(look, 1, false));
        let agent = agent_to_stage(&self.bundle, &screen).await?;
        site.cluster.nodes.truncate(1);
        let links = links(&site.cluster, site.is_local, &agent, &screen, &crate::show::Silent)?;
        open_all(&links, 1, &screen).await?;
        let link = links.first().expect("a cluster file without control plane is refused");
        let content = fetch(link).await?;
        close_all(&links, 1).await;
        match &self.save {
            Some(path) => {
                write_private(path, content.expose().as_bytes(), 0o600)?;
                screen.say(&format!("kubeconfig: {}", path.display()));
            }
            None => screen.raw(content.expose()),
        }
        Ok(())
    }
}

/// The admin kubeconfig of a control plane.
pub(crate) async fn fetch(link: &NodeLink<'_>) -> Result<SecretText, Complaint> {
    match link.ask(RequestBody::Kubeconfig).await {
        Ok(Reply::Kubeconfig { content }) => Ok(content),
        Ok(_) => Err(of_node(&wrong_answer(link.node(), "kubeconfig"), Exit::Internal)),
        Err(SshError::Agent { failure, .. }) if failure.code == NO_KUBECONFIG => {
            Err(Complaint::from_agent(link.node(), &failure, Exit::Refused)
                .hint("its install is not finished: look at `kdc-install status`"))
        }
        Err(error) => Err(of_node(&error, Exit::Refused)),
    }
}
