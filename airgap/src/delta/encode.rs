//! From two unpacked forms to operations: what is equal is copied, what is like something is said
//! with it at hand.
//!
//! First the new form is cut into content-defined chunks and each is looked up in the old ones: long
//! equal runs become copies. What is left is taken a few MiB at a time, with those stretches of the old
//! forms that are most likely its older self: for files of a tar the file of the same name, inside
//! long files the place that the equal chunks around it point to. It is told both as old bytes with
//! changes and as a zstd frame with the old bytes as prefix; the shorter one travels. Of a
//! form that is only known by its chunks those that are equal are the prefix: their bytes are in the new form.
//!
//! The window is small on purpose: memory stays flat on both sides, and a wide one finds little more.

use std::{
    io::{self, Read, Write},
    panic::resume_unwind,
};

use sha2::{Digest as _, Sha256};
use zstd::zstd_safe::{CCtx, CParameter};

use super::{
    changes::Changes,
    chunks::{Chunk, Fineness, Known},
    members::{self, Mates, Unit},
    ops::{Op, Packed, Reference, STREAMS, stream_bytes},
    spool::Spool,
};

/// New bytes that are compressed together.
const SEGMENT_BYTES: u64 = 6 * 1024 * 1024;

/// Old bytes that are at hand then.
const REFERENCE_BYTES: u64 = 10 * 1024 * 1024;

/// Old bytes on either side of a place that equal runs around it point to.
const AROUND_BYTES: u64 = 128 * 1024;

/// Fresh bytes for which it is worth looking through all old ones.
const MUCH_FRESH: usize = 1024 * 1024;

/// Level where an older self is at hand. Not part of the format.
const LEVEL: i32 = 12;

/// Level for content that nothing is known about and that was compressed: what it becomes here has
/// to stand against what it was.
const PLAIN_LEVEL: i32 = 19;

/// Level for content as it is: more often than not it is compressed already.
const WHOLE_LEVEL: i32 = 6;

/// Level for streams of changes: they are short.
const CHANGES_LEVEL: i32 = 19;

/// Stretches that are encoded at a time.
const WORKERS: usize = 2;

/// Equal runs that one stretch refers to.
const MAX_RUNS: usize = 20_000;

/// Shorter equal runs between changes are left to the compressor.
const MIN_COPY_BYTES: u64 = 256 * 1024;

/// An old form, or what is known of it.
pub(super) struct Base {
    /// Its bytes; absent where only its chunks are known.
    pub(super) content: Option<Spool>,
    pub(super) units: Vec<Unit>,
}

/// What can be referred to.
pub(super) struct Bases {
    list: Vec<Base>,
    known: Known,
    mates: Mates,
    fineness: Fineness,
}

impl Bases {
    /// Nothing yet; what is compared is cut so fine.
    pub(super) fn new(fineness: Fineness) -> Self {
        Self { list: Vec::new(), known: Known::default(), mates: Mates::default(), fineness }
    }

    /// Adds an old form whose bytes are here.
    pub(super) fn add(&mut self, content: Spool, units: Vec<Unit>) -> io::Result<()> {
        let number = self.list.len();
        members::cut(&content, &units, self.fineness, |chunk| self.known.add(number, chunk))?;
        self.mates.add(number, &units);
        self.list.push(Base { content: Some(content), units });
        Ok(())
    }

    /// Adds an old form of which only the chunks are known.
    pub(super) fn add_known(&mut self, chunks: impl IntoIterator<Item = Chunk>) {
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
    Compress { start: u64, end: u64, sources: Vec<Source> },
}

/// Old bytes, and where they are in the new form if their old form is only known by its chunks.
#[derive(Debug, Clone, Copy)]
struct Source {
    reference: Reference,
    again: Option<u64>,
}

/// Writes operations that make `target` out of `bases`; gives their length and digest.
pub(super) fn encode(
    target: &Spool,
    units: &[Unit],
    bases: &Bases,
    output: &mut impl Write,
) -> io::Result<(u64, [u8; 32])> {
    let runs = find_runs(target, units, bases)?;
    let planner = Planner { units, bases, runs: &runs };
    let tasks = planner.tasks(target.length());
    let mut output = Counted { inner: output, length: 0, digest: Sha256::new() };
    // From a list alone nearly all goes through the dearest level, which takes some 100 MiB a worker.
    let from_list = bases.list.iter().any(|base| base.content.is_none());
    for pair in tasks.chunks(if from_list { 1 } else { WORKERS }) {
        let done: Vec<io::Result<Op>> = std::thread::scope(|scope| {
            let started: Vec<_> =
                pair.iter().map(|task| scope.spawn(|| carry_out(task, target, bases))).collect();
            started
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
                .collect()
        });
        for op in done {
            op?.write(&mut output)?;
        }
    }
    Op::End.write(&mut output)?;
    output.inner.flush()?;
    Ok((output.length, output.digest.finalize().into()))
}

fn find_runs(target: &Spool, units: &[Unit], bases: &Bases) -> io::Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    let mut previous = None;
    members::cut(target, units, bases.fineness, |chunk| {
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
        let worth = |run: &&Run| run.from.is_some() && run.end - run.start >= MIN_COPY_BYTES;
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
            let mut sources = self.mates(at, cut);
            if sources.is_empty() {
                sources = self.equal_runs(at, cut);
            }
            tasks.push(Task::Compress { start: at, end: cut, sources });
            at = cut;
        }
    }

