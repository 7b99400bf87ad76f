//! Nodes feed each other: the installer introduces them, sends each piece that several of them want
//! to one of them, and watches their stores.
//!
//! What does not come from others is sent straight, as to a single node (the [`seeder`] says when):
//! where nodes can't reach each other, feeding all of them is slower and comes to the same end.
//! The sharing belongs to the nodes: an installer that dies leaves them to finish what is among them
//! already, and the next one finds and goes on with it. A node's run starts when its own store is
//! whole; it shares on until the others are fed too.

mod member;
mod seeder;
#[cfg(test)]
mod simulation;

use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use kdc_agent::wire::{MissingPieces, Peer, Received, Reply, RequestBody};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use self::{
    member::{Member, Phase},
    seeder::Seeder,
};
use super::{
    Door, Hand, Load,
    distribute::{
        IDLE_ROUNDS, Lacking, ask_missing, ask_of_index, feed, missing_bytes, no_progress,
    },
    link::Link,
};
use crate::{
    show::{News, news::Stage},
    ssh::SshError,
};

/// Nodes that are sent to at once: enough to keep any link busy, few enough that each gets on.
pub(super) const LANES: usize = 16;

/// Less than this is not worth introducing anybody: so much is to be saved at least.
const WORTH_BYTES: u64 = 32 * 1024 * 1024;

/// How long a node may take to begin to share; then it is fed straight.
const INTRODUCTION: Duration = Duration::from_secs(20);

/// A node that does not answer for so long is away: what it has does not count.
const AWAY_AFTER: Duration = Duration::from_secs(5);

/// Pause between two looks at a node's store: at least, and by the number of nodes.
const LOOKS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_millis(5));

/// The feeding of all nodes. Everything by place, in the order of the links.
pub(super) struct Swarm<'c, 'a, D: Door> {
    links: &'c [Link<'a, D>],
    load: Load<'c>,
    lacking: &'c [Lacking],
    addresses: &'c [IpAddr],
    seeder: Mutex<Seeder<'c>>,
    members: Vec<Member>,
    is_on: bool,
    /// Who may be sent to now.
    lanes: Semaphore,
    parallel: usize,
    began: Instant,
}

