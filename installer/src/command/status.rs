//! `status`: what kdc has done on each node, and how the cluster is.

use std::sync::Arc;

use kdc_agent::{
    step::{Condition, PlannedStep, REBOOT, Step},
    wire::{Outcome, Reply, RequestBody, RunSummary, Surveyed},
};
use kdc_profiles::cluster::Role;
use serde::Serialize;

use super::{
    arguments::{BundleArguments, ClusterArguments},
    ending::all_or_refusal,
    site::{NodeLink, Site, agent_to_stage, close_all, links, open_all},
};
use crate::{
    fleet::{each, wrong_answer},
    show::{Complaint, Look, Screen, Silent, table},
};

/// Show the runs on every node, what is in force, and whether it is Ready; changes nothing
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  kdc-install status\n  \
    kdc-install status --output json | jq '.nodes[] | select(.ready | not)'")]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
    #[command(flatten)]
    pub(crate) bundle: BundleArguments,
}

impl Status {
    pub(crate) async fn run(&self, look: Look) -> Result<(), Complaint> {
        let site = Site::load(&self.cluster)?;
        let screen = Arc::new(Screen::new(look, site.cluster.nodes.len(), false));
        let agent = agent_to_stage(&self.bundle, &screen).await?;
        let parallel = site.parallel(self.cluster.pace.parallel);
        let links = links(&site.cluster, site.is_local, &agent, &screen, &Silent)?;
        open_all(&links, parallel, &screen).await?;
        let runs = each(&links, parallel, |link| async move {
            match link.ask(RequestBody::Runs).await? {
                Reply::Runs { runs } => Ok(runs),
                _ => Err(wrong_answer(link.node(), "runs")),
            }
        })
        .await;
        let runs = all_or_refusal(runs, ("KDC-010", "can't be looked at"))?;
        let ready = ask_ready(&site, &links).await;
        close_all(&links, parallel).await;
        let nodes = site.cluster.nodes.iter().zip(runs).zip(ready).map(|((node, runs), ready)| {
            NodeStatus {
                node: node.name.clone(),
                role: node.role,
                ready: ready.as_ref().map(|ready| ready.satisfied),
                detail: ready.map(|ready| ready.detail).unwrap_or_default(),
                runs,
            }
        });
        let cluster = site.cluster.name.clone();
        let status = ClusterStatus { event: "status", cluster, nodes: nodes.collect() };
        screen.document(&status, || status.render());
        Ok(())
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ClusterStatus {
    event: &'static str,
    cluster: String,
    nodes: Vec<NodeStatus>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeStatus {
    node: String,
    role: Role,
    /// Kubernetes says Ready; absent where no API server answers.
    ready: Option<bool>,
    detail: String,
    /// Oldest first.
    runs: Vec<RunSummary>,
}

/// Whether Kubernetes counts each node as Ready, by surveying a wait on a control plane, which
/// changes nothing. `None` where nobody could tell.
async fn ask_ready(site: &Site, links: &[NodeLink<'_>]) -> Vec<Option<Surveyed>> {
    let nodes = &site.cluster.nodes;
    let nobody = || nodes.iter().map(|_| None).collect();
    let Some(place) = nodes.iter().position(|node| node.role == Role::ControlPlane) else {
        return nobody();
    };
    let wait = |id: &str, condition| {
        let (id, phase) = (id.to_owned(), "status".to_owned());
        let step = Step::WaitUntil { condition, timeout_secs: 0 };
        PlannedStep { id, phase, step, needs: Vec::new() }
    };
    let mut steps = vec![wait("api", Condition::ApiReady)];
    steps.extend(
        nodes
            .iter()
            .map(|node| wait(&node.name, Condition::NodesReady { nodes: vec![node.name.clone()] })),
    );
    match links[place].ask(RequestBody::Survey { steps, index: None }).await {
        Ok(Reply::Survey { steps }) if steps.first().is_some_and(|api| api.satisfied) => {
            let mut ready: Vec<_> = steps.into_iter().skip(1).map(Some).collect();
            ready.resize(nodes.len(), None);
            ready
        }
        Ok(_) | Err(_) => nobody(),
    }
}

fn render_outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Finished { changed, found } => {
            format!("finished ({changed} changed, {found} found)")
        }
        Outcome::Failed { step, failure } if failure.code == REBOOT => {
            format!("waits for a reboot at {step} [{REBOOT}]")
        }
        Outcome::Failed { step, failure } => format!("failed at {step} [{}]", failure.code),
        Outcome::Undone { steps } => format!("undone ({steps} steps)"),
        Outcome::Interrupted => "interrupted: `apply` again goes on".to_owned(),
        Outcome::Running { awaits: Some(value) } => format!("running, waits for `{value}`"),
        Outcome::Running { awaits: None } => "running".to_owned(),
    }
}

impl ClusterStatus {
    fn render(&self) -> String {
        let mut rows = Vec::new();
        for node in &self.nodes {
            let ready = match node.ready {
                Some(true) => "Ready",
                Some(false) => "not Ready",
                None => "unknown",
            };
            let in_force = node.runs.iter().filter(|run| run.in_force).count();
            let (run, outcome) = match node.runs.last() {
                Some(run) => (run.run.clone(), render_outcome(&run.outcome)),
                None => ("none".to_owned(), "kdc has done nothing here".to_owned()),
            };
            let role = node.role.as_str().to_owned();
            rows.push(vec![
                node.node.clone(),
                role,
                ready.to_owned(),
                in_force.to_string(),
                run,
                outcome,
            ]);
        }
        table::render(&["NODE", "ROLE", "READY", "IN FORCE", "LAST RUN", "OUTCOME"], &rows)
    }
}
