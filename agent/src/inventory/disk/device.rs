//! Reading devices: never for longer than a deadline, since a dying disk answers when it likes.

use std::{
    collections::BTreeMap,
    os::unix::fs::{FileExt as _, FileTypeExt as _},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use fs_err::os::unix::fs::OpenOptionsExt as _;

use super::magic::{self, Pieces};
use crate::inventory::{Found, sight::Sight};

/// For all devices together.
const DEADLINE: Duration = Duration::from_secs(3);

/// A device or a part of one, as it is to be read.
#[derive(Debug, Clone)]
pub(super) struct Extent {
    /// Name of disk or partition.
    pub(super) name: String,
    pub(super) start: u64,
    pub(super) size: u64,
}

/// The marks of one disk and its partitions, by name.
pub(super) type Marks = BTreeMap<String, Pieces>;

/// Readers at work, one a disk.
pub(super) struct Reading {
    until: Instant,
    disks: BTreeMap<String, Receiver<Result<Marks, String>>>,
}

impl Reading {
    /// Start to read these disks; nothing is started for a recorded tree.
    pub(super) fn start(sight: &Sight, disks: impl Iterator<Item = (String, Vec<Extent>)>) -> Self {
        let mut reading = Self { until: Instant::now() + DEADLINE, disks: BTreeMap::new() };
        if !sight.is_machine() {
            return reading;
        }
        for (name, extents) in disks {
            let (answer, receiver) = mpsc::sync_channel(1);
            let device = format!("/dev/{}", name.replace('!', "/"));
            let read = move || {
                // Nobody waits any more where the deadline is over.
                let _ = answer.send(read_marks(&device, &extents));
            };
            // A reader that hangs in the kernel can't be stopped; it holds nothing but its stack.
            if std::thread::Builder::new().stack_size(512 * 1024).spawn(read).is_ok() {
                reading.disks.insert(name, receiver);
            }
        }
        reading
    }

    /// The marks of one disk, when it answers in time.
    pub(super) fn marks(&self, sight: &Sight, disk: &str) -> Found<Marks> {
        let source = format!("/dev/{}", disk.replace('!', "/"));
        let file = format!("marks-{disk}");
        let answer = sight.answer(&file, &source, || {
            let receiver = self.disks.get(disk).ok_or("no reader could be started")?;
            let left = self.until.saturating_duration_since(Instant::now());
            match receiver.recv_timeout(left) {
                Ok(marks) => Ok(write(&marks?).into_bytes()),
                Err(RecvTimeoutError::Timeout) => {
                    Err(format!("the device didn't answer within {} s", DEADLINE.as_secs()))
                }
                Err(RecvTimeoutError::Disconnected) => Err("its reader died".to_owned()),
            }
        });
        answer.parsed(|bytes| parse(&String::from_utf8_lossy(&bytes)))
    }
}

fn read_marks(device: &str, extents: &[Extent]) -> Result<Marks, String> {
    let failed = |cause: std::io::Error| cause.kind().to_string();
    let file = fs_err::OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC)
        .open(device)
        .map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    if !kind.is_block_device() {
        return Err("no block device".to_owned());
    }
    let mut marks = Marks::new();
    for extent in extents {
        let head = usize::try_from(extent.size)
            .map_or(magic::HEAD_BYTES, |size| size.min(magic::HEAD_BYTES));
        let mut buffer = vec![0; head];
        file.file().read_exact_at(&mut buffer, extent.start).map_err(failed)?;
        let mut pieces = magic::keep(&buffer);
        for (at, length) in magic::far_places(extent.size) {
            buffer.resize(length, 0);
            if at + length as u64 <= extent.size {
                file.file().read_exact_at(&mut buffer, extent.start + at).map_err(failed)?;
                magic::keep_far(&mut pieces, at, &buffer);
            }
        }
        marks.insert(extent.name.clone(), pieces);
    }
    Ok(marks)
}

/// One line a mark: name, place, bytes; a device without marks has a line with its name.
fn write(marks: &Marks) -> String {
    let mut text = String::new();
    for (name, pieces) in marks {
        text += &format!("{name}\n");
        for (at, bytes) in pieces {
            text += &format!("{name} {at} {}\n", hex::encode(bytes));
        }
    }
    text
}

fn parse(text: &str) -> Result<Marks, String> {
    let mut marks = Marks::new();
    for line in text.lines() {
        let mut fields = line.split(' ');
        let pieces = marks.entry(fields.next().unwrap_or_default().to_owned()).or_default();
        if let (Some(at), Some(bytes)) = (fields.next(), fields.next()) {
            let at = at.parse().map_err(|_| format!("`{line}` has no place"))?;
            pieces.insert(at, hex::decode(bytes).map_err(|cause| cause.to_string())?);
        }
    }
    Ok(marks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_survive_their_recording() {
        let pieces = Pieces::from([(0, b"XFSB".to_vec()), (512, vec![0, 255])]);
        let marks = Marks::from([("sda".to_owned(), Pieces::new()), ("sda1".to_owned(), pieces)]);
        assert_eq!(parse(&write(&marks)).unwrap(), marks);
        assert!(parse("sda x 00").is_err());
    }

    #[test]
    fn a_file_is_no_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let failed = read_marks(&file.path().display().to_string(), &[]).unwrap_err();
        assert_eq!(failed, "no block device");
    }
}
