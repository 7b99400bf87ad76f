//! Reading a journal back: every line must carry its number, its checksum and its link to the line
//! before. Takes no lock, so that a run can be watched while it writes.

use std::{io::Read as _, path::Path};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Entry, FILE_NAME, JOURNAL_VERSION, JournalError, MAX_JOURNAL_BYTES, Record};

/// `prev` of the first line.
const NO_SUM: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A line without its checksum.
#[derive(Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) seq: u64,
    pub(super) prev: String,
    pub(super) at: u64,
    pub(super) entry: Entry,
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
    pub(super) last_sum: String,
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
    match fs_err::File::open(&path) {
        Ok(file) => parse(&read_bounded(file, &path)?, &path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => parse(&[], &path),
        Err(source) => Err(JournalError::File { action: "read", path, source }),
    }
}

/// All bytes of a journal. One that is too large is refused whole: half of it would pass for one
/// whose last line is torn.
pub(super) fn read_bounded(file: impl std::io::Read, path: &Path) -> Result<Vec<u8>, JournalError> {
    let failed = |source| JournalError::File { action: "read", path: path.to_owned(), source };
    let mut bytes = Vec::new();
    file.take(MAX_JOURNAL_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_JOURNAL_BYTES {
        return Err(failed(too_large()));
    }
    Ok(bytes)
}

pub(super) fn too_large() -> std::io::Error {
    std::io::Error::other(format!("it is larger than {} MiB", MAX_JOURNAL_BYTES >> 20))
}
