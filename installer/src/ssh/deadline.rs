//! How long each request may take: bounded, and named in the error when it took longer.

use std::time::Duration;

use kdc_agent::wire::RequestBody;

/// What a request is called, whose events belong to it, and its deadline.
pub(super) fn manners(body: &RequestBody) -> (&'static str, Option<String>, Option<Duration>) {
    use RequestBody as Body;
    let (name, secs) = match body {
        Body::Facts => ("reading facts", 60),
        Body::Survey { .. } => ("surveying the steps", 300),
        Body::Hold { .. } => ("taking hold of the node", 15),
        Body::OfferIndex { .. } => ("offering the index", 180),
        Body::Missing { .. } => ("asking which pieces are missing", 180),
        Body::Share { .. } => ("beginning to share with other nodes", 60),
        Body::Peers { .. } => ("introducing other nodes", 30),
        Body::Unshare => ("ending to share with other nodes", 60),
        Body::StartRun { .. } => ("starting the run", 60),
        Body::Attach { run, .. } => return ("following the run", Some(run.clone()), None),
        Body::Provide { .. } => ("handing over a value", 15),
        Body::MintJoin { .. } => ("making join credentials", 120),
        Body::Runs => ("listing the runs", 30),
        Body::Acceptance => ("reading the acceptance record", 30),
        Body::OutsideTraffic { .. } => ("looking for outside traffic", 90),
        Body::LicenseStanding { .. } => ("asking how the licence stands", 120),
        Body::License => ("looking at the licence", 120),
        Body::InstallLicense { .. } => ("installing the licence", 120),
        Body::RemoveLicense { .. } => ("removing the licence", 120),
        Body::GpuSharing => ("looking at how GPUs are shared", 180),
        Body::Audit { .. } => ("reading the audit log", 300),
        Body::PlanShown(_) => ("putting the plan on record", 30),
        Body::Prune { .. } => ("pruning the store", 300),
        Body::Undo => ("starting the undo", 60),
        Body::Depart => ("leaving the node", 120),
        Body::Kubeconfig => ("reading the kubeconfig", 30),
        Body::Accept { timeout_secs, .. } => {
            // Cleaning up, before and after, has two minutes of its own each.
            let limit = Duration::from_secs(timeout_secs.saturating_add(300));
            return ("proving the cluster", Some("accept".to_owned()), Some(limit));
        }
    };
    (name, None, Some(Duration::from_secs(secs)))
}
