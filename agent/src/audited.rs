//! What this program's parts write into the audit log, and `kdc-agent audit-settle`.

use std::{path::PathBuf, process::ExitCode};

use kdc_agent::{
    audit::{self, Entry, Log, Moment, Who, publish},
    run::RunError,
    step::NodePlan,
    wire::Outcome,
};

/// A run ended; what it did is done, so it doesn't wait for the log.
pub(super) fn run_ended(run: &str, plan: &NodePlan, ended: &Result<Outcome, RunError>) {
    let who = Who::part("run");
    audit::note(&Entry::run_ended(run, plan, ended.as_ref()), &who);
    let enrolled = ended.as_ref().ok().and_then(|outcome| Entry::enrolled(run, plan, outcome));
    if let Some(entry) = enrolled {
        audit::note(&entry, &who);
    }
}

/// An undo ended.
pub(super) fn undo_ended(undo: &str, ended: &Result<Outcome, RunError>) {
    audit::note(&Entry::undo_ended(undo, ended.as_ref()), &Who::part("undo"));
}

/// How the log is settled.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The kubelet's credentials, where they are not at a usual place.
    #[arg(long, value_name = "PATH")]
    kubeconfig: Vec<PathBuf>,
    /// The log's folder.
    #[arg(long, value_name = "PATH", default_value = audit::AUDIT_DIR)]
    folder: PathBuf,
}

/// Take in what waits, and tell the head, where there are a log and a cluster.
pub(super) fn settle(options: &Options) -> anyhow::Result<ExitCode> {
    let log = Log::at(&options.folder);
    log.settle(&Moment::now())?;
    if let Some(head) = log.head()? {
        super::runtime()?.block_on(publish::tell(&options.kubeconfig, &head))?;
    }
    Ok(ExitCode::SUCCESS)
}
