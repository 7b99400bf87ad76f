//! Each way SSH to a node fails, in words for an operator.

use std::{io, path::PathBuf};

use kdc_agent::wire::Failure;

use super::UnknownKey;

/// Where something failed: part of most variants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At {
    /// Node name (`jump for cp1` for a jump host).
    pub node: String,
    /// `user@host:port`, or `this machine`.
    pub address: String,
}

impl std::fmt::Display for At {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "node `{}` ({})", self.node, self.address)
    }
}

/// A failure between installer and node.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// `~/.ssh/config` or a known_hosts file can't be read or understood.
    #[error("{}: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The SSH settings of a node can't be used.
    #[error("node `{node}`: {problem}")]
    Settings {
        /// Node name.
        node: String,
        /// What is wrong.
        problem: String,
    },
    /// The host name has no address.
    #[error("{at}: the name has no address")]
    NoAddress {
        /// Where.
        at: At,
        /// What the resolver said.
        source: io::Error,
    },
    /// No route to the address.
    #[error("{at}: no route")]
    NoRoute {
        /// Where.
        at: At,
        /// What the network said.
        source: io::Error,
    },
    /// The port is closed.
    #[error("{at}: connection refused")]
    Refused {
        /// Where.
        at: At,
    },
    /// Nothing answered in time.
    #[error("{at}: no answer within {secs} s")]
    Timeout {
        /// Where.
        at: At,
        /// How long we waited.
        secs: u64,
    },
    /// Something answered, but it doesn't speak SSH.
    #[error("{at}: this is not an SSH server; it said {said}")]
    NotSsh {
        /// Where.
        at: At,
        /// The first bytes, escaped.
        said: String,
    },
    /// No algorithm both sides accept.
    #[error("{at}: no common {kind} algorithm; the server offers {theirs}")]
    NoCommonAlgorithm {
        /// Where.
        at: At,
        /// `host key`, `cipher`…
        kind: String,
        /// The server's list.
        theirs: String,
    },
    /// Nobody vouches for the host key.
    #[error(
        "node `{}`: the host key of {} is unknown: {}",
        unknown.node, unknown.host, unknown.fingerprint
    )]
    UnknownHostKey {
        /// The key, to confirm.
        unknown: Box<UnknownKey>,
    },
    /// Another host key is on record.
    #[error("{at}: the host key CHANGED: expected {expected}, the server shows {found}")]
    ChangedHostKey {
        /// Where.
        at: At,
        /// What is on record, and where (`SHA256:… in /home/ops/.ssh/known_hosts:3`).
        expected: String,
        /// Fingerprint of the server's key.
        found: String,
        /// Where the record is.
        record: String,
    },
    /// The key is marked `@revoked`.
    #[error("{at}: the host key {found} is revoked by {record}")]
    RevokedHostKey {
        /// Where.
        at: At,
        /// Fingerprint of the server's key.
        found: String,
        /// The line that revokes it.
        record: String,
    },
    /// The host certificate doesn't hold.
    #[error("{at}: the host certificate is refused: {problem}")]
    BadHostCertificate {
        /// Where.
        at: At,
        /// Why.
        problem: String,
    },
    /// Every login method failed.
    #[error("{at}: login refused; tried {}; the server accepts {accepts}", list(tried))]
    LoginRefused {
        /// Where.
        at: At,
        /// What was tried.
        tried: Vec<String>,
        /// Methods the server names.
        accepts: String,
    },
    /// A private key file needs a passphrase and the one given doesn't fit, or there was none.
    #[error("{at}: {} can't be opened: {problem}", path.display())]
    Passphrase {
        /// Where.
        at: At,
        /// The key file.
        path: PathBuf,
        /// `wrong passphrase` or `it needs a passphrase`.
        problem: &'static str,
    },
    /// A private key file can't be used.
    #[error("{at}: key file {} can't be used: {problem}", path.display())]
    KeyFile {
        /// Where.
        at: At,
        /// The key file.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// The jump host won't forward.
    #[error("{at}: the jump host {jump} can't reach it: {problem}")]
    JumpRefused {
        /// The node behind.
        at: At,
        /// The jump host.
        jump: String,
        /// What the jump host said.
        problem: String,
    },
    /// The login has no usable shell.
    #[error("{at}: the login shell doesn't run commands{said}")]
    NoShell {
        /// Where.
        at: At,
        /// What it printed.
        said: String,
    },
    /// Root is needed and there is no sudo.
    #[error("{at}: root is needed, and there is no `sudo`")]
    NoSudo {
        /// Where.
        at: At,
    },
    /// sudo wants a password and there is none.
    #[error("{at}: sudo needs a password")]
    SudoPassword {
        /// Where.
        at: At,
    },
    /// sudo didn't take the password.
    #[error("{at}: sudo refused the password")]
    WrongSudoPassword {
        /// Where.
        at: At,
    },
    /// The user may not use sudo.
    #[error("{at}: the user may not become root: {said}")]
    NotSudoer {
        /// Where.
        at: At,
        /// What sudo said.
        said: String,
    },
    /// No directory has room for the agent.
    #[error("{at}: no room for the agent: {places}")]
    DiskFull {
        /// Where.
        at: At,
        /// Directories tried, and why not.
        places: String,
    },
    /// No directory may execute files.
    #[error("{at}: no directory where the agent may run: {places}")]
    NoExec {
        /// Where.
        at: At,
        /// Directories tried, and why not.
        places: String,
    },
    /// What arrived on the node isn't the agent that was sent.
    #[error("{at}: the agent arrived damaged: expected {expected}, found {found}")]
    Damaged {
        /// Where.
        at: At,
        /// Digest sent.
        expected: String,
        /// Digest there.
        found: String,
    },
    /// The node lacks a program that staging needs.
    #[error("{at}: the node has no `{program}`")]
    NoProgram {
        /// Where.
        at: At,
        /// The program.
        program: String,
    },
    /// The agent ended before it greeted.
    #[error("{at}: the agent does not start{said}")]
    AgentSilent {
        /// Where.
        at: At,
        /// Exit status and what it printed.
        said: String,
    },
    /// Installer and agent don't share a protocol.
    #[error(
        "{at}: the agent {version} speaks protocol {oldest} to {newest}, this installer {ours}"
    )]
    Protocol {
        /// Where.
        at: At,
        /// Agent version.
        version: String,
        /// Oldest the agent speaks.
        oldest: u32,
        /// Newest the agent speaks.
        newest: u32,
        /// Our range.
        ours: String,
    },
    /// The connection ended or went silent.
    #[error("node `{node}`: connection lost while {during}{detail}")]
    Lost {
        /// Node name.
        node: String,
        /// What was going on.
        during: String,
        /// What the network said, if anything (starts with `: `).
        detail: String,
    },
    /// An answer didn't come in time.
    #[error("node `{node}`: no answer within {secs} s while {during}")]
    Deadline {
        /// Node name.
        node: String,
        /// What was asked.
        during: String,
        /// How long we waited.
        secs: u64,
    },
    /// The agent answered something that doesn't fit.
    #[error("node `{node}`: unexpected answer while {during}: {detail}")]
    Unexpected {
        /// Node name.
        node: String,
        /// What was asked.
        during: String,
        /// What came.
        detail: String,
    },
    /// A piece can't be read from the bundle.
    #[error("node `{node}`: piece {piece} of {blob} can't be read from the bundle")]
    Source {
        /// Node it was meant for.
        node: String,
        /// The blob.
        blob: String,
        /// Ordinal of the piece.
        piece: u32,
        /// Why.
        source: io::Error,
    },
    /// A confirmed host key can't be stored.
    #[error("the confirmed host keys can't be written to {}", path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The agent answered with a failure.
    #[error("node `{node}`: {failure}")]
    Agent {
        /// Node name.
        node: String,
        /// The agent's words.
        failure: Box<Failure>,
    },
}

fn list(tried: &[String]) -> String {
    if tried.is_empty() { "nothing (no key and no password)".to_owned() } else { tried.join(", ") }
}
