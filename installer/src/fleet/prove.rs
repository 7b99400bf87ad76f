//! Acceptance: have a control plane prove the cluster from inside, and each node what leaves it, unless it
//! is on record at the control plane that what is in force now was proved already.
//!
//! The record lies on the node, so it holds whoever installed last and wherever they died: an
//! installer that comes after one that was killed between the end of the runs and the proofs finds
//! no record of what is in force, and proves it.

use kdc_agent::{
    step::NodePlan,
    wire::{AcceptanceSubject, Proof, Reply, RequestBody, RunSummary},
};
use kdc_bundles::index::Digest;
use kdc_profiles::profile::Acceptance;

use super::{Door, all_or_failures, each, link::Link, wrong_answer};
use crate::{
    show::{News, news::Stage},
    ssh::SshError,
};

/// How long the proofs may take.
const TIMEOUT_SECS: u64 = 300;

/// What is to be proved, and where.
#[derive(Debug, Clone, Copy)]
pub struct Promise<'a> {
    /// Place of the control plane that makes the proofs.
    pub by: usize,
    /// Cluster name.
    pub cluster: &'a str,
    /// Image for the test pods; empty where no claim needs one.
    pub image: &'a str,
    /// Ranges that belong to the cluster: every node's address, pods, Services.
    pub inside: &'a [String],
    /// Ranges of pods.
    pub pods: &'a [String],
    /// What the profile promises.
    pub claims: &'a [Acceptance],
    /// Digest of the plan for the whole cluster.
    pub plan: &'a Digest,
    /// Digest of the bundle's signed index.
    pub index: &'a Digest,
}

/// The runs of every node. Changes nothing.
///
/// # Errors
/// Each node's own failure.
pub async fn runs<D: Door>(
    links: &[Link<'_, D>],
    parallel: usize,
) -> Result<Vec<Vec<RunSummary>>, Vec<SshError>> {
    let answers = each(links, parallel, |link| async move {
        match link.ask(RequestBody::Runs).await? {
            Reply::Runs { runs } => Ok(runs),
            _ => Err(wrong_answer(link.node(), "runs")),
        }
    })
    .await;
    all_or_failures(answers)
}

/// What an acceptance is about when these are the runs of the nodes. Pure.
#[must_use]
pub fn subject(
    promise: &Promise<'_>,
    plans: &[NodePlan],
    runs: &[Vec<RunSummary>],
) -> AcceptanceSubject {
    let in_force = |(plan, runs): (&NodePlan, &Vec<RunSummary>)| {
        let ids = runs.iter().filter(|run| run.in_force).map(|run| run.run.clone()).collect();
        (plan.node.clone(), ids)
    };
    AcceptanceSubject {
        cluster: promise.cluster.to_owned(),
        plan: promise.plan.clone(),
        index: promise.index.clone(),
        claims: promise.claims.to_vec(),
        runs: plans.iter().zip(runs).map(in_force).collect(),
    }
}

/// That this very subject was proved is on record. Changes nothing.
///
/// # Errors
/// As [`Link::ask`].
pub async fn is_on_record<D: Door>(
    link: &Link<'_, D>,
    subject: &AcceptanceSubject,
) -> Result<bool, SshError> {
    match link.ask(RequestBody::Acceptance).await? {
        Reply::Acceptance { record } => Ok(record.is_some_and(|kept| kept.subject == *subject)),
        _ => Err(wrong_answer(link.node(), "acceptance")),
    }
}

/// Have it proved: what is outside by every node for itself, the rest by the control plane. Proofs that
/// don't hold are in the list too; then nothing is on record.
///
/// # Errors
/// The proofs could not be made.
pub async fn prove<D: Door>(
    links: &[Link<'_, D>],
    parallel: usize,
    promise: &Promise<'_>,
    subject: AcceptanceSubject,
) -> Result<Vec<Proof>, SshError> {
    let link = &links[promise.by];
    link.stage(Stage::Accepting);
    let elsewhere = if promise.claims.contains(&Acceptance::NoOutsideTraffic) {
        each(links, parallel, |link| outside_traffic(link, promise)).await
    } else {
        Vec::new()
    };
    let (image, timeout_secs) = (promise.image.to_owned(), TIMEOUT_SECS);
    let request = RequestBody::Accept { image, subject, timeout_secs, elsewhere };
    let Reply::Accepted { proofs } = link.ask(request).await? else {
        return Err(wrong_answer(link.node(), "accept"));
    };
    for Proof { claim, holds, detail } in proofs.clone() {
        link.observer().news(&News::Proof { claim, holds, detail });
    }
    Ok(proofs)
}

/// One node's own look. A node that can't be asked has proved nothing.
async fn outside_traffic<D: Door>(link: &Link<'_, D>, promise: &Promise<'_>) -> Proof {
    let (inside, pods) = (promise.inside.to_vec(), promise.pods.to_vec());
    let node = link.node().to_owned();
    let asked = link.ask(RequestBody::OutsideTraffic { node, inside, pods }).await;
    let why = match asked {
        Ok(Reply::OutsideTraffic { proof }) => return proof,
        Ok(_) => wrong_answer(link.node(), "outside traffic"),
        Err(error) => error,
    };
    let claim = format!("nothing of {} reaches outside", link.node());
    Proof { claim, holds: false, detail: format!("could not look: {why}") }
}
