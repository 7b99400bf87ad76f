//! Feed every node, start its run, follow all of them, and open the gates between them.
//!
//! A node's run starts as soon as that node is fed (see [`turns`] for the order), whatever the others
//! are at. A node that can't be fed is left as it was, and so is one whose run could never finish
//! without it; the others go on to where they need it.
//!
//! The runs belong to the nodes: this future may be dropped at any point, and another one, here or
//! on another machine, takes up where the nodes stand.

mod gates;
mod turns;

use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use kdc_agent::{
    step::NodePlan,
    wire::{Event, EventBody, Outcome, Reply, RequestBody},
};
use tokio::sync::Notify;

use self::turns::Turns;
use super::{
    Door, Hand, Load,
    board::{Board, Ended},
    distribute::Lacking,
    link::Link,
    swarm::Swarm,
    wrong_answer,
};
use crate::{
    show::{News, news::Stage},
    ssh::SshError,
};

/// How often a run that ended without a word (power cut, kill) is resumed in one command.
const RESUMES: u32 = 3;

/// Pause before looking again at a run that is said to go on.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// How a node's part of the command ended.
#[derive(Debug)]
pub enum NodeEnd {
    /// Its run ended by itself.
    Run(Outcome),
    /// It could not be fed: its run was not started.
    Unfed(SshError),
    /// Its run was not started, since it needs a value that can't come.
    NotStarted {
        /// Name of the value.
        value: String,
    },
    /// It waits for a value that can't come since another node failed; its run goes on waiting.
    InVain {
        /// Name of the value.
        value: String,
    },
    /// The node can't be worked with any more; its run may go on.
    Lost(SshError),
}

impl NodeEnd {
    /// An install came to its end: everything on the node is as wanted. A run that somebody took back
    /// meanwhile is not.
    #[must_use]
    pub fn is_installed(&self) -> bool {
        matches!(self, Self::Run(Outcome::Finished { .. }))
    }

    /// An undo came to its end: everything is taken back.
    #[must_use]
    pub fn is_taken_back(&self) -> bool {
        matches!(self, Self::Run(Outcome::Undone { .. }))
    }
}

/// A node's end and when it came.
#[derive(Debug)]
pub struct NodeResult {
    /// How.
    pub end: NodeEnd,
    /// Run id.
    pub run: String,
    /// Bytes handed to the network for its store.
    pub sent_bytes: u64,
    /// Since the conducting began.
    pub elapsed: Duration,
}

/// What is conducted. Plans and what the nodes lack are in the order of the links.
#[derive(Clone, Copy)]
pub struct Score<'a> {
    /// One plan a node.
    pub plans: &'a [NodePlan],
    /// What each node's store lacks.
    pub lacking: &'a [Lacking],
    /// Where the nodes reach each other.
    pub addresses: &'a [IpAddr],
    /// What the stores are fed from.
    pub load: Load<'a>,
    /// Run id for new runs.
    pub run: &'a str,
    /// Nodes fed at once.
    pub parallel: usize,
}

struct Conductor<'c, 'a, D: Door> {
    links: &'c [Link<'a, D>],
    score: Score<'c>,
    swarm: Swarm<'c, 'a, D>,
    turns: Mutex<Turns>,
    /// By place: its turn has begun.
    your_turn: Vec<Notify>,
    /// Run ids, by place; filled when started.
    runs: Vec<Mutex<String>>,
    board: Mutex<Board>,
    /// The board is another one.
    changed: Notify,
    /// Gate failures, by place.
    gate_errors: Mutex<Vec<Option<SshError>>>,
    /// A gate failed for good, or nothing is left that could open one.
    given_up: Notify,
    began: Instant,
}

