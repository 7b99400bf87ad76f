//! Many nodes at once: one session a node for the whole command, bounded haste, stable order.
//!
//! | Word | Meaning |
//! |---|---|
//! | **hand** | an open session to one node's agent ([`Hand`]); over SSH it is [`crate::ssh::Session`] |
//! | **door** | opens a hand, as often as the network makes it necessary ([`Door`]) |
//! | **link** | one node for the length of a command: its door, its hand, its hold ([`link::Link`]) |
//! | **board** | what is known of all runs; says, purely, which value is due to whom ([`board::Board`]) |
//! | **gate** | a node's run waiting for a value that another node makes possible |
//! | **swarm** | nodes that feed each other, and the installer that seeds them (`swarm`) |
//!
//! The order of an `apply`:
//!
//! ```text
//! facts ─ survey ─┬─ all as wanted ─┬─ proofs on record: nothing to do, nothing written
//!                 │                 └─ else: hold ─ prove
//!                 └─ hold ─ offer the index to all ─ each node: feed ─ start its run ─ attach ─ prove
//!                                  control planes are fed first, then workers; where much is
//!                                  common to several nodes: all at once, from each other
//!                                  worker awaits `join`:   MintJoin on a control plane → Provide
//!                                  control plane awaits `joined`: everyone has joined → Provide
//! ```
//!
//! A node's failure stays its own [`SshError`]; nothing is joined into strings. A lost connection is
//! no failure: the node carries on, the link opens again and takes up where the events stopped.

use std::future::Future;

use futures_util::stream::{self, StreamExt};
use kdc_agent::wire::{Event, MissingPieces, Outcome, Received, Reply, RequestBody};
use kdc_bundles::index::{Digest, Index};

use crate::ssh::{PieceSource, SshError};

pub mod board;
pub mod conduct;
pub mod distribute;
#[cfg(test)]
mod fake;
pub mod install;
pub mod link;
pub mod over_ssh;
pub mod prove;
mod swarm;
pub mod take_back;
#[cfg(test)]
mod tests;

/// Told of events on the way to an answer.
pub type OnEvent<'a> = &'a mut (dyn FnMut(Event) + Send);

/// What is sent to the nodes' stores.
#[derive(Clone, Copy)]
pub struct Load<'a> {
    /// The verified index.
    pub index: &'a Index,
    /// Its digest.
    pub digest: &'a Digest,
    /// The index, byte for byte as signed.
    pub text: &'a str,
    /// The signature, byte for byte.
    pub signature: &'a str,
    /// Public keys the operator trusts.
    pub keys: &'a [String],
    /// Where the pieces are read from.
    pub source: &'a dyn PieceSource,
}

/// An open session to one agent.
pub trait Hand {
    /// Ask one thing; events on the way go to `on_event`.
    fn request(
        &self,
        body: RequestBody,
        on_event: OnEvent<'_>,
    ) -> impl Future<Output = Result<Reply, SshError>>;

    /// Follow a run from the event after `after` until it ends.
    fn attach(
        &self,
        run: &str,
        after: u64,
        on_event: OnEvent<'_>,
    ) -> impl Future<Output = Result<Outcome, SshError>>;

    /// Send pieces that the node lacks.
    fn send(
        &self,
        load: Load<'_>,
        missing: &[MissingPieces],
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> impl Future<Output = Result<Received, SshError>>;

    /// End the session.
    fn close(self) -> impl Future<Output = ()>;
}

/// Opens a hand to one node.
pub trait Door {
    /// What it opens.
    type Hand: Hand;

    /// Node name.
    fn node(&self) -> &str;

    /// Connect and greet, once.
    fn open(&self) -> impl Future<Output = Result<Self::Hand, SshError>>;
}

/// Do `work` for each of `things`, at most `parallel` at once; answers in the order of `things`.
pub async fn each<T, R, F: Future<Output = R>>(
    things: impl IntoIterator<Item = T>,
    parallel: usize,
    work: impl Fn(T) -> F,
) -> Vec<R> {
    let work = &work;
    let mut answers: Vec<(usize, R)> = stream::iter(things.into_iter().enumerate())
        .map(|(place, thing)| async move { (place, work(thing).await) })
        .buffer_unordered(parallel.max(1))
        .collect()
        .await;
    answers.sort_by_key(|(place, _)| *place);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// Every answer, or every failure in the nodes' order.
///
/// # Errors
/// When at least one node failed.
pub fn all_or_failures<T>(answers: Vec<Result<T, SshError>>) -> Result<Vec<T>, Vec<SshError>> {
    let mut good = Vec::with_capacity(answers.len());
    let mut bad = Vec::new();
    for answer in answers {
        match answer {
            Ok(answer) => good.push(answer),
            Err(error) => bad.push(error),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(bad) }
}

/// An answer that does not fit its request: the agent broke the contract.
pub(crate) fn wrong_answer(node: &str, to: &str) -> SshError {
    SshError::Unexpected {
        node: node.to_owned(),
        during: to.to_owned(),
        detail: "the answer is one to another request".to_owned(),
    }
}
