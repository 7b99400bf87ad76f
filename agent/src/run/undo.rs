//! Take back everything in force, newest run first, each run backwards.
//!
//! Every run's own journal gets an `Undone` line per step, so an interrupted undo goes on where it
//! stopped. The undo has a journal of its own too, for those who attach to it: its step names are
//! `<run>/<step>`.

use std::{path::Path, sync::atomic::AtomicBool, time::Duration};

use kdc_bundles::index::Digest;

use super::{
    Observer, RunError, Standing, Teller, check_run_id, in_force, load_plan, standing,
    steps_in_force, stopped,
};
use crate::{
    host::Host,
    journal::{Entry, JOURNAL_VERSION, Journal, KeptContents},
    step::{
        Before, Step, StepError,
        change::{BlobSource, Context, Values},
    },
    wire::{Failure, Outcome},
};

/// Undo all runs under `runs_dir`, telling it as run `id`. A step that cannot be taken back after
/// three tries is noted and the others are still taken back; the outcome then is the first failure,
/// and calling this again tries what is left.
///
/// # Errors
/// If a journal cannot be used.
pub fn undo(
    runs_dir: &Path,
    id: &str,
    host: &dyn Host,
    blobs: &dyn BlobSource,
    values: &dyn Values,
    observer: &dyn Observer,
    stop: &AtomicBool,
) -> Result<Outcome, RunError> {
    check_run_id(id)?;
    let runs = in_force(runs_dir)?;
    let directory = runs_dir.join(id);
    fs_err::create_dir_all(&directory).map_err(|source| RunError::File {
        action: "make directory",
        path: directory.clone(),
        source,
    })?;
    let teller = Teller { run: id.to_owned(), host, observer };
    let mut journal = Journal::open(&directory)?;
    let cluster = runs.last().map(|run| run.cluster.clone()).unwrap_or_default();
    let start = if journal.records().is_empty() {
        let (run, agent) = (id.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        let (node, plan) = (String::new(), Digest::of(b""));
        Entry::Opened { version: JOURNAL_VERSION, run, cluster, node, plan, agent }
    } else {
        Entry::Resumed { torn: journal.was_torn() }
    };
    teller.record(&mut journal, start)?;
    let mut undoing = Undoing { host, blobs, values, stop, teller, journal, first: None, steps: 0 };
    for run in runs.iter().rev() {
        if !undoing.run(&runs_dir.join(&run.run), &run.run)? {
            return Ok(Outcome::Interrupted);
        }
    }
    undoing.finish()
}

struct Undoing<'a> {
    host: &'a dyn Host,
    blobs: &'a dyn BlobSource,
    values: &'a dyn Values,
    stop: &'a AtomicBool,
    teller: Teller<'a>,
    journal: Journal,
    /// The first step that could not be taken back.
    first: Option<(String, Failure)>,
    steps: u32,
}

impl Undoing<'_> {
    /// Take one run back; `false` if asked to stop.
    fn run(&mut self, run_dir: &Path, run: &str) -> Result<bool, RunError> {
        let plan = load_plan(run_dir)?;
        let mut theirs = Journal::open(run_dir)?;
        let keep = KeptContents::of_run(run_dir);
        let mut left = false;
        for id in steps_in_force(theirs.records()).iter().rev() {
            if stopped(self.stop) {
                return Ok(false);
            }
            let (Standing::Begun(before) | Standing::Done(before)) = standing(theirs.records(), id)
            else {
                continue;
            };
            let name = format!("{run}/{id}");
            let note = |text: &str| self.teller.note(&name, text);
            let context = Context::new(self.host, self.blobs, self.values, &keep, &note);
            let planned = plan.steps.iter().find(|planned| planned.id == *id);
            let undone = planned
                .ok_or_else(|| StepError::Format {
                    what: format!("step `{id}`"),
                    reason: "it is not in the run's plan".to_owned(),
                })
                .and_then(|planned| undo_step(&planned.step, &context, &before));
            match undone {
                Ok(()) => {
                    theirs.append(self.host.now_unix_ms(), Entry::Undone { step: id.clone() })?;
                    self.teller.record(&mut self.journal, Entry::Undone { step: name })?;
                    self.steps += 1;
                }
                Err(error) => {
                    left = true;
                    let failure = error.failure();
                    let entry = Entry::Failed { step: name.clone(), failure: failure.clone() };
                    self.teller.record(&mut self.journal, entry)?;
                    self.first.get_or_insert((name, failure));
                }
            }
        }
        if !left {
            let steps = u32::try_from(plan.steps.len()).unwrap_or(u32::MAX);
            let ended = Entry::Ended { outcome: Outcome::Undone { steps } };
            theirs.append(self.host.now_unix_ms(), ended)?;
        }
        Ok(true)
    }

    fn finish(mut self) -> Result<Outcome, RunError> {
        let outcome = match self.first.take() {
            Some((step, failure)) => Outcome::Failed { step, failure },
            None => Outcome::Undone { steps: self.steps },
        };
        self.teller.record(&mut self.journal, Entry::Ended { outcome: outcome.clone() })?;
        Ok(outcome)
    }
}

/// Take one step back, more than once if need be: what stands before it may only be taken back
/// after it, so a hindrance that passes (a busy mount, a slow stop) must not change the order.
fn undo_step(step: &Step, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
    for pause_secs in [1, 3] {
        match step.undo(context, before) {
            Ok(()) => return Ok(()),
            Err(error) => context.say(&format!("trying again: {}", error.failure().message)),
        }
        context.host.sleep(Duration::from_secs(pause_secs));
    }
    step.undo(context, before)
}
