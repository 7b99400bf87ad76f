//! A run: one node carries out its plan, by itself, and can be taken up again or taken back.
//!
//! | Call | What |
//! |---|---|
//! | [`create`] | lay out a run's directory: `plan.json`, then an empty journal |
//! | [`execute`] | carry a plan out, or go on where it was left |
//! | [`undo`] | take back everything in force, newest run first |
//! | [`list`], [`in_force`] | what runs there are; what of them stands |
//! | [`receipts`] | the steps that stand, run by run |
//! | [`survey`] | which steps are as wanted now; changes nothing |
//! | [`NoteWriter`] | what a run says between two lines of its journal, for those who watch |
//! | [`start_unit`] | have systemd run one of the above in a unit of its own |
//!
//! The order is always: look, judge, write down, change, write down. After a crash a step that was
//! begun is applied again, and what was seen *first* stays what undo restores.

mod execute;
mod notes;
mod receipt;
mod survey;
mod telling;
mod undo;
mod unit;
mod values;

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

pub use execute::{create, execute};
use kdc_bundles::index::Digest;
pub use notes::{NOTES_FILE, NoteWriter, forget_notes};
pub(crate) use notes::{Note, NoteReader, Said};
pub use receipt::{Receipt, receipts};
pub use survey::survey;
pub(crate) use survey::{KeepNothing, NoValues};
pub use telling::Telling;
pub use undo::undo;
pub use unit::{start_unit, stop_on_signals};
pub use values::{FileValues, VALUES_DIR};

use crate::{
    host::{Host, HostError},
    journal::{self, Entry, JournalError, Reading},
    step::NodePlan,
    wire::{Event, EventBody, Failure, Outcome, RunSummary},
};

/// Where runs live on a node.
pub const RUNS_DIR: &str = "/var/lib/kdc/runs";

/// Name of the plan in a run's directory.
pub const PLAN_FILE: &str = "plan.json";

/// Largest plan a node reads.
pub const MAX_PLAN_BYTES: u64 = 96 * 1024 * 1024;

/// Told what happens, as it happens.
pub trait Observer {
    /// An event; `seq` 0 if it is not in the journal.
    fn event(&self, event: &Event);

    /// The journal has this line now, whether it makes an event or not.
    fn recorded(&self, _seq: u64) {}
}

/// A run that could not go on for a reason that is not a step's.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The machine would not.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A file of the run cannot be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The plan is not the one the journal was begun with, or makes no sense.
    #[error("{path} is not usable: {reason}")]
    Plan {
        /// The plan.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The run was undone; it cannot be taken up again.
    #[error("run {run} was undone")]
    WasUndone {
        /// Run id.
        run: String,
    },
    /// A run's name would not be safe as a file and unit name.
    #[error("`{run}` is not a run id: letters, digits, `-` and `.`, at most 80")]
    RunId {
        /// What was given.
        run: String,
    },
}

impl RunError {
    /// Stable code, listed in `docs/steps.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Journal(error) => error.code(),
            Self::Host(_) => "RUN-001",
            Self::File { .. } => "RUN-002",
            Self::Plan { .. } => "RUN-003",
            Self::WasUndone { .. } => "RUN-004",
            Self::RunId { .. } => "RUN-005",
        }
    }

    /// The one next thing to try, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Journal(error) => error.hint(),
            Self::Host(error) => error.hint(),
            Self::File { path, .. } => {
                Some(format!("check disk space and permissions of {}", path.display()))
            }
            Self::RunId { .. } => None,
            Self::Plan { .. } => Some("undo this run, then apply again".to_owned()),
            Self::WasUndone { .. } => Some("start a new run with `apply`".to_owned()),
        }
    }
}

impl From<&RunError> for Failure {
    fn from(error: &RunError) -> Self {
        Self::from_error(error.code(), error, error.hint())
    }
}

/// Refuse a run id that is not safe as a file and unit name.
///
/// # Errors
/// [`RunError::RunId`].
pub fn check_run_id(run: &str) -> Result<(), RunError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let good =
        !run.is_empty() && run.len() <= 80 && run.bytes().all(plain) && !run.starts_with('.');
    if good { Ok(()) } else { Err(RunError::RunId { run: run.to_owned() }) }
}

/// A step's place in its journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Standing {
    /// Not looked at yet.
    #[default]
    Untouched,
    /// Was as wanted.
    Found,
    /// May have changed things.
    Begun(crate::step::Before),
    /// Has changed things.
    Done(crate::step::Before),
    /// Was taken back.
    Undone,
}

/// Where a step stands after these records.
#[must_use]
pub fn standing(records: &[journal::Record], step: &str) -> Standing {
    let mut standing = Standing::Untouched;
    for record in records {
        standing = match (&record.entry, standing) {
            (Entry::Found { step: id }, _) if id == step => Standing::Found,
            (Entry::Begun { step: id, before }, Standing::Untouched) if id == step => {
                Standing::Begun(before.clone())
            }
            (Entry::Done { step: id }, Standing::Begun(before)) if id == step => {
                Standing::Done(before)
            }
            (Entry::Undone { step: id }, _) if id == step => Standing::Undone,
            (_, unchanged) => unchanged,
        };
    }
    standing
}

/// Ids of the steps whose changes are in force, in the order they began.
#[must_use]
pub fn steps_in_force(reading: &[journal::Record]) -> Vec<String> {
    let mut steps: Vec<String> = Vec::new();
    for record in reading {
        match &record.entry {
            Entry::Begun { step, .. } if !steps.contains(step) => steps.push(step.clone()),
            Entry::Undone { step } => steps.retain(|id| id != step),
            _ => {}
        }
    }
    steps
}

