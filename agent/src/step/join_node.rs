//! `JoinNode`: `kubeadm join` with credentials that come over the wire and are on no disk.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    change::{Change, Context, StepError},
    kubeadm::{Before, KUBELET, forget_config, make_room, photograph, run, take_down},
    systemd::look_at,
};
use crate::{host::Host, wire::JoinCredentials};

/// A node that is part of the cluster.
pub(crate) struct JoinNode<'a> {
    pub(crate) config: &'a str,
}

/// The value that carries the credentials.
const VALUE: &str = "join";

fn has_joined(host: &dyn Host) -> Result<bool, StepError> {
    // kubeadm writes the first before the kubelet has its own certificate, the second after.
    for path in ["/etc/kubernetes/kubelet.conf", "/var/lib/kubelet/config.yaml"] {
        if host.stat(path)?.is_none() {
            return Ok(false);
        }
    }
    let half = host.stat("/etc/kubernetes/bootstrap-kubelet.conf")?.is_some();
    Ok(!half && look_at(host, KUBELET)?.active)
}

impl JoinNode<'_> {
    /// The configuration with its discovery part. It carries the token: for a private file only.
    fn config(&self, credentials: &JoinCredentials) -> Result<String, StepError> {
        let format = |reason: String| StepError::Format {
            what: "the plan's JoinConfiguration".to_owned(),
            reason,
        };
        let mut documents = Vec::new();
        let mut found = false;
        for document in serde_yaml::Deserializer::from_str(self.config) {
            let mut value =
                Value::deserialize(document).map_err(|error| format(error.to_string()))?;
            if value.get("kind").and_then(Value::as_str) == Some("JoinConfiguration")
                && let Some(fields) = value.as_object_mut()
            {
                found = true;
                let bootstrap = json!({
                    "token": credentials.token.expose(),
                    "apiServerEndpoint": credentials.endpoint,
                    "caCertHashes": [credentials.ca_cert_hash],
                });
                fields.insert("discovery".to_owned(), json!({"bootstrapToken": bootstrap}));
            }
            documents
                .push(serde_yaml::to_string(&value).map_err(|error| format(error.to_string()))?);
        }
        if found {
            Ok(documents.join("---\n"))
        } else {
            Err(format("there is none in it".to_owned()))
        }
    }
}

impl Change for JoinNode<'_> {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        let joined = has_joined(context.host)?;
        photograph(context, joined)
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        before.ready
    }

    fn apply(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        forget_config(context.host)?;
        if has_joined(context.host)? {
            return Ok(());
        }
        let Some(value) = context.values.get(VALUE)? else {
            return Err(StepError::Refused {
                what: "there are no join credentials on this node".to_owned(),
                hint: "run the same `kdc-install apply` again: it brings new ones".to_owned(),
            });
        };
        // A parser's message may quote what it read, so only its place is told.
        let credentials: JoinCredentials =
            serde_json::from_str(value.expose()).map_err(|error| StepError::Format {
                what: "the join credentials".to_owned(),
                reason: format!("line {} column {}", error.line(), error.column()),
            })?;
        make_room(context, before)?;
        run(context, "join", &self.config(&credentials)?, &[])
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        take_down(context, before)
    }

    fn summary(&self) -> String {
        "join the cluster (kubeadm join)".to_owned()
    }

    fn detail(&self, _before: &Before) -> String {
        "starts the kubelet as a member of the cluster".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::SecretText;

    #[test]
    fn discovery_goes_into_the_join_configuration_and_nowhere_else() {
        let config = "apiVersion: kubeadm.k8s.io/v1beta2\nkind: JoinConfiguration\n\
            nodeRegistration:\n  name: w1\n---\nkind: KubeletConfiguration\n";
        let credentials = JoinCredentials {
            endpoint: "10.0.0.1:6443".to_owned(),
            token: SecretText::new("abcdef.0123456789abcdef".to_owned()),
            ca_cert_hash: "sha256:aa".to_owned(),
        };
        let text = JoinNode { config }.config(&credentials).unwrap();
        let mut documents = serde_yaml::Deserializer::from_str(&text).map(Value::deserialize);
        let join = documents.next().unwrap().unwrap();
        let token = join.pointer("/discovery/bootstrapToken/token").unwrap();
        assert_eq!(token, "abcdef.0123456789abcdef");
        assert_eq!(join.pointer("/nodeRegistration/name").unwrap(), "w1");
        assert!(documents.next().unwrap().unwrap().get("discovery").is_none());
        let error = JoinNode { config: "kind: Other\n" }.config(&credentials).unwrap_err();
        assert!(error.to_string().contains("there is none"), "{error}");
    }
}
