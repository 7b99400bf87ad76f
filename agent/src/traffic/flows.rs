//! Connection tracking's table, as `/proc/net/nf_conntrack` and `conntrack -L` write it: a line a flow,
//! first the direction in which it began, then the answers'.

use std::net::{IpAddr, SocketAddr};

/// Where a flow began and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flow {
    /// `tcp`, `udp`, `icmp`, or a number.
    pub(super) protocol: String,
    pub(super) source: IpAddr,
    /// Port it began at; none for protocols without.
    pub(super) source_port: Option<u16>,
    pub(super) destination: IpAddr,
    pub(super) port: Option<u16>,
}

impl Flow {
    /// Where to, for people: `192.0.2.1:443/tcp`.
    pub(super) fn to(&self) -> String {
        match self.port {
            Some(port) => {
                format!("{}/{}", SocketAddr::new(self.destination, port), self.protocol)
            }
            None => format!("{} ({})", self.destination, self.protocol),
        }
    }
}

/// Every flow of a table; a line that makes no sense is no table.
pub(super) fn parse_flows(text: &str) -> Result<Vec<Flow>, String> {
    let flow = |line: &str| {
        parse_flow(line)
            .ok_or_else(|| format!("connection tracking has a line `{}`", line.escape_default()))
    };
    text.lines().filter(|line| !line.trim().is_empty()).map(flow).collect()
}

fn parse_flow(line: &str) -> Option<Flow> {
    let mut words = line.split_ascii_whitespace().peekable();
    // `/proc` puts the family and its number first.
    if words.next_if(|word| matches!(*word, "ipv4" | "ipv6")).is_some() {
        words.next()?;
    }
    let (protocol, number) = (words.next()?, words.next()?);
    let protocol = if protocol == "unknown" { number } else { protocol };
    let mut fields = words.filter_map(|word| word.split_once('='));
    // The first of each name is of the direction in which the flow began.
    let (mut source, mut destination, mut source_port, mut port) = (None, None, None, None);
    for (name, value) in &mut fields {
        match name {
            "src" if source.is_none() => source = Some(value.parse().ok()?),
            // The answers' direction.
            "src" => break,
            "dst" => destination = Some(value.parse().ok()?),
            "sport" => source_port = Some(value.parse().ok()?),
            "dport" => port = Some(value.parse().ok()?),
            _ => {}
        }
    }
    let (source, destination) = (source?, destination?);
    Some(Flow { protocol: protocol.to_owned(), source, source_port, destination, port })
}
