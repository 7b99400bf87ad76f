//! Whose a flow is that begins at the node itself: the socket's process, and the pod it may be of.

use std::fmt;

use super::flows::Flow;
use crate::host::{Host, Program};

/// Who has the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// A process by name, and whether it runs in a pod.
    Process {
        /// As the kernel calls it.
        name: String,
        /// Its process id.
        pid: u32,
        /// In a pod on the node's own network.
        in_pod: bool,
    },
    /// Of whoever reached for the node: it leaves from a port that the node listens on. Tracking that
    /// is switched on in the middle of a session (the operator's own, first of all) takes the first
    /// packet it sees for the beginning.
    Peer,
    /// No socket has it (any more), or they can't be listed.
    Unknown,
}

impl Owner {
    /// Of kdc or the cluster, not of other software on the node.
    pub(super) fn is_ours(&self) -> bool {
        match self {
            // The kernel keeps 15 characters: `containerd-shim` is `containerd-shim-runc-v2`.
            Self::Process { name, in_pod, .. } => {
                *in_pod
                    || matches!(&**name, "kubelet" | "containerd" | "containerd-shim" | "kdc-agent")
            }
            Self::Peer | Self::Unknown => false,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { name, pid, in_pod } => {
                let kind = if *in_pod { "pod process" } else { "process" };
                write!(formatter, "{kind} {name} ({pid})")
            }
            Self::Peer => formatter.write_str("whoever reached for this node"),
            Self::Unknown => formatter.write_str("a process that can't be told"),
        }
    }
}

/// Whose it is now, as far as the node can tell.
pub(super) fn owner_of(host: &dyn Host, flow: &Flow) -> Owner {
    let list = Program::new("ss").args(["-Hntupa"]).within_secs(15);
    let Ok(sockets) = host.run_checked(&list) else { return Owner::Unknown };
    let sockets = sockets.text();
    if is_answer(&sockets, flow) {
        return Owner::Peer;
    }
    let Some((name, pid)) = find(&sockets, flow) else { return Owner::Unknown };
    let cgroup = host.read_text(&format!("/proc/{pid}/cgroup")).ok().flatten();
    let in_pod = cgroup.is_some_and(|groups| groups.contains("kubepods"));
    Owner::Process { name, pid, in_pod }
}

/// The flow leaves from a port that the node listens on for connections.
pub(super) fn is_answer(sockets: &str, flow: &Flow) -> bool {
    let listens = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (protocol, state) = (fields.next(), fields.next());
        let port = fields.nth(2).and_then(|local| local.rsplit_once(':')?.1.parse().ok());
        protocol == Some("tcp") && state == Some("LISTEN") && port == flow.source_port
    };
    flow.protocol == "tcp" && flow.source_port.is_some() && sockets.lines().any(listens)
}

/// The process of a flow's socket in what `ss -Hntupa` lists. A datagram socket that is not connected
/// is known by its own port alone.
pub(super) fn find(sockets: &str, flow: &Flow) -> Option<(String, u32)> {
    let mut found = None;
    for line in sockets.lines() {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [protocol, _, _, _, local, peer, users, ..] = fields[..] else { continue };
        let port = |end: &str| end.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if protocol != flow.protocol
            || flow.source_port.is_none()
            || port(local) != flow.source_port
        {
            continue;
        }
        let address = peer.rsplit_once(':').map_or(peer, |(address, _)| address);
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let address = address.trim_start_matches("::ffff:");
        let is_peer = address.parse() == Ok(flow.destination) && port(peer) == flow.port;
        let is_open = protocol == "udp" && peer.ends_with(":*");
        if is_peer || (is_open && found.is_none()) {
            found = process(users);
        }
        if is_peer {
            break;
        }
    }
    found
}

/// `users:(("kubelet",pid=471,fd=9))`.
fn process(users: &str) -> Option<(String, u32)> {
    let (name, rest) = users.split_once("((\"")?.1.split_once('"')?;
    let pid = rest.split_once("pid=")?.1.split(',').next()?.parse().ok()?;
    Some((name.to_owned(), pid))
}
