//! The log on the disk: one writer at a time, each line on disk before it counts, files of bounded size and number.

use std::{
    io::Read as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};

use super::{
    AUDIT_DIR, AuditError, Entry, Head, Who, key::NodeKey, line::MAX_LINE_BYTES, spool, tell,
    writer::Writer,
};

/// A file that is larger than this is followed by another.
const FILE_BYTES: u64 = 1024 * 1024;
/// Files that are kept: 32 MiB, of usual lines some 80 000.
const MOST_FILES: usize = 32;
/// Largest file that is read: one that was due for rotation, and a last line.
const MAX_FILE_BYTES: u64 = FILE_BYTES + 4 * MAX_LINE_BYTES as u64;
/// How long another writer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);
/// The head, beside the lines.
pub(super) const HEAD_FILE: &str = "head.json";

/// When something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since the epoch, by the node's clock.
    pub at_unix_ms: u64,
    /// Which boot.
    pub boot: String,
}

impl Moment {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let boot = fs_err::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { at_unix_ms: crate::facts::now_unix_ms(), boot: boot.trim().to_owned() }
    }
}

/// A log's folder.
#[derive(Debug, Clone)]
pub struct Log {
    pub(super) folder: PathBuf,
    pub(super) file_bytes: u64,
    pub(super) most_files: usize,
    pub(super) patience: Duration,
}

impl Log {
    /// The log in this folder; nothing is looked at yet.
    #[must_use]
    pub fn at(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            file_bytes: FILE_BYTES,
            most_files: MOST_FILES,
            patience: PATIENCE,
        }
    }

    /// This node's.
    #[must_use]
    pub fn system() -> Self {
        Self::at(Path::new(AUDIT_DIR))
    }

    /// With other bounds, for tests.
    #[cfg(test)]
    pub(super) fn bounded(folder: &Path, file_bytes: u64, most_files: usize) -> Self {
        Self { file_bytes, most_files, ..Self::at(folder) }
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A log was begun here.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.files().is_ok_and(|files| !files.is_empty())
    }

    /// Something waits in the spool.
    #[must_use]
    pub fn waits(&self) -> bool {
        spool::waits(&self.folder)
    }

    /// Write one entry; it is on disk when this returns. Answers the head it makes.
    ///
    /// # Errors
    /// If it can't be written whole; then nothing of it stays.
    pub fn append(&self, entry: &Entry, who: &Who, moment: &Moment) -> Result<Head, AuditError> {
        self.make_folder()?;
        let _lock = self.lock()?;
        let mut writer = Writer::open(self, moment)?;
        spool::absorb(&self.folder, &mut |spooled| {
            writer.write(spooled, &Who::part("control"), moment)
        })?;
        writer.write(entry, who, moment)?;
        Ok(writer.head)
    }

    /// As [`Self::append`], for what must not wait for a log; what fails is told to systemd's journal.
    pub fn note(&self, entry: &Entry, who: &Who) {
        if let Err(error) = self.append(entry, who, &Moment::now()) {
            tell(&error, entry);
        }
    }

    /// As [`Self::note`], for what changes nothing: a node on which kdc does nothing stays untouched.
    pub fn note_where_begun(&self, entry: &Entry, who: &Who) {
        if self.exists() {
            self.note(entry, who);
        }
    }

    /// Take in what waits in the spool, where there is a log; nothing is written where nothing waits.
    ///
    /// # Errors
    /// If it can't be written down.
    pub fn settle(&self, moment: &Moment) -> Result<(), AuditError> {
        if !self.exists() || !spool::waits(&self.folder) {
            return Ok(());
        }
        let _lock = self.lock()?;
        let mut writer = Writer::open(self, moment)?;
        spool::absorb(&self.folder, &mut |spooled| {
            writer.write(spooled, &Who::part("control"), moment)
        })
    }

    /// The head as it is on the disk.
    ///
    /// # Errors
    /// If it can't be read; `Ok(None)` where there is none, or none that makes sense.
    pub fn head(&self) -> Result<Option<Head>, AuditError> {
        let path = self.folder.join(HEAD_FILE);
        let bytes = match fs_err::File::open(&path) {
            Ok(file) => {
                bounded(file, 4096).map_err(|error| AuditError::file("read", &path, error))?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(AuditError::file("read", &path, source)),
        };
        Ok(Head::parse(&bytes).ok())
    }

    /// Every byte of the log, and its key to seal them with, while nobody writes.
    ///
    /// # Errors
    /// If there is no log, or it can't be read.
    pub fn read(&self) -> Result<(Vec<u8>, Option<Head>, NodeKey), AuditError> {
        if !self.exists() {
            return Err(AuditError::None { path: self.folder.clone() });
        }
        let _lock = self.lock()?;
        let mut all = Vec::new();
        for (_, path) in self.files()? {
            all.extend(read_file(&path)?);
        }
        let key = NodeKey::load(&self.folder)?;
        let key = key.map_or_else(|| NodeKey::make(&self.folder), Ok)?;
        Ok((all, self.head()?, key))
    }

    fn make_folder(&self) -> Result<(), AuditError> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(&self.folder)
            .map_err(|source| AuditError::file("make directory", &self.folder, source))
    }

    fn lock(&self) -> Result<Flock<std::fs::File>, AuditError> {
        let path = self.folder.join("lock");
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let mut file =
            options.open(&path).map_err(|source| AuditError::file("open", &path, source))?;
        let mut waited = Duration::ZERO;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => return Ok(locked),
                Err((refused, _)) => file = refused,
            }
            if waited >= self.patience {
                let (path, seconds) = (self.folder.clone(), self.patience.as_secs());
                return Err(AuditError::Busy { path, seconds });
            }
            std::thread::sleep(PAUSE);
            waited += PAUSE;
        }
    }

    /// The files with lines, oldest first, each with the number of its first line.
    pub(super) fn files(&self) -> Result<Vec<(u64, PathBuf)>, AuditError> {
        let failed = |source| AuditError::file("look into", &self.folder, source);
        let entries = match fs_err::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(failed(source)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let number = name.strip_suffix(".jsonl").filter(|number| number.len() == 20);
            if let Some(first) = number.and_then(|number| number.parse().ok()) {
                files.push((first, path));
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    pub(super) fn file(&self, first: u64) -> PathBuf {
        self.folder.join(format!("{first:020}.jsonl"))
    }
}

pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, AuditError> {
    let failed = |source| AuditError::file("read", path, source);
    let file = fs_err::File::open(path).map_err(failed)?;
    bounded(file, MAX_FILE_BYTES).map_err(failed)
}

/// One that is too large is refused whole: half of it would pass for one whose last line is torn.
fn bounded(file: impl std::io::Read, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(std::io::Error::other(format!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}