    /// The old bytes that are most likely the older self of a stretch.
    fn mates(&self, start: u64, end: u64) -> Vec<Source> {
        let (mut sources, mut left) = (Vec::new(), REFERENCE_BYTES);
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
                let reference = Reference { base, start: old_from, length };
                add(&mut sources, Source { reference, again: None });
                left -= length;
            }
        }
        sources
    }

    /// Of forms that are only known by their chunks what is equal in a stretch, and before it.
    fn equal_runs(&self, start: u64, end: u64) -> Vec<Source> {
        let last = self.runs.partition_point(|run| run.start < end);
        let (mut sources, mut left) = (Vec::new(), REFERENCE_BYTES);
        for run in self.runs[..last].iter().rev() {
            let Some((base, at)) = run.from.filter(|(base, _)| self.bases.is_known_only(*base))
            else {
                continue;
            };
            // What is copied is not said again; a stretch goes on after it.
            let far = run.end <= start && start - run.end > REFERENCE_BYTES;
            if far || left == 0 || sources.len() == MAX_RUNS {
                break;
            }
            // The end of a run is the nearest.
            let length = (run.end - run.start).min(left);
            let skipped = run.end - run.start - length;
            let reference = Reference { base, start: at + skipped, length };
            sources.push(Source { reference, again: Some(run.start + skipped) });
            left -= length;
        }
        sources.reverse();
        sources
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
        let (left, right) = (moved(before, from), moved(after, to));
        // Where both sides are known the older self lies between them.
        let around = if left.is_some() && right.is_some() { AROUND_BYTES } else { REFERENCE_BYTES };
        let (left, right) =
            (left.unwrap_or_else(|| scaled(from)), right.unwrap_or_else(|| scaled(to)));
        let (left, right) = (left.min(right), left.max(right));
        let bytes = (right - left + 2 * around).min(REFERENCE_BYTES);
        let middle = left + (right - left) / 2;
        let start = middle.saturating_sub(bytes / 2).clamp(mate.start, mate.end);
        (start, (start + bytes).min(mate.end))
    }
}

/// Adds a source, or lets the last one grow.
fn add(sources: &mut Vec<Source>, more: Source) {
    match sources.last_mut().map(|last| &mut last.reference) {
        Some(last)
            if last.base == more.reference.base
                && last.start + last.length == more.reference.start =>
        {
            last.length += more.reference.length;
        }
        _ => sources.push(more),
    }
}

fn carry_out(task: &Task, target: &Spool, bases: &Bases) -> io::Result<Op> {
    let (start, end, sources) = match task {
        Task::Compress { start, end, sources } => (*start, *end, sources),
        Task::Copy(run) => {
            let (base, start) = run.from.unwrap_or_default();
            return Ok(Op::Copy(Reference { base, start, length: run.end - run.start }));
        }
    };
    let mut old = Vec::new();
    for Source { reference, again } in sources {
        let stretch = match (again, &bases.list[reference.base].content) {
            (Some(again), _) => target.range(*again, reference.length),
            (None, Some(content)) => content.range(reference.start, reference.length),
            (None, None) => continue,
        };
        { stretch }.read_to_end(&mut old)?;
    }
    let mut new = vec![0; (end - start) as usize];
    target.read_at(&mut new, start)?;
    let references: Vec<_> = sources.iter().map(|source| source.reference).collect();
    let is_older_self = sources.first().is_some_and(|source| source.again.is_none());
    if is_older_self && let Some(streams) = change(&old, &new)? {
        return Ok(Op::Changed { references, length: new.len() as u64, streams });
    }
    let level = match (bases.list.is_empty(), is_older_self) {
        (true, _) => WHOLE_LEVEL,
        (_, true) => LEVEL,
        (_, false) => PLAIN_LEVEL,
    };
    Ok(Op::Frame { references, packed: compress(&old, &new, level)? })
}

/// Streams of changes, if they are worth it.
fn change(old: &[u8], new: &[u8]) -> io::Result<Option<[Packed; STREAMS]>> {
    let changes = Changes::between(old, new);
    if changes.fresh.len() > new.len() / 2 || changes.length() > stream_bytes(new.len() as u64) {
        return Ok(None);
    }
    let Changes { steps, gaps, words, fresh } = changes;
    Ok(Some([
        compress(&[], &steps, CHANGES_LEVEL)?,
        compress(&[], &gaps, CHANGES_LEVEL)?,
        compress(&[], &words, CHANGES_LEVEL)?,
        if fresh.len() < MUCH_FRESH {
            compress(&[], &fresh, CHANGES_LEVEL)?
        } else {
            compress(old, &fresh, LEVEL)?
        },
    ]))
}

fn compress(prefix: &[u8], plain: &[u8], level: i32) -> io::Result<Packed> {
    let failed = |code| io::Error::other(zstd::zstd_safe::get_error_name(code));
    let mut context = CCtx::create();
    let mut set = |parameter| context.set_parameter(parameter).map_err(failed);
    set(CParameter::CompressionLevel(level))?;
    if !prefix.is_empty() {
        // The match finder has to reach over all of both.
        let all = (prefix.len() + plain.len()).max(1 << 12).next_power_of_two().ilog2();
        set(CParameter::WindowLog(all))?;
        set(CParameter::ChainLog(all))?;
        context.ref_prefix(prefix).map_err(failed)?;
    }
    let mut frame = Vec::with_capacity(zstd::zstd_safe::compress_bound(plain.len()));
    context.compress2(&mut frame, plain).map_err(failed)?;
    Ok(Packed { length: plain.len() as u64, frame })
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
