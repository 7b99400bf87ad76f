//! How an install ended: the table, and what to say when it is not as wanted.

use kdc_agent::wire::{Outcome, Proof};
use kdc_profiles::cluster::Role;

use super::{
    CommandError,
    error::{of_node, of_nodes},
    report::ReportedNode,
    site::NodeLink,
};
use crate::{
    fleet::{
        all_or_failures,
        conduct::{NodeEnd, NodeResult},
        install::Stopped,
    },
    plan::{self, ClusterPlan},
    show::{
        Complaint, Exit,
        news::{self, Row},
        table,
    },
    ssh::SshError,
};

pub(super) fn refuse(stopped: Stopped, nodes: usize) -> Complaint {
    match stopped {
        Stopped::Declined => CommandError::Declined.into(),
        Stopped::Looking(errors) => {
            of_nodes(("KDC-010", Exit::Refused), &errors, nodes, "can't be looked at")
        }
        Stopped::Holding(errors) => of_nodes(
            ("KDC-013", Exit::Refused),
            &errors,
            nodes,
            "can't be held for this command; nothing was changed",
        ),
        Stopped::Offering(errors) => of_nodes(
            ("KDC-019", Exit::Interrupted),
            &errors,
            nodes,
            "did not take the bundle's index; no run was started on any node",
        ),
    }
}

/// What stopped the install, node by node; `None` when every node is as wanted.
pub(super) fn failure_of(results: &[NodeResult], links: &[NodeLink<'_>]) -> Option<Complaint> {
    let mut parts = Vec::new();
    for (result, link) in results.iter().zip(links) {
        let node = link.node();
        let hint = format!("look at `journalctl -u kdc-run-{}` on `{node}`", result.run);
        match &result.end {
            end if end.is_good() => {}
            NodeEnd::Run(Outcome::Failed { step, failure }) => {
                let complaint = Complaint::from_agent(node, failure, Exit::Interrupted)
                    .cause(format!("step `{step}` of run {} failed", result.run));
                parts.push(if failure.hint.is_none() { complaint.hint(hint) } else { complaint });
            }
            NodeEnd::Run(_) => {
                let text = format!("node `{node}`: its run keeps ending without a word");
                parts.push(Complaint::new("KDC-022", Exit::Interrupted, text).hint(hint));
            }
            NodeEnd::Unfed(error) => parts.push(
                of_node(error, Exit::Interrupted)
                    .cause("it could not be sent what its run needs, so its run was not started"),
            ),
            NodeEnd::NotStarted { value } => {
                let text = format!(
                    "node `{node}` was left as it was: it would need `{value}`, which can't come"
                );
                parts.push(
                    Complaint::new("KDC-023", Exit::Interrupted, text)
                        .hint("repair the node that failed, then run the same command again"),
                );
            }
            NodeEnd::InVain { value } => {
                let text = format!("node `{node}` waits for `{value}`, which can't come");
                parts.push(
                    Complaint::new("KDC-023", Exit::Interrupted, text)
                        .hint("repair the node that failed, then run the same command again"),
                );
            }
            NodeEnd::Lost(error) => parts.push(of_node(error, Exit::Interrupted)),
        }
    }
    if parts.is_empty() {
        return None;
    }
    let text = format!("{} of {} node(s) are not as wanted yet", parts.len(), links.len());
    let hint = "when that is repaired, run the same command again, or `undo` takes all back";
    Some(Complaint::new("KDC-024", Exit::Interrupted, text).parts(parts).hint(hint))
}

pub(super) fn unproved(proofs: &[Proof]) -> Option<Complaint> {
    let failed: Vec<&Proof> = proofs.iter().filter(|proof| !proof.holds).collect();
    if failed.is_empty() {
        return None;
    }
    let text = format!("{} of {} proofs from inside failed", failed.len(), proofs.len());
    let mut complaint = Complaint::new("KDC-025", Exit::Interrupted, text)
        .hint("the cluster is up; look at `kubectl get pods -A`, then run the same command again");
    complaint.causes =
        failed.iter().map(|proof| format!("{}: {}", proof.claim, proof.detail)).collect();
    Some(complaint)
}

/// The proofs could not be made.
pub(super) fn unprovable(errors: &[SshError], nodes: usize) -> Complaint {
    of_nodes(
        ("KDC-031", Exit::Interrupted),
        errors,
        nodes,
        "could not be asked to prove the cluster; every step is done",
    )
    .hint("run the same command again: it only proves what is there")
}

/// The nodes of a report whose runs were followed.
pub(super) fn reported(plan: &ClusterPlan, results: &[NodeResult]) -> Vec<ReportedNode> {
    let node = |(node, result): (&plan::PlannedNode, &NodeResult)| ReportedNode {
        row: row_of(&node.name, node.role, result),
        address: node.address.clone(),
        run: result.run.clone(),
        sent_bytes: result.sent_bytes,
    };
    plan.nodes.iter().zip(results).map(node).collect()
}

/// The nodes of a report that had no run.
pub(super) fn untouched(plan: &ClusterPlan, rows: &[Row]) -> Vec<ReportedNode> {
    let node = |(node, row): (&plan::PlannedNode, &Row)| ReportedNode {
        row: row.clone(),
        address: node.address.clone(),
        run: String::new(),
        sent_bytes: 0,
    };
    plan.nodes.iter().zip(rows).map(node).collect()
}

/// A node's row of the final table.
pub(crate) fn row_of(node: &str, role: Role, ended: &NodeResult) -> Row {
    let (result, changed, found) = match &ended.end {
        NodeEnd::Run(outcome) => news::result_of(outcome),
        NodeEnd::InVain { .. } | NodeEnd::NotStarted { .. } => (news::NodeResult::Waiting, 0, 0),
        NodeEnd::Lost(_) | NodeEnd::Unfed(_) => (news::NodeResult::Failed, 0, 0),
    };
    Row {
        node: node.to_owned(),
        role: role.as_str().to_owned(),
        result,
        changed,
        found,
        elapsed_ms: u64::try_from(ended.elapsed.as_millis()).unwrap_or(u64::MAX),
    }
}

/// The final table.
pub(crate) fn render_rows(rows: &[Row]) -> String {
    let cells = |row: &Row| {
        let elapsed = std::time::Duration::from_millis(row.elapsed_ms);
        vec![
            row.node.clone(),
            row.role.clone(),
            row.result.word().to_owned(),
            row.changed.to_string(),
            row.found.to_string(),
            crate::show::plain::render_elapsed(elapsed),
        ]
    };
    let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
    table::render(&["NODE", "ROLE", "RESULT", "CHANGED", "FOUND", "TIME"], &rows)
}

/// Every answer, or the refusal that names each node.
pub(crate) fn all_or_refusal<T>(
    answers: Vec<Result<T, SshError>>,
    (code, what): (&str, &str),
) -> Result<Vec<T>, Complaint> {
    let nodes = answers.len();
    all_or_failures(answers).map_err(|errors| of_nodes((code, Exit::Refused), &errors, nodes, what))
}
