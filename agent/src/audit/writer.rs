//! The end of a log: mended where a power cut left half a line, judged by the head beside it, and written to.

use std::{
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::{
    AuditError, Entry, Head, Line, Log, Moment, Who,
    chain::{Findings, Walk},
    key::NodeKey,
    line::{MAX_LINE_BYTES, NO_SUM, parse},
    log::{HEAD_FILE, read_file},
};

/// The format this build writes.
const LOG_VERSION: u32 = 1;
/// A checkpoint stands after so many lines.
const CHECKPOINT_EVERY: u64 = 64;

/// The end of a log, open for lines; the lock is held.
pub(super) struct Writer<'a> {
    log: &'a Log,
    key: NodeKey,
    chain: String,
    /// The file that grows, and how much of it is whole.
    file: Option<(std::fs::File, PathBuf, u64)>,
    last: (u64, String),
    pub(super) head: Head,
}

/// What stands at the end of a log.
#[derive(Default)]
struct End {
    last: Option<(u64, String)>,
    chain: Option<String>,
    key: Option<super::key::PublicKey>,
    path: Option<(PathBuf, u64)>,
    torn: u64,
    damage: Option<String>,
}

impl<'a> Writer<'a> {
    /// Look at the end, mend what a power cut left, and say so in the log.
    pub(super) fn open(log: &'a Log, moment: &Moment) -> Result<Self, AuditError> {
        let head = log.head()?;
        let head_is_there = log.folder.join(HEAD_FILE).exists();
        let mut end = look_at_end(log)?;
        judge_head(&mut end, head.as_ref(), head_is_there);
        let kept = NodeKey::load(&log.folder)?;
        let had_key = kept.is_some();
        let key = kept.map_or_else(|| NodeKey::make(&log.folder), Ok)?;
        let fresh = end.last.is_none() && end.damage.is_none();
        let chain = end.chain.take().unwrap_or_else(|| hex::encode(rand::random::<[u8; 16]>()));
        let last = end.last.clone().unwrap_or_else(|| (0, NO_SUM.to_owned()));
        let head = Head::sign(&key, &chain, last.0, &last.1, moment.at_unix_ms);
        let mut writer = Self { log, key, chain, file: None, last, head };
        let itself = Who::part("audit");
        if fresh {
            let (key, agent) = (writer.key.public().to_string(), env!("CARGO_PKG_VERSION"));
            let (version, chain) = (LOG_VERSION, writer.chain.clone());
            let opened = Entry::Opened { version, chain, key, agent: agent.to_owned() };
            writer.put(&opened, &itself, moment)?;
            return Ok(writer);
        }
        if end.damage.is_none()
            && let Some((path, length)) = end.path
        {
            writer.file = Some((open_to_append(&path)?, path, length));
        }
        if let Some(what) = end.damage {
            writer.put(&Entry::Damaged { what }, &itself, moment)?;
        }
        let same = end.key.is_none_or(|stated| stated == writer.key.public());
        if !had_key || !same {
            let reason =
                if had_key { "the key file has another key" } else { "the key file was gone" };
            let key = writer.key.public().to_string();
            writer.put(&Entry::Key { key, reason: reason.to_owned() }, &itself, moment)?;
        }
        if end.torn > 0 {
            writer.put(&Entry::Recovered { bytes: end.torn }, &itself, moment)?;
        }
        Ok(writer)
    }

    /// Write an entry, and what is due besides: another file, a checkpoint, the head.
    pub(super) fn write(
        &mut self,
        entry: &Entry,
        who: &Who,
        moment: &Moment,
    ) -> Result<(), AuditError> {
        let full = self.file.as_ref().is_some_and(|(_, _, length)| *length >= self.log.file_bytes);
        if full {
            self.file = None;
            self.checkpoint(moment)?;
            self.drop_oldest(moment)?;
        }
        self.put(entry, who, moment)?;
        if self.last.0.is_multiple_of(CHECKPOINT_EVERY) {
            self.checkpoint(moment)?;
        }
        self.head = self.sign(moment);
        self.save_head();
        Ok(())
    }

    fn sign(&self, moment: &Moment) -> Head {
        Head::sign(&self.key, &self.chain, self.last.0, &self.last.1, moment.at_unix_ms)
    }

    fn checkpoint(&mut self, moment: &Moment) -> Result<(), AuditError> {
        let head = self.sign(moment);
        self.put(&Entry::Checkpoint(head), &Who::part("audit"), moment)
    }

