//! The journal: the append-only record of a run, written before each change.
//!
//! One file a run, JSON lines: `{"seq":1,"prev":"<hex>","at":<ms>,"entry":{…},"sum":"<hex>"}`.
//! `sum` is the sha256 over the line without it, `prev` the sum of the line before (64 zeros for
//! the first), so a lost, swapped or edited line is seen. Every line is on disk before
//! [`Journal::append`] returns. A last line without its end is what a power cut leaves: it is cut
//! off and noted. Anything else that does not fit stops resume and undo with the line number.

#[cfg(test)]
mod fixture_tests;
mod kept;

use std::{
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use kdc_bundles::index::Digest;
pub use kept::KeptContents;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    step::Before,
    wire::{EventBody, Failure, Outcome},
};

/// The journal format this build writes; it reads this and all older ones.
pub const JOURNAL_VERSION: u32 = 1;

/// How often, and how far apart, a journal's lock is tried: one second in all.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Name of the file in a run's directory.
pub const FILE_NAME: &str = "journal.jsonl";

/// Largest journal this build reads.
pub const MAX_JOURNAL_BYTES: u64 = 64 * 1024 * 1024;

const NO_SUM: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// One thing that is so from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Entry {
    /// First line of every journal.
    Opened {
        /// [`JOURNAL_VERSION`] of the build that wrote it.
        version: u32,
        /// Run id.
        run: String,
        /// Cluster.
        cluster: String,
        /// Node.
        node: String,
        /// Digest of the plan; for an undo, of the empty content.
        plan: Digest,
        /// Version of the agent.
        agent: String,
    },
    /// A process took the run up again.
    Resumed {
        /// A torn last line was cut off.
        torn: bool,
    },
    /// The run waits for a value before a step.
    Awaiting {
        /// Step id.
        step: String,
        /// Value name.
        value: String,
    },
    /// As wanted before we came: ours to leave alone, never to undo.
    Found {
        /// Step id.
        step: String,
    },
    /// From here on the step may have changed things; this is what stood there.
    Begun {
        /// Step id.
        step: String,
        /// What undo puts back.
        before: Before,
    },
    /// The step is done.
    Done {
        /// Step id.
        step: String,
    },
    /// The step failed; it is still begun.
    Failed {
        /// Step id.
        step: String,
        /// Why.
        failure: Failure,
    },
    /// The step was taken back.
    Undone {
        /// Step id.
        step: String,
    },
    /// The run ended, for now: a failed one can be resumed, any one undone.
    Ended {
        /// How.
        outcome: Outcome,
    },
}

impl Entry {
    /// The event that tells it to an installer; some entries are the node's own affair.
    #[must_use]
    pub fn event(&self) -> Option<EventBody> {
        let step = |step: &String| step.clone();
        Some(match self {
            Self::Opened { .. } | Self::Resumed { .. } => return None,
            Self::Awaiting { step: id, value } => {
                EventBody::Awaiting { step: step(id), value: value.clone() }
            }
            Self::Found { step: id } => EventBody::Found { step: step(id) },
            Self::Begun { step: id, .. } => EventBody::Begun { step: step(id) },
            Self::Done { step: id } => EventBody::Done { step: step(id) },
            Self::Failed { step: id, failure } => {
                EventBody::StepFailed { step: step(id), failure: failure.clone() }
            }
            Self::Undone { step: id } => EventBody::Undone { step: step(id) },
            Self::Ended { outcome } => EventBody::Ended { outcome: outcome.clone() },
        })
    }
}

/// An entry at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Line number, from 1.
    pub seq: u64,
    /// Milliseconds since the epoch.
    pub at_unix_ms: u64,
    /// What is so.
    pub entry: Entry,
}

/// A journal that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system would not.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line inside does not follow from the one before.
    #[error("{path} line {line}: {reason}")]
    Broken {
        /// The journal.
        path: PathBuf,
        /// Line number, from 1.
        line: u64,
        /// What does not fit.
        reason: String,
    },
    /// Another process writes it.
    #[error("another process is at work on {path}")]
    Busy {
        /// The journal.
        path: PathBuf,
    },
}

impl JournalError {
    /// Stable code, listed in `docs/steps.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "JOURNAL-001",
            Self::Broken { .. } => "JOURNAL-002",
            Self::Busy { .. } => "JOURNAL-003",
        }
    }

    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::File { path, .. } => {
                format!("check disk space and permissions of {}", path.display())
            }
            Self::Broken { path, .. } => format!(
                "{} was changed or damaged after it was written; put a copy back, or undo by hand \
                 from its readable lines",
                path.display()
            ),
            Self::Busy { .. } => "attach to the run that is going on".to_owned(),
        })
    }
}

