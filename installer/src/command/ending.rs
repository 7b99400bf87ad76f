//! How an install ended: the table, and what to say when it is not as wanted.

use kdc_agent::wire::{Outcome, Proof};
use kdc_profiles::cluster::{Node, Role};

use super::{
    CommandError,
    error::{of_node, of_nodes},
    report::ReportedNode,
};
use crate::{
    fleet::{
        all_or_failures,
        conduct::{NodeEnd, NodeResult},
        install::Stopped,
    },
    plan::{self, ClusterPlan, Drift},
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

/// Why a saved plan is not carried out: what would be done now is something else.
pub(super) fn drifted(drift: &[Drift]) -> Option<Complaint> {
    if drift.is_empty() {
        return None;
    }
    let what = "the saved plan is not what would be done now; nothing was changed";
    let mut complaint = Complaint::new("KDC-012", Exit::Refused, what)
        .hint("look at a fresh plan: `kdc-install plan -o PLAN`");
    complaint.causes =
        drift.iter().map(|drift| format!("{}: {}", drift.what, drift.detail)).collect();
    Some(complaint)
}

/// What stopped the install, node by node; `None` when every node is as wanted.
pub(super) fn failure_of(results: &[NodeResult], nodes: &[Node]) -> Option<Complaint> {
    let mut parts = Vec::new();
    for (result, node) in results.iter().zip(nodes) {
        let node = &node.name;
        let hint = format!("look at `journalctl -u kdc-run-{}` on `{node}`", result.run);
        match &result.end {
            end if end.is_installed() => {}
            NodeEnd::Run(Outcome::Failed { step, failure }) => {
                let complaint = Complaint::from_agent(node, failure, Exit::Interrupted)
                    .cause(format!("step `{step}` of run {} failed", result.run));
                parts.push(if failure.hint.is_none() { complaint.hint(hint) } else { complaint });
            }
            NodeEnd::Run(Outcome::Undone { .. }) => {
                let text = format!("node `{node}` was taken back while this install went on");
                parts.push(
                    Complaint::new("KDC-022", Exit::Interrupted, text)
                        .hint("see that nobody else undoes it, then run the same command again"),
                );
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
    let text = format!("{} of {} node(s) are not as wanted yet", parts.len(), nodes.len());
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kdc_agent::wire::Failure;

    use super::*;

    fn failure() -> Failure {
        Failure { code: "STEP-007".into(), message: "the disk is full".into(), hint: None }
    }

    fn error() -> SshError {
        SshError::Agent { node: "cp1".to_owned(), failure: Box::new(failure()) }
    }

    fn result(end: NodeEnd) -> NodeResult {
        NodeResult { run: "r1".to_owned(), end, elapsed: Duration::ZERO, sent_bytes: 0 }
    }

    #[test]
    fn each_way_a_node_ends_has_its_code_its_words_and_what_to_do() {
        let value = || "join".to_owned();
        let failed = Outcome::Failed { step: "packages".to_owned(), failure: failure() };
        for (end, code, words) in [
            (NodeEnd::Run(failed), "STEP-007", ["step `packages` of run r1", "kdc-run-r1"]),
            (NodeEnd::Run(Outcome::Interrupted), "KDC-022", ["without a word", "kdc-run-r1"]),
            (NodeEnd::Run(Outcome::Undone { steps: 1 }), "KDC-022", ["taken back", "nobody else"]),
            (NodeEnd::NotStarted { value: value() }, "KDC-023", ["left as it was", "repair"]),
            (NodeEnd::InVain { value: value() }, "KDC-023", ["waits for `join`", "repair"]),
            (NodeEnd::Unfed(error()), "STEP-007", ["its run was not started", "not as wanted"]),
            (NodeEnd::Lost(error()), "STEP-007", ["the disk is full", "not as wanted"]),
        ] {
            let good = NodeEnd::Run(Outcome::Finished { changed: 1, found: 0 });
            let nodes = plan::samples::cluster().nodes;
            let complaint = failure_of(&[result(end), result(good)], &nodes).unwrap();
            assert_eq!((&*complaint.code, complaint.exit), ("KDC-024", Exit::Interrupted));
            assert_eq!((complaint.parts.len(), &*complaint.parts[0].code), (1, code));
            let text = complaint.render(false);
            for word in ["node `cp1`", "1 of 2 node(s)", "`undo`"].iter().chain(&words) {
                assert!(text.contains(word), "{word}: {text}");
            }
        }
        assert!(failure_of(&[], &[]).is_none());
    }

    #[test]
    fn what_stops_an_install_before_its_runs_says_whether_anything_was_changed() {
        for (stopped, code, exit) in [
            (Stopped::Declined, "KDC-015", Exit::Refused),
            (Stopped::Looking(vec![error()]), "KDC-010", Exit::Refused),
            (Stopped::Holding(vec![error()]), "KDC-013", Exit::Refused),
            (Stopped::Offering(vec![error()]), "KDC-019", Exit::Interrupted),
        ] {
            let complaint = refuse(stopped, 2);
            assert_eq!((&*complaint.code, complaint.exit), (code, exit));
        }
    }

    #[test]
    fn proofs_that_fail_and_plans_that_drifted_are_listed_one_by_one() {
        let proof = |claim: &str, holds| Proof {
            claim: claim.to_owned(),
            holds,
            detail: "timed out".to_owned(),
        };
        let complaint = unproved(&[proof("a pod is up", true), proof("names resolve", false)]);
        let complaint = complaint.unwrap();
        assert_eq!((&*complaint.code, complaint.exit), ("KDC-025", Exit::Interrupted));
        assert_eq!(complaint.causes, ["names resolve: timed out"]);
        assert!(unproved(&[proof("a pod is up", true)]).is_none());
        assert_eq!(&*unprovable(&[error()], 2).code, "KDC-031");
        let drift = Drift { what: "cp1".to_owned(), detail: "one step more".to_owned() };
        let complaint = drifted(&[drift]).unwrap();
        assert_eq!((&*complaint.code, complaint.exit), ("KDC-012", Exit::Refused));
        assert_eq!(complaint.causes, ["cp1: one step more"]);
        assert!(drifted(&[]).is_none());
    }
}
