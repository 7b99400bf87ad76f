//! `check`: look at every node, judge, change nothing.

use std::sync::Arc;

use super::{
    arguments::{BundleArguments, ClusterArguments},
    judge::{judge, judge_without_bundle},
    opened::Opened,
    site::{Site, agent_beside, close_all, links, look as look_at, open_all, started},
};
use crate::{
    plan::Inputs,
    show::{Complaint, Look, Observer, Screen},
};

/// Look at every node and say what would stop an install; changes nothing
///
/// Connects, reads facts, judges each node and all of them together (names, addresses, clocks,
/// disk space, ports, foreign software). Ends with exit code 3 if anything fails or could not be
/// looked at. Without a bundle the `kdc-agent` beside kdc-install does the looking.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  kdc-install check\n  \
    kdc-install check -f site.yaml --bundle kdc.bundle --output json")]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
    #[command(flatten)]
    pub(crate) bundle: BundleArguments,
}

impl Check {
    pub(crate) async fn run(&self, look: Look) -> Result<(), Complaint> {
        let site = Site::load(&self.cluster)?;
        let screen = Arc::new(Screen::new(look, site.cluster.nodes.len(), false));
        let opened = Opened::from_arguments(&self.bundle, &screen).await?;
        let agent = match &opened {
            Some(opened) => opened.agent()?,
            None => agent_beside()?,
        };
        let parallel = site.parallel(self.cluster.pace.parallel);
        let links = links(&site.cluster, site.is_local, &agent, &screen, screen.as_ref())?;
        screen.news(&started("check", &site));
        open_all(&links, parallel, &screen).await?;
        let seen = look_at(&links, parallel).await?;
        close_all(&links, parallel).await;
        screen.settle();
        let judged = match &opened {
            Some(opened) => judge(
                &site,
                &seen,
                &Inputs {
                    cluster: &site.cluster,
                    profile: &site.profile,
                    index: opened.index(),
                    index_digest: opened.digest(),
                    facts: &seen.facts,
                },
            )?,
            None => {
                screen.say(
                    "without --bundle, platforms, systems, packages and disk sizes are not judged",
                );
                judge_without_bundle(&site, &seen)?
            }
        };
        screen.document(&judged, || judged.render());
        judged.refusal().map_or(Ok(()), Err)
    }
}
