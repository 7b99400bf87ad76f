//! Where a node is and how to get in: cluster file over `~/.ssh/config` over defaults.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use kdc_profiles::cluster::{Node, Ssh};

use super::{Keyring, SshConfigFile, SshError, Trust, config::HostSettings, error::At};

/// One SSH server: the node itself or the jump host before it.
#[derive(Debug, Clone, PartialEq, Eq)]
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

impl Reach {
    /// `user@host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        match (self.port, self.host.contains(':')) {
            (22, _) => format!("{}@{}", self.user, self.host),
            (port, true) => format!("{}@[{}]:{port}", self.user, self.host),
            (port, false) => format!("{}@{}:{port}", self.user, self.host),
        }
    }

    pub(super) fn at(&self, node: &str) -> At {
        At { node: node.to_owned(), address: self.address() }
    }
}

/// A node to open a session to.
#[derive(Debug, Clone)]
pub enum Target {
    /// Over SSH.
    Ssh {
        /// Node name.
        node: String,
        /// The node's SSH server.
        reach: Box<Reach>,
        /// The host in between.
        jump: Option<Box<Reach>>,
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

/// What the operator's machine adds to the cluster file.
pub struct Surroundings {
    /// Home directory: default keys and `~/.ssh/known_hosts`.
    pub home: PathBuf,
    /// `~/.ssh/config`.
    pub config: SshConfigFile,
    /// known_hosts files for hosts that nothing else says anything about.
    pub known_hosts: Vec<PathBuf>,
    /// kdc's own known_hosts file.
    pub own_known_hosts: PathBuf,
}

impl Surroundings {
    /// Those of the user with this home directory.
    ///
    /// # Errors
    /// `~/.ssh/config` can't be read or understood.
    pub fn of_home(home: &Path) -> Result<Self, SshError> {
        Ok(Self {
            home: home.to_owned(),
            config: SshConfigFile::load(home)?,
            known_hosts: vec![home.join(".ssh/known_hosts"), "/etc/ssh/ssh_known_hosts".into()],
            own_known_hosts: home.join(".config/kdc/known_hosts"),
        })
    }
}

impl Target {
    /// Node name.
    #[must_use]
    pub fn node(&self) -> &str {
        match self {
            Self::Ssh { node, .. } | Self::Local { node, .. } => node,
        }
    }

    /// Secrets shared by all targets of a command.
    #[must_use]
    pub fn keyring(&self) -> &Arc<Keyring> {
        match self {
            Self::Ssh { keyring, .. } | Self::Local { keyring, .. } => keyring,
        }
    }

    /// Resolve a node: cluster file over `~/.ssh/config` over defaults. `all` are the settings of
    /// the whole cluster file; those of the node win.
    ///
    /// # Errors
    /// The settings can't be used (two jump hosts in a row, a jump host that doesn't parse, a
    /// known_hosts file that isn't there).
    pub fn of(
        node: &Node,
        all: &Ssh,
        around: &Surroundings,
        keyring: Arc<Keyring>,
    ) -> Result<Self, SshError> {
        let own = layer(&node.ssh, all);
        let address = node.address.to_string();
        let said = merge(around.config.query(&node.name), around.config.query(&address));
        let wrong = |problem: String| SshError::Settings { node: node.name.clone(), problem };
        let spelled = match (&own.jump, said.jump.as_deref()) {
            (Some(jump), _) => Some(jump.clone()),
            (None, None | Some([])) => None,
            (None, Some([one])) if one == "none" => None,
            (None, Some([one])) => Some(one.clone()),
            (None, Some(several)) => {
                return Err(wrong(format!(
                    "`ProxyJump {}` names several hosts; kdc goes through one",
                    several.join(",")
                )));
            }
        };
        if let Some(path) = own.known_hosts.as_ref().map(|path| tilde(path, around))
            && !path.is_file()
        {
            return Err(wrong(format!("`ssh.knownHosts`: there is no file `{}`", path.display())));
        }
        let jump = match spelled.as_deref() {
            None | Some("none") => None,
            Some(text) => Some(Box::new(jump_reach(text, &own, around).map_err(wrong)?)),
        };
        let host = said.host_name.clone().unwrap_or(address);
        let reach = Box::new(reach(host, &own, &said, around));
        Ok(Self::Ssh { node: node.name.clone(), reach, jump, keyring })
    }
}

/// The node's settings over those of the whole file.
fn layer(node: &Ssh, all: &Ssh) -> Ssh {
    Ssh {
        user: node.user.clone().or_else(|| all.user.clone()),
        port: node.port.or(all.port),
        // A host key belongs to one host.
        host_key: node.host_key.clone(),
        jump: node.jump.clone().or_else(|| all.jump.clone()),
        jump_host_key: node.jump_host_key.clone().or_else(|| all.jump_host_key.clone()),
        identity: node.identity.clone().or_else(|| all.identity.clone()),
        known_hosts: node.known_hosts.clone().or_else(|| all.known_hosts.clone()),
    }
}

fn merge(first: HostSettings, second: HostSettings) -> HostSettings {
    let either = |a: Vec<PathBuf>, b: Vec<PathBuf>| if a.is_empty() { b } else { a };
    HostSettings {
        host_name: first.host_name.or(second.host_name),
        user: first.user.or(second.user),
        port: first.port.or(second.port),
        identities_only: first.identities_only || second.identities_only,
        identities: either(first.identities, second.identities),
        jump: first.jump.or(second.jump),
        known_hosts: either(first.known_hosts, second.known_hosts),
    }
}

fn reach(host: String, own: &Ssh, said: &HostSettings, around: &Surroundings) -> Reach {
    let (identities, identities_only) = match (&own.identity, said.identities.is_empty()) {
        (Some(path), _) => (vec![tilde(path, around)], true),
        (None, false) => (said.identities.clone(), said.identities_only),
        (None, true) => (default_identities(&around.home), said.identities_only),
    };
    let known_hosts = match (&own.known_hosts, said.known_hosts.is_empty()) {
        (Some(path), _) => vec![tilde(path, around)],
        (None, false) => said.known_hosts.clone(),
        (None, true) => around.known_hosts.clone(),
    };
    Reach {
        host,
        port: own.port.or(said.port).unwrap_or(22),
        user: own.user.clone().or_else(|| said.user.clone()).unwrap_or_else(|| "root".to_owned()),
        identities,
        identities_only,
        trust: Trust {
            pinned: own.host_key.clone(),
            known_hosts,
            own: Some(around.own_known_hosts.clone()),
        },
    }
}

/// The jump host: `[user@]host[:port]` over what `~/.ssh/config` says about that host.
fn jump_reach(text: &str, node: &Ssh, around: &Surroundings) -> Result<Reach, String> {
    let (user, host, port) = parse_jump(text)
        .ok_or_else(|| format!("jump host `{text}` is not `[user@]host[:port]`"))?;
    let said = around.config.query(&host);
    if said.jump.as_ref().is_some_and(|jumps| jumps.iter().any(|jump| jump != "none")) {
        return Err(format!("jump host `{host}` has a jump host of its own; kdc goes through one"));
    }
    let own = Ssh {
        user: user.or_else(|| said.user.clone()).or_else(|| node.user.clone()),
        port,
        host_key: node.jump_host_key.clone(),
        jump: None,
        jump_host_key: None,
        identity: if said.identities.is_empty() { node.identity.clone() } else { None },
        known_hosts: node.known_hosts.clone(),
    };
    let host = said.host_name.clone().unwrap_or(host);
    Ok(reach(host, &own, &said, around))
}

/// `[user@]host[:port]`, `[user@][v6]:port`, or with `ssh://` in front.
fn parse_jump(text: &str) -> Option<(Option<String>, String, Option<u16>)> {
    let text = text.strip_prefix("ssh://").unwrap_or(text).trim_end_matches('/');
    let (user, rest) = match text.rsplit_once('@') {
        Some((user, rest)) if !user.is_empty() => (Some(user.to_owned()), rest),
        Some(_) => return None,
        None => (None, text),
    };
    let (host, port) = if let Some(inner) = rest.strip_prefix('[') {
        let (host, after) = inner.split_once(']')?;
        let port = match after {
            "" => None,
            _ => Some(after.strip_prefix(':')?),
        };
        (host, port)
    } else {
        match rest.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') => (host, Some(port)),
            _ => (rest, None),
        }
    };
    let port = match port {
        Some(port) => Some(port.parse().ok().filter(|&port| port != 0)?),
        None => None,
    };
    let clean = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == ',');
    clean.then(|| (user, host.to_owned(), port))
}

