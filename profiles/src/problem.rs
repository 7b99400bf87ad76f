//! Problems: every mistake in a file at once, each with line, field and what would be right.
//!
//! A reader that stops at the first mistake costs the operator one round per mistake. So readers
//! note what is wrong and go on; only [`Problems::finish`] decides.

use std::{fmt, path::PathBuf};

/// One mistake in a file somebody wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, counted from 1; 0 when the whole file is meant.
    pub line: u64,
    /// Path of the field (`spec.nodes[1].address`); empty for the file itself.
    pub field: String,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub expected: String,
}

/// Every mistake found in one file, in the order of its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    file: String,
    list: Vec<Problem>,
}

impl Problems {
    /// No problems yet, in the file named so.
    #[must_use]
    pub fn new(file: &str) -> Self {
        Self { file: file.to_owned(), list: Vec::new() }
    }

    /// Note a mistake and go on.
    pub fn add(
        &mut self,
        line: u64,
        field: &str,
        what: impl Into<String>,
        expected: impl Into<String>,
    ) {
        self.list.push(Problem {
            line,
            field: field.to_owned(),
            what: what.into(),
            expected: expected.into(),
        });
    }

    /// Hand over the value, or everything that is wrong with the file it came from.
    ///
    /// # Errors
    /// When at least one problem was noted, or there is no value.
    pub fn finish<T>(mut self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if self.list.is_empty() => Ok(value),
            _ => {
                self.list.sort_by_key(|problem| problem.line);
                Err(self)
            }
        }
    }

    /// Name of the file.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The problems.
    #[must_use]
    pub fn list(&self) -> &[Problem] {
        &self.list
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, problem) in self.list.iter().enumerate() {
            if position > 0 {
                formatter.write_str("\n")?;
            }
            write!(formatter, "{}", self.file)?;
            if problem.line > 0 {
                write!(formatter, ":{}", problem.line)?;
            }
            if !problem.field.is_empty() {
                write!(formatter, ": {}", problem.field)?;
            }
            write!(formatter, ": {}; expected {}", problem.what, problem.expected)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A file could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("can't read `{}`", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is larger than any honest one.
    #[error("`{}` is {size_bytes} bytes long; at most {limit_bytes} are read", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// The file was read and has mistakes.
    #[error("{0}")]
    Invalid(Problems),
    /// No profile of that name is shipped.
    #[error("there is no profile `{name}`")]
    UnknownProfile {
        /// What was asked for.
        name: String,
        /// What there is.
        shipped: Vec<String>,
    },
}

impl LoadError {
    /// The one next thing to try, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { path, .. } => Some(format!(
                "check the path `{}`; `kdc-install init` writes a cluster file to start from",
                path.display()
            )),
            Self::TooLarge { .. } => Some("give the file itself, not an archive".to_owned()),
            Self::Invalid(problems) => {
                Some(format!("correct `{}` and run the same command again", problems.file()))
            }
            Self::UnknownProfile { shipped, .. } => Some(format!(
                "use one of {}, or the path of a profile file with a `/` in it",
                shipped.join(", ")
            )),
        }
    }
}

/// Largest file an operator's reader takes, 4 MiB: a cluster file of 1000 nodes is far below 1 MiB.
pub const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Read a file somebody wrote, bounded.
pub(crate) fn read_bounded(path: &std::path::Path) -> Result<String, LoadError> {
    read_at_most(path, MAX_FILE_BYTES)
}

/// Read a file of at most that many bytes.
pub(crate) fn read_at_most(path: &std::path::Path, limit_bytes: u64) -> Result<String, LoadError> {
    use std::io::Read;
    let read = |source| LoadError::Read { path: path.to_owned(), source };
    let file = fs_err::OpenOptions::new().read(true).open(path).map_err(read)?;
    let mut text = String::new();
    file.take(limit_bytes + 1).read_to_string(&mut text).map_err(read)?;
    if text.len() as u64 > limit_bytes {
        let size_bytes = fs_err::metadata(path).map_err(read)?.len();
        return Err(LoadError::TooLarge { path: path.to_owned(), size_bytes, limit_bytes });
    }
    Ok(text)
}
