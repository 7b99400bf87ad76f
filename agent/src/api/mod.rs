//! What the daemon tells others: metrics, facts, health and events, over HTTP on loopback.
//!
//! | Path | What |
//! |---|---|
//! | `GET /metrics` | OpenMetrics 1.0, or Prometheus' older text where the client wants that |
//! | `GET /v1/facts` | what `kdc-agent facts --output json` prints |
//! | `GET /v1/health` | how the daemon and each of its parts stand |
//! | `GET /v1/events` | what happened, as server-sent events; `Last-Event-ID` replays |
//!
//! `agent/openapi.yaml` describes it to programs; a test holds real answers against it. Errors are
//! problem documents (RFC 9457). Everything that a client can use up is bounded ([`server`]).

mod answer;
pub(crate) mod collect;
pub(crate) mod gpus;
pub(crate) mod labels;
pub(crate) mod license;
pub(crate) mod own;
pub mod page;
pub(crate) mod server;
mod stream;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

pub use self::gpus::{GpuStanding, GpusHealth, GpusStatus};
use self::{collect::Samples, gpus::Gpus, own::Figures};
use crate::{
    daemon::{
        events::Events,
        state::{Part, Phase, State},
    },
    heal::{self, Board, HealingHealth, Watched},
};

/// What `/v1/health` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// Version of the agent.
    pub version: String,
    /// All in one word.
    pub status: Status,
    /// When the daemon began, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// Where it is in its life.
    pub phase: Phase,
    /// How each part stands.
    pub parts: BTreeMap<Part, PartHealth>,
    /// Whether the newest configuration is in force.
    pub configuration: ConfigurationHealth,
    /// How what is watched on the node stands, what is wrong first.
    #[serde(default)]
    pub watched: Vec<Watched>,
    /// How the node's GPUs stand; absent where nobody watches any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<GpusHealth>,
    /// How what is watched stands; absent before the first look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healing: Option<HealingHealth>,
}

/// All in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Everything is as wanted.
    Ok,
    /// A part of the daemon fails and is tried again, something that is watched on the node does, or
    /// something is to be done about a GPU; the rest goes on.
    Degraded,
}

/// How a part stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartHealth {
    /// It came out one way or the other at least once.
    pub tried: bool,
    /// What it last said of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<String>,
    /// Why it last failed; absent where it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Failures since the daemon began.
    pub failures: u64,
}

/// Whether the newest configuration is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationHealth {
    /// It is.
    pub taken: bool,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Configurations that were refused since the daemon began.
    pub refused: u64,
}

/// What the API shows; clones share it. The driver writes, answers read.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) samples: Samples,
    pub(crate) events: Events,
    pub(crate) figures: Arc<Figures>,
    pub(crate) gpus: Gpus,
    pub(crate) healing: Board,
    pub(crate) license: license::License,
    state: Arc<Mutex<State>>,
    started_unix_ms: u64,
}

impl Shown {
    pub(crate) fn new(samples: Samples, events: Events, figures: Arc<Figures>, gpus: Gpus) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let started_unix_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let healing = Board::default();
        let (license, state) = (license::License::default(), Arc::default());
        Self { samples, events, figures, gpus, healing, license, state, started_unix_ms }
    }

    /// From now on this is how the daemon stands.
    pub(crate) fn set_state(&self, state: &State) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone_from(state);
    }

    fn with_state<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How the daemon stands.
    pub(crate) fn health(&self) -> Health {
        let watched = self.figures.board.findings();
        let fails = watched.iter().any(|finding| finding.state == heal::State::Fail);
        let gpus = self.gpus.health();
        let sick = gpus.as_ref().is_some_and(|gpus| gpus.status != GpusStatus::Ok);
        self.with_state(|state| Health {
            gpus,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            status: if state.is_well() && !fails && !sick { Status::Ok } else { Status::Degraded },
            started_unix_ms: self.started_unix_ms,
            phase: state.phase,
            parts: state
                .parts
                .iter()
                .map(|(part, standing)| {
                    let health = PartHealth {
                        tried: standing.tried,
                        said: standing.said.clone(),
                        failure: standing.failure.clone(),
                        failures: standing.failures_in_all,
                    };
                    (*part, health)
                })
                .collect(),
            configuration: ConfigurationHealth {
                taken: state.misconfigured.is_none(),
                failure: state.misconfigured.clone(),
                refused: state.bad_configurations,
            },
            watched,
            healing: self.healing.health(),
        })
    }
}
