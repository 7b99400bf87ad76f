//! Taking batches in, each record once, and letting go of what is old ([`super::shelf`] says how it lies on the disk).
//!
//! A record is known by its journal, level and number. Whatever comes twice (a node that was not told that its batch
//! arrived, a control plane that died between keeping and telling) is left out, record by record. Nothing counts as taken
//! before [`Store::commit`]; only then may the sender be told.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Seek as _, Write as _},
    path::Path,
};

use fs_err::{File, OpenOptions};

use super::{
    UsageError,
    batch::{self, Head, MAX_BATCH},
    calendar::{DAY, Span},
    ranges::Ranges,
    shelf::{Index, Shelf, file_of, frame, read_file, time_of},
    unpack,
};
use crate::meter::record::{JournalId, Level};

/// How long and how much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Days of which each hour is kept.
    pub hour_days: i64,
    /// Days that are kept at all.
    pub days: i64,
    /// Most bytes on the disk; the oldest goes first.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { hour_days: 40, days: 460, bytes: 8 * 1024 * 1024 * 1024 }
    }
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Records that were not here.
    pub new: u64,
    /// Records that were.
    pub known: u64,
}

/// The one who writes.
#[derive(Debug)]
pub struct Store {
    shelf: Shelf,
    open: BTreeMap<String, File>,
    changed: bool,
    /// Held as long as the store is open.
    _lock: nix::fcntl::Flock<std::fs::File>,
}

