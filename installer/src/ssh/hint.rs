//! The next thing to try, for each way SSH to a node fails.

use super::SshError;

impl SshError {
    /// The next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        self.hint_before_login().or_else(|| self.hint_after_login())
    }

    fn hint_before_login(&self) -> Option<String> {
        Some(match self {
            Self::Config { path, .. } => format!("correct {}", path.display()),
            Self::Settings { .. } => "correct the node's `ssh` settings".to_owned(),
            Self::NoAddress { at, .. } => {
                format!(
                    "write an IP address for node `{}`, or a HostName in ~/.ssh/config",
                    at.node
                )
            }
            Self::NoRoute { .. } => {
                "check the address and the route to it; behind a jump host set `ssh.jump`"
                    .to_owned()
            }
            Self::Refused { .. } => {
                "is sshd running there, on that port? `ssh.port` sets another".to_owned()
            }
            Self::Timeout { .. } => {
                "a firewall may drop the packets, or the address is wrong; try `ssh` by hand"
                    .to_owned()
            }
            Self::NotSsh { .. } => "another service listens there; set `ssh.port`".to_owned(),
            Self::NoCommonAlgorithm { .. } => {
                "give the server an ed25519 host key (`ssh-keygen -A`) and a current OpenSSH; RSA \
                 host keys are not supported"
                    .to_owned()
            }
            Self::UnknownHostKey { unknown } => format!(
                "compare with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the node's \
                 console, then set `ssh.hostKey: \"{}\"` for `{}`, or confirm it interactively",
                unknown.fingerprint, unknown.node
            ),
            Self::ChangedHostKey { record, .. } => format!(
                "if the server was set up anew, compare the fingerprint on its console and correct \
                 {record}; otherwise someone may be in between: do not go on"
            ),
            Self::RevokedHostKey { .. } => {
                "give the server a new host key; this one is known to be compromised".to_owned()
            }
            Self::BadHostCertificate { .. } => {
                "have the server's host certificate signed again by the CA in known_hosts"
                    .to_owned()
            }
            Self::Store { path, .. } => format!("make {} writable for you", path.display()),
            _ => return None,
        })
    }

    fn hint_after_login(&self) -> Option<String> {
        Some(match self {
            Self::LoginRefused { at, .. } => format!(
                "add your public key to ~/.ssh/authorized_keys there, or set `ssh.identity`; check \
                 with `{}`",
                by_hand(&at.address)
            ),
            Self::Passphrase { path, .. } => {
                format!("type the passphrase when asked, or `ssh-add {}` first", path.display())
            }
            Self::KeyFile { problem, .. } if !problem.contains("RSA") => {
                "set `ssh.identity` to an ed25519 or ECDSA key that is there and that you may read"
                    .to_owned()
            }
            Self::KeyFile { path, .. } => format!(
                "use an ed25519 or ECDSA key; an RSA key works through the SSH agent (`ssh-add {}`)",
                path.display()
            ),
            Self::JumpRefused { .. } => {
                "the jump host must allow TCP forwarding (`AllowTcpForwarding yes`) and reach the node"
                    .to_owned()
            }
            Self::NoShell { .. } => "log in as a user with a POSIX shell (`ssh.user`)".to_owned(),
            Self::NoSudo { .. } => "install sudo there, or log in as root (`ssh.user: root`)".to_owned(),
            Self::SudoPassword { .. } => {
                "run from a terminal to be asked for it, or allow the user sudo without password"
                    .to_owned()
            }
            Self::WrongSudoPassword { .. } => "run again and type the password anew".to_owned(),
            Self::NotSudoer { .. } => {
                "let the user run any command with sudo, or log in as another (`ssh.user`)".to_owned()
            }
            Self::DiskFull { .. } => "free some space in /var/tmp on the node".to_owned(),
            Self::NoExec { .. } => {
                "mount one of these without `noexec`, or put kdc-agent into /usr/local/bin by hand"
                    .to_owned()
            }
            Self::Damaged { .. } => "run again; if it repeats, check the node's memory and disk".to_owned(),
            Self::NoProgram { program, .. } => format!("install `{program}` on the node"),
            Self::AgentSilent { .. } => "is the agent built for the node's platform?".to_owned(),
            Self::Protocol { .. } => {
                "use the kdc-install and kdc-agent of one release".to_owned()
            }
            Self::Lost { .. } => {
                "run the same command again: what the node began, it carries on with".to_owned()
            }
            Self::Deadline { .. } => "look at the node's load, then run the command again".to_owned(),
            Self::Source { .. } => "check the bundle with `kdc-install bundle verify`".to_owned(),
            Self::Unexpected { .. } => {
                "use the kdc-install and kdc-agent of one release; if they are, it is a fault of \
                 kdc: please report it with this text"
                    .to_owned()
            }
            Self::Agent { failure, .. } => return failure.hint.clone(),
            _ => return None,
        })
    }
}

/// `user@host:port` as a command line of `ssh`, which takes the port apart.
fn by_hand(address: &str) -> String {
    match address.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            format!("ssh -p {port} {}", host.replace(['[', ']'], ""))
        }
        _ => format!("ssh {address}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_address_becomes_a_line_that_ssh_understands() {
        for (address, line) in [
            ("root@10.0.0.1", "ssh root@10.0.0.1"),
            ("root@10.0.0.1:2222", "ssh -p 2222 root@10.0.0.1"),
            ("root@fd00::1", "ssh root@fd00::1"),
            ("root@[fd00::1]:2222", "ssh -p 2222 root@fd00::1"),
        ] {
            assert_eq!(super::by_hand(address), line);
        }
    }
}
