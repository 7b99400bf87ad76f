//! What is known of every node's run, and what follows from it. Pure: no clock, no network.
//!
//! Events may come twice or late (a connection was cut and the node's record is replayed): a
//! sequence number that was seen is not seen again, and news that make no sense change nothing.

use std::collections::BTreeMap;

use kdc_agent::{
    step::{NodePlan, Step},
    wire::{Event, EventBody, Outcome},
};

use crate::show::{News, news::StepState};

/// Value with join credentials, a secret.
pub const JOIN: &str = "join";
/// Value that says that all other nodes have joined.
pub const JOINED: &str = "joined";

/// A value that is due to a node now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// Make join credentials on `from` and hand them to `to`.
    Join {
        /// Place of the waiting node.
        to: usize,
        /// Place of a control plane that is up.
        from: usize,
    },
    /// Tell `to` that everyone has joined.
    Joined {
        /// Place of the waiting node.
        to: usize,
    },
}

impl Due {
    /// Place of the node that waits.
    #[must_use]
    pub fn to(&self) -> usize {
        match self {
            Self::Join { to, .. } | Self::Joined { to } => *to,
        }
    }

    /// Name of the value.
    #[must_use]
    pub fn value(&self) -> &'static str {
        match self {
            Self::Join { .. } => JOIN,
            Self::Joined { .. } => JOINED,
        }
    }
}

/// A value a run waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Awaited {
    value: String,
    /// Somebody is at it, or it has been given.
    taken: bool,
}

/// One node's run as far as its events tell.
#[derive(Debug, Clone)]
struct Standing {
    node: String,
    /// Step id to its place (from 1) and phase.
    places: BTreeMap<String, (usize, String)>,
    init: Option<String>,
    join: Option<String>,
    states: BTreeMap<String, StepState>,
    seq: u64,
    awaited: Option<Awaited>,
    ended: Option<Ended>,
}

/// How watching a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its run finished.
    Well,
    /// Its run failed, or the node can't be reached any more.
    Badly,
}

impl Standing {
    fn new(plan: &NodePlan) -> Self {
        let id_of = |wanted: fn(&Step) -> bool| {
            plan.steps
                .iter()
                .find(|planned| wanted(&planned.step))
                .map(|planned| planned.id.clone())
        };
        Self {
            node: plan.node.clone(),
            places: plan
                .steps
                .iter()
                .enumerate()
                .map(|(place, planned)| (planned.id.clone(), (place + 1, planned.phase.clone())))
                .collect(),
            init: id_of(|step| matches!(step, Step::InitControlPlane { .. })),
            join: id_of(|step| matches!(step, Step::JoinNode { .. })),
            states: BTreeMap::new(),
            seq: 0,
            awaited: None,
            ended: None,
        }
    }

    fn is_done(&self, step: Option<&String>) -> bool {
        let state = step.and_then(|step| self.states.get(step));
        matches!(state, Some(StepState::Done | StepState::Found))
    }

    /// A control plane that can let others in.
    fn is_open(&self) -> bool {
        self.is_done(self.init.as_ref()) && self.ended != Some(Ended::Badly)
    }

    fn has_joined(&self) -> bool {
        self.join.is_none() || self.is_done(self.join.as_ref())
    }

    fn awaits(&self, value: &str) -> bool {
        self.ended.is_none() && self.awaited.as_ref().is_some_and(|wait| wait.value == value)
    }
}

/// All runs of a command.
#[derive(Debug, Clone)]
pub struct Board {
    nodes: Vec<Standing>,
}

impl Board {
    /// A board on which nothing has happened yet.
    #[must_use]
    pub fn new(plans: &[NodePlan]) -> Self {
        Self { nodes: plans.iter().map(Standing::new).collect() }
    }

    /// Last event of the node that was seen: attach after this one.
    #[must_use]
    pub fn seq(&self, place: usize) -> u64 {
        self.nodes[place].seq
    }

    /// Take in an event; `None` where it was seen before, else the news it is.
    pub fn take_in(&mut self, place: usize, event: &Event) -> Option<News> {
        let standing = &mut self.nodes[place];
        if event.seq > 0 {
            if event.seq <= standing.seq {
                return None;
            }
            standing.seq = event.seq;
        }
        let node = standing.node.clone();
        let (step, state) = match &event.body {
            EventBody::Awaiting { value, .. } => {
                self.await_value(place, value);
                return Some(News::Waiting { node, value: value.clone() });
            }
            EventBody::Note { step, text } => {
                return Some(News::Note { node, step: step.clone(), text: text.clone() });
            }
            EventBody::Ended { .. } => return None,
            EventBody::Found { step } => (step, StepState::Found),
            EventBody::Begun { step } => (step, StepState::Begun),
            EventBody::Done { step } => (step, StepState::Done),
            EventBody::Undone { step } => (step, StepState::Undone),
            EventBody::StepFailed { step, .. } => (step, StepState::Failed),
        };
        standing.awaited = None;
        standing.states.insert(step.clone(), state);
        let of = standing.places.len();
        let (number, phase) =
            standing.places.get(step).cloned().unwrap_or((of, "other".to_owned()));
        Some(News::Step { node, number, of, phase, step: step.clone(), state })
    }

