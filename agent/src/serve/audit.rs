//! What a session writes into the audit log, and what it tells of it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kdc_bundles::index::Digest;

use super::{Session, control, lock, prune};
use crate::{
    audit::{
        AuditError, Entry, Moment, Who,
        export::{self, Content},
        publish::{self, KeptByCluster},
    },
    wire::{AuditSections, Failure, Reply, ShownPlan},
};

impl Session {
    /// Who is at the other end.
    pub(super) fn who(&self) -> Who {
        Who::over_ssh(&lock(&self.operator))
    }
}

/// A bundle is taken into the store on its word, so its line comes first.
pub(super) fn bundle_trusted(session: &Session, index: &Digest) -> Result<(), AuditError> {
    let entry = Entry::BundleTrusted { index: index.to_string() };
    session.places.audit.append(&entry, &session.who(), &Moment::now()).map(drop)
}

/// Who may act as the cluster's admin from now on.
pub(super) fn kubeconfig_read(session: &Session) {
    session.places.audit.note_where_begun(&Entry::KubeconfigRead {}, &session.who());
}

/// Make join credentials, and put it on record.
pub(super) fn mint_join(session: &Session, ttl_secs: u64) -> Result<Reply, Failure> {
    let reply = control::mint_join(&session.host, ttl_secs)?;
    session.places.audit.note(&Entry::JoinMinted { ttl_secs }, &session.who());
    Ok(reply)
}

/// Prune the store, and put on record what went.
pub(super) fn prune(session: &Session, dry_run: bool) -> Result<Reply, Failure> {
    let reply = prune::prune(&session.host, &session.places, &session.store, dry_run)?;
    if let (Reply::Pruned { files, bytes }, false) = (&reply, dry_run) {
        let entry = Entry::Pruned { files: *files, bytes: *bytes };
        session.places.audit.note_where_begun(&entry, &session.who());
    }
    Ok(reply)
}

/// A plan that was only shown is on record where kdc keeps a log already.
pub(super) fn plan_shown(session: &Session, shown: &ShownPlan) -> Reply {
    let ShownPlan { operator, cluster, plan, nodes, steps } = shown;
    let entry = Entry::PlanShown {
        cluster: cluster.clone(),
        plan: plan.to_string(),
        nodes: *nodes,
        steps: *steps,
    };
    session.places.audit.note_where_begun(&entry, &Who::over_ssh(operator));
    Reply::Done
}

/// The log as it is, sealed; on a control plane the heads that the cluster keeps, too.
pub(super) fn read(session: &Session, node: &str, heads: bool) -> Result<Reply, Failure> {
    let (log, now) = (&session.places.audit, Moment::now());
    log.settle(&now)?;
    let section = export::of_log(log, node, now.at_unix_ms)?;
    let kept =
        if heads { publish::kept_by_cluster(&session.host) } else { Ok(KeptByCluster::default()) };
    let (kept, unasked) = match kept {
        Ok(kept) => (kept, None),
        Err(why) => (KeptByCluster::default(), Some(why)),
    };
    let sealed = |content, text: String| {
        let (_, _, key) = log.read()?;
        let title = export::title(node, now.at_unix_ms, content, None);
        Ok::<_, AuditError>(STANDARD.encode(export::seal(&key, title, text.as_bytes())))
    };
    Ok(Reply::Audit(AuditSections {
        log: STANDARD.encode(section),
        heads: kept.heads.map(|heads| sealed(Content::Heads, heads)).transpose()?,
        license: kept.license.map(|license| sealed(Content::License, license)).transpose()?,
        unasked,
    }))
}
