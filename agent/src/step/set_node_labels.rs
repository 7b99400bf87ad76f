//! `SetNodeLabels`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    change::{Change, Context, StepError},
    kubectl::{api_ready, get, kubectl},
};

/// Labels and taints of a node object.
pub(crate) struct SetNodeLabels<'a> {
    pub(crate) node: &'a str,
    pub(crate) labels: &'a BTreeMap<String, String>,
    pub(crate) taints: &'a [String],
}

/// What stood there.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    /// The node is registered and was read.
    known: bool,
    /// All its labels.
    labels: BTreeMap<String, String>,
    /// All its taints, `key=value:Effect`.
    taints: Vec<String>,
}

/// Labels and taints out of a node object.
fn read(node: &Value) -> Before {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let labels = labels.into_iter().flatten().map(|(key, value)| (key.clone(), text(Some(value))));
    let taints = node.pointer("/spec/taints").and_then(Value::as_array);
    let taint = |taint: &Value| {
        let (key, value) = (text(taint.get("key")), text(taint.get("value")));
        format!("{key}={value}:{}", text(taint.get("effect")))
    };
    Before {
        known: true,
        labels: labels.collect(),
        taints: taints.into_iter().flatten().map(taint).collect(),
    }
}

/// `key:Effect` and `key=:Effect` are the same taint.
fn plain(taint: &str) -> String {
    match taint.rsplit_once(':') {
        Some((key, effect)) if !key.contains('=') => format!("{key}=:{effect}"),
        _ => taint.to_owned(),
    }
}

/// `key=value:Effect` → `key:Effect-`, which removes it.
fn removal(taint: &str) -> String {
    let (head, effect) = taint.rsplit_once(':').unwrap_or((taint, ""));
    let key = head.split('=').next().unwrap_or(head);
    if effect.is_empty() { format!("{key}-") } else { format!("{key}:{effect}-") }
}

impl SetNodeLabels<'_> {
    fn node(&self, context: &Context<'_>) -> Result<Option<Before>, StepError> {
        Ok(get(context.host, &["node", self.node])?.as_ref().map(read))
    }

    fn set(&self, context: &Context<'_>, what: &str, values: Vec<String>) -> Result<(), StepError> {
        if values.is_empty() {
            return Ok(());
        }
        let program = kubectl([what, "node", self.node, "--overwrite"]).args(values);
        context.host.run_checked(&program)?;
        Ok(())
    }
}

impl Change for SetNodeLabels<'_> {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        if !api_ready(context.host)? {
            return Ok(Before::default());
        }
        Ok(self.node(context)?.unwrap_or_default())
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        before.known
            && self.labels.iter().all(|(key, value)| before.labels.get(key) == Some(value))
            && self.taints.iter().all(|taint| before.taints.contains(&plain(taint)))
    }

    fn apply(&self, context: &Context<'_>, _before: &Before) -> Result<(), StepError> {
        let labels = self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        self.set(context, "label", labels)?;
        self.set(context, "taint", self.taints.iter().map(|taint| plain(taint)).collect())
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        if !before.known || !api_ready(context.host)? {
            context.say(&format!("labels of {} go with the cluster", self.node));
            return Ok(());
        }
        let Some(now) = self.node(context)? else { return Ok(()) };
        let labels =
            self.labels.keys().filter(|key| now.labels.get(*key) != before.labels.get(*key));
        let back = |key: &String| match before.labels.get(key) {
            Some(value) => format!("{key}={value}"),
            None => format!("{key}-"),
        };
        self.set(context, "label", labels.map(back).collect())?;
        let ours = self.taints.iter().map(|taint| plain(taint));
        let taints =
            ours.filter(|taint| !before.taints.contains(taint) && now.taints.contains(taint));
        self.set(context, "taint", taints.map(|taint| removal(&taint)).collect())
    }

    fn summary(&self) -> String {
        format!("set labels and taints of node {}", self.node)
    }

    fn detail(&self, before: &Before) -> String {
        let labels =
            self.labels.iter().filter(|(key, value)| before.labels.get(*key) != Some(value));
        let labels = labels.map(|(key, value)| format!("{key}={value}"));
        let taints = self.taints.iter().filter(|taint| !before.taints.contains(&plain(taint)));
        let all: Vec<String> = labels.chain(taints.cloned()).collect();
        format!("sets {} on {}", all.join(", "), self.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_are_compared_and_removed_however_they_are_written() {
        assert_eq!(plain("a/b:NoSchedule"), "a/b=:NoSchedule");
        assert_eq!(plain("a=b:NoSchedule"), "a=b:NoSchedule");
        assert_eq!(removal("a/b=c:NoExecute"), "a/b:NoExecute-");
        let node = serde_json::json!({"metadata": {"labels": {"x": "y"}},
            "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
        assert_eq!(read(&node).taints, ["k=:NoSchedule"]);
    }
}
