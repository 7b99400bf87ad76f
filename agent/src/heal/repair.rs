//! Carrying an action out: exactly the apply of the one step, under the rules of its run's journal.
//!
//! The run's journal is locked meanwhile, so no run goes on and none is taken back between the look
//! and the change. It is not written to: what stood there before kdc came is in it already, and
//! that stays what undo restores. What stood there *now*, somebody's change, is kept beside the
//! history before it is replaced (`/var/lib/kdc/heal/before/`).

use std::path::Path;

use super::{Action, Origin, Remedy, SelfHealing, watch::service};
use crate::{
    host::Host,
    journal::{Journal, KeptContents},
    run::{self, NoValues, Standing, load_plan, standing},
    step::{
        Context, Step, StepError,
        change::BlobSource,
        snapshot::put_file,
        systemd::{UNIT_DIR, look_at, reload, systemctl},
    },
    store::{EmptyShelf, Store},
};

/// Where what was replaced is kept.
const HEAL_DIR: &str = "/var/lib/kdc/heal";

/// Contents that are kept; the oldest go.
const MOST_KEPT: usize = 64;

/// Do it. What is as wanted by now is left alone.
///
/// # Errors
/// Why it was not done, in words with code and hint.
pub(super) fn carry_out(
    host: &dyn Host,
    runs: &Path,
    action: &Action,
    settings: &SelfHealing,
) -> Result<(), String> {
    if let (Remedy::RestartService, Some(unit)) =
        (action.remedy, action.subject.strip_prefix("service "))
    {
        // One that needs it no more by now is left alone.
        return service::start_again(host, unit).map(|_| ()).map_err(|error| error.to_string());
    }
    let Some(Origin { run, step }) = &action.origin else {
        return Err("no step of kdc says how it is wanted".to_owned());
    };
    run::check_run_id(run).map_err(|error| error.to_string())?;
    let folder = runs.join(run);
    let plan = load_plan(&folder).map_err(|error| error.to_string())?;
    let planned = plan.steps.iter().find(|planned| planned.id == *step);
    let planned = planned.ok_or_else(|| format!("run {run} has no step `{step}`"))?;
    let journal = Journal::open(&folder).map_err(|error| error.to_string())?;
    let Standing::Done(before) = standing(journal.records(), step) else {
        return Err(format!("step `{step}` of run {run} is not in force any more"));
    };
    let shelf = Store::system().shelf(&plan.index);
    let blobs: &dyn BlobSource = shelf.as_ref().map_or(&EmptyShelf, |shelf| shelf);
    let keep = KeptContents::of_run(Path::new(HEAL_DIR));
    let note = |text: &str| tracing::info!(subject = action.subject, "{text}");
    let context = Context::new(host, blobs, &NoValues, &keep, &note);
    let done = (|| -> Result<(), StepError> {
        let now = planned.step.probe(&context)?;
        if planned.step.is_satisfied_by(&now)? {
            return Ok(());
        }
        context.keep_pending()?;
        match action.remedy {
            Remedy::PutBackUnit => put_back_unit(host, &planned.step, settings),
            Remedy::StartUnit => {
                // It may take a while, and changes nothing that a journal tells of.
                drop(journal);
                start_unit(host, &planned.step)
            }
            _ => planned.step.apply(&context, &before),
        }
    })();
    forget_oldest();
    done.map_err(|error| {
        let failure = error.failure();
        let hint = failure.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        format!("error[{}]: {}{hint}", failure.code, failure.message)
    })
}

/// The files alone. systemd reads its units again only where the cluster file allows it: that takes
/// devices from containers that run (`docs/decisions/0016-daemon.md`).
fn put_back_unit(host: &dyn Host, step: &Step, settings: &SelfHealing) -> Result<(), StepError> {
    let Step::InstallUnit { unit, content, drop_ins } = step else { return Ok(()) };
    let folder = format!("{UNIT_DIR}/{unit}.d");
    let drop_ins = drop_ins.iter().map(|(name, text)| (format!("{folder}/{name}"), text));
    for (path, text) in drop_ins.chain([(format!("{UNIT_DIR}/{unit}"), content)]) {
        put_file(host, &path, &mut text.as_bytes(), 0o644)?;
    }
    if settings.restarts {
        reload(host)?;
    }
    Ok(())
}

/// Start what should run, have what should start at boot do so; end nothing.
fn start_unit(host: &dyn Host, step: &Step) -> Result<(), StepError> {
    let Step::SetUnitState { unit, enabled, active } = step else { return Ok(()) };
    let now = look_at(host, unit)?;
    if *enabled && !now.is_enabled() {
        host.run_checked(&systemctl(["--no-reload", "enable", "--", unit]))?;
    }
    if *active == Some(true) && !now.active {
        host.run_checked(&systemctl(["start", "--", unit]).within_secs(90))?;
    }
    Ok(())
}

/// Keep the folder of what was replaced within bounds.
fn forget_oldest() {
    let Ok(entries) = fs_err::read_dir(Path::new(HEAL_DIR).join("before")) else { return };
    let mut files: Vec<_> = entries
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    files.sort_unstable();
    let surplus = files.len().saturating_sub(MOST_KEPT);
    for (_, path) in files.into_iter().take(surplus) {
        if let Err(error) = fs_err::remove_file(&path) {
            tracing::warn!(%error, "an old content stays");
        }
    }
}
