//! The records of one level: files of frames, one after the other, the oldest taken away when there is no room.
//!
//! `<number>.kdm`; the first frame names journal and level. Numbers go on over journals, so that the order of the files is
//! the order in which they were written.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::{
    JournalError,
    codec::{Nonsense, Reader, Writer},
    frame::{self, End, Frames, HEAD},
    records,
};
use crate::meter::record::{JournalId, Level, Record};

/// What kind of file it is.
const KIND: &[u8; HEAD] = b"kdcmet01";
/// A file that has grown to this is followed by another.
const ENOUGH: u64 = 256 * 1024;
const SUFFIX: &str = ".kdm";

/// Most bytes that records of a level may take on the disk. Together they are less than a month of 250 pods may take.
pub(super) fn budget(level: Level) -> u64 {
    match level {
        Level::Minute => 3 << 20,
        Level::Hour => 12 << 20,
        Level::Day => 4 << 20,
    }
}

/// Segments of a level, by their numbers.
pub(super) fn list(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut all = Vec::new();
    let entries = match fs_err::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(all),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)?.parse().ok());
        all.extend(number.map(|number| (number, entry.path())));
    }
    all.sort_unstable();
    Ok(all)
}

/// A segment's bytes, and what it says of itself.
#[derive(Debug)]
pub(super) struct Segment {
    bytes: Vec<u8>,
    pub(super) journal: JournalId,
    pub(super) level: Level,
    /// Number of its first record.
    pub(super) first: u64,
}

impl Segment {
    /// Read a segment; nothing where its head never came to the disk.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, JournalError> {
        let failed = |source| JournalError::File { action: "read", path: path.to_owned(), source };
        let bytes = frame::read(path).map_err(failed)?;
        let head = |bytes: &[u8]| {
            Frames::of(bytes, KIND).and_then(|mut frames| frames.next().map(parse_head))
        };
        match head(&bytes) {
            None => Ok(None),
            Some(Err(reason)) => {
                Err(JournalError::Damaged { path: path.to_owned(), at: HEAD, reason })
            }
            Some(Ok((journal, level, first))) => Ok(Some(Self { bytes, journal, level, first })),
        }
    }

    /// Hand over the records of each good frame, until told to stop; says how the file ends, where it was read to its end.
    pub(super) fn each(
        &self,
        path: &Path,
        mut take: impl FnMut(Vec<Record>) -> bool,
    ) -> Result<Option<(usize, End)>, JournalError> {
        let Some(mut frames) = Frames::of(&self.bytes, KIND) else { return Ok(None) };
        let _head = frames.next();
        loop {
            let at = frames.good();
            let Some(payload) = frames.next() else { break };
            let records = records::decode(payload, self.journal, self.level)
                .map_err(|reason| JournalError::Damaged { path: path.to_owned(), at, reason })?;
            if !take(records) {
                return Ok(None);
            }
        }
        Ok(Some((frames.good(), frames.end())))
    }
}

fn parse_head(payload: &[u8]) -> Result<(JournalId, Level, u64), Nonsense> {
    let mut reader = Reader(payload);
    let mut id = [0; 16];
    id.copy_from_slice(reader.take(16)?);
    let level = Level::ALL.get(usize::from(reader.byte()?)).ok_or(Nonsense("an unknown level"))?;
    let first = reader.number()?;
    reader.end()?;
    Ok((JournalId::from_bytes(id), *level, first))
}

/// Writes the records of one level.
#[derive(Debug)]
pub(super) struct Shelf {
    folder: PathBuf,
    journal: JournalId,
    level: Level,
    /// Number of the newest record on the disk.
    last: u64,
    newest: u64,
    file: Option<(fs_err::File, u64)>,
}

