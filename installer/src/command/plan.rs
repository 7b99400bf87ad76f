//! `plan`: what `apply` would do, as data.

use std::{path::PathBuf, sync::Arc};

use serde::Serialize;

use super::{
    CommandError,
    arguments::{BundleArguments, ClusterArguments},
    judge::judge,
    opened::Opened,
    report::ensure_writable,
    site::{Site, close_all, links, look as look_at, open_all, started},
};
use crate::{
    plan::{self, ClusterPlan, Inputs},
    show::{Complaint, Look, Observer, Screen},
};

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
        let site = Site::load(&self.cluster)?;
        if let Some(path) = &self.save {
            ensure_writable(path)?;
        }
        let screen = Arc::new(Screen::new(look, site.cluster.nodes.len(), false));
        let opened = Opened::needed_by("plan", &self.bundle, &screen).await?;
        let parallel = site.parallel(self.cluster.pace.parallel);
        let links =
            links(&site.cluster, site.is_local, &opened.agent()?, &screen, screen.as_ref())?;
        screen.news(&started("plan", &site));
        open_all(&links, parallel, &screen).await?;
        let seen = look_at(&links, parallel).await?;
        close_all(&links, parallel).await;
        screen.settle();
        let inputs = Inputs {
            cluster: &site.cluster,
            profile: &site.profile,
            index: opened.index(),
            index_digest: opened.digest(),
            facts: &seen.facts,
        };
        if let Some(refusal) = judge(&site, &seen, &inputs)?.refusal() {
            return Err(refusal);
        }
        let plan = plan::plan(&inputs).map_err(CommandError::Plan)?;
        screen.document(&Document { event: "plan", plan: &plan }, || plan::render(&plan));
        if let Some(path) = &self.save {
            plan.save(path).map_err(CommandError::SavedPlan)?;
            screen.say(&format!("plan saved: {}", path.display()));
        }
        Ok(())
    }
}

/// The plan as a line of `--output json`.
#[derive(Serialize)]
struct Document<'a> {
    event: &'static str,
    #[serde(flatten)]
    plan: &'a ClusterPlan,
}
