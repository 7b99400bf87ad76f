//! The test objects, in API versions that every Kubernetes from 1.20 on serves.

use serde_json::{Value, json};

/// Name of the Service and of the DaemonSet.
pub(super) const SERVICE: &str = "kdc-acceptance";

/// Port of the test pods.
pub(super) const PORT: u16 = 8080;

/// Writes the node's name where busybox's web server finds it. `/tmp` is an `emptyDir`, so the root
/// file system can be read-only.
const SERVE: &str =
    "printf '%s\\n' \"$NODE_NAME\" > /tmp/index.html && exec httpd -f -p 8080 -h /tmp";

/// Namespace, DaemonSet and Service, as one list.
pub(super) fn objects(namespace: &str, image: &str) -> Value {
    let labels = json!({ "app.kubernetes.io/name": SERVICE });
    json!({
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } },
            {
                "apiVersion": "apps/v1",
                "kind": "DaemonSet",
                "metadata": { "name": SERVICE, "namespace": namespace },
                "spec": {
                    "selector": { "matchLabels": labels },
                    "template": { "metadata": { "labels": labels }, "spec": pod(image) }
                }
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": { "name": SERVICE, "namespace": namespace },
                "spec": {
                    "selector": labels,
                    "ports": [{ "port": 80, "targetPort": PORT, "protocol": "TCP" }]
                }
            }
        ]
    })
}

fn pod(image: &str) -> Value {
    json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 0,
        "tolerations": [{ "operator": "Exists" }],
        "securityContext": { "runAsNonRoot": true, "runAsUser": 65534 },
        "containers": [{
            "name": "web",
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", SERVE],
            "env": [{
                "name": "NODE_NAME",
                "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } }
            }],
            "resources": {
                "requests": { "cpu": "10m", "memory": "8Mi" },
                "limits": { "memory": "64Mi" }
            },
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] }
            },
            "volumeMounts": [{ "name": "tmp", "mountPath": "/tmp" }]
        }],
        "volumes": [{ "name": "tmp", "emptyDir": { "sizeLimit": "1Mi" } }]
    })
}
