//! The node's GPUs, as `kdc-gpu.service` published them: read here, never asked here. The daemon that listens has neither
//! their devices nor the kernel's log ([`crate::gpu::watch`] has).
//!
//! A document that is too old is told apart: its age stays on the page, and nothing else of it does.

mod changes;
mod families;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::page::{Kind, Page};
use crate::{
    daemon::events::Events,
    facts::Look,
    gpu::{
        node::boot_id,
        report::{GpuState, Library},
        verdict::Verdict,
        watch::{self, Published, STALE, since_boot},
        xid::Action,
    },
    wire::Failure,
};

/// What was read last; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Gpus {
    path: Arc<PathBuf>,
    boot: Arc<String>,
    last: Arc<Mutex<Option<Arc<Published>>>>,
}

/// What `/v1/health` says of the node's GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GpusHealth {
    /// All in one word.
    pub status: GpusStatus,
    /// How old all this is, in milliseconds; absent where nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// How far NVML answered.
    pub library: Library,
    /// Every GPU.
    pub gpus: Vec<GpuStanding>,
    /// What could not be looked at.
    pub warnings: Vec<String>,
}

/// All GPUs in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GpusStatus {
    /// Nothing is to be done.
    Ok,
    /// Something is to be done about one of them.
    Sick,
    /// Nobody watches them any more: what is said here was so once.
    Stale,
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GpuStanding {
    /// Can it be asked? Absent for a GPU that only the kernel's log names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<GpuState>,
    /// What is to be done about it.
    pub verdict: Verdict,
}

impl Gpus {
    /// What is published there.
    pub(crate) fn at(path: PathBuf) -> Self {
        let boot = boot_id(&Look::machine());
        Self { path: Arc::new(path), boot: Arc::new(boot), last: Arc::default() }
    }

    /// Where it is published.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Read what is published now, and push what is new of it as events. Says nothing where nobody publishes.
    pub(crate) fn settle(&self, events: &Events) -> Result<Option<String>, String> {
        let read = watch::read(&self.path).map_err(|error| {
            let said = Failure::from_error(error.code(), &error, None).message;
            format!("error[{}]: {said}; {}", error.code(), error.hint())
        });
        let document = match read {
            Ok(document) => document,
            Err(why) => {
                self.keep(None);
                return Err(why);
            }
        };
        let Some(document) = document.map(Arc::new) else {
            self.keep(None);
            return Ok(None);
        };
        let age = document.age(&self.boot, since_boot());
        let before = self.keep(Some(Arc::clone(&document)));
        if !is_fresh(age) {
            return Err(format!(
                "kdc-gpu.service has said nothing for {} seconds; `systemctl status kdc-gpu`",
                age.map_or_else(
                    || "an unknown number of".to_owned(),
                    |age| age.as_secs().to_string()
                )
            ));
        }
        changes::tell(before.as_deref(), &document, events);
        let gpus = &document.node.report.gpus;
        let answering = gpus.iter().filter(|gpu| gpu.state == GpuState::Answers).count();
        Ok(Some(format!("{answering} of {} GPUs answer", gpus.len())))
    }

    fn keep(&self, document: Option<Arc<Published>>) -> Option<Arc<Published>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *last, document)
    }

    /// What was read last, and its age.
    fn last(&self) -> Option<(Arc<Published>, Option<Duration>)> {
        let document =
            self.last.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Arc::clone)?;
        let age = document.age(&self.boot, since_boot());
        Some((document, age))
    }

    /// What was read last, where it is young.
    pub(crate) fn fresh(&self) -> Option<Arc<Published>> {
        self.last().filter(|(_, age)| is_fresh(*age)).map(|(document, _)| document)
    }

    /// Every family of the GPUs'.
    pub(super) fn tell(&self, page: &mut Page) {
        let Some((document, age)) = self.last() else { return };
        if let Some(age) = age {
            let help = "Age of what is told of the GPUs.";
            page.single("kdc_gpu_report_age_seconds", Kind::Gauge, help, age.as_secs_f64());
        }
        if is_fresh(age) {
            families::tell(page, &document);
        }
    }

    /// How the GPUs stand; nothing where nobody publishes.
    pub(super) fn health(&self) -> Option<GpusHealth> {
        let (document, age) = self.last()?;
        Some(health(&document, age))
    }
}

fn is_fresh(age: Option<Duration>) -> bool {
    age.is_some_and(|age| age <= STALE)
}

fn health(document: &Published, age: Option<Duration>) -> GpusHealth {
    let node = &document.node;
    let sick = node.verdicts.iter().any(|verdict| verdict.action != Action::None);
    let status = match (is_fresh(age), sick) {
        (false, _) => GpusStatus::Stale,
        (true, true) => GpusStatus::Sick,
        (true, false) => GpusStatus::Ok,
    };
    // Verdicts of the report's GPUs stand first, in its order.
    let states = node.report.gpus.iter().map(|gpu| Some(gpu.state.clone()));
    let states = states.chain(std::iter::repeat(None));
    let verdicts = node.verdicts.iter().cloned();
    GpusHealth {
        status,
        age_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        library: node.report.library.clone(),
        gpus: verdicts.zip(states).map(|(verdict, state)| GpuStanding { state, verdict }).collect(),
        warnings: node.warnings.clone(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
