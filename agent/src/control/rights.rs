//! What the control plane's part may do in the cluster, and no more. `kdc-install apply` writes it on every cluster.

use serde_json::{Value, json};

use super::{
    api::USER,
    lease::LEASE,
    license::{LICENSE_MAP, RECORD_MAP, STANDING_MAP},
    settings::{SETTINGS_MAP, Settings},
    status::STATUS_MAP,
    wanted::{NAMESPACE, WANTED_MAP},
};
use crate::{audit::publish::HEADS_MAP, gpu::hami};

/// API group of roles.
const ROLE: &str = "rbac.authorization.k8s.io";
/// Role by which every node reads how its licence stands.
const READER: &str = "kdc-license-reader";

/// The rights and the settings, as one list for `kubectl apply`.
#[must_use]
pub fn manifests(settings: &Settings) -> String {
    let mut items = rights();
    items.push(settings.map());
    list(&items)
}

/// A list of objects.
pub(super) fn list(items: &[Value]) -> String {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    serde_json::to_string_pretty(&list).expect("JSON serialises")
}

fn rule(group: &str, resources: &[&str], names: &[&str], verbs: &[&str]) -> Value {
    let mut rule = json!({ "apiGroups": [group], "resources": resources, "verbs": verbs });
    if !names.is_empty() {
        rule["resourceNames"] = json!(names);
    }
    rule
}

/// A role and its binding, in a namespace or in the whole cluster.
fn role(name: &str, namespace: Option<&str>, subject: (&str, &str), rules: &[Value]) -> [Value; 2] {
    let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
    let mut metadata = json!({ "name": name });
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    let version = format!("{ROLE}/v1");
    [
        json!({ "apiVersion": version, "kind": kind, "metadata": metadata, "rules": rules }),
        json!({
            "apiVersion": version, "kind": format!("{kind}Binding"), "metadata": metadata,
            "roleRef": { "apiGroup": ROLE, "kind": kind, "name": name },
            "subjects": [{ "apiGroup": ROLE, "kind": subject.0, "name": subject.1 }],
        }),
    ]
}

/// Look at nodes, change their metadata, taints and conditions; the ConfigMaps by name; look at pods of HAMi's namespace
/// and delete them; its lease; events. Nodes may read how the licence stands, and nothing more.
fn rights() -> Vec<Value> {
    let me = ("User", USER);
    let read = [hami::CONFIG_MAP, hami::DEFAULTS_MAP, WANTED_MAP, LICENSE_MAP, SETTINGS_MAP];
    let written = [hami::CONFIG_MAP, STATUS_MAP, LICENSE_MAP, RECORD_MAP, STANDING_MAP, HEADS_MAP];
    let cluster = role(
        USER,
        None,
        me,
        &[
            rule("", &["nodes"], &[], &["get", "list", "watch", "patch"]),
            rule("", &["nodes/status"], &[], &["patch"]),
            rule("", &["namespaces"], &[NAMESPACE], &["get"]),
        ],
    );
    let events = rule("", &["events"], &[], &["create"]);
    let system = role(
        USER,
        Some(NAMESPACE),
        me,
        &[
            rule("", &["configmaps"], &read, &["get", "list", "watch"]),
            rule("", &["configmaps"], &written, &["get", "update"]),
            rule("", &["configmaps"], &[], &["create"]),
            rule("", &["pods"], &[], &["get", "list", "watch", "delete"]),
            rule("coordination.k8s.io", &["leases"], &[LEASE], &["get", "update"]),
            rule("coordination.k8s.io", &["leases"], &[], &["create"]),
            events.clone(),
        ],
    );
    let default = role(USER, Some("default"), me, &[events]);
    let nodes = role(
        READER,
        Some(NAMESPACE),
        ("Group", "system:nodes"),
        &[rule("", &["configmaps"], &[STANDING_MAP], &["get"])],
    );
    [cluster, system, default, nodes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_may_change_what_he_only_reads_and_no_right_is_for_everything() {
        for object in rights() {
            for rule in object["rules"].as_array().into_iter().flatten() {
                let all = rule.to_string();
                assert!(!all.contains('*') && !all.contains("secrets"), "{all}");
            }
        }
        let reader = rights().into_iter().find(|one| one["metadata"]["name"] == READER);
        let rules = reader.map(|one| one["rules"].to_string()).unwrap_or_default();
        assert!(rules.contains(r#""verbs":["get"]"#) && rules.contains(STANDING_MAP), "{rules}");
    }
}