/// The plan in a run's directory.
///
/// # Errors
/// If it cannot be read or makes no sense.
pub fn load_plan(run_dir: &Path) -> Result<NodePlan, RunError> {
    let path = run_dir.join(PLAN_FILE);
    let failed = |source| RunError::File { action: "read", path: path.clone(), source };
    let size = fs_err::metadata(&path).map_err(failed)?.len();
    if size > MAX_PLAN_BYTES {
        let reason = "it is larger than 96 MiB".to_owned();
        return Err(RunError::Plan { path, reason });
    }
    let bytes = fs_err::read(&path).map_err(failed)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| RunError::Plan { path: path.clone(), reason: error.to_string() })
}

/// Every run on this node, oldest first, as its journal tells it.
///
/// # Errors
/// If a journal is broken or the directory cannot be read.
pub fn list(runs_dir: &Path) -> Result<Vec<RunSummary>, RunError> {
    Ok(readings(runs_dir)?.into_iter().map(|(_, summary)| summary).collect())
}

fn readings(runs_dir: &Path) -> Result<Vec<(Reading, RunSummary)>, RunError> {
    let failed = |source| RunError::File { action: "list", path: runs_dir.to_owned(), source };
    let entries = match fs_err::read_dir(runs_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut runs = Vec::new();
    for entry in entries {
        let directory = entry.map_err(failed)?.path();
        // Before its journal is read: a run that ends in between must not pass for one cut off.
        let busy = journal::is_busy(&directory)?;
        let reading = journal::load(&directory)?;
        if let Some(summary) = summarise(&reading, busy) {
            runs.push((reading, summary));
        }
    }
    let opened = |reading: &Reading| reading.records.first().map_or(0, |first| first.at_unix_ms);
    runs.sort_by(|(left, a), (right, b)| {
        opened(left).cmp(&opened(right)).then_with(|| a.run.cmp(&b.run))
    });
    Ok(runs)
}

/// Whether the last thing this run wrote down is its end.
///
/// # Errors
/// If its journal is broken.
pub fn has_ended(run_dir: &Path) -> Result<bool, RunError> {
    let reading = journal::load(run_dir)?;
    let last = reading.records.last().map(|record| &record.entry);
    Ok(matches!(last, Some(Entry::Ended { .. })))
}

fn summarise(reading: &Reading, busy: bool) -> Option<RunSummary> {
    let Entry::Opened { run, cluster, plan, .. } = &reading.records.first()?.entry else {
        return None;
    };
    let outcome = match reading.records.last().map(|record| &record.entry) {
        Some(Entry::Awaiting { value, .. }) if busy => {
            Outcome::Running { awaits: Some(value.clone()) }
        }
        _ if busy => Outcome::Running { awaits: None },
        Some(Entry::Ended { outcome }) => outcome.clone(),
        _ => Outcome::Interrupted,
    };
    Some(RunSummary {
        run: run.clone(),
        cluster: cluster.clone(),
        plan: plan.clone(),
        outcome,
        in_force: !steps_in_force(&reading.records).is_empty(),
    })
}

/// The receipt: runs whose changes are in force, oldest first.
///
/// # Errors
/// As [`list`].
pub fn in_force(runs_dir: &Path) -> Result<Vec<RunSummary>, RunError> {
    Ok(list(runs_dir)?.into_iter().filter(|run| run.in_force).collect())
}

/// An unfinished run of an equal plan, to be resumed instead of starting another. One of which an
/// undo has taken back a part can't be resumed.
///
/// # Errors
/// As [`list`].
pub fn unfinished(runs_dir: &Path, plan: &Digest) -> Result<Option<String>, RunError> {
    let resumable = |outcome: &Outcome| {
        matches!(outcome, Outcome::Failed { .. } | Outcome::Interrupted | Outcome::Running { .. })
    };
    Ok(readings(runs_dir)?
        .into_iter()
        .rev()
        .find(|(reading, run)| {
            run.plan == *plan && resumable(&run.outcome) && !has_undone(&reading.records)
        })
        .map(|(_, summary)| summary.run))
}

/// Whether an undo has taken back anything of it.
fn has_undone(records: &[journal::Record]) -> bool {
    records.iter().any(|record| matches!(record.entry, Entry::Undone { .. }))
}

/// Where a run's events come from: its journal, its clock, who listens.
struct Teller<'a> {
    run: String,
    host: &'a dyn Host,
    observer: &'a dyn Observer,
}

impl Teller<'_> {
    /// Write an entry down, then tell it.
    fn record(&self, journal: &mut journal::Journal, entry: Entry) -> Result<(), JournalError> {
        let record = journal.append(self.host.now_unix_ms(), entry)?;
        self.observer.recorded(record.seq);
        if let Some(body) = record.entry.event() {
            self.tell(record.seq, record.at_unix_ms, body);
        }
        Ok(())
    }

    fn tell(&self, seq: u64, at_unix_ms: u64, body: EventBody) {
        self.observer.event(&Event { run: self.run.clone(), seq, at_unix_ms, body });
    }

    fn note(&self, step: &str, text: &str) {
        let (step, text) = (step.to_owned(), notes::presentable(text));
        self.tell(0, self.host.now_unix_ms(), EventBody::Note { step, text });
    }
}

/// Asked to stop between two steps.
fn stopped(stop: &AtomicBool) -> bool {
    stop.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests;
