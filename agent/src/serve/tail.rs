//! Following a run: its journal, with the notes between the lines.

use std::path::PathBuf;

use super::{Places, ServeError};
use crate::{
    journal::{self, Entry, Record},
    run::{Note, NoteReader, RunError, Said},
    wire::{Event, EventBody, Failure, Outcome},
};

/// Looks without news after which the run's process is looked for.
const QUIET_POLLS: u32 = 14;

/// Follows one run.
pub(super) struct Tail {
    run: String,
    directory: PathBuf,
    /// The journal's last line that was told.
    seen: u64,
    /// The journal's length at the last look; `None` before the first.
    length: Option<u64>,
    quiet: u32,
    notes: NoteReader,
    /// Why the run's process ended, if it could still say so, and the journal's last line then.
    stopped: Option<(u64, Failure)>,
}

impl Tail {
    /// Of `run`, telling what comes after the journal's line `after`.
    pub(super) fn new(places: &Places, run: &str, after: u64) -> Self {
        Self {
            run: run.to_owned(),
            directory: places.runs.join(run),
            seen: after,
            length: None,
            quiet: 0,
            notes: NoteReader::new(&places.volatile, run),
            stopped: None,
        }
    }

    /// What is new, and how it ended if it did.
    pub(super) fn look(&mut self) -> Result<(Vec<Event>, Option<Outcome>), ServeError> {
        // Before the journal: then the lines that these notes follow are in what is read of it.
        let notes = self.notes.look();
        let path = self.directory.join(journal::FILE_NAME);
        let length = Some(fs_err::metadata(path).map_or(0, |meta| meta.len()));
        let quiet = length == self.length;
        if quiet && self.quiet < QUIET_POLLS {
            self.quiet += 1;
            return Ok((self.between(&[], notes), None));
        }
        // No news for a second: is anybody writing it at all? Asked before the journal is read, so
        // that a run which ends in between does not pass for one cut off.
        let gone = quiet && !journal::is_busy(&self.directory).map_err(RunError::from)?;
        let first = self.length.is_none();
        (self.length, self.quiet) = (length, 0);
        let records = journal::load(&self.directory).map_err(RunError::from)?.records;
        let last = records.last().map_or(0, |record| record.seq);
        let mut notes = if first { current(notes, last) } else { notes };
        if matches!(records.last(), Some(Record { entry: Entry::Ended { .. }, .. })) && !first {
            // What was said since the look above would have no other chance.
            notes.extend(self.notes.look());
        }
        let told = self.between(&records, notes);
        let outcome = match records.last().map(|record| &record.entry) {
            Some(Entry::Ended { outcome }) => Some(outcome.clone()),
            _ if gone => match self.stopped.take().filter(|(after, _)| *after >= last) {
                Some((_, failure)) => {
                    return Err(ServeError::Stopped { run: self.run.clone(), failure });
                }
                None => Some(Outcome::Interrupted),
            },
            _ => None,
        };
        Ok((told, outcome))
    }

    /// The events of new records, with each note behind the record it follows.
    fn between(&mut self, records: &[Record], notes: Vec<Note>) -> Vec<Event> {
        let new = records.iter().filter(|record| record.seq > self.seen);
        let mut told: Vec<(u64, Event)> = new
            .filter_map(|record| {
                let body = record.entry.event()?;
                let (seq, at_unix_ms) = (record.seq, record.at_unix_ms);
                Some((seq, Event { run: self.run.clone(), seq, at_unix_ms, body }))
            })
            .collect();
        self.seen = self.seen.max(records.last().map_or(0, |record| record.seq));
        for Note { after, at_unix_ms, said, .. } in notes {
            match said {
                Said::Note { step, text } => {
                    let body = EventBody::Note { step, text };
                    told.push((after, Event { run: self.run.clone(), seq: 0, at_unix_ms, body }));
                }
                Said::Stopped { failure } => self.stopped = Some((after, failure)),
            }
        }
        // Stable: where both have one number, the record stands before its notes.
        told.sort_by_key(|(place, _)| *place);
        told.into_iter().map(|(_, event)| event).collect()
    }
}

/// Of the notes there were before anyone looked: the youngest, if it is about what goes on now, so
/// that who attaches sees where the node is, and who attaches again hears at most one line twice.
fn current(notes: Vec<Note>, last: u64) -> Vec<Note> {
    let of_now = notes.into_iter().filter(|note| note.after >= last);
    let (said, stopped): (Vec<Note>, Vec<Note>) =
        of_now.partition(|note| matches!(note.said, Said::Note { .. }));
    said.into_iter().next_back().into_iter().chain(stopped).collect()
}
