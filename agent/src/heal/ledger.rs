//! One writer of the history at a time, and the routes' place in it.

use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use super::{
    Action, End, History, HistoryError, Moment, NO_REPAIR_PATH, Remedy, State, Switch, Watched,
    decide, drift::ROUTES_SUBJECT, history::HISTORY_PATH,
};
use crate::{
    daemon::config,
    host::{Host, HostError, parent},
};

/// How often, and how far apart, the lock is tried: five seconds in all.
const TRIES: u32 = 100;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Keep others from repairing, for as long as the answer lives.
pub(super) fn locked() -> Result<Flock<std::fs::File>, HistoryError> {
    let path = format!("{HISTORY_PATH}.lock");
    let failed = |source| {
        let path = path.clone();
        HistoryError::Host(HostError::File { action: "lock", path, source })
    };
    fs_err::create_dir_all(parent(HISTORY_PATH)).map_err(failed)?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(failed)?;
    for _ in 0..TRIES {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((refused, _)) => file = refused,
        }
        std::thread::sleep(PAUSE);
    }
    Err(failed(std::io::ErrorKind::WouldBlock.into()))
}

/// Routes are about to be put back: whether they may be, and the number of the deed.
///
/// # Errors
/// Why not, in words.
pub(crate) fn begin_routes(host: &dyn Host, folder: &Path, lost: &[String]) -> Result<u64, String> {
    let settings = config::load(folder).map_err(|error| error.to_string())?.healing;
    let switch = match host.stat(NO_REPAIR_PATH) {
        Ok(None) => Switch::On,
        Ok(Some(_)) => Switch::Off(format!("{NO_REPAIR_PATH} is there")),
        Err(error) => Switch::Off(error.to_string()),
    };
    let action = Action {
        remedy: Remedy::PutBackRoutes,
        subject: ROUTES_SUBJECT.to_owned(),
        reason: format!("missing: {}", lost.join(", ")),
        what: format!("put {} routes back", lost.len()),
        origin: None,
    };
    let kind = action.remedy.kind();
    let finding = Watched::new(kind, ROUTES_SUBJECT, State::Fail, "").with_remedy(action.clone());
    let now = Moment::now(host).map_err(|error| error.to_string())?;
    let mut history = History::load(host).map_err(|error| error.to_string())?;
    let decision = decide(&[finding], &history, &settings, &switch, &now);
    if let Some(held) = decision.held.first() {
        return Err(held.why.in_words());
    }
    let number = history.begin(&action, &now, host.now_unix_ms());
    let number = number.map_err(|error| error.to_string())?;
    history.save(host).map_err(|error| error.to_string())?;
    Ok(number)
}

/// Routes were put back, or not.
pub(crate) fn end_routes(host: &dyn Host, number: u64, why: Option<String>) {
    let end = why.map_or(End::Done, |why| End::Failed { why });
    let ended = History::load(host).and_then(|mut history| {
        history.end(number, end);
        history.save(host)
    });
    if let Err(error) = ended {
        tracing::warn!(%error, "how it came out is not written down");
    }
}

/// As [`begin_routes`], with others kept away meanwhile.
///
/// # Errors
/// Why the routes may not be put back.
pub(crate) fn begin_routes_alone(
    host: &dyn Host,
    folder: &Path,
    lost: &[String],
) -> Result<u64, String> {
    let _lock = locked().map_err(|error| error.to_string())?;
    begin_routes(host, folder, lost)
}

/// As [`end_routes`], with others kept away meanwhile.
pub(crate) fn end_routes_alone(host: &dyn Host, number: u64, why: Option<String>) {
    match locked() {
        Ok(_lock) => end_routes(host, number, why),
        Err(error) => tracing::warn!(%error, "how it came out is not written down"),
    }
}
