//! One node's run as far as its events tell.

use std::collections::BTreeMap;

use kdc_agent::step::{NodePlan, Step};

use crate::show::news::StepState;

/// A value a run waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Awaited {
    pub(super) value: String,
    /// Somebody is at it, or it has been given.
    pub(super) taken: bool,
}

/// One node's run as far as its events tell.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) node: String,
    /// Step id to its place (from 1) and phase.
    pub(super) places: BTreeMap<String, (usize, String)>,
    pub(super) init: Option<String>,
    pub(super) join: Option<String>,
    pub(super) states: BTreeMap<String, StepState>,
    pub(super) seq: u64,
    pub(super) awaited: Option<Awaited>,
    /// A join was handed to it.
    pub(super) let_in: bool,
    pub(super) ended: Option<Ended>,
}

/// How watching a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its run finished.
    Well,
    /// Its run failed or was never started, or the node can't be reached any more.
    Badly,
}

impl Standing {
    pub(super) fn new(plan: &NodePlan) -> Self {
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
            let_in: false,
            ended: None,
        }
    }

    fn is_done(&self, step: Option<&String>) -> bool {
        let state = step.and_then(|step| self.states.get(step));
        matches!(state, Some(StepState::Done | StepState::Found))
    }

    /// A control plane that can let others in.
    pub(super) fn is_open(&self) -> bool {
        self.is_done(self.init.as_ref()) && self.ended != Some(Ended::Badly)
    }

    /// A control plane that is up or can still come up.
    pub(super) fn may_open(&self) -> bool {
        self.init.is_some() && (self.is_open() || self.ended.is_none())
    }

    /// It was let in and is at it.
    pub(super) fn is_joining(&self) -> bool {
        let lost_it = self.awaited.as_ref().is_some_and(|awaited| !awaited.taken);
        self.let_in && !lost_it && !self.has_joined() && self.ended.is_none()
    }

    pub(super) fn has_joined(&self) -> bool {
        self.join.is_none() || self.is_done(self.join.as_ref())
    }

    pub(super) fn awaits(&self, value: &str) -> bool {
        self.ended.is_none() && self.awaited.as_ref().is_some_and(|wait| wait.value == value)
    }
}