#[derive(Serialize, Deserialize)]
struct Line {
    seq: u64,
    prev: String,
    at: u64,
    entry: Entry,
}

/// What reading a journal found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The whole lines.
    pub records: Vec<Record>,
    /// Length of the whole lines in bytes.
    pub good_bytes: u64,
    /// There was a torn last line.
    pub torn: bool,
    last_sum: String,
}

/// Read a journal's bytes; `path` is for messages.
///
/// # Errors
/// If a line inside is broken. A torn last line is no error.
pub fn parse(bytes: &[u8], path: &Path) -> Result<Reading, JournalError> {
    let mut reading =
        Reading { records: Vec::new(), good_bytes: 0, torn: false, last_sum: NO_SUM.to_owned() };
    let mut rest = bytes;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let seq = reading.records.len() as u64 + 1;
        let (record, sum) = parse_line(&rest[..end], seq, &reading.last_sum)
            .map_err(|reason| JournalError::Broken { path: path.to_owned(), line: seq, reason })?;
        reading.records.push(record);
        reading.last_sum = sum;
        reading.good_bytes += end as u64 + 1;
        rest = &rest[end + 1..];
    }
    reading.torn = !rest.is_empty();
    Ok(reading)
}

fn parse_line(line: &[u8], seq: u64, prev: &str) -> Result<(Record, String), String> {
    let text = std::str::from_utf8(line).map_err(|_| "is no UTF-8".to_owned())?;
    let (body, sum) = text
        .rsplit_once(",\"sum\":\"")
        .and_then(|(body, sum)| Some((body, sum.strip_suffix("\"}")?)))
        .ok_or("has no checksum")?;
    let body = format!("{body}}}");
    if hex::encode(Sha256::digest(body.as_bytes())) != sum {
        return Err("does not have its checksum".to_owned());
    }
    let line: Line = serde_json::from_str(&body).map_err(|error| error.to_string())?;
    if line.seq != seq {
        return Err(format!("carries number {}", line.seq));
    }
    if line.prev != prev {
        return Err("does not follow the line before it".to_owned());
    }
    if let Entry::Opened { version, .. } = &line.entry
        && *version > JOURNAL_VERSION
    {
        return Err(format!("is of journal version {version}; this build reads {JOURNAL_VERSION}"));
    }
    Ok((Record { seq, at_unix_ms: line.at, entry: line.entry }, sum.to_owned()))
}

