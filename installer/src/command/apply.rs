//! `apply`: make the nodes what the cluster file says.

use std::{path::PathBuf, sync::Arc};

use super::{
    CommandError,
    arguments::{ClusterArguments, InstallArguments},
    carry_out::{Wishes, carry_out},
    opened::Opened,
    site::Site,
};
use crate::{
    plan::ClusterPlan,
    show::{Complaint, Look, Screen},
};

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
    #[arg(value_name = "PLAN")]
    pub(crate) plan: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
    #[command(flatten)]
    pub(crate) install: InstallArguments,
}

impl Apply {
    pub(crate) async fn run(&self, look: Look) -> Result<(), Complaint> {
        let saved = match &self.plan {
            Some(path) => Some(ClusterPlan::load(path).map_err(CommandError::SavedPlan)?),
            None => None,
        };
        let site = Site::load(&self.cluster)?;
        let screen = Arc::new(Screen::new(look, site.cluster.nodes.len(), true));
        let opened = Opened::needed_by("apply", &self.install.bundle, &screen).await?;
        let parallel = site.parallel(self.cluster.pace.parallel);
        let wishes = Wishes { command: "apply", arguments: &self.install, parallel, saved };
        carry_out(&site, &opened, &wishes, &screen).await
    }
}