    /// Make room: the log says first what goes.
    fn drop_oldest(&mut self, moment: &Moment) -> Result<(), AuditError> {
        let files = self.log.files()?;
        let surplus = files.len().saturating_sub(self.log.most_files);
        for pair in files.windows(2).take(surplus) {
            let (next, path) = &pair[1];
            let bytes = read_file(path)?;
            let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let sum = parse(first).map_or_else(|_| NO_SUM.to_owned(), |(line, _)| line.prev);
            let dropped = Entry::Dropped { through: next - 1, sum };
            self.put(&dropped, &Who::part("audit"), moment)?;
            fs_err::remove_file(&pair[0].1)
                .map_err(|source| AuditError::file("remove", &pair[0].1, source))?;
        }
        Ok(())
    }

    /// One line, whole or not at all.
    fn put(&mut self, entry: &Entry, who: &Who, moment: &Moment) -> Result<(), AuditError> {
        let place = (self.last.0 + 1, self.last.1.as_str());
        let line = Line::of(entry, who, place, (moment.at_unix_ms, &moment.boot));
        let (text, sum) = line.render();
        if text.len() > MAX_LINE_BYTES {
            let (kind, bytes, limit) = (line.kind, text.len(), MAX_LINE_BYTES);
            return Err(AuditError::TooLarge { kind, bytes, limit });
        }
        if self.file.is_none() {
            let path = self.log.file(line.seq);
            let file = open_to_append(&path)?;
            sync_folder(&self.log.folder)?;
            self.file = Some((file, path, 0));
        }
        let Some((file, path, length)) = &mut self.file else { return Ok(()) };
        let written = file
            .write_all(text.as_bytes())
            .map_err(|source| AuditError::file("write", path, source))
            .and_then(|()| {
                file.sync_data().map_err(|source| AuditError::file("sync", path, source))
            });
        if let Err(error) = written {
            // What is left of the line is torn; the next opening cuts it off if this does not.
            let _cut = file.set_len(*length).and_then(|()| file.sync_data());
            return Err(error);
        }
        *length += text.len() as u64;
        self.last = (line.seq, sum);
        Ok(())
    }

    /// The line is on disk already; a head that lags behind is no harm, and the next line brings it up.
    fn save_head(&self) {
        let path = self.log.folder.join(HEAD_FILE);
        let save = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.log.folder)?;
            file.write_all(self.head.to_text().as_bytes())?;
            file.as_file().sync_data()?;
            file.persist(&path).map_err(|error| error.error)?;
            Ok(())
        };
        if let Err(error) = save() {
            tracing::warn!(%error, "the audit log's head lags behind");
        }
    }
}

/// Find the last whole line; cut off what is torn.
fn look_at_end(log: &Log) -> Result<End, AuditError> {
    let mut end = End::default();
    let mut files = log.files()?;
    while let Some((_, path)) = files.pop() {
        let bytes = read_file(&path)?;
        let mut walk = Walk::default();
        let whole = walk.feed(&bytes, &mut |_| {});
        if whole < bytes.len() {
            end.torn += (bytes.len() - whole) as u64;
            let file = open_to_append(&path)?;
            file.set_len(whole as u64)
                .and_then(|()| file.sync_all())
                .map_err(|source| AuditError::file("cut", &path, source))?;
        }
        if whole == 0 {
            // It was made, and the power went before its first line was whole.
            fs_err::remove_file(&path)
                .map_err(|source| AuditError::file("remove", &path, source))?;
            continue;
        }
        end.last = walk.last().cloned();
        end.key = walk.key().cloned();
        let Findings { chain, problems, .. } = walk.findings().clone();
        end.chain = chain;
        if let Some(problem) = problems.first() {
            end.damage = Some(problem.to_string());
        }
        end.path = Some((path, whole as u64));
        break;
    }
    Ok(end)
}

/// The head that was kept beside the lines shows what a look at the last file can't.
fn judge_head(end: &mut End, head: Option<&Head>, is_there: bool) {
    let Some(head) = head else {
        if is_there {
            end.damage.get_or_insert_with(|| format!("{HEAD_FILE} makes no sense"));
        } else if end.last.as_ref().is_some_and(|(seq, _)| *seq > CHECKPOINT_EVERY) {
            end.damage.get_or_insert_with(|| format!("{HEAD_FILE} is gone"));
        }
        return;
    };
    end.chain.get_or_insert_with(|| head.chain.clone());
    let (seq, sum) = end.last.clone().unwrap_or_else(|| (0, NO_SUM.to_owned()));
    if head.seq > seq {
        let what = format!("the log ended with line {}, and ends with line {seq} now", head.seq);
        end.damage.get_or_insert(what);
        // It goes on behind what was there, so that the gap stays in sight.
        end.last = Some((head.seq, head.sum.clone()));
    } else if head.seq == seq && head.sum != sum {
        end.damage.get_or_insert_with(|| format!("line {seq} is another than it was"));
    }
}

fn open_to_append(path: &Path) -> Result<std::fs::File, AuditError> {
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| AuditError::file("open", path, source))
}

fn sync_folder(folder: &Path) -> Result<(), AuditError> {
    fs_err::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| AuditError::file("sync", folder, source))
}
