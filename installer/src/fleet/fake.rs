//! Nodes in memory that speak the wire contract: they hold, store, run, wait and undo, and lose
//! their connections on demand. A run moves by itself whenever anybody looks, as a node's would.

mod share;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::{Rc, Weak},
    time::Duration,
};

use kdc_agent::{
    step::{NodePlan, Step},
    wire::{
        ACCEPTANCE_VERSION, AcceptanceRecord, AcceptanceSubject, Event, EventBody, Failure,
        MissingPieces, Outcome, Proof, Received, Reply, RequestBody, RunSummary, SecretText,
        Surveyed,
    },
};
use kdc_bundles::index::Digest;

use self::share::FakeShare;
use super::{Door, Hand, Load, OnEvent};
use crate::ssh::SshError;

/// A run on a fake node.
struct FakeRun {
    id: String,
    plan: NodePlan,
    events: Vec<Event>,
    /// Steps behind us.
    done: usize,
    values: BTreeMap<String, String>,
    outcome: Outcome,
}

/// One server.
pub(super) struct FakeNode {
    pub(super) name: String,
    /// Step that fails, as often as the number says.
    pub(super) fails: RefCell<Option<(String, u32)>>,
    /// Calls after which the connection breaks, and opens that then fail.
    pub(super) cut: Cell<Option<(u32, u32)>>,
    /// To be asked for its runs ends the session so often.
    pub(super) dies_of_runs: Cell<u32>,
    /// Pieces of the store.
    pub(super) store: RefCell<BTreeSet<(Digest, u32)>>,
    /// How many pieces blobs have; one where nothing is said.
    pub(super) pieces: RefCell<BTreeMap<Digest, u32>>,
    /// Pieces that the installer ever sent, and how many came again.
    pub(super) sent: RefCell<BTreeSet<(Digest, u32)>>,
    pub(super) sent_twice: Cell<u32>,
    /// The nodes that it could reach at all.
    pub(super) others: RefCell<Vec<Weak<FakeNode>>>,
    /// What it wants from others, and whom it knows, while it shares.
    pub(super) sharing: RefCell<Option<FakeShare>>,
    /// It can't share.
    pub(super) can_not_share: Cell<bool>,
    /// No other node reaches it, and it reaches none.
    pub(super) cut_from_others: Cell<bool>,
    /// Times that anything was written.
    pub(super) writes: Cell<u32>,
    pub(super) joined: Cell<bool>,
    pub(super) departed: Cell<bool>,
    runs: RefCell<Vec<FakeRun>>,
    satisfied: RefCell<BTreeSet<String>>,
    /// What was proved here last.
    pub(super) record: RefCell<Option<AcceptanceRecord>>,
    /// Times that the cluster was proved from here, and whether it holds.
    pub(super) proved: Cell<u32>,
    pub(super) proof_holds: Cell<bool>,
    /// A pod here reaches outside.
    pub(super) reaches_out: Cell<bool>,
    /// The index is not trusted here.
    pub(super) distrusts: Cell<bool>,
    /// The disk is full: no piece is kept.
    pub(super) full: Cell<bool>,
    /// The store takes pieces and does not keep them.
    pub(super) forgets: Cell<bool>,
    /// Sessions in which the index was offered.
    offered: RefCell<BTreeSet<u64>>,
    holder: RefCell<Option<(u64, String)>>,
    sessions: Cell<u64>,
    minted: Cell<u32>,
}

impl FakeNode {
    pub(super) fn new(name: &str) -> Rc<Self> {
        Rc::new(Self {
            name: name.to_owned(),
            fails: RefCell::default(),
            cut: Cell::default(),
            dies_of_runs: Cell::default(),
            store: RefCell::default(),
            pieces: RefCell::default(),
            sent: RefCell::default(),
            sent_twice: Cell::default(),
            others: RefCell::default(),
            sharing: RefCell::default(),
            can_not_share: Cell::default(),
            cut_from_others: Cell::default(),
            writes: Cell::default(),
            joined: Cell::default(),
            departed: Cell::default(),
            runs: RefCell::default(),
            satisfied: RefCell::default(),
            record: RefCell::default(),
            proved: Cell::default(),
            proof_holds: Cell::new(true),
            reaches_out: Cell::default(),
            distrusts: Cell::default(),
            full: Cell::default(),
            forgets: Cell::default(),
            offered: RefCell::default(),
            holder: RefCell::default(),
            sessions: Cell::default(),
            minted: Cell::default(),
        })
    }

    fn wrote(&self) {
        self.writes.set(self.writes.get() + 1);
    }

    fn failure(&self, code: &str, message: &str) -> SshError {
        SshError::Agent {
            node: self.name.clone(),
            failure: Box::new(Failure { code: code.into(), message: message.into(), hint: None }),
        }
    }

