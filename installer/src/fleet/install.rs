//! The order of an install over all nodes: survey, hold, distribute, conduct.

use kdc_agent::{
    step::NodePlan,
    wire::{Reply, RequestBody, Surveyed},
};
use kdc_bundles::index::Digest;

use super::{
    Door, Load, all_or_failures,
    conduct::{NodeResult, conduct},
    distribute::distribute,
    each,
    link::Link,
    wrong_answer,
};
use crate::{show::news::Stage, ssh::SshError};

/// What is to be done, on which terms. Plans are in the order of the links.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// Cluster name.
    pub cluster: &'a str,
    /// One plan a node.
    pub plans: &'a [NodePlan],
    /// Blobs each node needs in its store.
    pub blobs: &'a [Vec<Digest>],
    /// What the nodes' stores are fed from.
    pub load: Load<'a>,
    /// Who works here, for a second installer to read (`ops@laptop pid 4711`).
    pub holder: &'a str,
    /// Run id for new runs.
    pub run: &'a str,
    /// Nodes worked on at once.
    pub parallel: usize,
    /// Asked once before anything is written, with the number of steps that are not as wanted.
    pub consent: &'a dyn Fn(usize) -> bool,
}

/// What came of it.
#[derive(Debug)]
pub enum Installed {
    /// Every step was as wanted on every node: nothing was written anywhere. Steps, by node.
    NothingToDo(Vec<usize>),
    /// The runs were followed to their ends.
    Ran {
        /// By node.
        results: Vec<NodeResult>,
        /// Bytes sent, by node.
        sent_bytes: Vec<u64>,
    },
}

/// Why it stopped before any run was started. Each node's own failure, in the nodes' order.
#[derive(Debug)]
pub enum Stopped {
    /// While looking: nothing was changed.
    Looking(Vec<SshError>),
    /// Consent was not given: nothing was changed.
    Declined,
    /// While taking the holds: nothing was changed.
    Holding(Vec<SshError>),
    /// While filling the stores: nothing but kdc's own store was changed.
    Sending(Vec<SshError>),
}

/// Do the job.
///
/// # Errors
/// [`Stopped`] when a node failed before the runs were started. After that a node's failure is in
/// its [`NodeResult`].
pub async fn install<D: Door>(links: &[Link<'_, D>], job: Job<'_>) -> Result<Installed, Stopped> {
    let surveyed = survey(links, job.plans, job.parallel).await.map_err(Stopped::Looking)?;
    if surveyed.iter().flatten().all(|step| step.satisfied) {
        return Ok(Installed::NothingToDo(surveyed.iter().map(Vec::len).collect()));
    }
    let wanting = surveyed.iter().flatten().filter(|step| !step.satisfied).count();
    if !(job.consent)(wanting) {
        return Err(Stopped::Declined);
    }
    let holds = each(links, job.parallel, |link| link.take_hold(job.holder, job.cluster)).await;
    all_or_failures(holds).map_err(Stopped::Holding)?;
    let sent = each(links.iter().zip(job.blobs), job.parallel, |(link, blobs)| async move {
        distribute(link, job.load, blobs).await
    })
    .await;
    let sent_bytes = all_or_failures(sent).map_err(Stopped::Sending)?;
    let results = conduct(links, job.plans, job.run, job.parallel).await;
    Ok(Installed::Ran { results, sent_bytes })
}

/// Which steps are as wanted now, by node. Changes nothing.
///
/// # Errors
/// Each node's own failure.
pub async fn survey<D: Door>(
    links: &[Link<'_, D>],
    plans: &[NodePlan],
    parallel: usize,
) -> Result<Vec<Vec<Surveyed>>, Vec<SshError>> {
    let answers = each(links.iter().zip(plans), parallel, |(link, plan)| async move {
        link.stage(Stage::Surveying);
        match link.ask(RequestBody::Survey { steps: plan.steps.clone() }).await? {
            Reply::Survey { steps } if steps.len() == plan.steps.len() => Ok(steps),
            _ => Err(wrong_answer(link.node(), "survey")),
        }
    })
    .await;
    all_or_failures(answers)
}
