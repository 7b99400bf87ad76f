//! `/dev/kmsg`, read from where the last look ended.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use fs_err::os::unix::fs::OpenOptionsExt as _;
use nix::fcntl::OFlag;

use super::parse::{Record, parse_record};

/// The kernel's log of this machine.
pub const KERNEL_LOG: &str = "/dev/kmsg";
/// Most records read in one look; the log of a machine holds some thousands.
const MOST_RECORDS: usize = 200_000;
/// Longest record; the kernel makes none longer than 8 KiB.
const LONGEST_RECORD: usize = 16 * 1024;

/// The kernel's log can't be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the kernel's log {path}")]
pub struct LogError {
    /// The log.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl LogError {
    /// The next thing to try.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        "run as root, with CAP_SYSLOG and access to /dev/kmsg; without it errors of GPUs are known from NVML only"
    }
}

/// An open kernel log.
#[derive(Debug)]
pub struct KernelLog {
    file: fs_err::File,
    path: PathBuf,
    /// Number of the last record that was handed out.
    seen: Option<u64>,
    rest: Vec<u8>,
    /// Records that were overwritten before they could be read.
    missed: u64,
}

impl KernelLog {
    /// Open it; records up to and with `seen` are left out.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn open(path: &Path, seen: Option<u64>) -> Result<Self, LogError> {
        let file = fs_err::OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path)
            .map_err(|source| LogError { path: path.to_owned(), source })?;
        Ok(Self { file, path: path.to_owned(), seen, rest: Vec::new(), missed: 0 })
    }

    /// How many records were overwritten before they could be read, or were too long.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Hand out every record that is new. Doesn't wait for any.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn read(&mut self, mut each: impl FnMut(&Record<'_>)) -> Result<(), LogError> {
        let mut buffer = [0; LONGEST_RECORD];
        for _ in 0..MOST_RECORDS {
            match self.file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => self.take(&buffer[..read], &mut each),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(()),
                    // What should have come next is overwritten; the next read is at the oldest that is left.
                    io::ErrorKind::BrokenPipe => self.missed += 1,
                    io::ErrorKind::Interrupted => {}
                    _ => return Err(LogError { path: self.path.clone(), source: error }),
                },
            }
        }
        Ok(())
    }

    /// The kernel gives one whole record a read; a recorded log is read in pieces. Lines that begin with a blank are keys
    /// of the record before.
    fn take(&mut self, bytes: &[u8], each: &mut impl FnMut(&Record<'_>)) {
        self.rest.extend_from_slice(bytes);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            if self.rest.len() > LONGEST_RECORD {
                self.rest.clear();
                self.missed += 1;
            }
            return;
        };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        for line in whole.split(|byte| *byte == b'\n') {
            let Some(record) = parse_record(line) else { continue };
            if self.seen.is_some_and(|seen| record.sequence <= seen) {
                continue;
            }
            self.seen = Some(record.sequence);
            each(&record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(path: &Path, seen: Option<u64>) -> Vec<u64> {
        let mut numbers = Vec::new();
        let mut log = KernelLog::open(path, seen).unwrap();
        log.read(|record| numbers.push(record.sequence)).unwrap();
        numbers
    }

    #[test]
    fn a_log_is_read_on_from_where_the_last_look_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kmsg");
        let long = "x".repeat(LONGEST_RECORD);
        fs_err::write(
            &path,
            format!("6,1,9,-;a\n K=v\nnonsense\n6,2,9,-;{long}\n6,3,9,-;c\n6,4,9,-;torn"),
        )
        .unwrap();
        assert_eq!(numbers(&path, None), [1, 2, 3]);
        assert_eq!(numbers(&path, Some(2)), [3]);
        assert_eq!(numbers(&path, Some(3)), Vec::<u64>::new());
    }

    #[test]
    fn a_log_without_line_ends_takes_no_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kmsg");
        fs_err::write(&path, vec![b'x'; 40 * LONGEST_RECORD]).unwrap();
        let mut log = KernelLog::open(&path, None).unwrap();
        log.read(|_| panic!("there is no record")).unwrap();
        assert!(log.rest.len() <= 2 * LONGEST_RECORD && log.missed() > 10);
    }

    #[test]
    fn the_kernels_own_log_is_read_to_its_end_and_not_waited_for() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        // Some containers have none.
        let Ok(mut log) = KernelLog::open(Path::new(KERNEL_LOG), None) else { return };
        let (mut last, mut count) = (None, 0);
        log.read(|record| {
            assert!(last < Some(record.sequence));
            (last, count) = (Some(record.sequence), count + 1);
        })
        .unwrap();
        let mut again = KernelLog::open(Path::new(KERNEL_LOG), last).unwrap();
        again.read(|record| assert!(Some(record.sequence) > last)).unwrap();
    }
}