    fn lost(&self) -> SshError {
        let (node, during) = (self.name.clone(), "testing".to_owned());
        SshError::Lost { node, during, detail: String::new() }
    }

    fn piece_count(&self, blob: &Digest) -> u32 {
        self.pieces.borrow().get(blob).copied().unwrap_or(1)
    }

    /// The node's own work: one step further, if it can.
    fn work(&self) {
        self.fetch();
        for run in self.runs.borrow_mut().iter_mut() {
            if !matches!(run.outcome, Outcome::Running { .. }) {
                continue;
            }
            let Some(planned) = run.plan.steps.get(run.done).cloned() else {
                let changed = u32::try_from(run.done).unwrap();
                run.outcome = Outcome::Finished { changed, found: 0 };
                continue;
            };
            let id = planned.id.clone();
            let lacks = planned.needs.iter().find(|name| !run.values.contains_key(*name));
            if let Some(value) = lacks {
                if run.outcome == (Outcome::Running { awaits: None }) {
                    push(run, EventBody::Awaiting { step: id, value: value.clone() });
                    run.outcome = Outcome::Running { awaits: Some(value.clone()) };
                }
                continue;
            }
            run.outcome = Outcome::Running { awaits: None };
            self.wrote();
            push(run, EventBody::Begun { step: id.clone() });
            if let Some((step, times)) = &mut *self.fails.borrow_mut()
                && *step == id
                && *times > 0
            {
                *times -= 1;
                let failure =
                    Failure { code: "AGENT-099".into(), message: "it broke".into(), hint: None };
                let step = id;
                push(run, EventBody::StepFailed { step: step.clone(), failure: failure.clone() });
                run.outcome = Outcome::Failed { step, failure };
                continue;
            }
            if let Step::JoinNode { .. } = planned.step {
                assert!(run.values["join"].starts_with("token-of-"), "joined with a real token");
                self.joined.set(true);
            }
            self.satisfied.borrow_mut().insert(id.clone());
            push(run, EventBody::Done { step: id });
            run.done += 1;
        }
    }

    /// No run was ever started here.
    pub(super) fn is_untouched(&self) -> bool {
        self.runs.borrow().is_empty() && self.satisfied.borrow().is_empty()
    }

    /// Its run waits for that value.
    pub(super) fn waits_for(&self, value: &str) -> bool {
        let waiting = Outcome::Running { awaits: Some(value.to_owned()) };
        self.runs.borrow().iter().any(|run| run.outcome == waiting)
    }

    /// Every step of its runs comes to be as wanted, by whatever hand.
    pub(super) fn become_as_wanted(&self) {
        let runs = self.runs.borrow();
        let steps = runs.iter().flat_map(|run| &run.plan.steps).map(|planned| planned.id.clone());
        self.satisfied.borrow_mut().extend(steps);
    }

    fn is_up(&self) -> bool {
        self.satisfied.borrow().contains("init")
    }

    fn answer(&self, session: u64, body: RequestBody) -> Result<Reply, SshError> {
        match body {
            RequestBody::Survey { steps, .. } => Ok(self.survey(steps)),
            RequestBody::Hold { holder, .. } => {
                let mut held = self.holder.borrow_mut();
                match &*held {
                    Some((other, who)) if *other != session && *who != holder => {
                        Err(self.failure("AGENT-021", &format!("held by {who}")))
                    }
                    _ => {
                        *held = Some((session, holder));
                        Ok(Reply::Done)
                    }
                }
            }
            RequestBody::OfferIndex { .. } if self.distrusts.get() => {
                Err(self.failure("AGENT-010", "signed by nobody I know"))
            }
            RequestBody::OfferIndex { .. } => {
                self.offered.borrow_mut().insert(session);
                self.wrote();
                Ok(Reply::Done)
            }
            RequestBody::Missing { .. } if !self.offered.borrow().contains(&session) => {
                Err(self.failure("AGENT-019", "no index was offered"))
            }
            RequestBody::Missing { blobs } => Ok(self.missing(blobs)),
            body @ (RequestBody::Share { .. }
            | RequestBody::Peers { .. }
            | RequestBody::Unshare) => self.answer_sharing(session, body),
            RequestBody::StartRun { run, plan } => Ok(self.start_run(run, plan)),
            RequestBody::Provide { run, name, value } => {
                let mut runs = self.runs.borrow_mut();
                let run = runs.iter_mut().find(|known| known.id == run).expect("a known run");
                run.values.insert(name, value.expose().to_owned());
                Ok(Reply::Done)
            }
            RequestBody::MintJoin { .. } if !self.is_up() => {
                Err(self.failure("AGENT-050", "no API server here"))
            }
            RequestBody::MintJoin { .. } => {
                self.minted.set(self.minted.get() + 1);
                let token = format!("token-of-{}-{}", self.name, self.minted.get());
                Ok(Reply::Join { credentials: SecretText::new(token) })
            }
            RequestBody::Acceptance => {
                let record = self.record.borrow().clone().map(Box::new);
                Ok(Reply::Acceptance { record })
            }
            RequestBody::Accept { subject, elsewhere, .. } => Ok(self.accept(subject, elsewhere)),
            RequestBody::OutsideTraffic { node, .. } => Ok(self.outside_traffic(&node)),
            RequestBody::Runs => Ok(Reply::Runs { runs: self.list_runs() }),
            RequestBody::Undo => Ok(self.undo()),
            RequestBody::Depart => {
                self.departed.set(true);
                self.runs.borrow_mut().clear();
                Ok(Reply::Done)
            }
            other => panic!("the fake does not know {other:?}"),
        }
    }

