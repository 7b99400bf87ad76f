//! The run report: what one command did, as a file for the record. No secret is in anything it is
//! made from.

use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use kdc_agent::wire::Proof;
use kdc_profiles::moment;
use serde::Serialize;

use super::CommandError;
use crate::show::{
    Complaint, News, Observer,
    news::{Row, Stage},
};

/// Passes news on, and remembers what the report and the last words need.
pub(crate) struct Notebook<'a> {
    next: &'a dyn Observer,
    changed: AtomicBool,
    failures: Mutex<Vec<News>>,
}

impl<'a> Notebook<'a> {
    pub(crate) fn new(next: &'a dyn Observer) -> Self {
        Self { next, changed: AtomicBool::new(false), failures: Mutex::default() }
    }

    /// Something was written on a node.
    pub(crate) fn has_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// Nodes that failed, in the order they did.
    pub(crate) fn failures(&self) -> Vec<News> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Observer for Notebook<'_> {
    fn news(&self, news: &News) {
        match news {
            News::Stage {
                stage: Stage::Sending | Stage::Running | Stage::Undoing | Stage::Departing,
                ..
            } => self.changed.store(true, Ordering::Relaxed),
            News::NodeFailed { .. } => {
                self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(news.clone());
            }
            _ => {}
        }
        self.next.news(news);
    }
}

/// What one command did.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) api_version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) kdc_version: &'static str,
    pub(crate) cluster: String,
    pub(crate) profile: String,
    pub(crate) bundle: crate::plan::BundleRef,
    /// Id of the key that signed the bundle.
    pub(crate) signer: String,
    /// Digest of the plan.
    pub(crate) plan: String,
    pub(crate) started_unix_ms: i64,
    pub(crate) elapsed_ms: u64,
    pub(crate) good: bool,
    pub(crate) nodes: Vec<ReportedNode>,
    pub(crate) failures: Vec<News>,
    pub(crate) proofs: Vec<Proof>,
}

/// One node's part.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReportedNode {
    #[serde(flatten)]
    pub(crate) row: Row,
    pub(crate) address: String,
    pub(crate) run: String,
    pub(crate) sent_bytes: u64,
}

impl Report {
    /// Write it to `path`, or to its usual name in this directory; answers where.
    pub(crate) fn save(&self, path: Option<&Path>) -> Result<PathBuf, Complaint> {
        let usual = || {
            let time = render_time(self.started_unix_ms);
            PathBuf::from(format!("kdc-report-{}-{time}.json", self.cluster))
        };
        let path = path.map_or_else(usual, Path::to_owned);
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| CommandError::Output(std::io::Error::other(error)))?;
        text.push(b'\n');
        write_private(&path, &text, 0o644)?;
        Ok(path)
    }
}

/// Write a whole file at once, with that mode from its first byte on.
pub(crate) fn write_private(path: &Path, content: &[u8], mode: u32) -> Result<(), Complaint> {
    let wrong = |source| CommandError::Write { path: path.to_owned(), source };
    let mut file = beside(path, mode)?;
    file.write_all(content).map_err(wrong)?;
    file.as_file().sync_all().map_err(wrong)?;
    file.persist(path).map_err(|error| wrong(error.error))?;
    Ok(())
}

/// Whether a file could be written there, without writing it: what is wrong with a path is said before
/// the work that the file is to tell of.
pub(crate) fn ensure_writable(path: &Path) -> Result<(), Complaint> {
    if path.is_dir() {
        let source = std::io::ErrorKind::IsADirectory.into();
        return Err(CommandError::Write { path: path.to_owned(), source }.into());
    }
    drop(beside(path, 0o600)?);
    Ok(())
}

/// A nameless beginning of a file, in the folder where it will be.
fn beside(path: &Path, mode: u32) -> Result<tempfile::NamedTempFile, CommandError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mode = std::fs::Permissions::from_mode(mode);
    tempfile::Builder::new()
        .permissions(mode)
        .tempfile_in(folder)
        .map_err(|error| CommandError::Write { path: path.to_owned(), source: bare(&error) })
}

/// The system's own words, without the made-up name of a file that nobody asked for.
fn bare(error: &std::io::Error) -> std::io::Error {
    use nix::errno::Errno;
    use std::io::ErrorKind as Kind;
    let errno = match error.kind() {
        Kind::NotFound => Errno::ENOENT,
        Kind::NotADirectory => Errno::ENOTDIR,
        Kind::PermissionDenied => Errno::EACCES,
        Kind::ReadOnlyFilesystem => Errno::EROFS,
        Kind::StorageFull => Errno::ENOSPC,
        other => return other.into(),
    };
    errno.into()
}

/// `20261123-051606`, UTC.
pub(crate) fn render_time(unix_ms: i64) -> String {
    moment::date_time(unix_ms.div_euclid(1000)).strftime("%Y%m%d-%H%M%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_and_know_leap_years() {
        for (unix, text) in [
            (0, "19700101-000000"),
            (951_782_399, "20000228-235959"),
            (951_868_799, "20000229-235959"),
            (1_795_410_966, "20261123-051606"),
            (4_107_542_400, "21000301-000000"),
        ] {
            assert_eq!(render_time(unix * 1000), text);
        }
    }

    #[test]
    fn a_file_that_can_not_be_written_is_told_before_the_work() {
        let folder = tempfile::tempdir().unwrap();
        assert!(ensure_writable(&folder.path().join("new")).is_ok());
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
        for (name, why) in [("none/new", "No such file"), (".", "is a directory")] {
            let complaint = ensure_writable(&folder.path().join(name)).unwrap_err();
            assert_eq!(&*complaint.code, "KDC-002");
            assert!(complaint.causes[0].contains(why), "{complaint:?}");
            assert!(complaint.hint.is_some(), "{complaint:?}");
            assert!(!complaint.causes[0].contains("tmp"), "{complaint:?}");
        }
    }

    #[test]
    fn a_private_file_is_private_and_replaces_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        fs_err::write(&path, "old").unwrap();
        write_private(&path, b"new", 0o600).unwrap();
        assert_eq!(fs_err::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs_err::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
