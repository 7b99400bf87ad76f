//! Reading parts to the last byte: what of them is lost, and what else is wrong with them.
//!
//! Workers hash what has a digest; what follows from the index is compared as it is read.

use std::{
    io,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use super::{
    CopyReport, Geometry, HEAD_BYTES, PartFile, PartKind,
    geometry::{SLICE_DIGEST_BYTES, slice_label},
};
use crate::{
    index::Digest,
    layout::{Expected, Wanted},
    pieces::{self, Feed},
};

/// Bytes compared in one go where they follow from the index.
const WINDOW: u64 = 1024 * 1024;

/// Bytes of a copy on their way to a worker.
struct Stretch {
    copy: usize,
    range: Range<u64>,
}

/// What a look compares with.
pub(crate) struct Look<'l> {
    pub(crate) set: &'l Digest,
    pub(crate) geometry: &'l Geometry,
    pub(crate) expected: &'l Expected<'l>,
}

/// Lost ranges of all copies, filled from several threads.
type Lost = Mutex<Vec<(usize, Range<u64>)>>;

impl Look<'_> {
    /// Reads every byte of these files.
    pub(crate) fn at_all(
        &self,
        copies: &[&PartFile],
        bytes: &mut dyn FnMut(u64),
    ) -> Vec<CopyReport> {
        let lost: Lost = Mutex::default();
        let bad = |at: Stretch, _, _| add(&lost, at.copy, at.range);
        let mut done = 0;
        let problems: Vec<Vec<String>> = pieces::prove_all(&bad, |feed| {
            let look = |(copy, file): (usize, &&PartFile)| {
                self.at_one(copy, file, feed, &lost, &mut |more| {
                    done += more;
                    bytes(done);
                })
            };
            copies.iter().enumerate().map(look).collect()
        });
        let mut lost = lost.into_inner().unwrap_or_else(PoisonError::into_inner);
        lost.sort_by_key(|(copy, range)| (*copy, range.start));
        let reports = copies.iter().zip(problems).enumerate().map(|(copy, (file, problems))| {
            let ranges = lost.iter().filter(|(of, _)| *of == copy).map(|(_, range)| range.clone());
            report(file, problems, ranges)
        });
        reports.collect()
    }

    /// Reads one file; what is wrong besides lost bytes comes back.
    fn at_one(
        &self,
        copy: usize,
        file: &PartFile,
        feed: &Feed<Stretch>,
        lost: &Lost,
        done: &mut dyn FnMut(u64),
    ) -> Vec<String> {
        let (head, mut problems) = (file.head(), Vec::new());
        let number = head.number;
        let bytes = self.geometry.payload_bytes(number);
        if (head.start, head.bytes) != (self.geometry.start(number), bytes) {
            add(lost, copy, 0..bytes);
            return vec!["states another range than its number has".to_owned()];
        }
        let (found, needed) = (file.length(), head.file_bytes());
        if found < needed {
            problems.push(format!("is cut: {found} of {needed} bytes"));
        } else if found > needed {
            problems.push(format!("has {} bytes after its end", found - needed));
        }
        if !self.has_index(file) {
            problems.push("has a damaged copy of the index".to_owned());
        }
        let mut failed = |error: io::Error| {
            if error.kind() != io::ErrorKind::UnexpectedEof {
                problems.push(format!("can't be read: {error}"));
            }
        };
        let mut reading = Reading { copy, file, feed, lost, done, failed: &mut failed };
        match head.kind {
            PartKind::Data => self.data(&mut reading),
            PartKind::Parity => self.parity(&mut reading),
        }
        problems.dedup();
        problems.truncate(3);
        problems
    }

    fn has_index(&self, file: &PartFile) -> bool {
        let (set, head) = (&file.head().set, self.expected.index_and_signature());
        let mut found = vec![0; (set.payload_start() - HEAD_BYTES as u64) as usize];
        let read = crate::medium::fill_at(&mut found, HEAD_BYTES as u64, |buffer, offset| {
            file.read_at(buffer, offset)
        });
        let both = head.0.iter().chain(head.1);
        let padded = both.copied().chain(std::iter::repeat(0)).take(found.len());
        read.is_ok() && padded.eq(found.iter().copied())
    }

    /// Every stretch of a data part: pieces by digest, everything else byte for byte.
    fn data(&self, reading: &mut Reading<'_>) {
        let start = reading.file.head().start.unwrap_or(0);
        let end = start + reading.file.head().bytes;
        let mut at = start;
        while let Some((stretch, wanted)) = self.expected.at(at).filter(|_| at < end) {
            let stop = stretch.end().min(end);
            match wanted {
                Wanted::Digest(digest) => {
                    reading.prove(at - start..stop - start, &[], digest.clone());
                }
                Wanted::Bytes(bytes) => {
                    while at < stop {
                        let next = stop.min(at + WINDOW);
                        let within = (at - stretch.start) as usize..(next - stretch.start) as usize;
                        reading.compare(at - start..next - start, &bytes[within]);
                        at = next;
                    }
                }
            }
            at = stop;
        }
    }

    /// Every slice of a parity part by the digest behind it.
    fn parity(&self, reading: &mut Reading<'_>) {
        let number = reading.file.head().number;
        for stripe in 0..self.geometry.stripes() {
            let start = self.geometry.parity_start(stripe);
            let end = start + self.geometry.slice_length(stripe);
            let mut digest = [0; SLICE_DIGEST_BYTES as usize];
            let range = start..end + SLICE_DIGEST_BYTES;
            if let Err(error) = reading.file.read_payload(&mut digest, end) {
                reading.lose(range, error);
                continue;
            }
            let label = slice_label(self.set, number, stripe);
            reading.prove(start..end, &label, Digest::from_bytes(&digest));
        }
    }
}

