//! How nodes are introduced to each other.

use std::net::IpAddr;

use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};

/// Another node that shares the content of the same index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Peer {
    /// The node's name, for people.
    pub name: String,
    /// Where the others reach it.
    pub address: IpAddr,
    /// Where it listens, as its own `Sharing` said.
    pub port: u16,
    /// Digest of its certificate, as its own `Sharing` said: who shows another one is refused.
    pub certificate: Digest,
}
