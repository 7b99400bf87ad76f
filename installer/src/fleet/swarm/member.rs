//! One node in a swarm: how far it is.

use std::sync::{Mutex, PoisonError, atomic::AtomicU64};

use kdc_agent::wire::Peer;
use tokio::sync::{Notify, watch};

use crate::ssh::SshError;

/// Where a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is asked to share.
    Introducing,
    /// It shares.
    Sharing,
    /// It does not take part, and is fed as a single node is.
    Straight,
    /// Its store is whole.
    Whole,
    /// It can't be fed.
    Failed,
    /// Nobody waits for it any more.
    Left,
}

impl Phase {
    /// What becomes of its store is not known yet.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Self::Introducing | Self::Sharing)
    }
}

/// One node in a swarm.
pub(super) struct Member {
    pub(super) phase: watch::Sender<Phase>,
    /// Handed to the network for it.
    pub(super) sent_bytes: AtomicU64,
    /// Lacked when it all began.
    pub(super) total_bytes: u64,
    /// How the others reach it, while it shares.
    pub(super) peer: Mutex<Option<Peer>>,
    pub(super) failure: Mutex<Option<SshError>>,
    /// Its store was looked at.
    pub(super) looked: Notify,
}

impl Member {
    pub(super) fn new(phase: Phase, total_bytes: u64) -> Self {
        Self {
            phase: watch::Sender::new(phase),
            sent_bytes: AtomicU64::new(0),
            total_bytes,
            peer: Mutex::new(None),
            failure: Mutex::new(None),
            looked: Notify::new(),
        }
    }

    /// How the others reach it.
    pub(super) fn peer(&self) -> Option<Peer> {
        self.peer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it is there now.
    pub(super) fn is(&self, phase: Phase) -> bool {
        *self.phase.borrow() == phase
    }

    /// Move on, unless it was left meanwhile.
    pub(super) fn enter(&self, next: Phase) {
        self.phase.send_if_modified(|phase| {
            *phase != Phase::Left && std::mem::replace(phase, next) != next
        });
    }

    /// Nobody waits for it any more.
    pub(super) fn leave(&self) {
        self.phase.send_if_modified(|phase| {
            phase.is_open() && std::mem::replace(phase, Phase::Left) != Phase::Left
        });
    }

    /// It can't be fed.
    pub(super) fn fail(&self, error: SshError) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.enter(Phase::Failed);
    }
}
