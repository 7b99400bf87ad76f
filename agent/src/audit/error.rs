//! Why something can't be written down or read back.

use std::path::{Path, PathBuf};

use crate::wire::Failure;

/// The audit log can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file system would not.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process has it for too long.
    #[error("another process is at work on {} for {seconds} s", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// An entry that is larger than a line may be.
    #[error("an entry of kind {kind} has {bytes} bytes; a line has at most {limit}")]
    TooLarge {
        /// Its kind.
        kind: String,
        /// Its size.
        bytes: usize,
        /// The most.
        limit: usize,
    },
    /// There is no log on this node.
    #[error("there is no audit log on this node: {} is not there", path.display())]
    None {
        /// Where it would be.
        path: PathBuf,
    },
    /// The head can't be told to the cluster.
    #[error("the cluster can't be told where the audit log ends: {reason}")]
    Tell {
        /// Why.
        reason: String,
    },
    /// The spool of a part that may write no file takes no more.
    #[error("the spool of kdc-control has {bytes} bytes and takes no more")]
    SpoolFull {
        /// How full.
        bytes: u64,
    },
}

impl AuditError {
    pub(super) fn file(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::File { action, path: path.to_owned(), source }
    }

    /// As it is told over the wire.
    #[must_use]
    pub fn failure(&self) -> Failure {
        Failure::from_error(self.code(), self, self.hint())
    }

    /// Stable code, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "AUDIT-001",
            Self::Busy { .. } => "AUDIT-002",
            Self::TooLarge { .. } => "AUDIT-003",
            Self::None { .. } => "AUDIT-004",
            Self::SpoolFull { .. } => "AUDIT-005",
            Self::Tell { .. } => "AUDIT-006",
        }
    }

    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::File { path, .. } => {
                format!("check disk space and permissions of {}", path.display())
            }
            Self::Busy { path, .. } => {
                format!("see who has it: `fuser {}`", path.join("lock").display())
            }
            Self::None { .. } => "a log begins with the first run: `kdc-install apply`".to_owned(),
            Self::SpoolFull { .. } => {
                "is kdc-agent.service running? it has the spool emptied every ten minutes"
                    .to_owned()
            }
            Self::Tell { .. } => {
                "it is tried again; see `kubectl get node` and the kubelet's credentials".to_owned()
            }
            Self::TooLarge { .. } => return None,
        })
    }
}

impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        error.failure()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{Entry, Head, Log, Moment, Who, publish};

    fn moment() -> Moment {
        Moment { at_unix_ms: 1, boot: "b-1".to_owned() }
    }

    fn write(log: &Log, entry: &Entry) -> Result<Head, super::AuditError> {
        log.append(entry, &Who::part("heal"), &moment())
    }

    fn deed() -> Entry {
        Entry::HealEnded { number: 1, outcome: "done".to_owned(), detail: String::new() }
    }

    #[test]
    fn a_folder_that_can_not_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        fs_err::write(&path, "a file").unwrap();
        let error = write(&Log::at(&path), &deed()).unwrap_err();
        assert_eq!(error.code(), "AUDIT-001");
        assert_eq!(error.to_string(), format!("cannot make directory {}", path.display()));
        assert!(error.hint().is_some_and(|hint| hint.contains(path.to_str().unwrap())));
        assert_eq!(fs_err::read_to_string(&path).unwrap(), "a file");
    }

    #[test]
    fn who_waits_too_long_for_another_writer_is_told_how_to_find_it() {
        let folder = tempfile::tempdir().unwrap();
        let patience = std::time::Duration::from_millis(60);
        let log = Log { patience, ..Log::at(folder.path()) };
        write(&log, &deed()).unwrap();
        let file = fs_err::File::open(folder.path().join("lock")).unwrap().into_file();
        let held = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive);
        let error = write(&log, &deed()).unwrap_err();
        assert_eq!(error.code(), "AUDIT-002");
        assert!(error.hint().is_some_and(|hint| hint.contains("fuser")));
        drop(held);
        write(&log, &deed()).unwrap();
    }

    #[test]
    fn an_entry_that_is_no_line_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::at(folder.path());
        let before = write(&log, &deed()).unwrap();
        let said: Value = json!(vec![vec!["x".repeat(900); 20]; 20]);
        let entry = Entry::Spooled { at: 1, entry: "control.acted".to_owned(), said };
        let error = write(&log, &entry).unwrap_err();
        assert_eq!(error.code(), "AUDIT-003");
        assert!(error.to_string().contains("control.spooled"), "{error}");
        let after = write(&log, &deed()).unwrap();
        assert_eq!(after.seq, before.seq + 1);
    }

    #[test]
    fn a_node_without_a_log_is_told_when_one_begins() {
        let folder = tempfile::tempdir().unwrap();
        let error = Log::at(&folder.path().join("audit")).read().map(drop).unwrap_err();
        assert_eq!(error.code(), "AUDIT-004");
        assert!(error.hint().is_some_and(|hint| hint.contains("kdc-install apply")));
    }

    #[tokio::test]
    async fn credentials_that_are_none_are_told_and_where_there_are_none_nothing_is() {
        let folder = tempfile::tempdir().unwrap();
        let head = write(&Log::at(&folder.path().join("audit")), &deed()).unwrap();
        let path = folder.path().join("kubelet.conf");
        assert!(!publish::tell(std::slice::from_ref(&path), &head).await.unwrap());
        fs_err::write(&path, "no credentials").unwrap();
        let error = publish::tell(std::slice::from_ref(&path), &head).await.unwrap_err();
        assert_eq!(error.code(), "AUDIT-006");
        assert!(error.to_string().contains("kubelet.conf"), "{error}");
    }
}
