//! Heads on their way to the cluster, and back: a tail that was cut off shows by the head that others keep.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{AuditError, Head};
use crate::{
    control::{
        ControlError, NAMESPACE,
        api::{ApiServer, Kind, Patch},
        license::{LICENSE_KEY, LICENSE_MAP, STANDING_KEY, STANDING_MAP},
    },
    gpu::watch::{KUBELET, node_name},
    host::Host,
    step::kubectl::{self, ADMIN_CONF},
};

/// The ConfigMap with all nodes' heads; nodes may not write it.
pub const HEADS_MAP: &str = "kdc-audit";
/// Its key.
pub const HEADS_KEY: &str = "heads.json";

/// What a cluster keeps that an export tells.
#[derive(Debug, Default)]
pub struct KeptByCluster {
    /// The heads of all nodes.
    pub heads: Option<String>,
    /// The licence files, and how the cluster stands with them: who counts, which limit.
    pub license: Option<String>,
}

/// What the cluster keeps, asked with the admin's rights; nothing where this is no control plane, or where it keeps none
/// yet.
///
/// # Errors
/// Why it could not be asked, in words.
pub fn kept_by_cluster(host: &dyn Host) -> Result<KeptByCluster, String> {
    let failed = |error: &dyn std::error::Error| match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    if host.stat(ADMIN_CONF).map_err(|error| failed(&error))?.is_none() {
        return Ok(KeptByCluster::default());
    }
    let kept = |map: &str, key: &str| {
        let asked = ["configmap", map, "--namespace=kube-system"];
        let map = kubectl::get(host, &asked).map_err(|error| failed(&error))?;
        Ok::<_, String>(map.and_then(|map: Value| map["data"][key].as_str().map(str::to_owned)))
    };
    let heads = kept(HEADS_MAP, HEADS_KEY)?;
    let (files, standing) = (kept(LICENSE_MAP, LICENSE_KEY)?, kept(STANDING_MAP, STANDING_KEY)?);
    let is_there = files.is_some() || standing.is_some();
    let license = is_there.then(|| json!({ "license": files, "standing": standing }).to_string());
    Ok(KeptByCluster { heads, license })
}

/// The annotation of a node with the head of its log.
pub const HEAD_ANNOTATION: &str = "kdc.dev/audit-head";

/// Tell the cluster where this node's log ends: an annotation of its own node, with the kubelet's credentials, which may
/// write to no other. The leader takes it from there to where nodes can't change it. Answers whether it was written;
/// where there are no credentials the node is part of no cluster.
///
/// # Errors
/// Why it could not be told.
pub async fn tell(credentials: &[PathBuf], head: &Head) -> Result<bool, AuditError> {
    let usual: Vec<PathBuf> = KUBELET.iter().map(PathBuf::from).collect();
    let known = if credentials.is_empty() { &usual } else { credentials };
    let Some(path) = known.iter().find(|path| path.exists()) else { return Ok(false) };
    let unusable = |why: String| AuditError::Tell { reason: format!("{}: {why}", path.display()) };
    let name = node_name(path).map_err(unusable)?;
    let refused = |error: ControlError| {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        AuditError::Tell { reason: format!("error[{}]: {error}: {cause}", error.code()) }
    };
    let api = ApiServer::with(path, NAMESPACE, None).await.map_err(refused)?;
    let node = api.get(Kind::Node, &name).await.map_err(refused)?;
    let missing = || AuditError::Tell { reason: format!("it has no node `{name}`") };
    let text = head.to_text();
    if node.ok_or_else(missing)?["metadata"]["annotations"][HEAD_ANNOTATION].as_str() == Some(&text)
    {
        return Ok(false);
    }
    let patch = json!({ "metadata": { "annotations": { HEAD_ANNOTATION: text } } });
    api.patch(Kind::Node, (&name, None), (Patch::Merge, &patch)).await.map_err(refused)?;
    Ok(true)
}
