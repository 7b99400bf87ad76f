//! The one door to a machine: files, programs, the clock.
//!
//! Steps, journal and probes never touch the system themselves; they ask a [`Host`]. The real one
//! ([`SystemHost`]) writes atomically (temporary file, fsync, rename, fsync of the directory), gives
//! every program a deadline, and kills its whole process group when that passes. The fake one keeps
//! files in memory and can die at its *n*-th call, so that every "the power went between these two
//! lines" is a unit test.
//!
//! Secrets reach programs through standard input or files only root reads, never through arguments
//! or the environment: both can be seen by every user of the machine.

use std::{
    io::{self, Read, Write},
    time::Duration,
};

#[cfg(test)]
pub(crate) mod fake;
mod process;
mod program;
mod system;

pub use program::{Output, Program, mask_secrets};
pub use system::SystemHost;

/// What lies at a path. Links are not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, socket or pipe.
    Other,
}

/// Permission bits and owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attributes {
    /// Permission bits, e.g. `0o755`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Attributes {
    /// Owned by root, with these permission bits.
    #[must_use]
    pub fn root(mode: u32) -> Self {
        Self { mode, uid: 0, gid: 0 }
    }
}

/// What `lstat` says about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Permission bits and owner.
    pub attributes: Attributes,
    /// Length in bytes.
    pub size: u64,
}

/// What changes whenever a file is written, replaced, or given other attributes. Equal stamps mean that
/// nothing of it changed, since nobody can set the time of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stamp {
    /// Length in bytes.
    pub size: u64,
    /// Its number in the file system.
    pub inode: u64,
    /// When it last changed, in nanoseconds.
    pub changed_ns: i64,
}

/// Something the machine would not do.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file operation failed.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried (`write`, `list`).
        action: &'static str,
        /// On which path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file is larger than what the caller is ready to hold.
    #[error("{path} is larger than {limit} bytes")]
    TooLarge {
        /// The file.
        path: String,
        /// The caller's limit.
        limit: u64,
    },
    /// A path is relative or climbs (`..`).
    #[error("`{path}` is not an absolute path without `..`")]
    Path {
        /// The path.
        path: String,
    },
    /// Something is mounted where a tree should be removed.
    #[error("{mount} is mounted under {path}, which would be removed")]
    Mounted {
        /// The tree.
        path: String,
        /// The mount point in it.
        mount: String,
    },
    /// A program could not be started.
    #[error("cannot start `{program}`")]
    Start {
        /// Its name.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// What a program should read could not be given to it.
    #[error("cannot feed `{program}`")]
    Feed {
        /// Its name.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A program ran past its deadline and was killed with all its children.
    #[error("`{program}` did not end within {seconds} s and was stopped; its last words: {tail}")]
    Deadline {
        /// Name and arguments.
        program: String,
        /// The deadline.
        seconds: u64,
        /// The end of what it wrote.
        tail: String,
    },
    /// A program ended with an error.
    #[error("`{program}` failed ({status}): {tail}")]
    Failed {
        /// Name and arguments.
        program: String,
        /// `exit 2`, `signal 9`.
        status: String,
        /// The end of what it wrote.
        tail: String,
    },
    /// The program's answer made no sense.
    #[error("cannot understand the answer of `{program}`: {reason}")]
    Answer {
        /// Name and arguments.
        program: String,
        /// What was wrong with it.
        reason: String,
    },
}

impl HostError {
    /// True when a program is not installed.
    #[must_use]
    pub fn is_missing_program(&self) -> bool {
        matches!(self, Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// The one next thing to try, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File { source, path, .. } => match source.kind() {
                io::ErrorKind::StorageFull => Some(format!("free space on the disk of {path}")),
                io::ErrorKind::ReadOnlyFilesystem => Some(format!("{path} is mounted read-only")),
                io::ErrorKind::PermissionDenied => Some("run the agent as root".to_owned()),
                _ => None,
            },
            Self::Start { program, source } if source.kind() == io::ErrorKind::NotFound => {
                Some(format!("`{program}` is not installed; add its package to the bundle"))
            }
            Self::Mounted { mount, .. } => Some(format!("unmount {mount}, then try again")),
            Self::Deadline { .. } => Some("look at the load of the node, then resume".to_owned()),
            Self::TooLarge { .. }
            | Self::Path { .. }
            | Self::Start { .. }
            | Self::Feed { .. }
            | Self::Failed { .. }
            | Self::Answer { .. } => None,
        }
    }
}

/// Writes a program's standard input. An error of kind `BrokenPipe` means the program stopped
/// reading and is not reported; any other one ends the program.
pub type Feed<'a> = &'a mut (dyn FnMut(&mut dyn Write) -> io::Result<()> + Send);

/// A machine. Paths are absolute; links are never followed in the last component.
pub trait Host: Send + Sync {
    /// What lies at `path`; `None` if nothing does.
    ///
    /// # Errors
    /// If the path cannot be looked at.
    fn stat(&self, path: &str) -> Result<Option<Stat>, HostError>;

    /// What changes with a file; `None` if nothing is there. Links are not followed.
    ///
    /// # Errors
    /// If the path cannot be looked at.
    fn stamp(&self, path: &str) -> Result<Option<Stamp>, HostError>;