fn tilde(path: &Path, around: &Surroundings) -> PathBuf {
    path.strip_prefix("~").map_or_else(|_| path.to_owned(), |rest| around.home.join(rest))
}

/// The keys OpenSSH would try, as far as they are there.
fn default_identities(home: &Path) -> Vec<PathBuf> {
    ["id_ed25519", "id_ecdsa", "id_rsa"]
        .map(|name| home.join(".ssh").join(name))
        .into_iter()
        .filter(|path| path.is_file())
        .collect()
}

#[cfg(test)]
mod tests {
    use kdc_profiles::cluster::Role;

    use super::*;
    use crate::ssh::Silent;

    fn around(config: &str) -> Surroundings {
        Surroundings {
            home: "/home/ops".into(),
            config: SshConfigFile::parse(config, Path::new("/home/ops")).unwrap(),
            known_hosts: vec!["/home/ops/.ssh/known_hosts".into()],
            own_known_hosts: "/home/ops/.config/kdc/known_hosts".into(),
        }
    }

    fn resolve(config: &str, all: &Ssh, own: Ssh) -> Result<(Reach, Option<Reach>), SshError> {
        let node = Node {
            name: "w1".to_owned(),
            role: Role::Worker,
            address: "10.0.0.11".parse().unwrap(),
            ssh: own,
            labels: std::collections::BTreeMap::new(),
            taints: Vec::new(),
            gpu: None,
        };
        let keyring = Arc::new(Keyring::new(Arc::new(Silent)));
        match Target::of(&node, all, &around(config), keyring)? {
            Target::Ssh { reach, jump, .. } => Ok((*reach, jump.map(|jump| *jump))),
            Target::Local { .. } => panic!("not over SSH"),
        }
    }