impl<'c, 'a, D: Door> Swarm<'c, 'a, D> {
    /// `parallel` is how many nodes are worked on at once.
    pub(super) fn new(
        links: &'c [Link<'a, D>],
        load: Load<'c>,
        lacking: &'c [Lacking],
        addresses: &'c [IpAddr],
        parallel: usize,
    ) -> Self {
        let lanes = parallel.clamp(1, LANES);
        let seeder = Seeder::new(load.index, lacking, lanes);
        let is_on = seeder.saves_bytes() >= WORTH_BYTES;
        let member = |lacking: &Lacking| {
            let takes_part = is_on && !lacking.blobs.is_empty();
            let phase = if takes_part { Phase::Introducing } else { Phase::Straight };
            Member::new(phase, missing_bytes(load.index, &lacking.missing))
        };
        let members = lacking.iter().map(member).collect();
        let lanes = Semaphore::new(if is_on { lanes } else { parallel.max(1) });
        let (seeder, began) = (Mutex::new(seeder), Instant::now());
        Self { links, load, lacking, addresses, seeder, members, is_on, lanes, parallel, began }
    }

    /// Nodes are to feed each other, all at once.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Bytes handed to the network for this node.
    pub(super) fn sent_bytes(&self, place: usize) -> u64 {
        self.members[place].sent_bytes.load(Ordering::Relaxed)
    }

    /// Wait until the node's store is whole, feeding it straight where it takes no part.
    ///
    /// # Errors
    /// It can't be fed.
    pub(super) async fn fed(&self, place: usize) -> Result<(), SshError> {
        let member = &self.members[place];
        let mut phase = member.phase.subscribe();
        let settled =
            phase.wait_for(|phase| !phase.is_open()).await.map_or(Phase::Straight, |phase| *phase);
        if settled == Phase::Failed {
            let failure = member.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
            return failure.map_or(Ok(()), Err);
        }
        if settled == Phase::Straight {
            let _lane = self.lanes.acquire().await;
            feed(&self.links[place], self.load, &self.lacking[place], &member.sent_bytes).await?;
        }
        Ok(())
    }

    /// Nobody waits for this node's store any more.
    pub(super) fn leave(&self, place: usize) {
        self.members[place].leave();
    }

    /// Introduce the nodes to each other and see to it that all are fed; then they stop sharing.
    pub(super) async fn run(&self) {
        let all: Vec<usize> = (0..self.links.len()).collect();
        if self.is_on {
            join_all(all.iter().map(|place| self.introduce(*place))).await;
            self.tell_peers().await;
            join_all(all.iter().map(|place| self.follow(*place))).await;
        }
        // Also what an earlier installer began and did not end.
        let took_part = all.iter().filter(|place| !self.lacking[**place].blobs.is_empty());
        super::each(took_part, self.parallel, |place| self.unshare(*place)).await;
    }

    fn seeder(&self) -> MutexGuard<'_, Seeder<'c>> {
        self.seeder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn introduce(&self, place: usize) {
        if !self.members[place].is(Phase::Introducing) {
            return self.seeder().gone(place);
        }
        if self.share(place).await {
            return self.members[place].enter(Phase::Sharing);
        }
        self.seeder().gone(place);
        self.members[place].enter(Phase::Straight);
    }

    /// Ask the node to share; false where it can't, or does not answer in time.
    async fn share(&self, place: usize) -> bool {
        let (link, blobs) = (&self.links[place], self.lacking[place].blobs.clone());
        let node = link.node();
        let asked = ask_of_index(link, self.load, RequestBody::Share { blobs });
        let (port, certificate) = match timeout(INTRODUCTION, asked).await {
            Ok(Ok(Reply::Sharing { port, certificate })) => (port, certificate),
            Ok(Ok(_)) => {
                tracing::warn!(node, "the answer to `share` is one to another request");
                return false;
            }
            Ok(Err(error)) => {
                tracing::info!(node, %error, "it can't share, and is fed straight");
                return false;
            }
            Err(_) => {
                tracing::info!(node, "it does not begin to share, and is fed straight");
                return false;
            }
        };
        let address = self.addresses[place];
        let peer = Peer { name: node.to_owned(), address, port, certificate };
        *self.members[place].peer.lock().unwrap_or_else(PoisonError::into_inner) = Some(peer);
        true
    }

    /// Tell everybody who shares of everybody who shares.
    async fn tell_peers(&self) {
        let peers: Vec<Peer> = self.members.iter().filter_map(Member::peer).collect();
        let sharing = (0..self.links.len()).filter(|place| self.members[*place].is(Phase::Sharing));
        super::each(sharing, usize::MAX, |place| {
            let (link, peers) = (&self.links[place], peers.clone());
            async move {
                // Who does not hear of the others gets nothing from them, and then all from us.
                match timeout(INTRODUCTION, link.tell(RequestBody::Peers { peers }, "peers")).await
                {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::info!(node = link.node(), %error, "it knows nobody"),
                    Err(_) => tracing::info!(node = link.node(), "it knows nobody: no answer"),
                }
            }
        })
        .await;
    }

    /// One node that shares, until its store is whole, it fails, or nobody waits for it any more.
    async fn follow(&self, place: usize) {
        if !self.members[place].is(Phase::Sharing) {
            return;
        }
        let mut phase = self.members[place].phase.subscribe();
        if self.members[place].total_bytes > 0 {
            self.links[place].stage(Stage::Sending);
        }
        let end = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase == Phase::Left) => return self.seeder().gone(place),
            end = self.watch(place) => end,
            error = self.lane(place) => Err(error),
        };
        match end {
            Ok(()) => self.members[place].enter(Phase::Whole),
            Err(error) => {
                self.seeder().gone(place);
                self.members[place].fail(error);
            }
        }
    }

    /// Look at the node's store until it is whole.
    async fn watch(&self, place: usize) -> Result<(), SshError> {
        let (link, member) = (&self.links[place], &self.members[place]);
        let pause = LOOKS.0.max(LOOKS.1 * u32::try_from(self.links.len()).unwrap_or(u32::MAX));
        let mut openings = link.openings();
        loop {
            let missing = self.look(place).await?;
            self.look_into(place, &missing);
            self.tell_progress(place, &missing);
            member.looked.notify_waiters();
            if missing.is_empty() {
                return Ok(());
            }
            // The unit outlives a cut link, but not a power cut.
            if std::mem::replace(&mut openings, link.openings()) != openings {
                self.share_again(place).await;
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn look_into(&self, place: usize, missing: &[MissingPieces]) {
        let mut seeder = self.seeder();
        let was_alone = seeder.is_alone(place);
        seeder.looked(place, missing, self.began.elapsed());
        if seeder.is_alone(place) && !was_alone {
            let node = self.links[place].node();
            tracing::info!(node, "nothing comes from other nodes: all of it is sent straight");
        }
    }

    async fn look(&self, place: usize) -> Result<Vec<MissingPieces>, SshError> {
        let answer = ask_missing(&self.links[place], self.load, &self.lacking[place].blobs);
        tokio::pin!(answer);
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            () = tokio::time::sleep(AWAY_AFTER) => self.seeder().away(place),
        }
        answer.await
    }

    async fn share_again(&self, place: usize) {
        let before = self.members[place].peer();
        if self.share(place).await && self.members[place].peer() != before {
            self.tell_peers().await;
        }
    }

    fn tell_progress(&self, place: usize, missing: &[MissingPieces]) {
        let (link, total_bytes) = (&self.links[place], self.members[place].total_bytes);
        let left = missing_bytes(self.load.index, missing).min(total_bytes);
        if total_bytes > 0 {
            let (node, sent_bytes) = (link.node().to_owned(), total_bytes - left);
            link.observer().news(&News::Bytes { node, sent_bytes, total_bytes });
        }
    }

    /// Send the node what the seeder means it to have, batch by batch. Ends only by failing.
    async fn lane(&self, place: usize) -> SshError {
        let (link, member) = (&self.links[place], &self.members[place]);
        let mut idle = 0;
        loop {
            let looked = member.looked.notified();
            match self.send_batch(place).await {
                Ok(None) => looked.await,
                Ok(Some(missing)) => {
                    let arrived = self.seeder().landed(place, &missing, self.began.elapsed());
                    self.tell_progress(place, &missing);
                    idle = if arrived { 0 } else { idle + 1 };
                    if idle == IDLE_ROUNDS {
                        return no_progress(link.node(), &missing);
                    }
                }
                Err(error) => return error,
            }
        }
    }

    /// Send one batch, if there is one; what the node lacks after it. A cut link fails nothing.
    async fn send_batch(&self, place: usize) -> Result<Option<Vec<MissingPieces>>, SshError> {
        let (link, sent_bytes) = (&self.links[place], &self.members[place].sent_bytes);
        // Before a lane is taken: who has to be waited for must not hold one.
        let hand = link.hand().await?;
        let Ok(lane) = self.lanes.acquire().await else { return Ok(None) };
        let batch = self.seeder().take(place, self.began.elapsed());
        if batch.is_empty() {
            return Ok(None);
        }
        let progress = |bytes: u64| {
            sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        };
        match hand.send(self.load, &batch, &progress).await {
            Ok(Received { failure: None, .. }) => {}
            Ok(Received { failure: Some(failure), .. }) => {
                let (node, failure) = (link.node().to_owned(), Box::new(failure));
                return Err(SshError::Agent { node, failure });
            }
            Err(error) if error.is_link() => link.drop_hand(&hand, &error).await,
            Err(error) => return Err(error),
        }
        drop((lane, hand));
        self.look(place).await.map(Some)
    }

    /// Let the node end its sharing. One that can't be told ends by itself, a while later.
    async fn unshare(&self, place: usize) {
        let link = &self.links[place];
        match timeout(INTRODUCTION, link.tell(RequestBody::Unshare, "unshare")).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::info!(node = link.node(), %error, "it shares on for a while")
            }
            Err(_) => tracing::info!(node = link.node(), "no answer: it shares on for a while"),
        }
    }
}
