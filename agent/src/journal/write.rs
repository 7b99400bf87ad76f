//! Writing a journal: one process at a time, each line on disk before it counts.

use std::{
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest as _, Sha256};

use super::{
    Entry, FILE_NAME, JournalError, MAX_JOURNAL_BYTES, Record,
    read::{Line, Reading, parse, read_bounded, too_large},
};

/// How often, and how far apart, a journal's lock is tried: one second in all.
const LOCK_TRIES: u32 = 20;
pub(super) const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// A journal open for writing; nobody else can open it meanwhile.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Flock<std::fs::File>,
    records: Vec<Record>,
    last_sum: String,
    /// Length of the whole lines.
    good_bytes: u64,
    torn: bool,
}

impl Journal {
    /// Open, or make, the journal of the run in `run_dir`; cuts off a torn last line.
    ///
    /// # Errors
    /// If it cannot be opened, is broken inside, or another process has it.
    pub fn open(run_dir: &Path) -> Result<Self, JournalError> {
        let path = run_dir.join(FILE_NAME);
        let failed = |action| {
            let path = path.clone();
            move |source| JournalError::File { action, path, source }
        };
        let file = std::fs::OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open"))?;
        let file = lock(file).ok_or_else(|| JournalError::Busy { path: path.clone() })?;
        sync_directory(run_dir).map_err(failed("sync the directory of"))?;
        let bytes = read_bounded(&*file, &path)?;
        let reading = parse(&bytes, &path)?;
        if reading.torn {
            file.set_len(reading.good_bytes).map_err(failed("cut"))?;
            file.sync_all().map_err(failed("sync"))?;
        }
        let Reading { records, last_sum, torn, good_bytes } = reading;
        Ok(Self { path, file, records, last_sum, good_bytes, torn })
    }

    /// A torn last line was cut off when this journal was opened.
    #[must_use]
    pub fn was_torn(&self) -> bool {
        self.torn
    }

    /// All records so far.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Write one entry; it is on disk when this returns. If it fails, the journal is as it was: what
    /// a full disk took of the line is cut off again.
    ///
    /// # Errors
    /// If it cannot be written whole; then nothing may be changed on its word.
    pub fn append(&mut self, at_unix_ms: u64, entry: Entry) -> Result<Record, JournalError> {
        let seq = self.records.len() as u64 + 1;
        let line = Line { seq, prev: self.last_sum.clone(), at: at_unix_ms, entry };
        let body = serde_json::to_string(&line)
            .map_err(|error| self.failed("write", std::io::Error::other(error)))?;
        let sum = hex::encode(Sha256::digest(body.as_bytes()));
        let whole = format!("{},\"sum\":\"{sum}\"}}\n", &body[..body.len() - 1]);
        let length = self.good_bytes + whole.len() as u64;
        if length > MAX_JOURNAL_BYTES {
            return Err(self.failed("write", too_large()));
        }
        // A former failure may have left bytes that could not be cut off then.
        let there = self.file.metadata().map_err(|source| self.failed("look at", source))?.len();
        if there != self.good_bytes {
            self.cut()?;
        }
        let written = self
            .file
            .write_all(whole.as_bytes())
            .map_err(|source| self.failed("write", source))
            .and_then(|()| self.file.sync_all().map_err(|source| self.failed("sync", source)));
        if let Err(error) = written {
            // What is left of the line is torn, and the next opening cuts it off if this does not.
            let _cut = self.cut();
            return Err(error);
        }
        self.last_sum = sum;
        self.good_bytes = length;
        let record = Record { seq, at_unix_ms, entry: line.entry };
        self.records.push(record.clone());
        Ok(record)
    }

    /// Cut off what follows the whole lines.
    fn cut(&self) -> Result<(), JournalError> {
        self.file.set_len(self.good_bytes).map_err(|source| self.failed("cut", source))?;
        self.file.sync_all().map_err(|source| self.failed("sync", source))
    }

    fn failed(&self, action: &'static str, source: std::io::Error) -> JournalError {
        JournalError::File { action, path: self.path.clone(), source }
    }
}

/// Take the journal for writing. Who asks [`is_busy`] holds it for a moment, so one refusal is not
/// another run yet.
fn lock(mut file: std::fs::File) -> Option<Flock<std::fs::File>> {
    for _ in 0..LOCK_TRIES {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Some(locked),
            Err((refused, _)) => file = refused,
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    None
}

/// Make the names in a directory survive a power cut.
pub(super) fn sync_directory(directory: &Path) -> std::io::Result<()> {
    fs_err::File::open(directory)?.sync_all()
}

/// Whether a process has the journal of this run open for writing.
///
/// # Errors
/// If it cannot be looked at.
pub fn is_busy(run_dir: &Path) -> Result<bool, JournalError> {
    let path = run_dir.join(FILE_NAME);
    let failed = |source| JournalError::File { action: "open", path: path.clone(), source };
    let file = match std::fs::OpenOptions::new().read(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    Ok(Flock::lock(file, FlockArg::LockSharedNonblock).is_err())
}
