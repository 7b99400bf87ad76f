//! `plan`: what `apply` would do, as data.

use std::{path::PathBuf, sync::Arc};

use kdc_agent::wire::{RequestBody, ShownPlan};
use serde::Serialize;

use super::{
    CommandError,
    arguments::{BundleArguments, ClusterArguments},
    carry_out::holder,
    judge::judge,
    licensing,
    opened::Opened,
    report::ensure_writable,
    site::{NodeLink, Site, close_all, links, look as look_at, open_all, started},
};
use crate::{
    fleet::each,
    plan::{self, ClusterPlan, Inputs, PlanError, entitled::Entitled},
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
        let inputs = Inputs {
            cluster: &site.cluster,
            profile: &site.profile,
            index: opened.index(),
            index_digest: opened.digest(),
            facts: &seen.facts,
        };
        let judged = judge(&site, &seen, &inputs)?;
        let entitled = match judged.refusal() {
            Some(refusal) => Err(refusal),
            None => licensing::gate(&site, &seen, &links, &screen).await,
        };
        let planned = entitled.and_then(|license| {
            let plan = plan::plan(&inputs).map_err(CommandError::Plan)?;
            Ok((plan, license))
        });
        if let Ok((plan, _)) = &planned {
            put_on_record(&links, parallel, plan, &screen).await?;
        }
        close_all(&links, parallel).await;
        screen.settle();
        let (plan, license) = planned?;
        let document = Document { event: "plan", plan: &plan, license: &license };
        screen.document(&document, || plan::render(&plan) + &license.render());
        if let Some(path) = &self.save {
            plan.save(path).map_err(CommandError::SavedPlan)?;
            screen.say(&format!("plan saved: {}", path.display()));
        }
        Ok(())
    }
}

/// That the plan was shown goes into the audit logs of nodes that keep one already; others stay untouched.
async fn put_on_record(
    links: &[NodeLink<'_>],
    parallel: usize,
    plan: &ClusterPlan,
    screen: &Screen,
) -> Result<(), Complaint> {
    let digest = plan.digest().map_err(PlanError::Json).map_err(CommandError::Plan)?;
    let (operator, digest) = (&holder(), &digest);
    let told = each(links.iter().zip(&plan.nodes), parallel, |(link, node)| async move {
        let shown = ShownPlan {
            operator: operator.clone(),
            cluster: plan.cluster.clone(),
            plan: digest.clone(),
            nodes: plan.nodes.len() as u64,
            steps: node.plan.steps.len() as u64,
        };
        link.tell(RequestBody::PlanShown(shown), "planShown").await
    })
    .await;
    for error in told.into_iter().filter_map(Result::err) {
        screen.say(&format!("the plan is not in every audit log: {error}"));
    }
    Ok(())
}

/// The plan as a line of `--output json`.
#[derive(Serialize)]
struct Document<'a> {
    event: &'static str,
    #[serde(flatten)]
    plan: &'a ClusterPlan,
    /// What it needs the licence's word for, and the word.
    license: &'a Entitled,
}