    fn accept(&self, subject: AcceptanceSubject, elsewhere: Vec<Proof>) -> Reply {
        self.wrote();
        self.proved.set(self.proved.get() + 1);
        let (claim, detail) = ("all is well".to_owned(), String::new());
        let mut proofs = vec![Proof { claim, holds: self.proof_holds.get(), detail }];
        proofs.extend(elsewhere);
        let holds = proofs.iter().all(|proof| proof.holds);
        let (version, at_unix_ms) = (ACCEPTANCE_VERSION, 0);
        let record = AcceptanceRecord { version, subject, proofs: proofs.len(), at_unix_ms };
        *self.record.borrow_mut() = holds.then_some(record);
        Reply::Accepted { proofs }
    }

    fn outside_traffic(&self, node: &str) -> Reply {
        let (claim, detail) = (format!("nothing of {node} goes out"), String::new());
        let holds = !self.reaches_out.get();
        Reply::OutsideTraffic { proof: Proof { claim, holds, detail } }
    }

    fn survey(&self, steps: Vec<kdc_agent::step::PlannedStep>) -> Reply {
        let satisfied = self.satisfied.borrow();
        let judge = |planned: kdc_agent::step::PlannedStep| Surveyed {
            satisfied: satisfied.contains(&planned.id),
            id: planned.id,
            detail: String::new(),
        };
        Reply::Survey { steps: steps.into_iter().map(judge).collect() }
    }

    fn missing(&self, blobs: Vec<Digest>) -> Reply {
        let store = self.store.borrow();
        let lacks = |blob: Digest| {
            let pieces = 0..self.piece_count(&blob);
            let lacks = pieces.filter(|piece| !store.contains(&(blob.clone(), *piece)));
            let ranges: Vec<(u32, u32)> = lacks.map(|piece| (piece, piece + 1)).collect();
            MissingPieces { blob, ranges }
        };
        let missing = blobs.into_iter().map(lacks).filter(|part| !part.ranges.is_empty());
        Reply::Missing { blobs: missing.collect() }
    }

    fn undo(&self) -> Reply {
        self.satisfied.borrow_mut().clear();
        *self.record.borrow_mut() = None;
        self.joined.set(false);
        let mut runs = self.runs.borrow_mut();
        let steps = u32::try_from(runs.iter().map(|run| run.done).sum::<usize>()).unwrap();
        let plan = runs[0].plan.clone();
        runs.clear();
        runs.push(FakeRun {
            id: "undo".into(),
            plan,
            events: Vec::new(),
            done: 0,
            values: BTreeMap::new(),
            outcome: Outcome::Undone { steps },
        });
        Reply::Started { run: "undo".into(), resumed: false }
    }

    fn start_run(&self, id: String, plan: NodePlan) -> Reply {
        self.wrote();
        let mut runs = self.runs.borrow_mut();
        let unfinished = |run: &&mut FakeRun| {
            run.plan == plan && !matches!(run.outcome, Outcome::Finished { .. })
        };
        if let Some(run) = runs.iter_mut().find(unfinished) {
            if !matches!(run.outcome, Outcome::Running { .. }) {
                run.outcome = Outcome::Running { awaits: None };
            }
            return Reply::Started { run: run.id.clone(), resumed: true };
        }
        runs.push(FakeRun {
            id: id.clone(),
            plan,
            events: Vec::new(),
            done: 0,
            values: BTreeMap::new(),
            outcome: Outcome::Running { awaits: None },
        });
        Reply::Started { run: id, resumed: false }
    }

    fn list_runs(&self) -> Vec<RunSummary> {
        let summary = |run: &FakeRun| RunSummary {
            run: run.id.clone(),
            cluster: run.plan.cluster.clone(),
            plan: run.plan.digest().unwrap(),
            outcome: run.outcome.clone(),
            in_force: true,
        };
        self.runs.borrow().iter().map(summary).collect()
    }

