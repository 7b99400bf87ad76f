//! Fake nodes that share: a node takes a piece from another whenever anybody looks at it.

use std::rc::{Rc, Weak};

use kdc_agent::wire::{Reply, RequestBody};
use kdc_bundles::index::Digest;

use super::FakeNode;
use crate::ssh::SshError;

/// What a node that shares knows.
#[derive(Default)]
pub(in crate::fleet) struct FakeShare {
    wants: Vec<Digest>,
    peers: Vec<String>,
}

impl FakeNode {
    /// Takes one piece that it lacks from another node that has it; false where there is none.
    pub(in crate::fleet) fn fetch(&self) -> bool {
        let sharing = self.sharing.borrow();
        let Some(share) = sharing.as_ref().filter(|_| !self.cut_from_others.get()) else {
            return false;
        };
        let others: Vec<Rc<Self>> = self.others.borrow().iter().filter_map(Weak::upgrade).collect();
        let gives = |other: &&Rc<Self>| {
            share.peers.contains(&other.name)
                && other.sharing.borrow().is_some()
                && !other.cut_from_others.get()
        };
        for blob in &share.wants {
            for piece in 0..self.piece_count(blob) {
                let wanted = (blob.clone(), piece);
                let here = self.store.borrow().contains(&wanted);
                if !here && others.iter().filter(gives).any(|o| o.store.borrow().contains(&wanted))
                {
                    self.wrote();
                    return self.store.borrow_mut().insert(wanted);
                }
            }
        }
        false
    }

    pub(super) fn answer_sharing(
        &self,
        session: u64,
        body: RequestBody,
    ) -> Result<Reply, SshError> {
        match body {
            RequestBody::Share { .. } if !self.offered.borrow().contains(&session) => {
                Err(self.failure("AGENT-019", "no index was offered"))
            }
            RequestBody::Share { .. } if self.can_not_share.get() => {
                Err(self.failure("AGENT-099", "no"))
            }
            RequestBody::Share { blobs } => {
                let share = FakeShare { wants: blobs, peers: Vec::new() };
                self.sharing.borrow_mut().get_or_insert(share);
                let certificate = Digest::of(self.name.as_bytes());
                Ok(Reply::Sharing { port: 7390, certificate })
            }
            RequestBody::Peers { peers } => {
                if let Some(share) = &mut *self.sharing.borrow_mut() {
                    share.peers = peers.into_iter().map(|peer| peer.name).collect();
                }
                Ok(Reply::Done)
            }
            _ => {
                *self.sharing.borrow_mut() = None;
                Ok(Reply::Done)
            }
        }
    }
}
