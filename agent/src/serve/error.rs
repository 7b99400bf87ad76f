//! Why a request was refused, in words an operator can act on.

use crate::{
    audit::AuditError, host::HostError, run::RunError, store::peer::PeerError, wire::Failure,
};

/// A request that was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The agent lacks the rights.
    #[error("the agent on this node does not run as root")]
    NotRoot,
    /// Another installer works here.
    #[error("this node is held by {holder}")]
    Held {
        /// What the other one said about itself.
        holder: String,
        /// Its agent's process on this node.
        pid: String,
    },
    /// A change was asked for without the hold.
    #[error("this session does not hold the node")]
    NotHeld,
    /// The lock file failed.
    #[error("the hold on this node can't be taken")]
    Hold {
        /// What failed.
        source: std::io::Error,
    },
    /// Another plan is being carried out.
    #[error("run {run} of another plan is going on here")]
    Busy {
        /// That run.
        run: String,
    },
    /// No such run.
    #[error("there is no run `{run}` on this node")]
    NoRun {
        /// What was asked for.
        run: String,
    },
    /// The unit was started but its process never opened the journal.
    #[error("run {run} was started, but did not begin within {seconds} s")]
    NotBegun {
        /// That run.
        run: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The run's process ended and could not write down why.
    #[error("run {run} could not go on: error[{}]: {failure}", failure.code)]
    Stopped {
        /// That run.
        run: String,
        /// What the process said.
        failure: Failure,
    },
    /// A name that can't be a file name.
    #[error("`{name}` is not a value's name: letters, digits and `-`, at most 64")]
    ValueName {
        /// What was given.
        name: String,
    },
    /// A value that no run needs.
    #[error("the value `{name}` has {bytes} bytes; at most {limit} are taken")]
    ValueSize {
        /// Its name.
        name: String,
        /// Its size.
        bytes: usize,
        /// The most.
        limit: usize,
    },
    /// A licence file that is none.
    #[error("the licence file has {bytes} bytes; at most {limit} are taken")]
    LicenseSize {
        /// Its size.
        bytes: usize,
        /// The most.
        limit: usize,
    },
    /// The installer named a range that is none.
    #[error("what belongs to the cluster can't be read: {reason}")]
    Range {
        /// Which text, and what is wrong with it.
        reason: String,
    },
    /// Not a control plane (yet).
    #[error("this node has no {path}")]
    NoKubeconfig {
        /// The file.
        path: &'static str,
    },
    /// `kubeadm token create` failed or said something new.
    #[error("no join credentials: {reason}")]
    Mint {
        /// Why, secrets masked.
        reason: String,
    },
    /// Nothing to undo.
    #[error("nothing of kdc is in force on this node")]
    NothingInForce,
    /// Depart before undo.
    #[error("changes of run {run} are still in force on this node")]
    StillInForce {
        /// That run.
        run: String,
    },
    /// A file of ours could not be removed.
    #[error("kdc's own files could not all be removed")]
    Depart {
        /// What failed; it names the path.
        source: std::io::Error,
    },
    /// A run's files.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The machine.
    #[error(transparent)]
    Host(#[from] HostError),
    /// What shares with other nodes could not be ended.
    #[error(transparent)]
    Share(#[from] PeerError),
    /// What is to be begun can't be written down.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A worker thread died.
    #[error("the agent failed while it answered")]
    Internal,
}

impl ServeError {
    /// Stable code, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotRoot => "AGENT-020",
            Self::Held { .. } => "AGENT-021",
            Self::NotHeld => "AGENT-022",
            Self::Hold { .. } => "AGENT-023",
            Self::Busy { .. } => "AGENT-024",
            Self::NoRun { .. } => "AGENT-025",
            Self::NotBegun { .. } => "AGENT-026",
            Self::ValueName { .. } => "AGENT-027",
            Self::NoKubeconfig { .. } => "AGENT-028",
            Self::Mint { .. } => "AGENT-029",
            Self::NothingInForce => "AGENT-030",
            Self::StillInForce { .. } => "AGENT-031",
            Self::Depart { .. } => "AGENT-032",
            Self::Run(error) => error.code(),
            Self::Share(error) => error.code(),
            Self::Audit(error) => error.code(),
            Self::Host(_) => "AGENT-033",
            Self::Internal => "AGENT-034",
            Self::Stopped { .. } => "AGENT-035",
            Self::Range { .. } => "AGENT-036",
            Self::ValueSize { .. } => "AGENT-037",
            Self::LicenseSize { .. } => "AGENT-120",
        }
    }

    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotRoot => "log in as root, or as a user that may use sudo".to_owned(),
            Self::Held { pid, .. } => format!(
                "wait until it is done; if that installer is gone for good, `kill {pid}` on the node"
            ),
            Self::NotHeld => "ask for `Hold` first".to_owned(),
            Self::Hold { .. } => "look at /run/kdc on the node".to_owned(),
            Self::Busy { .. } => {
                "finish it with the cluster file it was started from, or `kdc-install undo`"
                    .to_owned()
            }
            Self::NoRun { .. } => "see `kdc-agent status` on the node".to_owned(),
            Self::NotBegun { run, .. } => format!("see `journalctl -u kdc-run-{run}` on the node"),
            Self::NoKubeconfig { .. } => {
                "ask a control-plane node whose install is finished".to_owned()
            }
            Self::Mint { .. } => "is the API server up? see `crictl ps -a` on the node".to_owned(),
            Self::StillInForce { .. } => "run `kdc-install undo` first".to_owned(),
            Self::Depart { .. } => "remove what the message names, then undo again".to_owned(),
            Self::Stopped { failure, .. } => return failure.hint.clone(),
            Self::Run(error) => return error.hint(),
            Self::Share(error) => return error.hint(),
            Self::Audit(error) => return error.hint(),
            Self::Host(error) => return error.hint(),
            Self::ValueName { .. }
            | Self::ValueSize { .. }
            | Self::LicenseSize { .. }
            | Self::Range { .. }
            | Self::NothingInForce
            | Self::Internal => return None,
        })
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        Self::from_error(error.code(), &error, error.hint())
    }
}
