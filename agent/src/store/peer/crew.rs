//! Which of the peers a node deals with, as the installer's list changes.

use std::{collections::BTreeMap, sync::Arc};

use kdc_bundles::index::Digest;
use tokio::task::{AbortHandle, JoinSet};

use super::{PeerError, fetch::Fetch, identity::Identity, picker::neighbours, pin};
use crate::wire::Peer;

/// The neighbours that are dealt with.
pub(super) struct Crew<'a> {
    fetch: &'a Arc<Fetch>,
    identity: &'a Identity,
    running: BTreeMap<Digest, (Peer, AbortHandle)>,
    tasks: JoinSet<()>,
}

impl<'a> Crew<'a> {
    /// Nobody yet.
    pub(super) fn new(fetch: &'a Arc<Fetch>, identity: &'a Identity) -> Self {
        Self { fetch, identity, running: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Waits until the work with one of them is over; there is none where nobody is dealt with.
    pub(super) async fn one_left(&mut self) -> Option<()> {
        self.tasks.join_next().await.map(|_| ())
    }

    /// Deal with the neighbours among these, and with nobody else.
    pub(super) fn meet(&mut self, peers: &[Peer]) -> Result<(), PeerError> {
        let own = self.identity.digest();
        let others: BTreeMap<&Digest, &Peer> = peers
            .iter()
            .filter(|peer| peer.certificate != *own)
            .map(|peer| (&peer.certificate, peer))
            .collect();
        // All nodes put all of them in the same order, so that who is talked to talks back.
        let mut order: Vec<&Digest> = others.keys().copied().collect();
        let place = order.partition_point(|other| *other < own);
        order.insert(place, own);
        let chosen = neighbours(place, order.len(), seed_of(self.fetch.local.shelf().digest()));
        let chosen: BTreeMap<&Digest, &Peer> = chosen
            .into_iter()
            .filter_map(|at| others.get_key_value(order.get(at)?))
            .filter(|(certificate, _)| !self.fetch.is_banned(certificate))
            .map(|(certificate, peer)| (*certificate, *peer))
            .collect();
        let fetch = self.fetch;
        self.running.retain(|certificate, (peer, task)| {
            let stays = chosen.get(certificate).is_some_and(|chosen| *chosen == &*peer);
            if !stays {
                task.abort();
                fetch.neighbour_lost(fetch.number_of(certificate));
            }
            stays
        });
        for (certificate, peer) in chosen {
            if !self.running.contains_key(certificate) {
                let config = pin::client_config(self.identity, certificate)?;
                let task = self.tasks.spawn(Arc::clone(fetch).keep(peer.clone(), config));
                self.running.insert(certificate.clone(), (peer.clone(), task));
            }
        }
        Ok(())
    }

    /// Never ask this neighbour again.
    pub(super) fn dismiss(&mut self, neighbour: usize) {
        let known = |certificate: &&Digest| self.fetch.number_of(certificate) == neighbour;
        let Some(certificate) = self.running.keys().find(known).cloned() else { return };
        if let Some((peer, task)) = self.running.remove(&certificate) {
            task.abort();
            tracing::warn!(peer = peer.name, "it sent wrong bytes and is never asked again");
        }
        self.fetch.ban(&certificate);
        self.fetch.neighbour_lost(neighbour);
    }
}

/// The same on every node that shares this index.
fn seed_of(index: &Digest) -> u64 {
    u64::from_str_radix(&index.hex()[..16], 16).unwrap_or_default()
}