/// Feed each node, start (or resume) its run and follow it to its end. Answers in the nodes' order;
/// a node's failure does not stop the others.
pub async fn conduct<D: Door>(links: &[Link<'_, D>], score: Score<'_>) -> Vec<NodeResult> {
    let Score { plans, lacking, addresses, load, parallel, .. } = score;
    let swarm = Swarm::new(links, load, lacking, addresses, parallel);
    // Nodes that feed each other are whole all at about the same time: nobody has to wait then.
    let at_once = if swarm.is_on() { links.len() } else { parallel };
    let conductor = Conductor {
        links,
        score,
        swarm,
        turns: Mutex::new(Turns::new(plans, at_once)),
        your_turn: links.iter().map(|_| Notify::new()).collect(),
        runs: links.iter().map(|_| Mutex::new(score.run.to_owned())).collect(),
        board: Mutex::new(Board::new(plans)),
        changed: Notify::new(),
        gate_errors: Mutex::new(links.iter().map(|_| None).collect()),
        given_up: Notify::new(),
        began: Instant::now(),
    };
    conductor.next_turns();
    let all = join_all((0..links.len()).map(|place| conductor.node(place)));
    let (results, (), ()) = tokio::join!(all, conductor.gates(), conductor.swarm.run());
    results
}

impl<D: Door> Conductor<'_, '_, D> {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, place: usize) -> String {
        self.runs[place].lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn next_turns(&self) {
        for place in self.turns.lock().unwrap_or_else(PoisonError::into_inner).begin() {
            self.your_turn[place].notify_one();
        }
    }

    /// Feed one node, start its run and follow it until it ends, can't go on, or waits in vain.
    async fn node(&self, place: usize) -> NodeResult {
        self.your_turn[place].notified().await;
        let started = self.feed_and_start(place).await;
        if let Err(end) = &started {
            self.swarm.leave(place);
            self.ended(place, end);
        }
        // Only now, so that who comes next knows how this one ended.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).end(place);
        self.next_turns();
        let end = match started {
            Ok(()) => {
                let end = tokio::select! {
                    biased;
                    outcome = self.follow(place) => outcome.map_or_else(NodeEnd::Lost, NodeEnd::Run),
                    end = self.hopeless(place) => end,
                };
                self.ended(place, &end);
                end
            }
            Err(end) => end,
        };
        let sent_bytes = self.swarm.sent_bytes(place);
        NodeResult { end, run: self.run(place), sent_bytes, elapsed: self.began.elapsed() }
    }

    async fn feed_and_start(&self, place: usize) -> Result<(), NodeEnd> {
        let not_started = |value: &str| NodeEnd::NotStarted { value: value.to_owned() };
        if let Some(value) = self.board().lacks_for_good(place) {
            return Err(not_started(value));
        }
        self.swarm.fed(place).await.map_err(NodeEnd::Unfed)?;
        if let Some(value) = self.board().lacks_for_good(place) {
            return Err(not_started(value));
        }
        self.start(place).await.map_err(NodeEnd::Lost)
    }

    async fn start(&self, place: usize) -> Result<(), SshError> {
        let link = &self.links[place];
        let plan = self.score.plans[place].clone();
        let request = RequestBody::StartRun { run: self.run(place), plan };
        let Reply::Started { run, resumed } = link.ask(request).await? else {
            return Err(wrong_answer(link.node(), "startRun"));
        };
        link.stage(Stage::Running);
        let node = link.node().to_owned();
        link.observer().news(&News::Run { node, run: run.clone(), resumed });
        *self.runs[place].lock().unwrap_or_else(PoisonError::into_inner) = run;
        Ok(())
    }

    /// Note that watching a node is over, and tell it if it failed.
    fn ended(&self, place: usize, end: &NodeEnd) {
        let ended = match end {
            NodeEnd::Run(outcome) => Some(Board::outcome(outcome)),
            NodeEnd::Unfed(_) | NodeEnd::NotStarted { .. } | NodeEnd::Lost(_) => Some(Ended::Badly),
            NodeEnd::InVain { .. } => None,
        };
        if let Some(ended) = ended {
            self.board().end(place, ended);
            self.changed.notify_waiters();
        }
        let (node, observer) = (self.links[place].node(), self.links[place].observer());
        match end {
            NodeEnd::Run(Outcome::Failed { failure, .. }) => {
                observer.news(&News::node_failed(node, failure));
            }
            NodeEnd::Unfed(error) | NodeEnd::Lost(error) => observer.news(&News::NodeFailed {
                node: node.to_owned(),
                code: error.code().to_owned(),
                message: error.to_string(),
                hint: error.hint(),
            }),
            NodeEnd::Run(_) | NodeEnd::NotStarted { .. } | NodeEnd::InVain { .. } => {}
        }
    }

    /// Ends when the gate of this node failed for good, or nothing is left that could open it.
    async fn hopeless(&self, place: usize) -> NodeEnd {
        loop {
            let given_up = self.given_up.notified();
            let failed =
                self.gate_errors.lock().unwrap_or_else(PoisonError::into_inner)[place].take();
            if let Some(error) = failed {
                return NodeEnd::Lost(error);
            }
            given_up.await;
            let board = self.board();
            if board.is_settled()
                && let Some(value) = board.waits_in_vain(place)
            {
                return NodeEnd::InVain { value: value.to_owned() };
            }
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
                Ok(Outcome::Running { .. }) => tokio::time::sleep(LOOK_AGAIN).await,
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
        let mut on_event = |event: Event| {
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
}

/// Why following stopped short of the end.
enum Cut {
    /// The network: open and attach again.
    Reopen,
    /// For good.
    Failed(SshError),
}
