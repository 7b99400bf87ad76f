//! `ApplyManifests`.

use std::collections::BTreeSet;

use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    change::{Change, Context, StepError},
    kubectl::{api_ready, kubectl},
};

/// Manifests that are in the cluster.
pub(crate) struct ApplyManifests<'a> {
    pub(crate) name: &'a str,
    pub(crate) manifests: &'a str,
}

/// What stood there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    /// The API server answered.
    reachable: bool,
    /// `kubectl diff` found nothing to change.
    same: bool,
    /// Objects that were there, as a list kept beside the journal.
    kept: Option<Digest>,
}

/// What identifies an object: kind, namespace, name.
fn identity(object: &Value) -> Option<(String, String, String)> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let metadata = object.get("metadata")?;
    let namespace = text(metadata.get("namespace")).unwrap_or_default();
    Some((text(object.get("kind"))?, namespace, text(metadata.get("name"))?))
}

/// The objects of an answer, be it a list or one object.
fn objects(answer: &Value) -> Vec<Value> {
    match answer.get("items").and_then(Value::as_array) {
        Some(items) => items.clone(),
        None if answer.is_object() => vec![answer.clone()],
        None => Vec::new(),
    }
}

/// An object as it can be put back: without what the cluster adds.
fn bare(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["resourceVersion", "uid", "creationTimestamp", "generation", "managedFields"]
        {
            metadata.remove(field);
        }
    }
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    object
}

impl ApplyManifests<'_> {
    /// Those of our objects that the cluster has.
    fn present(&self, context: &Context<'_>) -> Result<Vec<Value>, StepError> {
        let program = kubectl(["get", "--ignore-not-found", "--output=json", "--filename=-"])
            .with_input(self.manifests);
        let text = context.host.run_checked(&program)?.text();
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        let answer = serde_json::from_str(&text).map_err(|error| StepError::Format {
            what: "the answer of `kubectl get`".to_owned(),
            reason: error.to_string(),
        })?;
        Ok(objects(&answer))
    }

    fn put_back(&self, context: &Context<'_>, kept: Option<&Digest>) -> Result<(), StepError> {
        let before = match kept {
            Some(digest) => {
                serde_json::from_slice(&context.kept_bytes(digest)?).map_err(|error| {
                    StepError::Format { what: "kept objects".to_owned(), reason: error.to_string() }
                })?
            }
            None => Vec::new(),
        };
        let were: BTreeSet<_> = before.iter().filter_map(identity).collect();
        let new: Vec<Value> = self
            .present(context)?
            .into_iter()
            .filter(|object| identity(object).is_some_and(|id| !were.contains(&id)))
            .map(bare)
            .collect();
        let list = |items: &[Value]| {
            serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
        };
        if !new.is_empty() {
            let program = kubectl(["delete", "--ignore-not-found", "--wait=false", "--filename=-"]);
            context.host.run_checked(&program.with_input(list(&new)))?;
        }
        if !before.is_empty() {
            let program = kubectl(["replace", "--filename=-"]).with_input(list(&before));
            context.host.run_checked(&program)?;
        }
        Ok(())
    }
}

impl Change for ApplyManifests<'_> {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        if !api_ready(context.host)? {
            return Ok(Before { reachable: false, same: false, kept: None });
        }
        let present: Vec<Value> = self.present(context)?.into_iter().map(bare).collect();
        let kept = (!present.is_empty())
            .then(|| context.keep_bytes(Value::Array(present).to_string().into_bytes()));
        // 0: nothing to change; 1: something; more: it could not tell, which is not "the same".
        let program = kubectl(["diff", "--filename=-"]).with_input(self.manifests);
        let same = context.host.run(&program)?.good();
        Ok(Before { reachable: true, same, kept })
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        before.same
    }

    fn apply(&self, context: &Context<'_>, _before: &Before) -> Result<(), StepError> {
        let program = kubectl(["apply", "--filename=-"]).with_input(self.manifests);
        context.host.run_checked(&program)?;
        Ok(())
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        // What was applied lives in the cluster, and goes with it where the control plane is undone.
        if !api_ready(context.host)? {
            context.say(&format!("the API does not answer; {} stays in the cluster", self.name));
            return Ok(());
        }
        self.put_back(context, before.kept.as_ref())
    }

    fn summary(&self) -> String {
        format!("apply {}", self.name)
    }

    fn detail(&self, before: &Before) -> String {
        match (before.reachable, &before.kept) {
            (false, _) => format!("applies {} once the API answers", self.name),
            (true, None) => format!("creates {}", self.name),
            (true, Some(_)) => format!("changes {}", self.name),
        }
    }
}