    /// Open a file for reading; `None` if nothing is there.
    ///
    /// # Errors
    /// If it exists and cannot be opened.
    fn open(&self, path: &str) -> Result<Option<Box<dyn Read + '_>>, HostError>;

    /// Where a symbolic link points.
    ///
    /// # Errors
    /// If `path` is not a link.
    fn read_link(&self, path: &str) -> Result<String, HostError>;

    /// Names in a directory, sorted; `None` if there is no such directory.
    ///
    /// # Errors
    /// If it exists and cannot be listed.
    fn list(&self, path: &str) -> Result<Option<Vec<String>>, HostError>;

    /// Put a whole file in place atomically: readers see the old content or the new, and after the
    /// call returns the new one survives a power cut. The directory must exist.
    ///
    /// # Errors
    /// If reading `content` or writing fails; then the old file is untouched.
    fn write_from(
        &self,
        path: &str,
        content: &mut dyn Read,
        attributes: Attributes,
    ) -> Result<(), HostError>;

    /// Write into a file of `/proc` or `/sys` in place.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn set_kernel_value(&self, path: &str, value: &str) -> Result<(), HostError>;

    /// Make one directory, or give an existing one these attributes. Its parent must exist.
    ///
    /// # Errors
    /// If it cannot be made.
    fn make_directory(&self, path: &str, attributes: Attributes) -> Result<(), HostError>;

    /// Make a symbolic link, replacing a file or link in its place atomically.
    ///
    /// # Errors
    /// If it cannot be made.
    fn make_link(&self, path: &str, target: &str) -> Result<(), HostError>;

    /// Change permission bits and owner of a file or directory.
    ///
    /// # Errors
    /// If it is missing or cannot be changed.
    fn set_attributes(&self, path: &str, attributes: Attributes) -> Result<(), HostError>;

    /// Remove what a writer that was killed left beside a path, before it could take that name. Hosts that replace
    /// files in one step leave nothing.
    ///
    /// # Errors
    /// If it cannot be removed.
    fn remove_scratch(&self, _path: &str) -> Result<(), HostError> {
        Ok(())
    }

    /// Remove a file or link. Fine if nothing is there.
    ///
    /// # Errors
    /// If it cannot be removed.
    fn remove(&self, path: &str) -> Result<(), HostError>;

    /// Remove a directory if it is empty. Answers `false` if it is not; fine if nothing is there.
    ///
    /// # Errors
    /// If it cannot be removed for another reason.
    fn remove_directory(&self, path: &str) -> Result<bool, HostError>;

    /// Remove whatever is at `path`, with everything in it. Refuses if something is mounted there.
    ///
    /// # Errors
    /// If something stays.
    fn remove_tree(&self, path: &str) -> Result<(), HostError>;

    /// Run a program, writing its input with `feed` and handing every line of its standard output
    /// to `line` as it comes. The answer carries bounded copies of both outputs.
    ///
    /// # Errors
    /// If it cannot be started or fed, or runs past its deadline. A non-zero end is an [`Output`].
    fn stream(
        &self,
        program: &Program,
        feed: Feed<'_>,
        line: &mut dyn FnMut(&str),
    ) -> Result<Output, HostError>;

    /// Let time pass.
    fn sleep(&self, duration: Duration);

    /// Milliseconds since the epoch.
    fn now_unix_ms(&self) -> u64;

    /// Run a program to its end with the input it carries.
    ///
    /// # Errors
    /// As [`Host::stream`].
    fn run(&self, program: &Program) -> Result<Output, HostError> {
        let input = program.input();
        self.stream(program, &mut |stdin| stdin.write_all(input), &mut |_| ())
    }

    /// Run a program that has to succeed.
    ///
    /// # Errors
    /// As [`Host::stream`], and [`HostError::Failed`] if it ends with an error.
    fn run_checked(&self, program: &Program) -> Result<Output, HostError> {
        self.run(program)?.checked(program)
    }

    /// A whole small file; `None` if nothing is there.
    ///
    /// # Errors
    /// If it cannot be read, or is larger than `limit`.
    fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, HostError> {
        let Some(file) = self.open(path)? else { return Ok(None) };
        let mut content = Vec::new();
        file.take(limit + 1).read_to_end(&mut content).map_err(|source| HostError::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        if content.len() as u64 > limit {
            return Err(HostError::TooLarge { path: path.to_owned(), limit });
        }
        Ok(Some(content))
    }

    /// A small text file, at most 1 MiB; bytes that are no UTF-8 become `�`.
    ///
    /// # Errors
    /// If it cannot be read, or is larger.
    fn read_text(&self, path: &str) -> Result<Option<String>, HostError> {
        Ok(self.read(path, 1024 * 1024)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Put a small file in place, as [`Host::write_from`].
    ///
    /// # Errors
    /// As [`Host::write_from`].
    fn write(&self, path: &str, content: &[u8], attributes: Attributes) -> Result<(), HostError> {
        self.write_from(path, &mut &content[..], attributes)
    }
}

/// The directory of a path; `/` for a path directly under it.
#[must_use]
pub fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((directory, _)) => directory,
    }
}
