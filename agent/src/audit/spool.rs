//! What `kdc-control` has to say: its unit may write no file, so systemd opens one for it, as its standard output, and it adds
//! lines there. Whoever writes into the log next, or looks at it, takes them in first.

use std::{
    io::{Read as _, Write as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::{AuditError, Entry, Moment, Who};

/// The file beside the log's folder that `kdc-control.service` names as its standard output.
pub(super) const SPOOL_FILE: &str = "audit-control.jsonl";
/// It takes no more than this.
const MAX_SPOOL_BYTES: u64 = 1024 * 1024;
/// Longest line of it that is taken in.
const MAX_SPOOLED_BYTES: usize = 16 * 1024;

static ON: AtomicBool = AtomicBool::new(false);

/// From now on this process hands entries over on its standard output.
pub fn spool_on_stdout() {
    ON.store(true, Ordering::Relaxed);
}

pub(super) fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spooled {
    at: u64,
    entry: String,
    said: serde_json::Value,
}

/// Add an entry to the spool.
pub(super) fn hand_over(entry: &Entry, _who: &Who) -> Result<(), AuditError> {
    let path = Path::new("standard output");
    let failed = |source| AuditError::file("write to", path, source);
    // A second handle of the same open file: the lock counts for both.
    let file = std::io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
    add(std::fs::File::from(file), entry, &Moment::now())
}

pub(super) fn add(file: std::fs::File, entry: &Entry, moment: &Moment) -> Result<(), AuditError> {
    let failed = |source| AuditError::file("write to", Path::new("the spool"), source);
    let mut file =
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, cause)| failed(cause.into()))?;
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes >= MAX_SPOOL_BYTES {
        return Err(AuditError::SpoolFull { bytes });
    }
    let (kind, said) = entry.parts();
    let spooled = Spooled { at: moment.at_unix_ms, entry: kind, said };
    let mut line = serde_json::to_vec(&spooled).expect("texts and numbers serialise");
    line.push(b'\n');
    file.write_all(&line).map_err(failed)
}

/// Where the spool of a log is.
fn path_of(folder: &Path) -> PathBuf {
    folder.parent().unwrap_or(Path::new("/")).join(SPOOL_FILE)
}

/// Whether something waits there.
pub(super) fn waits(folder: &Path) -> bool {
    fs_err::metadata(path_of(folder)).is_ok_and(|file| file.len() > 0)
}

/// Take in what waits, oldest first, and empty the spool. Who dies in between has it taken in twice, never not at all.
pub(super) fn absorb(
    folder: &Path,
    write: &mut dyn FnMut(&Entry) -> Result<(), AuditError>,
) -> Result<(), AuditError> {
    let path = path_of(folder);
    if !waits(folder) {
        return Ok(());
    }
    let failed = |source| AuditError::file("read", &path, source);
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
    let file =
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, cause)| failed(cause.into()))?;
    let mut bytes = Vec::new();
    (&*file).take(2 * MAX_SPOOL_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        write(&understand(line))?;
    }
    file.set_len(0).and_then(|()| file.sync_data()).map_err(failed)
}

/// Whatever stands there gets into the log, as what `kdc-control` said and nothing else.
fn understand(line: &[u8]) -> Entry {
    let read = serde_json::from_slice::<Spooled>(line).ok();
    match read.filter(|_| line.len() <= MAX_SPOOLED_BYTES) {
        Some(Spooled { at, entry, said }) => Entry::Spooled { at, entry, said },
        None => {
            let said = serde_json::json!({ "bytes": line.len() });
            Entry::Spooled { at: 0, entry: "unreadable".to_owned(), said }
        }
    }
}
