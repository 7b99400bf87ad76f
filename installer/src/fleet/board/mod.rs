//! What is known of every node's run, and what follows from it. Pure: no clock, no network.
//!
//! Events may come twice or late (a connection was cut and the node's record is replayed): a
//! sequence number that was seen is not seen again, and news that make no sense change nothing.

mod standing;

use kdc_agent::{
    step::NodePlan,
    wire::{Event, EventBody, Outcome},
};

pub use self::standing::Ended;
use self::standing::{Awaited, Standing};
use crate::show::{News, news::StepState};

/// Nodes that join at once. A control plane that lets hundreds in together falls over.
const JOINS_AT_ONCE: usize = 50;

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

    /// The values that are due now, each once; joins only as many as may go on at once.
    pub fn take_due(&mut self) -> Vec<Due> {
        let open = self.nodes.iter().position(Standing::is_open);
        let joining = self.nodes.iter().filter(|node| node.is_joining()).count();
        let mut joins_left = JOINS_AT_ONCE.saturating_sub(joining);
        let mut due = Vec::new();
        for to in 0..self.nodes.len() {
            let free = self.nodes[to].awaited.as_ref().is_some_and(|awaited| !awaited.taken);
            if !free {
                continue;
            }
            if self.nodes[to].awaits(JOIN)
                && joins_left > 0
                && let Some(from) = open
            {
                joins_left -= 1;
                self.nodes[to].let_in = true;
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

    /// The value that the node's plan needs and that can't come any more, asked before its run is
    /// started.
    #[must_use]
    pub fn lacks_for_good(&self, place: usize) -> Option<&'static str> {
        (!self.nodes[place].has_joined() && self.nobody_can_let_in()).then_some(JOIN)
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

    fn join_is_hopeless(&self, place: usize) -> bool {
        self.nodes[place].awaits(JOIN) && self.nobody_can_let_in()
    }

    /// No control plane is up or can still come up.
    fn nobody_can_let_in(&self) -> bool {
        !self.nodes.iter().any(Standing::may_open)
    }

    /// Nothing more will happen that this command can further.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        (0..self.nodes.len())
            .all(|place| self.nodes[place].ended.is_some() || self.waits_in_vain(place).is_some())
    }
}

#[cfg(test)]
mod tests;
