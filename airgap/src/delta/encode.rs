//! From two unpacked forms to operations: what is equal is copied, what is like something is said
//! with it at hand.
//!
//! First the new form is cut into content-defined chunks and each is looked up in the old ones: long
//! equal runs become copies. What is left is compressed a few MiB at a time by zstd, with those
//! stretches of the old forms as prefix that are most likely its older self: for files of a tar the
//! file of the same name, inside long files the place that the equal chunks around it point to. The
//! window is small on purpose: memory stays flat on both sides, and a wide one finds little more.

use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};
use zstd::zstd_safe::{CCtx, CParameter};

use super::{
    chunks::{self, Known},
    members::{Mates, Unit},
    ops::{Op, Reference},
    spool::Spool,
};

/// New bytes that are compressed together.
const SEGMENT_BYTES: u64 = 6 * 1024 * 1024;

/// Old bytes that are at hand then.
const REFERENCE_BYTES: u64 = 10 * 1024 * 1024;

/// Both fit into a window of 2^24 bytes, and the match finder reaches over all of it.
const WINDOW_LOG: u32 = 24;
const CHAIN_LOG: u32 = 24;

/// Level where an older self is at hand. Not part of the format.
const LEVEL: i32 = 12;

/// Level for content that nothing is known about: what is compressed already gains nothing.
const PLAIN_LEVEL: i32 = 6;

/// Shorter equal runs between changes are left to the compressor.
const MIN_COPY_BYTES: u64 = 64 * 1024;

/// An old form, or what is known of it.
pub(super) struct Base {
    /// Its bytes; absent where only its chunks are known.
    pub(super) content: Option<Spool>,
    pub(super) units: Vec<Unit>,
}

/// What can be referred to.
#[derive(Default)]
pub(super) struct Bases {
    list: Vec<Base>,
    known: Known,
    mates: Mates,
}

impl Bases {
    /// Adds an old form whose bytes are here.
    pub(super) fn add(&mut self, content: Spool, units: Vec<Unit>) -> io::Result<()> {
        let number = self.list.len();
        let mut all = content.range(0, content.length());
        chunks::cut(&mut all, |chunk| self.known.add(number, chunk))?;
        self.mates.add(number, &units);
        self.list.push(Base { content: Some(content), units });
        Ok(())
    }

    /// Adds an old form of which only the chunks are known.
    pub(super) fn add_known(&mut self, chunks: impl IntoIterator<Item = chunks::Chunk>) {
        for chunk in chunks {
            self.known.add(self.list.len(), chunk);
        }
        self.list.push(Base { content: None, units: Vec::new() });
    }

    fn is_known_only(&self, base: usize) -> bool {
        self.list[base].content.is_none()
    }
}

/// A stretch of the new form, and where the same bytes are in an old one.
#[derive(Debug, Clone, Copy)]
struct Run {
    start: u64,
    end: u64,
    from: Option<(usize, u64)>,
}

/// What to do for a stretch.
enum Task {
    Copy(Run),
    Compress { start: u64, end: u64, references: Vec<Reference> },
}

/// Writes operations that make `target` out of `bases`; gives their length and digest.
pub(super) fn encode(
    target: &Spool,
    units: &[Unit],
    bases: &Bases,
    output: &mut impl Write,
) -> io::Result<(u64, [u8; 32])> {
    let runs = find_runs(target, bases)?;
    let planner = Planner { units, bases, runs: &runs };
    let tasks = planner.tasks(target.length());
    let mut output = Counted { inner: output, length: 0, digest: Sha256::new() };
    for task in &tasks {
        carry_out(task, target, bases)?.write(&mut output)?;
    }
    Op::End.write(&mut output)?;
    output.inner.flush()?;
    Ok((output.length, output.digest.finalize().into()))
}

fn find_runs(target: &Spool, bases: &Bases) -> io::Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    let mut previous = None;
    chunks::cut(&mut target.range(0, target.length()), |chunk| {
        previous = bases.known.find(&chunk, previous);
        let from = previous.map(|place| {
            let (base, known) = bases.known.at(place);
            (base, known.start)
        });
        let end = chunk.start + u64::from(chunk.length);
        let goes_on = |run: &&mut Run| match (run.from, from) {
            (None, None) => true,
            (Some((left, at)), Some((right, next))) => {
                left == right && at + (run.end - run.start) == next
            }
            _ => false,
        };
        match runs.last_mut().filter(goes_on) {
            Some(run) => run.end = end,
            None => runs.push(Run { start: chunk.start, end, from }),
        }
    })?;
    Ok(runs)
}

struct Planner<'p> {
    units: &'p [Unit],
    bases: &'p Bases,
    runs: &'p [Run],
}

