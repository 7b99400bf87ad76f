//! Start every node's run, follow all of them, and open the gates between them.
//!
//! The runs belong to the nodes: this future may be dropped at any point, and another one, here or
//! on another machine, takes up where the nodes stand.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    future::join_all,
    stream::{FuturesUnordered, StreamExt},
};
use kdc_agent::{
    step::NodePlan,
    wire::{EventBody, Outcome, Reply, RequestBody, SecretText},
};
use tokio::sync::Notify;

use super::{
    Door, Hand,
    board::{Board, Due, Ended, JOINED},
    each,
    link::Link,
    wrong_answer,
};
use crate::{
    show::{News, news::Stage},
    ssh::SshError,
};

/// How long join credentials are good for: a slow node's `kubeadm join` fits in.
const JOIN_TTL_SECS: u64 = 900;

/// Joins that go on at once. A control plane that lets hundreds in together falls over.
const JOINS_AT_ONCE: usize = 8;

/// How often a run that ended without a word (power cut, kill) is resumed in one command.
const RESUMES: u32 = 3;

/// Tries to hand over a value before the node counts as failed, and the pause between them.
const GATE_TRIES: u32 = 5;
const GATE_PAUSE: Duration = Duration::from_secs(2);

/// How a node's part of the command ended.
#[derive(Debug)]
pub enum NodeEnd {
    /// Its run ended by itself.
    Run(Outcome),
    /// It waits for a value that can't come since another node failed; its run goes on waiting.
    InVain {
        /// Name of the value.
        value: String,
    },
    /// The node can't be worked with any more; its run may go on.
    Lost(SshError),
}

impl NodeEnd {
    /// Everything on the node is as wanted.
    #[must_use]
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Run(Outcome::Finished { .. } | Outcome::Undone { .. }))
    }
}

/// A node's end and when it came.
#[derive(Debug)]
pub struct NodeResult {
    /// How.
    pub end: NodeEnd,
    /// Run id.
    pub run: String,
    /// Since the conducting began.
    pub elapsed: Duration,
}

struct Conductor<'c, 'a, D: Door> {
    links: &'c [Link<'a, D>],
    plans: &'c [NodePlan],
    /// Run ids, by place; filled when started.
    runs: Vec<Mutex<String>>,
    board: Mutex<Board>,
    changed: Notify,
    /// Gate failures, by place.
    gate_errors: Mutex<Vec<Option<SshError>>>,
    began: Instant,
}

