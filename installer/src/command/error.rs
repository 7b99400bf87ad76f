//! Errors of the command layer itself, `KDC-nnn`; `docs/errors.md` lists them.

use std::path::PathBuf;

use kdc_profiles::problem::LoadError;

use crate::{
    plan::{PlanError, SavedPlanError},
    show::{Complaint, Exit},
    ssh::SshError,
};

/// What can go wrong between the command line and the fleet.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The runtime could not start, or a worker thread died.
    #[error("kdc-install can't work here")]
    Runtime(#[source] std::io::Error),
    /// Output could not be written.
    #[error("can't write the output")]
    Output(#[source] std::io::Error),
    /// A file can't be written.
    #[error("can't write `{}`", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The cluster file or the profile has mistakes, or can't be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A host on the command line is none.
    #[error("`{text}` is not a host: {problem}")]
    Host {
        /// What was given.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A bundle is needed and none is named.
    #[error("which bundle? `{command}` needs one")]
    NoBundle {
        /// The command.
        command: &'static str,
    },
    /// The bundle has no agent for this kind of machine.
    #[error("the bundle has no `kdc-agent` for {platform}")]
    NoAgent {
        /// The platform.
        platform: String,
    },
    /// There is no agent beside this program.
    #[error("can't read the agent `{}`", path.display())]
    AgentBeside {
        /// Where it was looked for.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `~/.ssh/config` or the SSH settings of a node.
    #[error(transparent)]
    Settings(SshError),
    /// The plan can't be made.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A saved plan can't be used.
    #[error(transparent)]
    SavedPlan(#[from] SavedPlanError),
    /// Something asks before it goes ahead, and nobody can answer.
    #[error("`{command}` asks before it goes ahead, and there is no terminal to ask on")]
    NobodyToAsk {
        /// The command.
        command: &'static str,
    },
    /// The operator said no.
    #[error("stopped before anything was changed, as you said")]
    Declined,
    /// A node that is not in the cluster file.
    #[error("the cluster file has no node `{node}`")]
    UnknownNode {
        /// What was given.
        node: String,
    },
    /// `--local` on a cluster of several nodes.
    #[error("`--local` is for a cluster of one node; this one has {nodes}")]
    NotLocal {
        /// How many it has.
        nodes: usize,
    },
    /// A file, or what a node answered, is no export of audit logs, or no file of keys.
    #[error("`{}` can't be used: {reason}", path.display())]
    NotAnExport {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No node has an audit log.
    #[error("none of these nodes has an audit log")]
    NoLogs,
    /// A file is in the way.
    #[error("`{}` is there already", path.display())]
    InTheWay {
        /// Which file.
        path: PathBuf,
    },
}

impl CommandError {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Runtime(_) | Self::Output(_) => "KDC-001",
            Self::Write { .. } => "KDC-002",
            Self::Load(_) => "KDC-003",
            Self::Host { .. } => "KDC-004",
            Self::NoBundle { .. } => "KDC-005",
            Self::NoAgent { .. } => "KDC-006",
            Self::AgentBeside { .. } => "KDC-007",
            Self::Settings(error) => error.code(),
            Self::Plan(_) => "KDC-008",
            Self::SavedPlan(_) => "KDC-009",
            Self::NobodyToAsk { .. } => "KDC-014",
            Self::Declined => "KDC-015",
            Self::UnknownNode { .. } => "KDC-016",
            Self::InTheWay { .. } => "KDC-017",
            Self::NotAnExport { .. } => "KDC-036",
            Self::NoLogs => "KDC-037",
            Self::NotLocal { .. } => "KDC-030",
        }
    }

    /// The next thing to try, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Load(error) => return error.hint(),
            Self::Settings(error) => return error.hint(),
            Self::Plan(error) => return error.hint(),
            Self::SavedPlan(error) => return error.hint(),
            Self::Runtime(_) | Self::Output(_) | Self::Declined => return None,
            Self::Write { .. } => {
                "name a place in a folder that is there and that you may write to"
            }
            Self::Host { .. } => {
                "write it as `[user@]address[:port]`; a name has to resolve on this machine"
            }
            Self::NoBundle { .. } => "name it: `--bundle FILE`",
            Self::NoAgent { .. } => {
                "add an artifact of kind `agent` for that platform to the bundle's definition"
            }
            Self::AgentBeside { .. } => {
                "give `--bundle FILE`, which has the agent, or put `kdc-agent` beside kdc-install"
            }
            Self::NobodyToAsk { .. } => "add `--yes` if you mean it",
            Self::UnknownNode { .. } => "use a name from `spec.nodes` of the cluster file",
            Self::NotLocal { .. } => "leave `--local` out: the nodes are reached over SSH",
            Self::NotAnExport { .. } => {
                "name what `kdc-install audit export` wrote: the export, and beside it the `.pub`"
            }
            Self::NoLogs => "a log begins with the first run: `kdc-install apply`",
            Self::InTheWay { .. } => "choose another file with `-f`, or add `--force`",
        };
        Some(hint.to_owned())
    }

    /// The exit code it stands for.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Runtime(_) | Self::Output(_) => Exit::Internal,
            Self::Plan(_) | Self::NoAgent { .. } | Self::Declined | Self::NoLogs => Exit::Refused,
            Self::Write { .. }
            | Self::Load(_)
            | Self::Host { .. }
            | Self::NoBundle { .. }
            | Self::AgentBeside { .. }
            | Self::Settings(_)
            | Self::SavedPlan(_)
            | Self::NobodyToAsk { .. }
            | Self::UnknownNode { .. }
            | Self::NotLocal { .. }
            | Self::NotAnExport { .. }
            | Self::InTheWay { .. } => Exit::Usage,
        }
    }
}

impl From<CommandError> for Complaint {
    fn from(error: CommandError) -> Self {
        Self::from_error(error.code(), error.exit(), &error).maybe_hint(error.hint())
    }
}

/// A node's own failure as a complaint.
pub(crate) fn of_node(error: &SshError, exit: Exit) -> Complaint {
    Complaint::from_error(error.code(), exit, error).maybe_hint(error.hint())
}

/// `2 of 3 nodes …`, with each node's failure behind it.
pub(crate) fn of_nodes(
    (code, exit): (&str, Exit),
    errors: &[SshError],
    nodes: usize,
    what: &str,
) -> Complaint {
    Complaint::new(code, exit, format!("{} of {nodes} node(s) {what}", errors.len()))
        .parts(errors.iter().map(|error| of_node(error, exit)).collect())
}