impl Planner<'_> {
    fn tasks(&self, length: u64) -> Vec<Task> {
        let (mut tasks, mut at) = (Vec::new(), 0);
        let worth = |run: &&Run| {
            run.from.is_some_and(|(base, _)| {
                run.end - run.start >= MIN_COPY_BYTES || self.bases.is_known_only(base)
            })
        };
        for run in self.runs.iter().filter(worth) {
            self.segments(at, run.start, &mut tasks);
            tasks.push(Task::Copy(*run));
            at = run.end;
        }
        self.segments(at, length, &mut tasks);
        tasks
    }

    /// Cuts a stretch into segments, between files where that is possible.
    fn segments(&self, mut at: u64, end: u64, tasks: &mut Vec<Task>) {
        while at < end {
            let mut cut = end.min(at + SEGMENT_BYTES);
            if cut < end {
                let unit = self.units.partition_point(|unit| unit.start <= cut).saturating_sub(1);
                match self.units.get(unit) {
                    Some(unit) if unit.start > at => cut = unit.start,
                    _ => {}
                }
            }
            let references = self.references(at, cut);
            tasks.push(Task::Compress { start: at, end: cut, references });
            at = cut;
        }
    }

    /// The old bytes that are most likely the older self of a stretch.
    fn references(&self, start: u64, end: u64) -> Vec<Reference> {
        let (mut references, mut left) = (Vec::new(), REFERENCE_BYTES);
        let first = self.units.partition_point(|unit| unit.end <= start);
        for unit in self.units[first..].iter().take_while(|unit| unit.start < end) {
            let Some((base, number)) = self.bases.mates.find(&unit.name) else { continue };
            let mate = &self.bases.list[base].units[number];
            let (from, to) = (unit.start.max(start), unit.end.min(end));
            let (old_from, old_to) = if (from, to) == (unit.start, unit.end) {
                (mate.start, mate.end)
            } else {
                self.aligned(base, unit, mate, (from, to))
            };
            let length = (old_to - old_from).min(left);
            if length > 0 {
                add(&mut references, Reference { base, start: old_from, length });
                left -= length;
            }
        }
        references
    }

    /// Where in `mate` the stretch of `unit` between `from` and `to` is likely to be.
    fn aligned(&self, base: usize, unit: &Unit, mate: &Unit, (from, to): (u64, u64)) -> (u64, u64) {
        let (old, new) = (mate.end - mate.start, (unit.end - unit.start).max(1));
        let scaled = |at: u64| {
            let share = u128::from(at - unit.start) * u128::from(old) / u128::from(new);
            mate.start + share as u64
        };
        let moved = |run: Option<&Run>, at: u64| {
            let run = run.filter(|run| run.start >= unit.start && run.end <= unit.end)?;
            let (_, old_start) = run.from.filter(|(number, _)| *number == base)?;
            let at = i128::from(old_start) + i128::from(at) - i128::from(run.start);
            u64::try_from(at).ok()
        };
        let equal = |run: &&Run| run.from.is_some();
        let split = self.runs.partition_point(|run| run.end <= from);
        let before = self.runs[..split].iter().rev().take(64).find(equal);
        let split = self.runs.partition_point(|run| run.start < to);
        let after = self.runs[split..].iter().take(64).find(equal);
        let left = moved(before, from).unwrap_or_else(|| scaled(from));
        let right = moved(after, to).unwrap_or_else(|| scaled(to));
        let (left, right) = (left.min(right), left.max(right));
        let middle = left + (right - left) / 2;
        let start = middle.saturating_sub(REFERENCE_BYTES / 2).clamp(mate.start, mate.end);
        (start, (start + REFERENCE_BYTES).min(mate.end))
    }
}

/// Adds a reference, or lets the last one grow.
fn add(references: &mut Vec<Reference>, more: Reference) {
    match references.last_mut() {
        Some(last) if last.base == more.base && last.start + last.length == more.start => {
            last.length += more.length;
        }
        _ => references.push(more),
    }
}

fn carry_out(task: &Task, target: &Spool, bases: &Bases) -> io::Result<Op> {
    let (start, end, references) = match task {
        Task::Compress { start, end, references } => (*start, *end, references),
        Task::Copy(run) => {
            let (base, start) = run.from.unwrap_or_default();
            return Ok(Op::Copy(Reference { base, start, length: run.end - run.start }));
        }
    };
    let mut prefix = Vec::new();
    for reference in references {
        if let Some(content) = &bases.list[reference.base].content {
            content.range(reference.start, reference.length).read_to_end(&mut prefix)?;
        }
    }
    let mut plain = vec![0; (end - start) as usize];
    target.read_at(&mut plain, start)?;
    let frame = compress(&prefix, &plain)?;
    Ok(Op::Frame { references: references.clone(), length: plain.len() as u64, frame })
}

fn compress(prefix: &[u8], plain: &[u8]) -> io::Result<Vec<u8>> {
    let failed = |code| io::Error::other(zstd::zstd_safe::get_error_name(code));
    let mut context = CCtx::create();
    let mut set = |parameter| context.set_parameter(parameter).map_err(failed);
    if prefix.is_empty() {
        set(CParameter::CompressionLevel(PLAIN_LEVEL))?;
    } else {
        set(CParameter::CompressionLevel(LEVEL))?;
        set(CParameter::WindowLog(WINDOW_LOG))?;
        set(CParameter::ChainLog(CHAIN_LOG))?;
        context.ref_prefix(prefix).map_err(failed)?;
    }
    let mut frame = Vec::with_capacity(zstd::zstd_safe::compress_bound(plain.len()));
    context.compress2(&mut frame, plain).map_err(failed)?;
    Ok(frame)
}

/// A writer that counts and hashes.
struct Counted<W: Write> {
    inner: W,
    length: u64,
    digest: Sha256,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write_all(bytes)?;
        self.length += bytes.len() as u64;
        self.digest.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
