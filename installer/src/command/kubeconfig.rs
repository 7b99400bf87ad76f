//! `kubeconfig`: the admin kubeconfig of a running cluster.

use std::{path::PathBuf, sync::Arc};

use kdc_agent::wire::{Reply, RequestBody, SecretText};
use kdc_profiles::cluster::Role;

use super::{
    arguments::{BundleArguments, ClusterArguments},
    error::of_node,
    report::write_private,
    site::{NodeLink, Site, agent_to_stage, close_all, links, open_all},
};
use crate::{
    fleet::wrong_answer,
    show::{Complaint, Exit, Look, Screen},
};

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
        site.cluster.nodes.retain(|node| node.role == Role::ControlPlane);
        let screen = Arc::new(Screen::new(look, 1, false));
        let agent = agent_to_stage(&self.bundle, &screen).await?;
        site.cluster.nodes.truncate(1);
        let links = links(&site.cluster, site.is_local, &agent, &screen, &crate::show::Silent)?;
        open_all(&links, 1, &screen).await?;
        let Some(link) = links.first() else {
            return Err(Complaint::new("KDC-027", Exit::Usage, "no node is a control plane"));
        };
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
        Err(error) => Err(of_node(&error, Exit::Refused)),
    }
}