impl Store {
    /// Open the folder to write. Files are cut to what was committed; where the index is lost it is made anew from them.
    ///
    /// # Errors
    /// When another process has it open, or the disk refuses.
    pub fn open(folder: &Path) -> Result<Self, UsageError> {
        for part in ["hours", "days"] {
            fs_err::create_dir_all(folder.join(part))?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join("lock"))?;
        let (lock, _) = lock.into_parts();
        let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock)
            .map_err(|_| UsageError::Busy { folder: folder.to_owned() })?;
        let shelf = match Shelf::open(folder) {
            Ok(shelf) => shelf,
            Err(error) => {
                tracing::warn!(%error, "the index of usage is lost; it is made anew from the batches");
                Shelf { folder: folder.to_owned(), index: Index::default() }
            }
        };
        let mut store = Self { shelf, open: BTreeMap::new(), changed: false, _lock: lock };
        store.repair()?;
        Ok(store)
    }

    /// What is here.
    #[must_use]
    pub fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// Files and index agree afterwards.
    fn repair(&mut self) -> Result<(), UsageError> {
        let index = &mut self.shelf.index;
        let fresh = index.version == 0;
        index.version = 1;
        let mut on_disk = BTreeMap::new();
        for part in ["hours", "days"] {
            for entry in fs_err::read_dir(self.shelf.folder.join(part))? {
                let entry = entry?;
                let name = format!("{part}/{}", entry.file_name().to_string_lossy());
                if time_of(&name).is_some() {
                    on_disk.insert(name, entry.metadata()?.len());
                }
            }
        }
        for (name, length) in on_disk {
            let path = self.shelf.folder.join(&name);
            let known = self.shelf.index.files.get(&name).copied();
            let wanted = match known {
                Some(known) if known <= length => known,
                None if !fresh => 0,
                // What was committed is not all there, or nobody knows what was: what can be read counts.
                _ => self.read_anew(&name, length)?,
            };
            if wanted == 0 {
                fs_err::remove_file(&path)?;
                self.shelf.index.files.remove(&name);
            } else if wanted < length {
                let file = OpenOptions::new().write(true).open(&path)?;
                file.set_len(wanted)?;
                file.sync_all()?;
            }
            self.changed |= known != Some(wanted);
        }
        let folder = self.shelf.folder.clone();
        self.shelf.index.files.retain(|name, _| folder.join(name).exists());
        if self.changed || fresh { self.commit() } else { Ok(()) }
    }

    /// Note what stands in a file; says how much of it can be read.
    fn read_anew(&mut self, name: &str, length: u64) -> Result<u64, UsageError> {
        let journals = &mut self.shelf.index.journals;
        let mut note = |head: &Head, _: &[u8]| {
            journals.entry(head.journal).or_default().note(head);
            Ok(())
        };
        let good = read_file(&self.shelf.folder.join(name), length, &mut note)?.unwrap_or(length);
        self.shelf.index.files.insert(name.to_owned(), good);
        Ok(good)
    }

    /// Take a batch in, without what is here already. Whether it is well-formed is seen before anything is written.
    ///
    /// # Errors
    /// When it is no batch, or the disk refuses.
    pub fn take(&mut self, bytes: &[u8], from: &str) -> Result<Taken, UsageError> {
        let wrong = |source| UsageError::Batch { from: from.to_owned(), source };
        if bytes.len() > MAX_BATCH {
            return Err(wrong(batch::BatchError::TooLarge { what: "size", limit: MAX_BATCH }));
        }
        let head = Head::read(bytes).map_err(wrong)?;
        let Some(file) = file_of(head.level, head.from) else {
            return Err(wrong(batch::BatchError::Malformed("minutes are not collected")));
        };
        let nothing = Ranges::default();
        let here = self.shelf.index.journals.get(&head.journal);
        let here = here.and_then(|held| held.of(head.level)).unwrap_or(&nothing);
        let all = Ranges::from(vec![(head.first, head.last())]);
        let new = all.without(here);
        let taken = Taken { new: new.count(), known: all.count() - new.count() };
        if new.is_empty() {
            return Ok(taken);
        }
        // Every record is read before one is kept.
        let parts = unpack::only(bytes, &new).map_err(wrong)?;
        for part in &parts {
            let head = Head::read(part).map_err(wrong)?;
            self.append(&file, &frame(part))?;
            self.shelf.index.journals.entry(head.journal).or_default().note(&head);
        }
        self.changed = true;
        Ok(taken)
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), UsageError> {
        let length = self.shelf.index.files.get(name).copied().unwrap_or(0);
        if !self.open.contains_key(name) {
            let path = self.shelf.folder.join(name);
            let options = OpenOptions::new().create(true).truncate(false).write(true).clone();
            self.open.insert(name.to_owned(), options.open(&path)?);
        }
        let file = self.open.get_mut(name).expect("it was just opened");
        // Where an earlier write broke off in the middle, it is written over.
        file.seek(std::io::SeekFrom::Start(length))?;
        file.write_all(bytes)?;
        self.shelf.index.files.insert(name.to_owned(), length + bytes.len() as u64);
        Ok(())
    }

    /// What was taken is on the disk now, and counts.
    ///
    /// # Errors
    /// When the disk refuses; then nothing since the last commit counts.
    pub fn commit(&mut self) -> Result<(), UsageError> {
        let folder = &self.shelf.folder;
        for (name, file) in std::mem::take(&mut self.open) {
            file.sync_data()?;
            let parent = name.split('/').next().unwrap_or_default();
            File::open(folder.join(parent))?.sync_all()?;
        }
        let text = serde_json::to_vec(&self.shelf.index).expect("numbers and texts serialise");
        replace(folder, "index.json", &text)?;
        self.changed = false;
        Ok(())
    }

    /// Something was taken and not committed.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// Let go of what is too old or too much. Hours stay where there is no record of their day, and on days that `keep`
    /// names (a namespace changed hands then, and only the hours say whose what was).
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn prune(
        &mut self,
        now: i64,
        limits: &Limits,
        keep: &dyn Fn(i64) -> bool,
    ) -> Result<u64, UsageError> {
        let before = self.shelf.bytes();
        let names: Vec<String> = self.shelf.index.files.keys().cloned().collect();
        let mut hours = Vec::new();
        for name in names {
            let Some((level, time)) = time_of(&name) else { continue };
            if time.to < now - limits.days * DAY {
                self.drop_file(&name)?;
            } else if level == Level::Hour {
                hours.push((time.from, name));
            }
        }
        hours.sort();
        for (day, name) in hours {
            let too_old = day + DAY < now - limits.hour_days * DAY;
            let too_much = self.shelf.bytes() > limits.bytes;
            if (too_old && !keep(day)) || (too_much && day + 2 * DAY < now) {
                self.keep_only_lonely_hours(day, &name)?;
            }
        }
        let days: Vec<String> = self.shelf.index.files.keys().cloned().collect();
        for name in days {
            // `days/` sorts before `hours/`, and older months before younger ones.
            if self.shelf.bytes() > limits.bytes
                && time_of(&name).is_some_and(|(_, time)| time.to < now)
            {
                tracing::warn!(file = name, "usage takes too much room; the oldest is dropped");
                self.drop_file(&name)?;
            }
        }
        let after = self.shelf.bytes();
        if after != before {
            self.commit()?;
        }
        Ok(before - after)
    }

    fn drop_file(&mut self, name: &str) -> Result<(), UsageError> {
        self.open.remove(name);
        // First out of the index: a file that nobody knows is removed at the next start.
        self.shelf.index.files.remove(name);
        self.commit()?;
        fs_err::remove_file(self.shelf.folder.join(name))?;
        Ok(())
    }

    /// Leave of a day's hours those of journals without a record of that day.
    fn keep_only_lonely_hours(&mut self, day: i64, name: &str) -> Result<(), UsageError> {
        let span = Span { from: day, to: day + DAY };
        let mut with_day: BTreeSet<JournalId> = BTreeSet::new();
        self.shelf.each(Level::Day, span, |head, _| {
            with_day.insert(head.journal);
            Ok(())
        })?;
        let (mut kept, mut dropped) = (Vec::new(), false);
        self.shelf.each(Level::Hour, span, |head, bytes| {
            if with_day.contains(&head.journal) {
                dropped = true;
            } else {
                kept.extend_from_slice(&frame(bytes));
            }
            Ok(())
        })?;
        if !dropped {
            return Ok(());
        }
        if kept.is_empty() {
            return self.drop_file(name);
        }
        // A cut in between leaves the index with a length that the file does not have: it is read anew then.
        self.open.remove(name);
        let (folder, file) = name.split_once('/').unwrap_or(("", name));
        replace(&self.shelf.folder.join(folder), file, &kept)?;
        self.shelf.index.files.insert(name.to_owned(), kept.len() as u64);
        self.commit()
    }

    /// Which records of a journal are here.
    #[cfg(test)]
    fn held(&self, journal: JournalId) -> super::shelf::Held {
        self.shelf.index.journals.get(&journal).cloned().unwrap_or_default()
    }
}

/// Put a whole file in place of another, on the disk before it has its name.
pub(super) fn replace(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), UsageError> {
    let next = folder.join(format!("{name}.next"));
    let mut file = File::create(&next)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs_err::rename(&next, folder.join(name))?;
    File::open(folder)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
