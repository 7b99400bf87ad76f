//! What the node's own records say: bytes in the store, runs in force, what the audit log has to tell.
//!
//! Journals are read anew only where one of them changed; they can be long.

use std::{
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Mutex, PoisonError},
};

use super::auditing::Auditing;
use crate::{
    api::own::Figures,
    audit::Log,
    host::SystemHost,
    run,
    serve::Places,
    store::{Keep, Store},
};

/// What every journal looked like, and the runs in force then.
type Seen = (Vec<(String, u64, i64)>, u64);

/// Reads the records, and remembers what it need not read again.
#[derive(Debug, Default)]
pub(super) struct Records {
    seen: Mutex<Option<Seen>>,
    auditing: Auditing,
}

impl Records {
    /// Look, and tell the figures. Says nothing of itself for the unit's status.
    pub(super) fn look(&self, figures: &Figures) -> Result<Option<String>, String> {
        let agent = Places::system().agent;
        self.auditing.settle(&SystemHost::new(), &agent.to_string_lossy(), &Log::system());
        let store = Store::system().surplus(&Keep::default());
        let bytes = store.as_ref().ok().map(|files| files.iter().map(|file| file.bytes).sum());
        figures.store_bytes.set(bytes);
        let runs = self.runs(&Places::system().runs);
        figures.runs_in_force.set(runs.as_ref().ok().copied());
        store.map_err(|error| format!("the store can't be looked at: {error}"))?;
        runs.map_err(|error| format!("the runs can't be read: {error}"))?;
        Ok(None)
    }

    fn runs(&self, folder: &Path) -> Result<u64, run::RunError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = journals(folder);
        if let Some((journals, runs)) = seen.as_ref()
            && *journals == now
        {
            return Ok(*runs);
        }
        let runs = run::in_force(folder)?.len() as u64;
        *seen = Some((now, runs));
        Ok(runs)
    }
}

/// Name, length and time of every journal.
fn journals(folder: &Path) -> Vec<(String, u64, i64)> {
    let Ok(entries) = fs_err::read_dir(folder) else { return Vec::new() };
    let mut journals: Vec<_> = entries
        .flatten()
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let data = fs_err::metadata(entry.path().join("journal.jsonl")).ok();
            let (size, time) = data.map_or((0, 0), |data| (data.len(), data.mtime_nsec()));
            (name, size, time)
        })
        .collect();
    journals.sort_unstable();
    journals
}