impl Shelf {
    /// Go on where the level's files end; a torn end is cut off.
    pub(super) fn open(
        folder: &Path,
        journal: JournalId,
        level: Level,
    ) -> Result<Self, JournalError> {
        let failed =
            |action| move |source| JournalError::File { action, path: folder.to_owned(), source };
        super::make_folder(folder).map_err(failed("make"))?;
        let all = list(folder).map_err(failed("list"))?;
        let newest = all.last().map_or(0, |(number, _)| *number);
        let mut shelf =
            Self { folder: folder.to_owned(), journal, level, last: 0, newest, file: None };
        for (number, path) in all.iter().rev() {
            let Some(segment) = Segment::read(path)? else {
                // Its head never came to the disk, so nothing of it was ever told.
                fs_err::remove_file(path).map_err(failed("clear"))?;
                continue;
            };
            if segment.journal != journal {
                break;
            }
            shelf.last = segment.first.saturating_sub(1);
            let last = &mut shelf.last;
            let ended = segment.each(path, |records| {
                *last = records.last().map_or(*last, |record| record.seq);
                true
            })?;
            if let Some((good, end)) = ended
                && *number == newest
            {
                shelf.go_on(path, good as u64, end)?;
            }
            break;
        }
        Ok(shelf)
    }

    fn go_on(&mut self, path: &Path, good: u64, end: End) -> Result<(), JournalError> {
        let failed =
            |action| move |source| JournalError::File { action, path: path.to_owned(), source };
        // Nothing is written behind damage: the next records begin a file of their own.
        if end == End::Damaged {
            return Ok(());
        }
        let file = fs_err::OpenOptions::new().append(true).open(path).map_err(failed("open"))?;
        if end == End::Torn {
            file.set_len(good).and_then(|()| file.sync_all()).map_err(failed("cut"))?;
        }
        self.file = Some((file, good));
        Ok(())
    }

    /// Number of the newest record on the disk; 0 where there is none.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Put records behind those that are there, on the disk when this returns. Those that are there already are left out.
    pub(super) fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        let known = records.partition_point(|record| record.seq <= self.last);
        let records = &records[known..];
        let (Some(first), Some(newest)) = (records.first(), records.last()) else { return Ok(()) };
        let sealed = records::encode(records).and_then(|payload| frame::seal(&payload));
        let failed = |shelf: &Self, action| {
            let path = shelf.path(shelf.newest);
            move |source| JournalError::File { action, path, source }
        };
        let frame = sealed.map_err(failed(self, "write"))?;
        if self.file.as_ref().is_none_or(|(_, length)| *length >= ENOUGH) {
            self.begin(first.seq).map_err(failed(self, "begin"))?;
            self.make_room().map_err(failed(self, "make room beside"))?;
        }
        let Some((file, length)) = self.file.as_mut() else { return Ok(()) };
        let written = file.write_all(&frame).and_then(|()| file.sync_data());
        if let Err(source) = written {
            // What came to the disk of it is a torn end; it is cut off, or the next frame begins another file.
            let cut = file.set_len(*length).and_then(|()| file.sync_data());
            if cut.is_err() {
                self.file = None;
            }
            return Err(failed(self, "write")(source));
        }
        *length += frame.len() as u64;
        self.last = newest.seq;
        Ok(())
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:010}{SUFFIX}"))
    }

    fn begin(&mut self, first: u64) -> io::Result<()> {
        let mut writer = Writer::default();
        writer.0.extend_from_slice(self.journal.as_bytes());
        let place = Level::ALL.iter().position(|level| *level == self.level).unwrap_or_default();
        writer.byte(place as u8);
        writer.number(first);
        let head = [KIND.as_slice(), &frame::seal(&writer.0)?].concat();
        let number = self.newest + 1;
        let path = self.path(number);
        // One of a former try, of which nothing was told.
        let mut options = fs_err::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).open(&path)?;
        file.write_all(&head)?;
        file.sync_all()?;
        frame::sync_folder(&self.folder)?;
        self.newest = number;
        self.file = Some((file, head.len() as u64));
        Ok(())
    }

    /// Take the oldest away until what is left, with a file that will be full, is within the level's bound.
    fn make_room(&self) -> io::Result<()> {
        let sized = list(&self.folder)?.into_iter().map(|(number, path)| {
            let size = fs_err::metadata(&path)?.len();
            Ok((number, path, size))
        });
        let all = sized.collect::<io::Result<Vec<_>>>()?;
        let mut sum: u64 = all.iter().map(|(_, _, size)| size).sum::<u64>() + ENOUGH;
        for (_, path, size) in all.iter().filter(|(number, ..)| *number != self.newest) {
            if sum <= budget(self.level) {
                break;
            }
            fs_err::remove_file(path)?;
            sum -= size;
        }
        Ok(())
    }
}
