//! Reading what was recorded, while it is being written or without its writer.

use std::path::Path;

use super::{
    JournalError, folder_of,
    frame::End,
    segment::{self, Segment},
};
use crate::meter::record::{JournalId, Level, Record};

/// How far somebody has read a level: the last record that he has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Its journal.
    pub journal: JournalId,
    /// Its number.
    pub seq: u64,
}

/// Records that follow a cursor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// In the order in which they were written.
    pub records: Vec<Record>,
    /// There are more behind them.
    pub more: bool,
    /// Records behind the cursor, of its journal, that are not on the disk any more.
    pub lost: u64,
}

/// Records of a level behind the cursor, or all that there are; whole frames until there are so many. Files that are
/// damaged are left out but for what is good in them; [`verify`] names them.
///
/// # Errors
/// When the folder can't be read.
pub fn read(
    meter: &Path,
    level: Level,
    cursor: Option<Cursor>,
    most: usize,
) -> Result<Batch, JournalError> {
    let folder = folder_of(meter, level);
    let failed = |source| JournalError::File { action: "list", path: folder.clone(), source };
    let segments = segment::list(&folder).map_err(failed)?;
    let mut batch = Batch::default();
    for (_, path) in &segments[start(&segments, cursor)?..] {
        if batch.records.len() >= most {
            batch.more = true;
            break;
        }
        // Taken away meanwhile, or not begun yet.
        let Ok(Some(segment)) = Segment::read(path) else { continue };
        let known = |record: &Record| {
            cursor.is_some_and(|at| at.journal == record.journal && record.seq <= at.seq)
        };
        let read = segment.each(path, |records| {
            if batch.records.len() >= most {
                batch.more = true;
                return false;
            }
            batch.records.extend(records.into_iter().filter(|record| !known(record)));
            true
        });
        if let Err(JournalError::Damaged { path, at, reason }) = read {
            tracing::warn!(path = %path.display(), at, %reason, "records are left out");
        }
    }
    batch.lost = lost(&batch.records, cursor);
    Ok(batch)
}

/// Numbers that are missing behind the cursor and between the records of its journal.
fn lost(records: &[Record], cursor: Option<Cursor>) -> u64 {
    let Some(Cursor { journal, seq }) = cursor else { return 0 };
    let of = records.iter().filter(|record| record.journal == journal);
    let (lost, _) = of.fold((0, seq), |(lost, before), record| {
        (lost + record.seq.saturating_sub(before).saturating_sub(1), record.seq)
    });
    lost
}

/// The first segment that can hold something new: the last one of the cursor's journal that begins at or before the next
/// number.
fn start(
    segments: &[(u64, std::path::PathBuf)],
    cursor: Option<Cursor>,
) -> Result<usize, JournalError> {
    let Some(cursor) = cursor else { return Ok(0) };
    for (place, (_, path)) in segments.iter().enumerate().rev() {
        let Ok(Some(segment)) = Segment::read(path) else { continue };
        if segment.journal == cursor.journal && segment.first <= cursor.seq.saturating_add(1) {
            return Ok(place);
        }
    }
    Ok(0)
}

/// What a look at a level found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Files.
    pub files: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// Good records.
    pub records: u64,
    /// Begin of the oldest record's time, and end of the newest one's.
    pub times: Option<(i64, i64)>,
    /// What is wrong, one line each.
    pub problems: Vec<String>,
}

/// Look at everything of a level.
///
/// # Errors
/// When the folder can't be read.
pub fn verify(meter: &Path, level: Level) -> Result<Verified, JournalError> {
    let folder = folder_of(meter, level);
    let failed = |source| JournalError::File { action: "list", path: folder.clone(), source };
    let segments = segment::list(&folder).map_err(failed)?;
    let mut verified = Verified { files: segments.len(), ..Verified::default() };
    let mut before: Option<Cursor> = None;
    for (place, (_, path)) in segments.iter().enumerate() {
        verified.bytes += fs_err::metadata(path).map_or(0, |found| found.len());
        let name = path.display();
        let segment = match Segment::read(path) {
            Ok(Some(segment)) => segment,
            Ok(None) if place + 1 == segments.len() => continue,
            Ok(None) => {
                verified.problems.push(format!("{name} has no head"));
                continue;
            }
            Err(error) => {
                verified.problems.push(super::in_full(&error));
                continue;
            }
        };
        let mut holes = Vec::new();
        let read = segment.each(path, |records| {
            for record in &records {
                let next = before.filter(|at| at.journal == record.journal).map(|at| at.seq + 1);
                if let Some(next) = next.filter(|next| *next != record.seq) {
                    holes.push(format!("{name}: record {} where {next} is due", record.seq));
                }
                before = Some(Cursor { journal: record.journal, seq: record.seq });
                let (from, to) = verified.times.unwrap_or((record.from, record.to));
                verified.times = Some((from.min(record.from), to.max(record.to)));
            }
            verified.records += records.len() as u64;
            true
        });
        verified.problems.append(&mut holes);
        match read {
            Ok(Some((at, End::Damaged))) => {
                verified.problems.push(format!("{name} is damaged at byte {at}"));
            }
            // The end that is being written.
            Ok(Some((_, End::Torn))) if place + 1 == segments.len() => {}
            Ok(Some((at, End::Torn))) => {
                verified.problems.push(format!("{name} is torn at byte {at}"));
            }
            Ok(_) => {}
            Err(error) => verified.problems.push(super::in_full(&error)),
        }
    }
    Ok(verified)
}