/// Read the journal of a run; an empty reading if there is none yet. Takes no lock.
///
/// # Errors
/// If it cannot be read, or is broken inside.
pub fn load(run_dir: &Path) -> Result<Reading, JournalError> {
    let path = run_dir.join(FILE_NAME);
    let failed = |source| JournalError::File { action: "read", path: path.clone(), source };
    let mut bytes = Vec::new();
    match fs_err::File::open(&path) {
        Ok(file) => file.take(MAX_JOURNAL_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(failed(error)),
    };
    if bytes.len() as u64 > MAX_JOURNAL_BYTES {
        return Err(failed(std::io::Error::other("it is larger than 64 MiB")));
    }
    parse(&bytes, &path)
}

/// A journal open for writing; nobody else can open it meanwhile.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Flock<std::fs::File>,
    records: Vec<Record>,
    last_sum: String,
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
        let mut file = lock(file).ok_or_else(|| JournalError::Busy { path: path.clone() })?;
        sync_directory(run_dir).map_err(failed("sync the directory of"))?;
        let mut bytes = Vec::new();
        Read::by_ref(&mut *file)
            .take(MAX_JOURNAL_BYTES)
            .read_to_end(&mut bytes)
            .map_err(failed("read"))?;
        let reading = parse(&bytes, &path)?;
        if reading.torn {
            file.set_len(reading.good_bytes).map_err(failed("cut"))?;
            file.sync_all().map_err(failed("sync"))?;
            file.seek(std::io::SeekFrom::End(0)).map_err(failed("seek in"))?;
        }
        let Reading { records, last_sum, torn, .. } = reading;
        Ok(Self { path, file, records, last_sum, torn })
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

    /// Write one entry; it is on disk when this returns.
    ///
    /// # Errors
    /// If it cannot be written whole; then nothing may be changed on its word.
    pub fn append(&mut self, at_unix_ms: u64, entry: Entry) -> Result<Record, JournalError> {
        let seq = self.records.len() as u64 + 1;
        let line = Line { seq, prev: self.last_sum.clone(), at: at_unix_ms, entry };
        let failed = |action| {
            let path = self.path.clone();
            move |source| JournalError::File { action, path, source }
        };
        let body = serde_json::to_string(&line)
            .map_err(|error| failed("write")(std::io::Error::other(error)))?;
        let sum = hex::encode(Sha256::digest(body.as_bytes()));
        let whole = format!("{},\"sum\":\"{sum}\"}}\n", &body[..body.len() - 1]);
        self.file.write_all(whole.as_bytes()).map_err(failed("write"))?;
        self.file.sync_all().map_err(failed("sync"))?;
        self.last_sum = sum;
        let record = Record { seq, at_unix_ms, entry: line.entry };
        self.records.push(record.clone());
        Ok(record)
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

fn sync_directory(directory: &Path) -> std::io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> Entry {
        Entry::Opened {
            version: JOURNAL_VERSION,
            run: "r".to_owned(),
            cluster: "c".to_owned(),
            node: "n".to_owned(),
            plan: Digest::of(b"plan"),
            agent: "0.1.0".to_owned(),
        }
    }

    fn found(step: &str) -> Entry {
        Entry::Found { step: step.to_owned() }
    }

    fn three_lines(directory: &Path) -> Vec<u8> {
        let mut journal = Journal::open(directory).unwrap();
        for entry in [opened(), found("a"), found("b")] {
            journal.append(7, entry).unwrap();
        }
        fs_err::read(directory.join(FILE_NAME)).unwrap()
    }

    #[test]
    fn what_was_written_is_read_back_and_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        three_lines(directory.path());
        let mut journal = Journal::open(directory.path()).unwrap();
        assert!(!journal.was_torn());
        assert_eq!(journal.records().len(), 3);
        assert_eq!(journal.append(8, found("c")).unwrap().seq, 4);
        drop(journal);
        assert_eq!(load(directory.path()).unwrap().records[3].entry, found("c"));
    }

    #[test]
    fn a_journal_cut_at_any_byte_loads_with_its_whole_lines_and_takes_new_ones() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = three_lines(directory.path());
        for length in 0..bytes.len() {
            let directory = tempfile::tempdir().unwrap();
            fs_err::write(directory.path().join(FILE_NAME), &bytes[..length]).unwrap();
            let whole = bytes[..length].iter().filter(|byte| **byte == b'\n').count();
            let torn = bytes[..length].last().is_some_and(|byte| *byte != b'\n');
            let mut journal = Journal::open(directory.path()).unwrap();
            assert_eq!((journal.records().len(), journal.was_torn()), (whole, torn), "{length}");
            journal.append(9, found("z")).unwrap();
            drop(journal);
            assert_eq!(load(directory.path()).unwrap().records.len(), whole + 1, "{length}");
        }
    }

    #[test]
    fn a_flipped_byte_in_any_whole_line_is_refused_with_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = three_lines(directory.path());
        for place in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[place] ^= 1;
            let line = bytes[..place].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
            match parse(&damaged, Path::new("journal.jsonl")) {
                Err(JournalError::Broken { line: found, .. }) => assert_eq!(found, line, "{place}"),
                // Without its last line end the last line is torn, which is no damage inside.
                Ok(reading) => assert!(reading.torn && place == bytes.len() - 1, "{place}"),
                Err(other) => panic!("{place}: {other}"),
            }
        }
    }

    #[test]
    fn lost_and_swapped_lines_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = three_lines(directory.path());
        let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        for order in [vec![1, 2], vec![0, 2], vec![1, 0, 2], vec![0, 0]] {
            let shuffled: Vec<u8> = order.iter().flat_map(|n| lines[*n].to_vec()).collect();
            assert!(parse(&shuffled, Path::new("j")).is_err(), "{order:?}");
        }
    }

    #[test]
    fn a_second_writer_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let first = Journal::open(directory.path()).unwrap();
        assert!(is_busy(directory.path()).unwrap());
        assert!(matches!(Journal::open(directory.path()), Err(JournalError::Busy { .. })));
        drop(first);
        assert!(!is_busy(directory.path()).unwrap());
    }
}
#[test]
fn a_look_at_the_journal_does_not_keep_its_run_from_starting() {
    let directory = tempfile::tempdir().unwrap();
    drop(Journal::open(directory.path()).unwrap());
    let file = std::fs::OpenOptions::new().read(true).open(directory.path().join(FILE_NAME));
    let look = Flock::lock(file.unwrap(), FlockArg::LockSharedNonblock).unwrap();
    let looker = std::thread::spawn(move || {
        std::thread::sleep(LOCK_PAUSE);
        drop(look);
    });
    assert!(Journal::open(directory.path()).is_ok());
    looker.join().unwrap();
}
