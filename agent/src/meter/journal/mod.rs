//! What was measured, on the disk.
//!
//! ```text
//! /var/lib/kdc/meter/
//!   open/0000000007.kdo      the tally, and the samples since            at most ten minutes
//!   minute/0000000012.kdm    records of minutes                          3 MiB
//!   hour/…                   of hours                                   12 MiB
//!   day/…                    of days                                     4 MiB
//! ```
//!
//! [`Journal::take`] puts a sample on the disk, adds it up, and puts the records that are whole now on the disk. Whatever
//! happens between two of these, [`Journal::open`] reads the samples again and goes on: what was on the disk counts once,
//! what was not is one sample. Records are numbered by a fold that gives the same numbers each time.

mod codec;
mod frame;
mod open;
mod read;
mod records;
mod samples;
mod segment;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

pub use self::{
    codec::Nonsense,
    read::{Batch, Cursor, Verified, read, verify},
};
use self::{open::OpenLog, segment::Shelf};
use super::{
    record::{JournalId, Level, Record},
    sample::Sample,
    tally::Tally,
};

/// Where it lies.
pub const METER_PATH: &str = "/var/lib/kdc/meter";
/// A new file of samples begins after so many.
const SAMPLES: u32 = 40;

/// The journal can't be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk, or what lies there.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is not as it was written.
    #[error("{} is damaged at byte {at}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        at: usize,
        /// What is wrong there.
        reason: Nonsense,
    },
    /// Another process writes it.
    #[error("another process writes {}", path.display())]
    Busy {
        /// The journal's folder.
        path: PathBuf,
    },
}

impl JournalError {
    /// Stable code, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "AGENT-110",
            Self::Damaged { .. } => "AGENT-111",
            Self::Busy { .. } => "AGENT-112",
        }
    }

    /// The next thing to try.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::File { .. } => "`df -h /var/lib/kdc`; is the disk full, or mounted read-only?",
            Self::Damaged { .. } => {
                "`kdc-agent meter verify` names every damaged file; what is good in them is still read"
            }
            Self::Busy { .. } => "`systemctl status kdc-meter`: one process measures at a time",
        }
    }
}

/// With its cause.
pub(super) fn in_full(error: &JournalError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

fn folder_of(meter: &Path, level: Level) -> PathBuf {
    meter.join(level.name())
}

fn make_folder(folder: &Path) -> io::Result<()> {
    match fs_err::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    fs_err::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    folder.parent().map_or(Ok(()), frame::sync_folder)
}

/// A journal open for writing; nobody else can open it meanwhile.
#[derive(Debug)]
pub struct Journal {
    meter: PathBuf,
    tally: Tally,
    shelves: [Shelf; 3],
    log: Option<OpenLog>,
    /// Records that are not on the disk yet.
    waiting: Vec<Record>,
    warning: Option<String>,
    _lock: Flock<std::fs::File>,
}

impl Journal {
    /// Open what is there, or begin a new journal with this id. Where the open part is damaged a new one begins too, and
    /// [`Self::warning`] says so: nothing is counted that might have been counted already.
    ///
    /// # Errors
    /// When the disk refuses, or another process has it.
    pub fn open(meter: &Path, new: JournalId) -> Result<Self, JournalError> {
        let failed =
            |action| move |source| JournalError::File { action, path: meter.to_owned(), source };
        let open = meter.join("open");
        make_folder(meter).and_then(|()| make_folder(&open)).map_err(failed("make"))?;
        let mut options = std::fs::OpenOptions::new();
        let lock = options.write(true).create(true).truncate(false).open(meter.join("lock"));
        let lock = Flock::lock(lock.map_err(failed("lock"))?, FlockArg::LockExclusiveNonblock)
            .map_err(|_| JournalError::Busy { path: meter.to_owned() })?;
        let (found, warning) = match open::find(&open) {
            Ok(found) => (found, None),
            Err(error) => (None, Some(format!("a new journal begins: {}", in_full(&error)))),
        };
        let (tally, samples) = found
            .map_or_else(|| (Tally::new(new), Vec::new()), |found| (found.tally, found.samples));
        let shelf = |level| Shelf::open(&folder_of(meter, level), tally.journal(), level);
        let shelves = [shelf(Level::Minute)?, shelf(Level::Hour)?, shelf(Level::Day)?];
        let (meter, waiting) = (meter.to_owned(), Vec::new());
        let mut journal = Self { meter, tally, shelves, log: None, waiting, warning, _lock: lock };
        for sample in &samples {
            journal.add(sample);
            journal.put_records()?;
        }
        journal.begin_file()?;
        Ok(journal)
    }

    /// What could not be used when it was opened.
    #[must_use]
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// What is being added up.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Count a sample. It is on the disk when this returns; where it can't be put there it does not count, and the next
    /// one has what counters grew by.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn take(&mut self, sample: &Sample) -> Result<(), JournalError> {
        self.put_records()?;
        let mut log = match self.log.take() {
            Some(log) if log.samples() < SAMPLES => log,
            _ => OpenLog::begin(&self.meter.join("open"), &self.tally)?,
        };
        log.append(sample)?;
        self.log = Some(log);
        self.add(sample);
        self.put_records()
    }

    /// Put the tally on the disk, so that the next one to open this has nothing to read again.
    ///
    /// # Errors
    /// When the disk refuses; nothing is lost by it.
    pub fn rest(&mut self) -> Result<(), JournalError> {
        self.put_records()?;
        self.begin_file()
    }

    fn begin_file(&mut self) -> Result<(), JournalError> {
        self.log = Some(OpenLog::begin(&self.meter.join("open"), &self.tally)?);
        Ok(())
    }

    fn add(&mut self, sample: &Sample) {
        let records = self.tally.take(sample);
        self.waiting.extend(records);
    }

    fn put_records(&mut self) -> Result<(), JournalError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        for (level, shelf) in Level::ALL.into_iter().zip(&mut self.shelves) {
            let of: Vec<Record> =
                self.waiting.iter().filter(|record| record.level == level).cloned().collect();
            shelf.append(&of)?;
        }
        self.waiting.clear();
        Ok(())
    }

    /// Number of the newest record of each level.
    #[must_use]
    pub fn last(&self) -> [u64; 3] {
        [0, 1, 2].map(|place| self.shelves[place].last())
    }
}
