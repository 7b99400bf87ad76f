//! `WaitUntil`: bounded, and it says what it sees.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Condition,
    change::{Change, Context, StepError},
    kubectl::{api_ready, get},
    systemd::look_at,
};
use crate::host::HostError;

/// A condition with a deadline.
pub(crate) struct WaitUntil<'a> {
    pub(crate) condition: &'a Condition,
    pub(crate) timeout_secs: u64,
}

/// What was seen.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Seen {
    holds: bool,
    state: String,
}

/// How often it looks.
const POLL: Duration = Duration::from_millis(1000);

fn is_ready(node: &Value) -> bool {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        condition.get("type").and_then(Value::as_str) == Some("Ready")
            && condition.get("status").and_then(Value::as_str) == Some("True")
    })
}

/// Nodes of `wanted` that are not registered and Ready.
fn not_ready<'a>(list: &Value, wanted: &'a [String]) -> Vec<&'a str> {
    let items = list.get("items").and_then(Value::as_array);
    let ready: Vec<&str> = items
        .into_iter()
        .flatten()
        .filter(|node| is_ready(node))
        .filter_map(|node| node.pointer("/metadata/name").and_then(Value::as_str))
        .collect();
    wanted.iter().map(String::as_str).filter(|name| !ready.contains(name)).collect()
}

/// Ready and wanted replicas of a Deployment or DaemonSet, once its controller has seen it.
fn replicas(workload: &Value) -> Option<(u64, u64)> {
    let number = |path: &str| workload.pointer(path).and_then(Value::as_u64);
    let generation = number("/metadata/generation").unwrap_or(0);
    if number("/status/observedGeneration").unwrap_or(0) < generation {
        return None;
    }
    if workload.get("kind").and_then(Value::as_str) == Some("DaemonSet") {
        let ready = number("/status/numberReady").unwrap_or(0);
        return Some((ready, number("/status/desiredNumberScheduled")?));
    }
    let ready = number("/status/readyReplicas").unwrap_or(0);
    Some((ready, number("/spec/replicas").unwrap_or(1)))
}

impl WaitUntil<'_> {
    fn look(&self, context: &Context<'_>) -> Result<Seen, StepError> {
        let host = context.host;
        let seen = |holds, state: String| Ok(Seen { holds, state });
        if let Condition::UnitActive { unit } = self.condition {
            let active = look_at(host, unit)?.active;
            let state = if active { "active" } else { "not active" };
            return seen(active, format!("{unit} is {state}"));
        }
        if !api_ready(host)? {
            return seen(false, "the API server does not answer `/readyz`".to_owned());
        }
        match self.condition {
            Condition::ApiReady | Condition::UnitActive { .. } => {
                seen(true, "the API server is ready".to_owned())
            }
            Condition::NodesReady { nodes } => {
                let list = get(host, &["nodes"])?.unwrap_or_default();
                let missing = not_ready(&list, nodes);
                let ready = nodes.len() - missing.len();
                let names = if missing.is_empty() {
                    String::new()
                } else {
                    format!("; waiting for {}", missing.join(", "))
                };
                seen(missing.is_empty(), format!("{ready} of {} nodes Ready{names}", nodes.len()))
            }
            Condition::WorkloadReady { namespace, workload } => {
                let found = get(host, &["--namespace", namespace, workload])?;
                match found.as_ref().map(replicas) {
                    None => seen(false, format!("{namespace}/{workload} is not there")),
                    Some(None) => seen(false, format!("{namespace}/{workload} is new")),
                    Some(Some((ready, wanted))) => seen(
                        ready >= wanted && wanted > 0,
                        format!("{namespace}/{workload}: {ready} of {wanted} ready"),
                    ),
                }
            }
        }
    }

    fn what(&self) -> String {
        match self.condition {
            Condition::ApiReady => "the API server".to_owned(),
            Condition::NodesReady { nodes } => format!("{} nodes to be Ready", nodes.len()),
            Condition::WorkloadReady { namespace, workload } => format!("{namespace}/{workload}"),
            Condition::UnitActive { unit } => unit.clone(),
        }
    }
}

impl Change for WaitUntil<'_> {
    type Before = Seen;

    fn probe(&self, context: &Context<'_>) -> Result<Seen, StepError> {
        match self.look(context) {
            // The API may go away between two questions; that is only one more "not yet".
            Err(StepError::Host(
                error @ (HostError::Failed { .. } | HostError::Deadline { .. }),
            )) => Ok(Seen { holds: false, state: error.to_string() }),
            result => result,
        }
    }

    fn is_satisfied_by(&self, before: &Seen) -> bool {
        before.holds
    }

    fn apply(&self, context: &Context<'_>, _before: &Seen) -> Result<(), StepError> {
        let start = context.host.now_unix_ms();
        let mut last = String::new();
        loop {
            let seen = Change::probe(self, context)?;
            if seen.holds {
                return Ok(());
            }
            if seen.state != last {
                context.say(&seen.state);
                last = seen.state;
            }
            let waited = context.host.now_unix_ms().saturating_sub(start);
            if waited >= self.timeout_secs.saturating_mul(1000) {
                let (what, seconds) = (self.what(), self.timeout_secs);
                return Err(StepError::Waited { what, seconds, seen: last });
            }
            context.host.sleep(POLL);
        }
    }

    fn undo(&self, _context: &Context<'_>, _before: &Seen) -> Result<(), StepError> {
        Ok(())
    }

    fn summary(&self) -> String {
        format!("wait for {}", self.what())
    }

    fn detail(&self, before: &Seen) -> String {
        format!("waits up to {} s; now: {}", self.timeout_secs, before.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_counts_only_when_registered_and_ready() {
        let node = |name: &str, status: &str| {
            serde_json::json!({"metadata": {"name": name},
                "status": {"conditions": [{"type": "Ready", "status": status}]}})
        };
        let list = serde_json::json!({"items": [node("a", "True"), node("b", "Unknown")]});
        let wanted = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        assert_eq!(not_ready(&list, &wanted), ["b", "c"]);
    }

    #[test]
    fn a_workload_its_controller_has_not_seen_is_not_ready() {
        let new = serde_json::json!({"kind": "Deployment", "metadata": {"generation": 2},
            "spec": {"replicas": 1}, "status": {"observedGeneration": 1, "readyReplicas": 1}});
        assert_eq!(replicas(&new), None);
        let daemons = serde_json::json!({"kind": "DaemonSet", "metadata": {"generation": 1},
            "status": {"observedGeneration": 1, "numberReady": 1, "desiredNumberScheduled": 2}});
        assert_eq!(replicas(&daemons), Some((1, 2)));
    }
}
