//! The gates between nodes: make the values that runs wait for, and hand them over.

use std::{sync::PoisonError, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt};
use kdc_agent::wire::{Reply, RequestBody, SecretText};

use super::Conductor;
use crate::{
    fleet::{
        Door,
        board::{Due, JOINED},
        wrong_answer,
    },
    ssh::SshError,
};

/// How long join credentials are good for: a slow node's `kubeadm join` fits in.
const JOIN_TTL_SECS: u64 = 900;

/// Tries to hand over a value before the node counts as failed, and the pause between them.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(2);

impl<D: Door> Conductor<'_, '_, D> {
    /// Hand over values as they become due, until nothing more can be done; then those that wait in
    /// vain are told.
    pub(super) async fn gates(&self) {
        let mut under_way = FuturesUnordered::new();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let due = self.board().take_due();
            under_way.extend(due.into_iter().map(|due| self.open_gate(due)));
            // Only when all is settled: until then a node that others wait for may be resumed.
            if under_way.is_empty() && self.board().is_settled() {
                self.given_up.notify_waiters();
                return;
            }
            tokio::select! {
                () = changed => {}
                Some(()) = under_way.next() => {}
            }
        }
    }

    async fn open_gate(&self, due: Due) {
        let mut tries = 0;
        let error = loop {
            match self.hand_over(&due).await {
                Ok(()) => return,
                Err(error) => {
                    tries += 1;
                    if tries == TRIES {
                        break error;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        let mut errors = self.gate_errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors[due.to()] = Some(error);
        self.given_up.notify_waiters();
    }

    async fn hand_over(&self, due: &Due) -> Result<(), SshError> {
        let value = match due {
            Due::Join { from, .. } => {
                let minting = &self.links[*from];
                let request = RequestBody::MintJoin { ttl_secs: JOIN_TTL_SECS };
                match minting.ask(request).await? {
                    Reply::Join { credentials } => credentials,
                    _ => return Err(wrong_answer(minting.node(), "mintJoin")),
                }
            }
            Due::Joined { .. } => SecretText::new(JOINED.to_owned()),
        };
        let (run, name) = (self.run(due.to()), due.value().to_owned());
        self.links[due.to()].tell(RequestBody::Provide { run, name, value }, "provide").await
    }
}
