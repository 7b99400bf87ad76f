//! Where a control plane keeps what nodes measured: batches in files by day and month, and an index.
//!
//! ```text
//! usage/index.json            how long each file is, and which records of which journal are in them
//! usage/hours/2026-11-24.log  batches of hours, one behind the other, each with its length and digest
//! usage/days/2026-11.log      batches of days
//! usage/tenants.json          to whom namespaces belonged, and when
//! ```
//!
//! The index is written last, after the files are on the disk, and replaced in one move: whatever stands in a file behind
//! the length that the index says was never promised to anybody. So a reader needs no lock, and a power cut costs nothing
//! but a batch that its sender still has.

use std::{
    collections::BTreeMap,
    io::{BufReader, Read as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    UsageError,
    batch::{Head, MAX_BATCH},
    calendar::{self, Span},
    ranges::Ranges,
};
use crate::meter::record::{JournalId, Level};

/// Where control planes keep it.
pub const USAGE_PATH: &str = "/var/lib/kdc/usage";
/// Begin of each batch in a file.
const FRAME: &[u8; 4] = b"KUF1";
/// Bytes before a batch: [`FRAME`], length, digest.
pub(super) const FRAME_HEAD: usize = 16;
/// Largest index.
const MAX_INDEX: u64 = 256 * 1024 * 1024;

/// What is here, as of the last commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Form of this file.
    pub(super) version: u32,
    /// Length of each file, by its path below the folder.
    pub(super) files: BTreeMap<String, u64>,
    /// Which records, by journal.
    pub journals: BTreeMap<JournalId, Held>,
}

/// Which records of a journal are here, or were here: those that were dropped for age count as had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Its node.
    pub node: String,
    /// Numbers of records of hours.
    #[serde(default)]
    pub hours: Ranges,
    /// Numbers of records of days.
    #[serde(default)]
    pub days: Ranges,
    /// End of the latest record's time.
    #[serde(default)]
    pub until: i64,
}

impl Held {
    /// Those of one level. Minutes stay on their nodes.
    #[must_use]
    pub fn of(&self, level: Level) -> Option<&Ranges> {
        match level {
            Level::Minute => None,
            Level::Hour => Some(&self.hours),
            Level::Day => Some(&self.days),
        }
    }

    /// The batch's records are here now.
    pub(super) fn note(&mut self, head: &Head) {
        match head.level {
            Level::Minute => return,
            Level::Hour => self.hours.insert(head.first, head.last()),
            Level::Day => self.days.insert(head.first, head.last()),
        }
        self.node.clone_from(&head.node);
        self.until = self.until.max(head.to());
    }
}

/// The folder, for those who only read.
#[derive(Debug, Clone)]
pub struct Shelf {
    pub(super) folder: PathBuf,
    pub(super) index: Index,
}

/// A file that can't be read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Its path below the folder.
    pub file: String,
    /// Where what can't be read begins.
    pub at: u64,
}

impl Shelf {
    /// What is there now; nothing where nothing was ever collected.
    ///
    /// # Errors
    /// When the index is there and can't be read.
    pub fn open(folder: &Path) -> Result<Self, UsageError> {
        let index = read_index(folder)?.unwrap_or_default();
        Ok(Self { folder: folder.to_owned(), index })
    }

    /// What is here.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.index.files.values().sum()
    }

    /// Every batch of a level whose time touches the span, in the order of files. Files that are damaged are told and read
    /// up to there.
    ///
    /// # Errors
    /// What `show` says, or the disk.
    pub fn each(
        &self,
        level: Level,
        span: Span,
        mut show: impl FnMut(&Head, &[u8]) -> Result<(), UsageError>,
    ) -> Result<Vec<Damage>, UsageError> {
        let mut damaged = Vec::new();
        for (file, length) in &self.index.files {
            if !file_touches(file, level, span) {
                continue;
            }
            let mut keep = |head: &Head, bytes: &[u8]| {
                if head.level == level && head.from < span.to && head.to() > span.from {
                    show(head, bytes)?;
                }
                Ok(())
            };
            if let Some(at) = read_file(&self.folder.join(file), *length, &mut keep)? {
                damaged.push(Damage { file: file.clone(), at });
            }
        }
        Ok(damaged)
    }
}

/// The file that batches of that level and time are in.
pub(super) fn file_of(level: Level, from: i64) -> Option<String> {
    match level {
        Level::Minute => None,
        Level::Hour => Some(format!("hours/{}.log", calendar::day_text(from))),
        Level::Day => Some(format!("days/{}.log", calendar::month_text(from))),
    }
}

/// The stretch of time that a file is about.
pub(super) fn time_of(file: &str) -> Option<(Level, Span)> {
    let (folder, name) = file.split_once('/')?;
    let name = name.strip_suffix(".log")?;
    let moment = calendar::parse_moment(name, false).ok()?;
    match folder {
        "hours" => Some((Level::Hour, Span { from: moment, to: moment + calendar::DAY })),
        "days" => {
            let (from, to) = calendar::month_around(moment);
            Some((Level::Day, Span { from, to }))
        }
        _ => None,
    }
}

fn file_touches(file: &str, level: Level, span: Span) -> bool {
    time_of(file)
        .is_some_and(|(of, time)| of == level && time.from < span.to && time.to > span.from)
}

/// A batch as it stands in a file.
pub(super) fn frame(batch: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(batch.len() + FRAME_HEAD);
    bytes.extend_from_slice(FRAME);
    bytes.extend_from_slice(&u32::try_from(batch.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&Sha256::digest(batch)[..8]);
    bytes.extend_from_slice(batch);
    bytes
}

/// What is done with each batch.
pub(super) type Show<'a> = &'a mut dyn FnMut(&Head, &[u8]) -> Result<(), UsageError>;

/// Show every batch of a file up to that length; says where it can't go on, if it can't.
pub(super) fn read_file(
    path: &Path,
    length: u64,
    show: Show<'_>,
) -> Result<Option<u64>, UsageError> {
    let file = match fs_err::File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Some(0)),
        Err(cause) => return Err(cause.into()),
    };
    let mut file = BufReader::with_capacity(64 * 1024, file.take(length));
    let (mut at, mut batch) = (0, Vec::new());
    while at < length {
        let mut head = [0; FRAME_HEAD];
        if file.read_exact(&mut head).is_err() || !head.starts_with(FRAME) {
            return Ok(Some(at));
        }
        let size = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if size > MAX_BATCH {
            return Ok(Some(at));
        }
        batch.resize(size, 0);
        if file.read_exact(&mut batch).is_err() || Sha256::digest(&batch)[..8] != head[8..] {
            return Ok(Some(at));
        }
        let Ok(read) = Head::read(&batch) else { return Ok(Some(at)) };
        show(&read, &batch)?;
        at += (FRAME_HEAD + size) as u64;
    }
    Ok(None)
}

/// The index, if there is one that can be read.
fn read_index(folder: &Path) -> Result<Option<Index>, UsageError> {
    let path = folder.join("index.json");
    let file = match fs_err::File::open(&path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(cause.into()),
    };
    let mut text = Vec::new();
    file.take(MAX_INDEX).read_to_end(&mut text)?;
    match serde_json::from_slice::<Index>(&text) {
        Ok(index) if index.version == 1 => Ok(Some(index)),
        Ok(index) => Err(std::io::Error::other(format!(
            "{} has the form {}, which this version does not know",
            path.display(),
            index.version
        ))
        .into()),
        Err(cause) => Err(std::io::Error::other(format!("{}: {cause}", path.display())).into()),
    }
}