/// Start (or resume) the run of each plan and follow them all to their ends. Answers in the nodes'
/// order; a node's failure does not stop the others.
pub async fn conduct<D: Door>(
    links: &[Link<'_, D>],
    plans: &[NodePlan],
    run: &str,
    parallel: usize,
) -> Vec<NodeResult> {
    let conductor = Conductor {
        links,
        plans,
        runs: links.iter().map(|_| Mutex::new(run.to_owned())).collect(),
        board: Mutex::new(Board::new(plans)),
        changed: Notify::new(),
        gate_errors: Mutex::new(links.iter().map(|_| None).collect()),
        began: Instant::now(),
    };
    let started = each(0..links.len(), parallel, |place| conductor.start(place)).await;
    let follow = async {
        let all = started.into_iter().enumerate().map(|(place, started)| {
            let conductor = &conductor;
            async move { conductor.node(place, started).await }
        });
        join_all(all).await
    };
    let (results, ()) = tokio::join!(follow, conductor.gates());
    results
}

impl<D: Door> Conductor<'_, '_, D> {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, place: usize) -> String {
        self.runs[place].lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn start(&self, place: usize) -> Result<(), SshError> {
        let link = &self.links[place];
        let request =
            RequestBody::StartRun { run: self.run(place), plan: self.plans[place].clone() };
        let Reply::Started { run, resumed } = link.ask(request).await? else {
            return Err(wrong_answer(link.node(), "startRun"));
        };
        link.stage(Stage::Running);
        let node = link.node().to_owned();
        link.observer().news(&News::Run { node, run: run.clone(), resumed });
        *self.runs[place].lock().unwrap_or_else(PoisonError::into_inner) = run;
        Ok(())
    }

    /// Follow one node until its run ends, it can't go on, or it waits in vain.
    async fn node(&self, place: usize, started: Result<(), SshError>) -> NodeResult {
        let followed = async {
            started?;
            self.follow(place).await
        };
        let end = tokio::select! {
            biased;
            outcome = followed => match outcome {
                Ok(outcome) => NodeEnd::Run(outcome),
                Err(error) => NodeEnd::Lost(error),
            },
            end = self.hopeless(place) => end,
        };
        let ended = match &end {
            NodeEnd::Run(outcome) => Some(Board::outcome(outcome)),
            NodeEnd::Lost(_) => Some(Ended::Badly),
            NodeEnd::InVain { .. } => None,
        };
        if let Some(ended) = ended {
            self.board().end(place, ended);
            self.changed.notify_waiters();
        }
        self.tell_end(place, &end);
        NodeResult { end, run: self.run(place), elapsed: self.began.elapsed() }
    }

    fn tell_end(&self, place: usize, end: &NodeEnd) {
        let (node, observer) = (self.links[place].node(), self.links[place].observer());
        match end {
            NodeEnd::Run(Outcome::Failed { failure, .. }) => {
                observer.news(&News::node_failed(node, failure));
            }
            NodeEnd::Lost(error) => observer.news(&News::NodeFailed {
                node: node.to_owned(),
                code: error.code().to_owned(),
                message: error.to_string(),
                hint: error.hint(),
            }),
            NodeEnd::Run(_) | NodeEnd::InVain { .. } => {}
        }
    }

    /// Ends when the gate of this node failed for good, or nothing is left that could open it.
    async fn hopeless(&self, place: usize) -> NodeEnd {
        loop {
            let changed = self.changed.notified();
            let failed =
                self.gate_errors.lock().unwrap_or_else(PoisonError::into_inner)[place].take();
            if let Some(error) = failed {
                return NodeEnd::Lost(error);
            }
            // Only when all is settled: until then a failed node may still be resumed by others.
            if self.board().is_settled()
                && let Some(value) = self.board().waits_in_vain(place)
            {
                return NodeEnd::InVain { value: value.to_owned() };
            }
            changed.await;
        }
    }

    /// Attach, and attach again after every cut and every resume, until the run ended.
    async fn follow(&self, place: usize) -> Result<Outcome, SshError> {
        let mut resumes = 0;
        loop {
            match self.attach(place).await {
                Ok(Outcome::Interrupted) if resumes < RESUMES => {
                    resumes += 1;
                    self.start(place).await?;
                }
                Ok(Outcome::Running { .. }) => tokio::time::sleep(GATE_PAUSE).await,
                Ok(outcome) => return Ok(outcome),
                Err(Cut::Reopen) => {}
                Err(Cut::Failed(error)) => return Err(error),
            }
        }
    }

    async fn attach(&self, place: usize) -> Result<Outcome, Cut> {
        let link = &self.links[place];
        let hand = link.hand().await.map_err(Cut::Failed)?;
        let (run, after) = (self.run(place), self.board().seq(place));
        let observer = link.observer();
        let (board, changed) = (&self.board, &self.changed);
        let mut on_event = |event: kdc_agent::wire::Event| {
            let mut board = board.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(news) = board.take_in(place, &event) {
                observer.news(&news);
            }
            if !matches!(event.body, EventBody::Note { .. }) {
                changed.notify_waiters();
            }
        };
        let outcome = {
            let attached = hand.attach(&run, after, &mut on_event);
            let asked = self.ask_awaited(place, &run);
            tokio::pin!(attached, asked);
            tokio::select! {
                biased;
                outcome = &mut attached => outcome,
                () = &mut asked => attached.await,
            }
            // Here the asking ends too: half-way through opening again it would keep the link.
        };
        match outcome {
            Ok(outcome) => Ok(outcome),
            Err(error) if error.is_link() => {
                link.drop_hand(&hand, &error).await;
                Err(Cut::Reopen)
            }
            Err(error) => Err(Cut::Failed(error)),
        }
    }

    /// What the run waits for may have been said before this attaching: ask once.
    async fn ask_awaited(&self, place: usize, run: &str) {
        let Ok(Reply::Runs { runs }) = self.links[place].ask(RequestBody::Runs).await else {
            // The attaching next to this one meets the same trouble and says so.
            return;
        };
        let ours = runs.into_iter().find(|summary| summary.run == run);
        if let Some(Outcome::Running { awaits: Some(value) }) = ours.map(|summary| summary.outcome)
        {
            self.board().still_awaits(place, Some(&value));
            self.changed.notify_waiters();
        }
    }

    /// Hand over values as they become due, until nothing more can be done.
    async fn gates(&self) {
        let mut under_way = FuturesUnordered::new();
        let mut waiting: std::collections::VecDeque<Due> = std::collections::VecDeque::new();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            waiting.extend(self.board().take_due());
            while under_way.len() < JOINS_AT_ONCE
                && let Some(due) = waiting.pop_front()
            {
                under_way.push(self.open_gate(due));
            }
            if under_way.is_empty() && self.board().is_settled() {
                // Those that wait in vain look at the board once more.
                self.changed.notify_waiters();
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
                    if tries == GATE_TRIES {
                        break error;
                    }
                    tokio::time::sleep(GATE_PAUSE).await;
                }
            }
        };
        let mut errors = self.gate_errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors[due.to()] = Some(error);
        self.changed.notify_waiters();
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

/// Why following stopped short of the end.
enum Cut {
    /// The network: open and attach again.
    Reopen,
    /// For good.
    Failed(SshError),
}
