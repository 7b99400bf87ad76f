//! Acceptance: have a control plane prove the cluster from inside, unless it is on record there that
//! what is in force now was proved already.
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
    /// Image for the test pods.
    pub image: &'a str,
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

/// Have it proved. Proofs that don't hold are in the list too; then nothing is on record.
///
/// # Errors
/// The proofs could not be made.
pub async fn prove<D: Door>(
    link: &Link<'_, D>,
    promise: &Promise<'_>,
    subject: AcceptanceSubject,
) -> Result<Vec<Proof>, SshError> {
    link.stage(Stage::Accepting);
    let image = promise.image.to_owned();
    let request = RequestBody::Accept { image, subject, timeout_secs: TIMEOUT_SECS };
    let Reply::Accepted { proofs } = link.ask(request).await? else {
        return Err(wrong_answer(link.node(), "accept"));
    };
    for Proof { claim, holds, detail } in proofs.clone() {
        link.observer().news(&News::Proof { claim, holds, detail });
    }
    Ok(proofs)
}