/// One file while it is read.
struct Reading<'r> {
    copy: usize,
    file: &'r PartFile,
    feed: &'r Feed<Stretch>,
    lost: &'r Lost,
    done: &'r mut dyn FnMut(u64),
    failed: &'r mut dyn FnMut(io::Error),
}

impl Reading<'_> {
    fn lose(&mut self, range: Range<u64>, error: io::Error) {
        add(self.lost, self.copy, range);
        (self.failed)(error);
    }

    /// Has a range hashed, with `label` before it.
    fn prove(&mut self, range: Range<u64>, label: &[u8], expected: Digest) {
        let mut buffer = self.feed.buffer();
        buffer.resize(label.len() + (range.end - range.start) as usize, 0);
        buffer[..label.len()].copy_from_slice(label);
        let read = self.file.read_payload(&mut buffer[label.len()..], range.start);
        (self.done)(range.end - range.start);
        if let Err(error) = read {
            self.feed.give_back(buffer);
            return self.lose(range, error);
        }
        self.feed.prove(Stretch { copy: self.copy, range }, expected, buffer);
    }

    fn compare(&mut self, range: Range<u64>, expected: &[u8]) {
        let mut found = vec![0; expected.len()];
        let read = self.file.read_payload(&mut found, range.start);
        (self.done)(range.end - range.start);
        match read {
            Err(error) => self.lose(range, error),
            Ok(()) if found != expected => add(self.lost, self.copy, range),
            Ok(()) => {}
        }
    }
}

fn add(lost: &Lost, copy: usize, range: Range<u64>) {
    lost.lock().unwrap_or_else(PoisonError::into_inner).push((copy, range));
}

/// Joins lost ranges that touch, and says how much they are.
fn report(
    file: &PartFile,
    mut problems: Vec<String>,
    ranges: impl Iterator<Item = Range<u64>>,
) -> CopyReport {
    let mut lost: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match lost.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => lost.push(range),
        }
    }
    if let Some(first) = lost.first() {
        let bytes: u64 = lost.iter().map(|range| range.end - range.start).sum();
        let places = if lost.len() == 1 { "place" } else { "places" };
        let from = file.head().set.payload_start() + first.start;
        problems.push(format!(
            "is damaged in {} {places} ({bytes} bytes, from byte {from} on)",
            lost.len()
        ));
    }
    CopyReport { path: file.path().to_owned(), problems, lost }
}
