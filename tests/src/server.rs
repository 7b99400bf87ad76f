//! One server of a lab, whatever it is made of: a light server (namespaces) or a machine (QEMU).
//!
//! Tests are written against [`Server`], so that the same test runs on both kinds where both can.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail};

/// What a program left when it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit status; 128 and the signal's number where a signal ended it, as in a shell.
    pub code: i32,
    /// Everything on standard output.
    pub stdout: Vec<u8>,
    /// Everything on standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether it ended with exit status 0.
    pub fn succeeded(&self) -> bool {
        self.code == 0
    }

    /// Standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl From<std::process::Output> for Output {
    fn from(output: std::process::Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let signal = output.status.signal().unwrap_or_default();
        let code = output.status.code().unwrap_or(128 + signal);
        Self { code, stdout: output.stdout, stderr: output.stderr }
    }
}

/// A server that tests log in to, look at and break.
pub trait Server: Send + Sync {
    /// Its host name.
    fn name(&self) -> &str;

    /// Its address on the lab's network.
    fn address(&self) -> IpAddr;

    /// The port its sshd listens on.
    fn ssh_port(&self) -> u16 {
        22
    }

    /// Its public SSH host key, as a line of `known_hosts` has it (`ssh-ed25519 AAAA…`).
    fn host_key(&self) -> &str;

    /// Whether it is powered on.
    fn is_running(&self) -> bool;

    /// Runs a program on it as root, with `input` on its standard input, not by SSH where possible.
    fn exec_with_input(&self, argv: &[&str], input: &[u8]) -> Result<Output>;

    /// Runs a program on it as root.
    fn exec(&self, argv: &[&str]) -> Result<Output> {
        self.exec_with_input(argv, b"")
    }

    /// Its root folder as seen from the host, where there is one (light servers while they run).
    ///
    /// An absolute symbolic link inside leads to the *host's* file: don't follow links through it.
    fn root(&self) -> Option<PathBuf> {
        None
    }

    /// Its network namespace as seen from the host, where there is one.
    fn network_namespace(&self) -> Option<PathBuf> {
        None
    }

    /// Its firewall rules as text, without counters: what `nft` and the older iptables know.
    ///
    /// By default the server's own `nft` is asked, so a server of this kind has to have it.
    fn ruleset(&self) -> Result<String> {
        let output = self.exec(&["nft", "-s", "list", "ruleset"])?;
        if !output.succeeded() {
            bail!("cannot read the rules of `{}`: {}", self.name(), output.stderr_text().trim());
        }
        Ok(output.stdout_text())
    }

    /// Makes it suffer a fault, or ends one.
    fn inflict(&self, fault: &Fault) -> Result<()>;
}

/// What can happen to a server, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Power cut: its PID 1 gets SIGKILL, and everything on it ends at once.
    Kill,
    /// Power on again, on the same disk.
    Start,
    /// Its network link goes down.
    Cut,
    /// Its network link comes up again.
    Mend,
    /// Its link carries this rate at most, in both directions (as `tc` writes rates: `10mbit`).
    Shape(String),
    /// Its link is as fast as it was.
    Unshape,
    /// Its disk becomes full.
    Fill,
    /// What filled its disk is gone.
    Unfill,
    /// Its disk can only be read.
    ReadOnly,
    /// Its disk can be written again.
    Writable,
}

impl Fault {
    /// Reads a fault as the command line has it: a word, and for `shape` a rate.
    pub fn from_words(word: &str, rate: Option<&str>) -> Result<Self> {
        if let ("shape", Some(rate)) = (word, rate) {
            return Ok(Self::Shape(rate.to_owned()));
        }
        if rate.is_some() {
            bail!("`{word}` takes no value; only `shape` does");
        }
        Ok(match word {
            "kill" => Self::Kill,
            "start" => Self::Start,
            "cut" => Self::Cut,
            "mend" => Self::Mend,
            "shape" => bail!("`shape` needs a rate, such as `shape 10mbit`"),
            "unshape" => Self::Unshape,
            "fill" => Self::Fill,
            "unfill" => Self::Unfill,
            "readonly" => Self::ReadOnly,
            "writable" => Self::Writable,
            _ => bail!(
                "no fault `{word}`; there are kill, start, cut, mend, shape RATE, unshape, fill, unfill, readonly, \
                 writable"
            ),
        })
    }
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(' ') {
            Some((word, rate)) => Self::from_words(word, Some(rate)),
            None => Self::from_words(text, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_read_back_from_words() {
        for (text, wanted) in [
            ("kill", Some(Fault::Kill)),
            ("shape 10mbit", Some(Fault::Shape("10mbit".into()))),
            ("readonly", Some(Fault::ReadOnly)),
            ("shape", None),
            ("kill now", None),
            ("explode", None),
        ] {
            assert_eq!(text.parse::<Fault>().ok(), wanted, "{text}");
        }
    }
}