    /// The node waits for `value`. Heard again while the value is on its way, nothing changes.
    fn await_value(&mut self, place: usize, value: &str) {
        let standing = &mut self.nodes[place];
        if standing.awaited.as_ref().is_none_or(|awaited| awaited.value != value) {
            standing.awaited = Some(Awaited { value: value.to_owned(), taken: false });
        }
    }

    /// The node was asked, after attaching anew, what it waits for: a value given before is lost
    /// when it is still waited for.
    pub fn still_awaits(&mut self, place: usize, value: Option<&str>) {
        if let Some(value) = value {
            self.nodes[place].awaited = Some(Awaited { value: value.to_owned(), taken: false });
        }
    }

    /// The value could not be handed over; it is due again.
    pub fn give_back(&mut self, due: &Due) {
        if let Some(awaited) = &mut self.nodes[due.to()].awaited
            && awaited.value == due.value()
        {
            awaited.taken = false;
        }
    }

    /// Watching the node is over.
    pub fn end(&mut self, place: usize, ended: Ended) {
        self.nodes[place].ended = Some(ended);
    }

    /// What an outcome means for the nodes that wait for this one.
    #[must_use]
    pub fn outcome(outcome: &Outcome) -> Ended {
        match outcome {
            Outcome::Finished { .. } | Outcome::Undone { .. } => Ended::Well,
            Outcome::Failed { .. } | Outcome::Interrupted | Outcome::Running { .. } => Ended::Badly,
        }
    }

    /// The values that are due now, each once.
    pub fn take_due(&mut self) -> Vec<Due> {
        let open = self.nodes.iter().position(Standing::is_open);
        let mut due = Vec::new();
        for to in 0..self.nodes.len() {
            let free = self.nodes[to].awaited.as_ref().is_some_and(|awaited| !awaited.taken);
            if !free {
                continue;
            }
            if self.nodes[to].awaits(JOIN)
                && let Some(from) = open
            {
                due.push(Due::Join { to, from });
            } else if self.nodes[to].awaits(JOINED) && self.all_others_joined(to) {
                due.push(Due::Joined { to });
            } else {
                continue;
            }
            if let Some(awaited) = &mut self.nodes[to].awaited {
                awaited.taken = true;
            }
        }
        due
    }

    fn all_others_joined(&self, but: usize) -> bool {
        self.nodes.iter().enumerate().all(|(place, node)| place == but || node.has_joined())
    }

    /// The value that the node waits for and that can't come any more.
    #[must_use]
    pub fn waits_in_vain(&self, place: usize) -> Option<&str> {
        let node = &self.nodes[place];
        let over = |place: usize| self.nodes[place].ended.is_some() || self.join_is_hopeless(place);
        if self.join_is_hopeless(place) {
            return Some(JOIN);
        }
        let hopeless = |other: usize| !self.nodes[other].has_joined() && over(other);
        let in_vain = node.awaits(JOINED)
            && (0..self.nodes.len()).any(|other| other != place && hopeless(other));
        in_vain.then_some(JOINED)
    }

    /// It waits to join, and no control plane is up or can still come up.
    fn join_is_hopeless(&self, place: usize) -> bool {
        let may_open =
            |node: &Standing| node.init.is_some() && (node.is_open() || node.ended.is_none());
        self.nodes[place].awaits(JOIN) && !self.nodes.iter().any(may_open)
    }

    /// Nothing more will happen that this command can further.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        (0..self.nodes.len())
            .all(|place| self.nodes[place].ended.is_some() || self.waits_in_vain(place).is_some())
    }
}

#[cfg(test)]
mod tests {
    use kdc_agent::step::PlannedStep;
    use kdc_bundles::index::Digest;
    use proptest::prelude::*;

    use super::*;

    fn plan(node: &str, steps: &[(&str, Step)]) -> NodePlan {
        let planned = |(id, step): &(&str, Step)| PlannedStep {
            id: (*id).to_owned(),
            phase: "kubernetes".to_owned(),
            step: step.clone(),
            needs: Vec::new(),
        };
        NodePlan {
            node: node.to_owned(),
            cluster: "c".to_owned(),
            index: Digest::of(b"index"),
            steps: steps.iter().map(planned).collect(),
        }
    }