    #[test]
    fn cluster_file_wins_over_ssh_config_wins_over_defaults() {
        let config = "Host w1 10.0.0.11\n User ops\n Port 2200\n IdentityFile /k/one\nHost w1\n HostName gate.lan\n";
        let (plain, _) = resolve("", &Ssh::default(), Ssh::default()).unwrap();
        assert_eq!(plain.address(), "root@10.0.0.11");
        let (said, _) = resolve(config, &Ssh::default(), Ssh::default()).unwrap();
        assert_eq!(said.address(), "ops@gate.lan:2200");
        assert_eq!(said.identities, [PathBuf::from("/k/one")]);
        let all = Ssh { user: Some("all".to_owned()), port: Some(1), ..Ssh::default() };
        let own = Ssh { port: Some(2), identity: Some("~/k".into()), ..Ssh::default() };
        let (both, _) = resolve(config, &all, own).unwrap();
        assert_eq!(both.address(), "all@gate.lan:2");
        assert_eq!(both.identities, [PathBuf::from("/home/ops/k")]);
        assert!(both.identities_only);
    }

    #[test]
    fn a_pinned_key_of_the_whole_file_does_not_count_for_a_node() {
        let all = Ssh { host_key: Some("SHA256:x".to_owned()), ..Ssh::default() };
        let (reach, _) = resolve("", &all, Ssh::default()).unwrap();
        assert_eq!(reach.trust.pinned, None);
    }

    #[test]
    fn a_known_hosts_file_that_is_named_has_to_be_there() {
        let named = |path: &str| Ssh { known_hosts: Some(path.into()), ..Ssh::default() };
        let error = resolve("", &named("/none/known_hosts"), Ssh::default()).unwrap_err();
        assert_eq!(error.code(), "SSH-002");
        assert!(error.to_string().contains("/none/known_hosts"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("known_hosts").display().to_string();
        fs_err::write(&path, "").unwrap();
        let (reach, _) = resolve("", &named(&path), Ssh::default()).unwrap();
        assert_eq!(reach.trust.known_hosts, [PathBuf::from(path)]);
    }

    #[test]
    fn one_jump_host_is_taken_and_two_are_refused() {
        let jump = |text: &str| Ssh { jump: Some(text.to_owned()), ..Ssh::default() };
        for (text, want) in [
            ("j", "root@j"),
            ("ops@j:2201", "ops@j:2201"),
            ("ops@[fd00::1]:2201", "ops@[fd00::1]:2201"),
            ("fd00::1", "root@fd00::1"),
            ("ssh://ops@j:5", "ops@j:5"),
        ] {
            let (_, reach) = resolve("", &Ssh::default(), jump(text)).unwrap();
            assert_eq!(reach.unwrap().address(), want);
        }
        for wrong in ["", "@j", "j:0", "j:x", "[fd00::1", "a,b", "a b"] {
            assert!(resolve("", &Ssh::default(), jump(wrong)).is_err(), "{wrong}");
        }
        let config = "Host w1\n ProxyJump a,b\n";
        assert!(resolve(config, &Ssh::default(), Ssh::default()).is_err());
        assert!(resolve("Host j\n ProxyJump k\n", &Ssh::default(), jump("j")).is_err());
        let (_, none) = resolve("Host w1\n ProxyJump j\n", &Ssh::default(), jump("none")).unwrap();
        assert!(none.is_none());
    }

    #[test]
    fn the_jump_host_has_its_own_settings_and_its_own_pin() {
        let own = Ssh {
            jump: Some("j".to_owned()),
            host_key: Some("node".to_owned()),
            jump_host_key: Some("jump".to_owned()),
            port: Some(9),
            ..Ssh::default()
        };
        let config = "Host j\n User gate\n Port 2222\n HostName gate.lan\n";
        let (reach, jump) = resolve(config, &Ssh::default(), own).unwrap();
        let jump = jump.unwrap();
        assert_eq!(jump.address(), "gate@gate.lan:2222");
        assert_eq!(jump.trust.pinned.as_deref(), Some("jump"));
        assert_eq!((reach.port, reach.trust.pinned.as_deref()), (9, Some("node")));
    }
}
