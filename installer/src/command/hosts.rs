//! Hosts on the command line: `[user@]address[:port]`.

use std::net::{IpAddr, ToSocketAddrs};

use kdc_profiles::cluster::{Node, Role, Ssh, TemplateNode};

use super::CommandError;

/// A host as the operator named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) user: Option<String>,
    pub(crate) address: IpAddr,
    pub(crate) port: Option<u16>,
}

impl Host {
    /// Parse `[user@]address[:port]`; a name is looked up.
    pub(crate) fn parse(text: &str) -> Result<Self, CommandError> {
        let wrong = |problem: &str| CommandError::Host {
            text: text.to_owned(),
            problem: problem.to_owned(),
        };
        let (user, rest) = match text.rsplit_once('@') {
            Some(("", _)) => return Err(wrong("the user before `@` is empty")),
            Some((user, rest)) => (Some(user.to_owned()), rest),
            None => (None, text),
        };
        let (host, port) = split_port(rest).ok_or_else(|| wrong("the port is not a number"))?;
        let address = match host.parse() {
            Ok(address) => address,
            Err(_) if host.is_empty() => return Err(wrong("the address is empty")),
            Err(_) => (host, 22)
                .to_socket_addrs()
                .ok()
                .and_then(|mut found| found.next())
                .map(|found| found.ip())
                .ok_or_else(|| wrong("it is not an address, and the name has none"))?,
        };
        Ok(Self { user, address, port })
    }

    /// As a node of a cluster in memory.
    pub(crate) fn node(&self, name: String, role: Role) -> Node {
        let ssh = Ssh { user: self.user.clone(), port: self.port, ..Ssh::default() };
        let (labels, taints) = Default::default();
        Node { name, role, address: self.address, ssh, labels, taints, gpu: None }
    }

    /// As a node of a cluster file to be written.
    pub(crate) fn template(&self, name: &str, role: Role) -> TemplateNode {
        let mut node = TemplateNode::new(name, self.address);
        node.role = role;
        node.user.clone_from(&self.user);
        node.port = self.port;
        node
    }
}

/// `[::1]:22`, `::1`, `10.0.0.11:22`, `10.0.0.11`.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        return match after.strip_prefix(':') {
            Some(port) => Some((host, Some(port.parse().ok()?))),
            None if after.is_empty() => Some((host, None)),
            None => None,
        };
    }
    match text.split_once(':') {
        // More than one colon: an IPv6 address without a port.
        Some((_, rest)) if rest.contains(':') => Some((text, None)),
        Some((host, port)) => Some((host, Some(port.parse().ok()?))),
        None => Some((text, None)),
    }
}

/// A node name out of a host name: its first label, in lower case.
pub(crate) fn node_name(hostname: &str) -> String {
    hostname.split('.').next().unwrap_or_default().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_in_every_spelling() {
        for (text, user, address, port) in [
            ("10.0.0.11", None, "10.0.0.11", None),
            ("root@10.0.0.11", Some("root"), "10.0.0.11", None),
            ("ops@10.0.0.11:2222", Some("ops"), "10.0.0.11", Some(2222)),
            ("fd00::1", None, "fd00::1", None),
            ("root@[fd00::1]:22", Some("root"), "fd00::1", Some(22)),
        ] {
            let host = Host::parse(text).unwrap();
            assert_eq!(host.user.as_deref(), user, "{text}");
            assert_eq!(host.address, address.parse::<IpAddr>().unwrap(), "{text}");
            assert_eq!(host.port, port, "{text}");
        }
        for text in ["", "@10.0.0.11", "10.0.0.11:ssh", "root@", "[fd00::1", "[fd00::1]22"] {
            assert!(Host::parse(text).is_err(), "{text}");
        }
    }
}