    fn board() -> Board {
        let init = Step::InitControlPlane { config: String::new() };
        let join = Step::JoinNode { config: String::new() };
        Board::new(&[
            plan("cp", &[("init", init), ("swap", Step::DisableSwap)]),
            plan("w1", &[("join", join.clone())]),
            plan("w2", &[("join", join)]),
        ])
    }

    fn event(seq: u64, body: EventBody) -> Event {
        Event { run: "r".to_owned(), seq, at_unix_ms: 0, body }
    }

    fn done(seq: u64, step: &str) -> Event {
        event(seq, EventBody::Done { step: step.to_owned() })
    }

    fn awaiting(seq: u64, value: &str) -> Event {
        event(seq, EventBody::Awaiting { step: "join".to_owned(), value: value.to_owned() })
    }

    #[test]
    fn a_worker_gets_its_join_once_the_control_plane_is_up() {
        let mut board = board();
        board.take_in(1, &awaiting(1, JOIN));
        assert_eq!(board.take_due(), []);
        board.take_in(0, &done(1, "init"));
        assert_eq!(board.take_due(), [Due::Join { to: 1, from: 0 }]);
        assert_eq!(board.take_due(), [], "each value is taken once");
        board.give_back(&Due::Join { to: 1, from: 0 });
        assert_eq!(board.take_due(), [Due::Join { to: 1, from: 0 }]);
    }

    #[test]
    fn the_control_plane_hears_that_all_joined_only_when_all_did() {
        let mut board = board();
        board.take_in(0, &done(1, "init"));
        board.take_in(0, &awaiting(2, JOINED));
        board.take_in(1, &done(1, "join"));
        assert_eq!(board.take_due(), []);
        board.take_in(2, &event(1, EventBody::Found { step: "join".to_owned() }));
        assert_eq!(board.take_due(), [Due::Joined { to: 0 }]);
    }

    #[test]
    fn a_replayed_event_is_not_news() {
        let mut board = board();
        assert!(board.take_in(0, &done(1, "init")).is_some());
        assert!(board.take_in(0, &done(1, "init")).is_none());
        assert_eq!(board.seq(0), 1);
    }

    #[test]
    fn a_value_that_got_lost_with_a_reboot_is_due_again() {
        let mut board = board();
        board.take_in(0, &done(1, "init"));
        board.take_in(1, &awaiting(1, JOIN));
        assert_eq!(board.take_due().len(), 1);
        board.still_awaits(1, Some(JOIN));
        assert_eq!(board.take_due().len(), 1);
        board.still_awaits(1, None);
        assert_eq!(board.take_due().len(), 0);
    }

    #[test]
    fn when_the_control_plane_fails_the_waiting_workers_wait_in_vain() {
        let mut board = board();
        board.take_in(1, &awaiting(1, JOIN));
        board.end(0, Ended::Badly);
        assert_eq!(board.waits_in_vain(1), Some(JOIN));
        assert!(!board.is_settled(), "w2 still works towards its join");
        board.take_in(2, &awaiting(1, JOIN));
        assert!(board.is_settled());
    }

    #[test]
    fn when_a_worker_fails_the_control_plane_waits_in_vain() {
        let mut board = board();
        board.take_in(0, &done(1, "init"));
        board.take_in(0, &awaiting(2, JOINED));
        board.end(1, Ended::Badly);
        assert_eq!(board.waits_in_vain(0), Some(JOINED));
        assert!(!board.is_settled(), "w2 may still finish");
        board.take_in(2, &done(1, "join"));
        board.end(2, Ended::Well);
        assert!(board.is_settled());
    }

    fn any_event() -> impl Strategy<Value = (usize, Event)> {
        let step = prop_oneof!["init", "join", "swap", "nonsense"];
        let value = prop_oneof![Just(JOIN), Just(JOINED), Just("other")];
        let body = prop_oneof![
            step.clone().prop_map(|step| EventBody::Done { step }),
            step.clone().prop_map(|step| EventBody::Begun { step }),
            step.prop_map(|step| EventBody::Found { step }),
            value.prop_map(|value| EventBody::Awaiting {
                step: "join".to_owned(),
                value: value.to_owned()
            }),
        ];
        (0..3_usize, 0..9_u64, body).prop_map(|(place, seq, body)| (place, event(seq, body)))
    }

    proptest! {
        /// Whatever happens, `joined` is never said before the others joined, and a join comes only
        /// from a control plane that is up.
        #[test]
        fn no_value_is_due_too_early(events in prop::collection::vec(any_event(), 0..60)) {
            let mut board = board();
            for (place, event) in events {
                board.take_in(place, &event);
                for due in board.take_due() {
                    match due {
                        Due::Joined { to } => prop_assert!(board.all_others_joined(to)),
                        Due::Join { from, .. } => prop_assert!(board.nodes[from].is_open()),
                    }
                }
            }
        }
    }
}
