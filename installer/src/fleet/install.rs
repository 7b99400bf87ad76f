//! The order of an install over all nodes: survey, hold, offer, conduct, prove.

use std::net::IpAddr;

use kdc_agent::{
    step::NodePlan,
    wire::{Outcome, Proof, Reply, RequestBody, RunSummary, Surveyed},
};

use super::{
    Door, Load, all_or_failures,
    conduct::{NodeResult, Score, conduct},
    distribute::{blobs_to_use, offer},
    each,
    link::Link,
    prove::{Promise, is_on_record, prove, runs, subject},
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
    /// Where the nodes reach each other.
    pub addresses: &'a [IpAddr],
    /// What the nodes' stores are fed from.
    pub load: Load<'a>,
    /// Who works here, for a second installer to read (`ops@laptop pid 4711`).
    pub holder: &'a str,
    /// Run id for new runs.
    pub run: &'a str,
    /// Nodes worked on at once.
    pub parallel: usize,
    /// What is proved at the end; `None` where nothing can be.
    pub promise: Option<Promise<'a>>,
    /// Asked once before anything is written, with the number of steps that are not as wanted.
    pub consent: &'a dyn Fn(usize) -> bool,
}

/// What came of the proofs: each of them, or why they could not be made.
pub type Proved = Result<Vec<Proof>, Vec<SshError>>;

/// What came of it.
#[derive(Debug)]
pub enum Installed {
    /// Every step is as wanted on every node, and what was promised is proved, as is on record:
    /// nothing was written anywhere. Steps, by node.
    NothingToDo(Vec<usize>),
    /// Every step is as wanted on every node, but that it was proved was not on record: it was
    /// tried now.
    OnlyProved {
        /// Steps, by node.
        steps: Vec<usize>,
        /// What came of it.
        proved: Proved,
    },
    /// The runs were followed to their ends.
    Ran {
        /// By node.
        results: Vec<NodeResult>,
        /// What came of the proofs; `None` where a node is not as wanted or nothing is promised.
        proved: Option<Proved>,
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
    /// While the nodes proved the bundle's index: nothing but kdc's own store was changed.
    Offering(Vec<SshError>),
}

/// Do the job.
///
/// # Errors
/// [`Stopped`] when a node failed before the first run was started. After that a node's failure is
/// in its [`NodeResult`].
pub async fn install<D: Door>(links: &[Link<'_, D>], job: Job<'_>) -> Result<Installed, Stopped> {
    // Before the survey: what it finds of a node without a run is not changed behind its back.
    let runs = runs(links, job.parallel).await.map_err(Stopped::Looking)?;
    let surveyed = survey(links, job.plans, job.parallel).await.map_err(Stopped::Looking)?;
    let wanting = surveyed.iter().flatten().filter(|step| !step.satisfied).count();
    if wanting == 0 && !job.plans.iter().zip(&runs).any(|(plan, runs)| is_unfinished(plan, runs)) {
        let steps = surveyed.iter().map(Vec::len).collect();
        return as_wanted(links, job, steps, &runs).await;
    }
    if wanting > 0 && !(job.consent)(wanting) {
        return Err(Stopped::Declined);
    }
    take_holds(links, job).await?;
    let looks = job.plans.iter().zip(surveyed.iter().zip(&runs));
    let blobs = looks.map(|(plan, (steps, runs))| {
        // A run that goes on was fed before it was started, and gives content up as it goes.
        if goes_on(plan, runs) { Vec::new() } else { blobs_to_use(plan, steps) }
    });
    // All of them before the first run: who does not trust this bundle says so here.
    let offered =
        each(links.iter().zip(blobs), job.parallel, |(link, blobs)| offer(link, job.load, blobs));
    let lacking = all_or_failures(offered.await).map_err(Stopped::Offering)?;
    let Job { plans, addresses, load, run, parallel, .. } = job;
    let score = Score { plans, lacking: &lacking, addresses, load, run, parallel };
    let results = conduct(links, score).await;
    let proved = match &job.promise {
        Some(promise) if results.iter().all(|result| result.end.is_installed()) => {
            Some(prove_now(links, job, promise).await)
        }
        _ => None,
    };
    Ok(Installed::Ran { results, proved })
}

/// A run of this plan was begun and never came to its end: an installer that was killed may have
/// left it waiting for a word, though all its steps are as wanted by now.
fn is_unfinished(plan: &NodePlan, runs: &[RunSummary]) -> bool {
    let over =
        |run: &RunSummary| matches!(run.outcome, Outcome::Finished { .. } | Outcome::Undone { .. });
    of_plan(plan, runs).any(|run| !over(run))
}

/// A run of this plan goes on.
fn goes_on(plan: &NodePlan, runs: &[RunSummary]) -> bool {
    of_plan(plan, runs).any(|run| matches!(run.outcome, Outcome::Running { .. }))
}

fn of_plan<'r>(
    plan: &NodePlan,
    runs: &'r [RunSummary],
) -> impl Iterator<Item = &'r RunSummary> + use<'r> {
    let digest = plan.digest().ok();
    runs.iter().filter(move |run| Some(&run.plan) == digest.as_ref())
}

/// Every step is as wanted: prove what was promised, unless that is on record.
async fn as_wanted<D: Door>(
    links: &[Link<'_, D>],
    job: Job<'_>,
    steps: Vec<usize>,
    runs: &[Vec<RunSummary>],
) -> Result<Installed, Stopped> {
    let Some(promise) = &job.promise else { return Ok(Installed::NothingToDo(steps)) };
    let now = subject(promise, job.plans, runs);
    let on_record = is_on_record(&links[promise.by], &now).await;
    if on_record.map_err(|error| Stopped::Looking(vec![error]))? {
        return Ok(Installed::NothingToDo(steps));
    }
    take_holds(links, job).await?;
    let proved = prove_now(links, job, promise).await;
    Ok(Installed::OnlyProved { steps, proved })
}

async fn prove_now<D: Door>(links: &[Link<'_, D>], job: Job<'_>, promise: &Promise<'_>) -> Proved {
    let now = subject(promise, job.plans, &runs(links, job.parallel).await?);
    prove(links, job.parallel, promise, now).await.map_err(|error| vec![error])
}

async fn take_holds<D: Door>(links: &[Link<'_, D>], job: Job<'_>) -> Result<(), Stopped> {
    let holds = each(links, job.parallel, |link| link.take_hold(job.holder, job.cluster)).await;
    all_or_failures(holds).map(drop).map_err(Stopped::Holding)
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
        let (steps, index) = (plan.steps.clone(), Some(plan.index.clone()));
        match link.ask(RequestBody::Survey { steps, index }).await? {
            Reply::Survey { steps } if steps.len() == plan.steps.len() => Ok(steps),
            _ => Err(wrong_answer(link.node(), "survey")),
        }
    })
    .await;
    all_or_failures(answers)
}
