//! What is not a record yet: the tally as it was, and every sample since, each on the disk before it counts.
//!
//! `open/<number>.kdo`: a frame with the tally, then a frame a sample. The tally is a pure fold over samples, so reading
//! them again makes the same records with the same numbers; those that are on the disk already are left out. Every now
//! and then a new file begins with a newer tally, and the old one goes when the new one is whole.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::{
    JournalError,
    frame::{self, Frames, HEAD},
    samples::Said,
};
use crate::meter::{sample::Sample, tally::Tally};

/// What kind of file it is.
const KIND: &[u8; HEAD] = b"kdcopn01";
const SUFFIX: &str = ".kdo";

/// What was found on the disk.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) tally: Tally,
    pub(super) samples: Vec<Sample>,
}

fn list(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut all = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)?.parse().ok());
        all.extend(number.map(|number| (number, entry.path())));
    }
    all.sort_unstable();
    Ok(all)
}

/// The newest file that is whole up to where a power cut may have cut it.
pub(super) fn find(folder: &Path) -> Result<Option<Found>, JournalError> {
    let failed = |source| JournalError::File { action: "list", path: folder.to_owned(), source };
    let mut damaged = None;
    for (_, path) in list(folder).map_err(failed)?.iter().rev() {
        match load(path) {
            Ok(found) => return Ok(Some(found)),
            Err(error) => damaged = Some(error),
        }
    }
    damaged.map_or(Ok(None), Err)
}

fn load(path: &Path) -> Result<Found, JournalError> {
    let failed = |source| JournalError::File { action: "read", path: path.to_owned(), source };
    let damaged = |at, reason| JournalError::Damaged { path: path.to_owned(), at, reason };
    let nonsense = super::codec::Nonsense;
    let bytes = frame::read(path).map_err(failed)?;
    let mut frames =
        Frames::of(&bytes, KIND).ok_or_else(|| damaged(0, nonsense("it has no head")))?;
    let first = frames.next().ok_or_else(|| damaged(HEAD, nonsense("it has no tally")))?;
    let text = frame::unpack(first).map_err(failed)?;
    let tally: Tally =
        serde_json::from_slice(&text).map_err(|error| failed(io::Error::other(error)))?;
    let (mut said, mut samples) = (Said::default(), Vec::new());
    loop {
        let at = frames.good();
        let Some(payload) = frames.next() else { break };
        samples.push(said.decode(payload).map_err(|reason| damaged(at, reason))?);
    }
    if frames.end() == frame::End::Damaged {
        return Err(damaged(frames.good(), nonsense("a sample inside can't be read")));
    }
    Ok(Found { tally, samples })
}

/// Writes samples.
#[derive(Debug)]
pub(super) struct OpenLog {
    folder: PathBuf,
    number: u64,
    said: Said,
    file: fs_err::File,
    length: u64,
    samples: u32,
}

impl OpenLog {
    /// A new file with this tally; older ones go.
    pub(super) fn begin(folder: &Path, tally: &Tally) -> Result<Self, JournalError> {
        let failed = |source| JournalError::File {
            action: "begin a file in",
            path: folder.to_owned(),
            source,
        };
        let old = list(folder).map_err(failed)?;
        let number = old.last().map_or(1, |(number, _)| number + 1);
        let path = folder.join(format!("{number:010}{SUFFIX}"));
        let (file, length) = write_tally(&path, tally).map_err(failed)?;
        frame::sync_folder(folder).map_err(failed)?;
        for (_, old) in old {
            fs_err::remove_file(old).map_err(failed)?;
        }
        let (folder, said) = (folder.to_owned(), Said::default());
        Ok(Self { folder, number, said, file, length, samples: 0 })
    }

    /// Samples since the tally.
    pub(super) fn samples(&self) -> u32 {
        self.samples
    }

    /// A sample is on the disk when this returns. Where it can't be put there, a new file has to begin.
    pub(super) fn append(&mut self, sample: &Sample) -> Result<(), JournalError> {
        let written = frame::seal(&self.said.encode(sample)).and_then(|frame| {
            self.file.write_all(&frame)?;
            self.file.sync_data()?;
            Ok(frame.len() as u64)
        });
        match written {
            Ok(length) => {
                self.length += length;
                self.samples += 1;
                Ok(())
            }
            Err(source) => {
                // Nothing may come behind half a sample, nor behind one that is not there.
                let _cut = self.file.set_len(self.length).and_then(|()| self.file.sync_data());
                let path = self.folder.join(format!("{:010}{SUFFIX}", self.number));
                Err(JournalError::File { action: "write a sample to", path, source })
            }
        }
    }
}

/// Under a name of its own until it is whole.
fn write_tally(path: &Path, tally: &Tally) -> io::Result<(fs_err::File, u64)> {
    let text = serde_json::to_vec(tally)?;
    let bytes = [KIND.as_slice(), &frame::seal(&frame::pack(&text)?)?].concat();
    let scratch = path.with_extension("new");
    let mut options = fs_err::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).open(&scratch)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs_err::rename(&scratch, path)?;
    Ok((file, bytes.len() as u64))
}
