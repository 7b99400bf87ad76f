//! Notes: what a run says between two lines of its journal, for those who watch it.
//!
//! `kubeadm init` takes a minute and names its phases; the journal says nothing meanwhile. Such
//! lines are worth showing and not worth a disk's work: they go into one small file in memory
//! (`/run/kdc/notes`), which the session of every attached installer follows. It is no record: never
//! synced, gone at reboot, begun anew with every process of a run, and when it has grown large only
//! its youngest lines stay. A line tells which line of the journal it follows, and carries a stamp
//! that only grows, so that a reader knows what it has seen after the file was cut.
//!
//! The last line of a process that can't go on at all (a full disk takes no journal line) says why:
//! there is no other place where whoever attaches could learn it.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use super::Observer;
use crate::wire::{Event, EventBody, Failure};

/// Name of the file under `/run/kdc`.
pub const NOTES_FILE: &str = "notes";

/// The file is cut when it would grow beyond this.
const MAX_FILE_BYTES: usize = 64 * 1024;

/// What of it stays then.
const KEPT_BYTES: usize = 16 * 1024;

/// Longest text of a note; what a program says beyond it is not for a progress line.
const MAX_TEXT_CHARS: usize = 300;

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Note {
    run: String,
    /// The journal's line that was last when this was said.
    pub(crate) after: u64,
    /// Milliseconds since the epoch, a little later where two fall together: no stamp comes twice.
    pub(crate) at_unix_ms: u64,
    pub(crate) said: Said,
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum Said {
    /// A line about a step.
    Note { step: String, text: String },
    /// The run's process ends without an end in the journal.
    Stopped { failure: Failure },
}

impl Note {
    /// Why the run's process ended, if that is what it says.
    pub(crate) fn into_stopped(self) -> Option<Failure> {
        match self.said {
            Said::Stopped { failure } => Some(failure),
            Said::Note { .. } => None,
        }
    }
}

/// One line of at most 300 characters, without what moves a terminal's cursor.
pub(super) fn presentable(text: &str) -> String {
    let line: String = text.trim().chars().take(MAX_TEXT_CHARS + 1).collect();
    let line = line.replace(char::is_control, " ");
    match line.char_indices().nth(MAX_TEXT_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Writes a run's notes. What can't be written is lost: progress never stops a run.
#[derive(Debug)]
pub struct NoteWriter {
    path: PathBuf,
    run: String,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    after: u64,
    stamp: u64,
    file_bytes: usize,
    youngest: VecDeque<String>,
    youngest_bytes: usize,
    complained: bool,
}

impl NoteWriter {
    /// Begin the notes of this process of `run` in `directory`; those of an earlier one are gone.
    #[must_use]
    pub fn begin(directory: &Path, run: &str) -> Self {
        forget_notes(directory);
        let path = directory.join(NOTES_FILE);
        Self { path, run: run.to_owned(), state: RefCell::default() }
    }

    /// The process ends, and the journal can't tell why.
    pub fn stopped(&self, failure: &Failure, now_unix_ms: u64) {
        self.say(now_unix_ms, Said::Stopped { failure: failure.clone() });
    }

    fn say(&self, now_unix_ms: u64, said: Said) {
        let mut state = self.state.borrow_mut();
        state.stamp = now_unix_ms.max(state.stamp + 1);
        let (run, after, at_unix_ms) = (self.run.clone(), state.after, state.stamp);
        let written = serde_json::to_string(&Note { run, after, at_unix_ms, said })
            .map_err(std::io::Error::from)
            .and_then(|line| self.write(&mut state, line + "\n"));
        if let Err(cause) = written
            && !std::mem::replace(&mut state.complained, true)
        {
            tracing::warn!(%cause, "notes can't be written; who watches sees steps only");
        }
    }

    fn write(&self, state: &mut State, line: String) -> std::io::Result<()> {
        if let Some(directory) = self.path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let length = line.len();
        state.youngest_bytes += length;
        state.youngest.push_back(line);
        while state.youngest_bytes > KEPT_BYTES && state.youngest.len() > 1 {
            let oldest = state.youngest.pop_front().map_or(0, |line| line.len());
            state.youngest_bytes -= oldest;
        }
        let cut = state.file_bytes + length > MAX_FILE_BYTES;
        let mut options = std::fs::OpenOptions::new();
        options.create(true).mode(0o600);
        if cut {
            options.write(true).truncate(true)
        } else {
            options.append(true)
        };
        let mut file = options.open(&self.path)?;
        if cut {
            let youngest: String = state.youngest.iter().map(String::as_str).collect();
            file.write_all(youngest.as_bytes())?;
            state.file_bytes = youngest.len();
        } else {
            let line = state.youngest.back().map_or("", String::as_str);
            file.write_all(line.as_bytes())?;
            state.file_bytes += length;
        }
        Ok(())
    }
}

impl Observer for NoteWriter {
    fn recorded(&self, seq: u64) {
        self.state.borrow_mut().after = seq;
    }

    fn event(&self, event: &Event) {
        if let EventBody::Note { step, text } = &event.body {
            let said = Said::Note { step: step.clone(), text: text.clone() };
            self.say(event.at_unix_ms, said);
        }
    }
}

/// Remove the notes in `directory`, so that what a former process said is not taken for what the
/// next one says. That there are none is fine.
pub fn forget_notes(directory: &Path) {
    if let Err(cause) = fs_err::remove_file(directory.join(NOTES_FILE))
        && cause.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%cause, "old notes stay");
    }
}

/// Follows the notes of one run.
#[derive(Debug)]
pub(crate) struct NoteReader {
    path: PathBuf,
    run: String,
    /// Stamp of the youngest note that was seen.
    seen: u64,
    /// Length and time of change at the last look.
    looked: Option<(u64, SystemTime)>,
}

impl NoteReader {
    /// Of `run`, from the start.
    pub(crate) fn new(directory: &Path, run: &str) -> Self {
        let path = directory.join(NOTES_FILE);
        Self { path, run: run.to_owned(), seen: 0, looked: None }
    }

    /// What is new, oldest first. Notes that can't be read are no notes.
    pub(crate) fn look(&mut self) -> Vec<Note> {
        let now =
            fs_err::metadata(&self.path).and_then(|meta| Ok((meta.len(), meta.modified()?))).ok();
        if now.is_none() || now == self.looked {
            return Vec::new();
        }
        self.looked = now;
        let mut bytes = Vec::new();
        let read = fs_err::File::open(&self.path)
            .and_then(|file| file.take(MAX_FILE_BYTES as u64).read_to_end(&mut bytes));
        if let Err(cause) = read {
            tracing::debug!(%cause, "no notes");
            return Vec::new();
        }
        let (run, seen) = (self.run.clone(), self.seen);
        let notes: Vec<Note> = bytes
            .split_inclusive(|byte| *byte == b'\n')
            // A line without its end is being written just now; its time comes.
            .filter(|line| line.ends_with(b"\n"))
            .filter_map(|line| serde_json::from_slice(line).ok())
            .filter(|note: &Note| note.run == run && note.at_unix_ms > seen)
            .collect();
        self.seen = notes.last().map_or(self.seen, |note| note.at_unix_ms);
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(at_unix_ms: u64, text: &str) -> Event {
        let body = EventBody::Note { step: "init".to_owned(), text: text.to_owned() };
        Event { run: "r1".to_owned(), seq: 0, at_unix_ms, body }
    }

    fn texts(notes: Vec<Note>) -> Vec<(u64, String)> {
        let text = |note: Note| match note.said {
            Said::Note { text, .. } => (note.after, text),
            Said::Stopped { failure } => (note.after, failure.message),
        };
        notes.into_iter().map(text).collect()
    }

    #[test]
    fn a_note_is_seen_once_with_the_line_of_the_journal_it_follows() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("kdc");
        let mut reader = NoteReader::new(&directory, "r1");
        assert_eq!(texts(reader.look()), []);
        let writer = NoteWriter::begin(&directory, "r1");
        writer.event(&note(5, "one"));
        writer.recorded(7);
        // A clock that stands or goes back hides nothing.
        writer.event(&note(5, "two"));
        writer.event(&note(1, "three"));
        let seen = texts(reader.look());
        assert_eq!(seen, [(0, "one".into()), (7, "two".into()), (7, "three".into())]);
        assert_eq!(texts(reader.look()), []);
        let failure = Failure { code: "X".into(), message: "no room".into(), hint: None };
        writer.stopped(&failure, 9);
        assert_eq!(texts(reader.look()), [(7, "no room".into())]);
        assert_eq!(texts(NoteReader::new(&directory, "r2").look()), []);
        drop(NoteWriter::begin(&directory, "r1"));
        assert_eq!(texts(NoteReader::new(&directory, "r1").look()), []);
    }

    #[test]
    fn the_file_stays_small_and_a_reader_that_follows_misses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let writer = NoteWriter::begin(folder.path(), "r1");
        let mut reader = NoteReader::new(folder.path(), "r1");
        let mut seen = Vec::new();
        for number in 0..2000_u64 {
            writer.event(&note(1, &format!("{number:0>100}")));
            seen.extend(reader.look());
            let length = fs_err::metadata(folder.path().join(NOTES_FILE)).unwrap().len();
            assert!(length <= MAX_FILE_BYTES as u64, "{length}");
        }
        let numbers: Vec<u64> = texts(seen).iter().map(|(_, text)| text.parse().unwrap()).collect();
        assert!(numbers.iter().copied().eq(0..2000), "{numbers:?}");
        let late = texts(NoteReader::new(folder.path(), "r1").look());
        assert!(late.last().is_some_and(|(_, text)| text.ends_with("1999")), "{late:?}");
    }

    #[test]
    fn a_line_that_is_half_written_or_not_ours_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let writer = NoteWriter::begin(folder.path(), "r1");
        writer.event(&note(1, "whole"));
        let path = folder.path().join(NOTES_FILE);
        let mut content = fs_err::read_to_string(&path).unwrap();
        content.push_str("not json\n{\"run\":\"r1\",\"aft");
        fs_err::write(&path, content).unwrap();
        assert_eq!(texts(NoteReader::new(folder.path(), "r1").look()), [(0, "whole".into())]);
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs_err::metadata(&path).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_note_is_one_short_line_that_moves_no_cursor() {
        for (text, line) in [
            ("[certs] ready\r\n", "[certs] ready".to_owned()),
            ("a\u{1b}[2Jb\tc\u{7}d", "a [2Jb c d".to_owned()),
            (&"é".repeat(300), "é".repeat(300)),
            (&"é".repeat(301), "é".repeat(300) + "…"),
        ] {
            assert_eq!(presentable(text), line);
        }
    }
}