    /// The run's process dies without a word, and its values with it (a power cut).
    pub(super) fn power_cut(&self) {
        *self.sharing.borrow_mut() = None;
        for run in self.runs.borrow_mut().iter_mut() {
            if matches!(run.outcome, Outcome::Running { .. }) {
                run.outcome = Outcome::Interrupted;
                run.values.clear();
            }
        }
    }
}

fn push(run: &mut FakeRun, body: EventBody) {
    let seq = run.events.len() as u64 + 1;
    run.events.push(Event { run: run.id.clone(), seq, at_unix_ms: 0, body });
}

/// A door to a fake node.
pub(super) struct FakeDoor(pub(super) Rc<FakeNode>);

/// A session with a fake node.
pub(super) struct FakeHand {
    node: Rc<FakeNode>,
    session: u64,
    dead: Cell<bool>,
}

impl Drop for FakeHand {
    fn drop(&mut self) {
        let mut holder = self.node.holder.borrow_mut();
        if holder.as_ref().is_some_and(|(session, _)| *session == self.session) {
            *holder = None;
        }
    }
}

impl Door for FakeDoor {
    type Hand = FakeHand;

    fn node(&self) -> &str {
        &self.0.name
    }

    async fn open(&self) -> Result<FakeHand, SshError> {
        tokio::task::yield_now().await;
        if let Some((0, opens)) = self.0.cut.get()
            && opens > 0
        {
            self.0.cut.set(Some((0, opens - 1)));
            return Err(self.0.lost());
        }
        if matches!(self.0.cut.get(), Some((0, 0))) {
            self.0.cut.set(None);
        }
        self.0.sessions.set(self.0.sessions.get() + 1);
        let session = self.0.sessions.get();
        Ok(FakeHand { node: Rc::clone(&self.0), session, dead: Cell::new(false) })
    }
}

impl FakeHand {
    /// The network's part of every call.
    async fn travel(&self) -> Result<(), SshError> {
        tokio::task::yield_now().await;
        match self.node.cut.get() {
            Some((0, _)) => self.dead.set(true),
            Some((calls, opens)) => self.node.cut.set(Some((calls - 1, opens))),
            None => {}
        }
        if self.dead.get() { Err(self.node.lost()) } else { Ok(()) }
    }
}

impl Hand for FakeHand {
    async fn request(&self, body: RequestBody, _: OnEvent<'_>) -> Result<Reply, SshError> {
        self.travel().await?;
        let deadly = self.node.dies_of_runs.get();
        if deadly > 0 && matches!(body, RequestBody::Runs) {
            self.node.dies_of_runs.set(deadly - 1);
            self.dead.set(true);
            return Err(self.node.lost());
        }
        self.node.work();
        let answer = self.node.answer(self.session, body);
        // The answer's way back: an installer killed here has been heard and does not know it.
        self.travel().await?;
        answer
    }

    async fn attach(
        &self,
        run: &str,
        after: u64,
        on_event: OnEvent<'_>,
    ) -> Result<Outcome, SshError> {
        let mut after = after;
        loop {
            self.travel().await?;
            self.node.work();
            let (events, outcome) = {
                let runs = self.node.runs.borrow();
                let run = runs.iter().find(|known| known.id == run).expect("a known run");
                (run.events.clone(), run.outcome.clone())
            };
            let before = after;
            for event in events {
                if event.seq > after {
                    after = event.seq;
                    on_event(event);
                }
            }
            if !matches!(outcome, Outcome::Running { .. }) {
                return Ok(outcome);
            }
            if after == before {
                // The tests' clock only moves while everybody sleeps.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    async fn send(
        &self,
        load: Load<'_>,
        missing: &[MissingPieces],
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Received, SshError> {
        let (mut pieces, mut bytes) = (0, 0);
        let wanted = missing.iter().flat_map(|part| {
            part.ranges.iter().flat_map(|range| (range.0..range.1).map(|piece| (&part.blob, piece)))
        });
        for (blob, piece) in wanted {
            self.travel().await?;
            if self.node.full.get() {
                let (code, message) = ("AGENT-017".into(), "no room".into());
                let failure = Some(Failure { code, message, hint: None });
                return Ok(Received { pieces, bytes, failure });
            }
            let size = load.index.blob(blob).expect("in the index").size.min(load.index.piece_size);
            progress(size);
            self.node.wrote();
            if self.node.forgets.get() {
                continue;
            }
            self.node.store.borrow_mut().insert((blob.clone(), piece));
            if !self.node.sent.borrow_mut().insert((blob.clone(), piece)) {
                self.node.sent_twice.set(self.node.sent_twice.get() + 1);
            }
            pieces += 1;
            bytes += size;
        }
        self.travel().await?;
        Ok(Received { pieces, bytes, failure: None })
    }

    async fn close(self) {}
}
