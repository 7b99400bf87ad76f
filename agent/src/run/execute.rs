//! Carry a plan out, or go on where it was left.

use std::{path::Path, sync::atomic::AtomicBool, time::Duration};

use super::{
    Observer, PLAN_FILE, RunError, Standing, Teller, check_run_id, has_undone, load_plan, standing,
    stopped,
};
use crate::{
    host::Host,
    journal::{Entry, JOURNAL_VERSION, Journal, KeptContents},
    step::{
        NodePlan, PlannedStep, StepError,
        change::{BlobSource, Context, Values},
    },
    wire::{Failure, Outcome},
};

/// Longest wait for a value: a working day and more, so that an operator can sleep over it.
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);

/// How often a waiting run looks for its value.
const POLL: Duration = Duration::from_millis(200);

/// Lay out the directory of a new run, so that [`execute`] can start. Fine to call again.
///
/// # Errors
/// If the id is unfit, or the directory cannot be written.
pub fn create(runs_dir: &Path, run: &str, plan: &NodePlan) -> Result<std::path::PathBuf, RunError> {
    use std::os::unix::fs::PermissionsExt;
    check_run_id(run)?;
    let directory = runs_dir.join(run);
    let path = directory.join(PLAN_FILE);
    let failed = |source| RunError::File { action: "write", path: path.clone(), source };
    fs_err::create_dir_all(&directory).map_err(failed)?;
    let private = std::fs::Permissions::from_mode(0o700);
    fs_err::set_permissions(&directory, private).map_err(failed)?;
    let bytes = serde_json::to_vec(plan).map_err(|error| failed(error.into()))?;
    let mut file = tempfile::NamedTempFile::new_in(&directory).map_err(failed)?;
    std::io::Write::write_all(&mut file, &bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(&path).map_err(|error| failed(error.error))?;
    for synced in [directory.as_path(), runs_dir] {
        fs_err::File::open(synced).and_then(|file| file.sync_all()).map_err(failed)?;
    }
    Ok(directory)
}

/// Carry out the plan in `run_dir`; `stop` is looked at between steps.
///
/// # Errors
/// If the run itself cannot go on (journal, plan). A failed step is an [`Outcome`].
pub fn execute(
    run_dir: &Path,
    host: &dyn Host,
    blobs: &dyn BlobSource,
    values: &dyn Values,
    observer: &dyn Observer,
    stop: &AtomicBool,
) -> Result<Outcome, RunError> {
    let plan = load_plan(run_dir)?;
    let run = run_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut journal = Journal::open(run_dir)?;
    let teller = Teller { run, host, observer };
    open_or_resume(run_dir, &plan, &mut journal, &teller)?;
    let keep = KeptContents::of_run(run_dir);
    for planned in &plan.steps {
        let note = |text: &str| teller.note(&planned.id, text);
        let context = Context::new(host, blobs, values, &keep, &note);
        match apply_one(planned, &context, &mut journal, &teller, stop) {
            Ok(()) => {}
            Err(Stop::Asked) => return Ok(Outcome::Interrupted),
            Err(Stop::Run(error)) => return Err(error),
            Err(Stop::Step(failure)) => {
                let step = planned.id.clone();
                let entry = Entry::Failed { step: step.clone(), failure: failure.clone() };
                teller.record(&mut journal, entry)?;
                let outcome = Outcome::Failed { step, failure };
                teller.record(&mut journal, Entry::Ended { outcome: outcome.clone() })?;
                return Ok(outcome);
            }
        }
    }
    let outcome = count(&plan, &journal);
    if !matches!(journal.records().last().map(|last| &last.entry), Some(Entry::Ended { .. })) {
        teller.record(&mut journal, Entry::Ended { outcome: outcome.clone() })?;
    }
    Ok(outcome)
}

fn count(plan: &NodePlan, journal: &Journal) -> Outcome {
    let (mut changed, mut found) = (0, 0);
    for planned in &plan.steps {
        match standing(journal.records(), &planned.id) {
            Standing::Found => found += 1,
            Standing::Done(_) => changed += 1,
            Standing::Untouched | Standing::Begun(_) | Standing::Undone => {}
        }
    }
    Outcome::Finished { changed, found }
}

fn open_or_resume(
    run_dir: &Path,
    plan: &NodePlan,
    journal: &mut Journal,
    teller: &Teller<'_>,
) -> Result<(), RunError> {
    let unfit = |reason: String| RunError::Plan { path: run_dir.join(PLAN_FILE), reason };
    let digest = plan.digest().map_err(|error| unfit(error.to_string()))?;
    let mut ids = std::collections::BTreeSet::new();
    if let Some(twice) = plan.steps.iter().find(|planned| !ids.insert(&planned.id)) {
        return Err(unfit(format!("step `{}` is in it twice", twice.id)));
    }
    let Some(first) = journal.records().first() else {
        let opened = Entry::Opened {
            version: JOURNAL_VERSION,
            run: teller.run.clone(),
            cluster: plan.cluster.clone(),
            node: plan.node.clone(),
            plan: digest,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
        };
        return Ok(teller.record(journal, opened)?);
    };
    match &first.entry {
        Entry::Opened { plan: begun, .. } if *begun == digest => {}
        _ => return Err(unfit("its journal was begun with another plan".to_owned())),
    }
    if has_undone(journal.records()) {
        return Err(RunError::WasUndone { run: teller.run.clone() });
    }
    let finished = Entry::Ended { outcome: count(plan, journal) };
    if journal.records().last().is_some_and(|last| last.entry == finished) {
        return Ok(());
    }
    let torn = journal.was_torn();
    Ok(teller.record(journal, Entry::Resumed { torn })?)
}

/// Why the loop over the steps ends early.
enum Stop {
    /// By a signal.
    Asked,
    /// A step failed.
    Step(Failure),
    /// The run itself cannot go on.
    Run(RunError),
}

impl From<StepError> for Stop {
    fn from(error: StepError) -> Self {
        Self::Step(error.failure())
    }
}

impl From<crate::journal::JournalError> for Stop {
    fn from(error: crate::journal::JournalError) -> Self {
        Self::Run(error.into())
    }
}

fn apply_one(
    planned: &PlannedStep,
    context: &Context<'_>,
    journal: &mut Journal,
    teller: &Teller<'_>,
    stop: &AtomicBool,
) -> Result<(), Stop> {
    if stopped(stop) {
        return Err(Stop::Asked);
    }
    let step = planned.id.clone();
    let before = match standing(journal.records(), &planned.id) {
        Standing::Found | Standing::Done(_) => return Ok(()),
        Standing::Undone => {
            return Err(Stop::Run(RunError::WasUndone { run: teller.run.clone() }));
        }
        // A crash fell between `Begun` and `Done`. What we saw first is what undo must restore,
        // so the old snapshot wins over a fresh look.
        Standing::Begun(before) => {
            wait_for_values(planned, context, journal, teller, stop)?;
            before
        }
        Standing::Untouched => {
            if !planned.needs.is_empty() {
                let now = planned.step.probe(context)?;
                if planned.step.is_satisfied_by(&now)? {
                    return Ok(teller.record(journal, Entry::Found { step })?);
                }
                wait_for_values(planned, context, journal, teller, stop)?;
            }
            let before = planned.step.probe(context)?;
            if planned.step.is_satisfied_by(&before)? {
                return Ok(teller.record(journal, Entry::Found { step })?);
            }
            context.keep_pending()?;
            let begun = Entry::Begun { step: step.clone(), before: before.clone() };
            teller.record(journal, begun)?;
            before
        }
    };
    planned.step.apply(context, &before)?;
    Ok(teller.record(journal, Entry::Done { step })?)
}

fn wait_for_values(
    planned: &PlannedStep,
    context: &Context<'_>,
    journal: &mut Journal,
    teller: &Teller<'_>,
    stop: &AtomicBool,
) -> Result<(), Stop> {
    for name in &planned.needs {
        let mut waited = Duration::ZERO;
        while context.values.get(name).map_err(StepError::from)?.is_none() {
            if waited.is_zero() {
                let entry = Entry::Awaiting { step: planned.id.clone(), value: name.clone() };
                teller.record(journal, entry)?;
            }
            if stopped(stop) {
                return Err(Stop::Asked);
            }
            if waited >= MAX_WAIT {
                return Err(Stop::from(StepError::Waited {
                    what: format!("the value `{name}`"),
                    seconds: MAX_WAIT.as_secs(),
                    seen: "nobody provided it".to_owned(),
                }));
            }
            context.host.sleep(POLL);
            waited += POLL;
        }
    }
    Ok(())
}
