//! Exact answers to questions about what was used.
//!
//! Amounts are added as whole numbers, so whatever the parts are that are asked for (days, tenants, nodes), they come to the
//! same total. For whole days the records of days are read, for others those of hours; never both of the same time of one
//! journal. On a day on which a namespace changed hands its hours say whose what was, where they come to exactly what the
//! day's record says.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{
    UsageError,
    batch::{AmountRow, Head, Row},
    calendar::{self, Span},
    query::{Answer, Behind, Coverage, Dimension, Hole, Line, Only, Query, Scope, Total},
    ranges::Ranges,
    shelf::{Shelf, Show},
    tenant::Tenants,
    unpack,
};
use crate::meter::record::{JournalId, Level, Resource};

/// Most lines of an answer.
pub const MAX_LINES: usize = 200_000;
/// Most holes and the like that are listed.
const MAX_LISTED: usize = 200;
/// A node that sent nothing for so long is behind.
const BEHIND: i64 = 3 * 3600;
/// A node that sent nothing for so long before the time asked for is not missed any more.
const FORGOTTEN: i64 = 60 * calendar::DAY;
/// How many resources there are.
const RESOURCES: usize = Resource::ALL.len();

/// What belongs to a question beside what is in the store.
#[derive(Debug, Default)]
pub struct Beside {
    /// Batches that other control planes have.
    pub batches: Vec<Vec<u8>>,
    /// The time now.
    pub now: i64,
}

/// Sums of one line.
#[derive(Default)]
struct Sums {
    amounts: [u128; RESOURCES],
    gap_seconds: u64,
}

/// Journals and days.
type Days = HashSet<(JournalId, i64)>;

/// One question while it is answered.
struct Run<'a> {
    query: &'a Query,
    tenants: &'a Tenants,
    /// Namespaces that can count; `None`: any.
    candidates: Option<BTreeSet<String>>,
    lines: HashMap<String, Sums>,
    nodes: HashSet<String>,
    coverage: Coverage,
    /// Room that is used again.
    unpacked: Vec<u8>,
    key: String,
}

/// Answer.
///
/// # Errors
/// When the time is none, the store can't be read, or the answer would be too long.
pub fn answer(
    shelf: &Shelf,
    tenants: &Tenants,
    query: &Query,
    beside: &Beside,
) -> Result<Answer, UsageError> {
    let span = query.span;
    if span.from >= span.to || !span.is_by_hours() || span.from < 0 {
        let (from, to) = (calendar::moment_text(span.from), calendar::moment_text(span.to));
        return Err(UsageError::Span { from, to });
    }
    let extra = not_here(shelf, &beside.batches)?;
    let split = tenants.split_days(span);
    let by_hours = days_told_by_hours(shelf, &extra, span, &split)?;
    let mut run = Run::new(query, tenants);
    let (mut covered, mut edges): (Days, Days) = (Days::new(), Days::new());
    each(shelf, &extra, Level::Day, span, &mut |head, bytes| {
        let day = (head.journal, head.from);
        match () {
            () if !span.holds_day(head.from) => drop(edges.insert(day)),
            () if by_hours.contains(&day) => {}
            () => {
                covered.insert(day);
                run.add(head, bytes)?;
            }
        }
        Ok(())
    })?;
    // Whole days, also where only some of their hours count: a day whose hours are kept is told by them.
    let from = Level::Day.start_of(span.from);
    let whole = Span { from, to: Level::Day.start_of(span.to.saturating_add(calendar::DAY - 1)) };
    let damaged = each(shelf, &extra, Level::Hour, whole, &mut |head, bytes| {
        let day = (head.journal, Level::Day.start_of(head.from));
        edges.remove(&day);
        if span.holds(head.from) && !covered.contains(&day) { run.add(head, bytes) } else { Ok(()) }
    })?;
    run.coverage.damaged = damaged;
    let mut coarse: Vec<i64> = edges.into_iter().map(|(_, day)| day).collect();
    coarse.sort_unstable();
    coarse.dedup();
    run.coverage.coarse = coarse.into_iter().take(MAX_LISTED).map(calendar::day_text).collect();
    Ok(run.finish(shelf, beside.now))
}

/// Those records of other stores that are not here, each once, as batches.
fn not_here(shelf: &Shelf, others: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, UsageError> {
    let wrong = |source| UsageError::Batch { from: "another control plane".to_owned(), source };
    let mut held = shelf.index().journals.clone();
    let mut new = Vec::new();
    for bytes in others {
        let head = Head::read(bytes).map_err(wrong)?;
        let here = held.entry(head.journal).or_default();
        let Some(numbers) = here.of(head.level) else { continue };
        let lacking = Ranges::from(vec![(head.first, head.last())]).without(numbers);
        if !lacking.is_empty() {
            new.extend(unpack::only(bytes, &lacking).map_err(wrong)?);
            here.note(&head);
        }
    }
    Ok(new)
}

/// Every batch of a level, of the store and of others; says which files are damaged.
fn each(
    shelf: &Shelf,
    extra: &[Vec<u8>],
    level: Level,
    span: Span,
    show: Show<'_>,
) -> Result<Vec<String>, UsageError> {
    let damaged = shelf.each(level, span, |head, bytes| show(head, bytes))?;
    for bytes in extra {
        let head = Head::read(bytes).map_err(|source| UsageError::Batch {
            from: "another control plane".to_owned(),
            source,
        })?;
        if head.level == level && head.from < span.to && head.to() > span.from {
            show(&head, bytes)?;
        }
    }
    Ok(damaged
        .into_iter()
        .map(|damage| format!("{} from byte {} on", damage.file, damage.at))
        .collect())
}

/// Days on which somebody else paid from some hour on, of journals whose hours come to exactly what the day says.
fn days_told_by_hours(
    shelf: &Shelf,
    extra: &[Vec<u8>],
    span: Span,
    split: &BTreeSet<i64>,
) -> Result<Days, UsageError> {
    let mut told = Days::new();
    for day in split.iter().copied().filter(|day| span.holds_day(*day)) {
        let mut sums = [HashMap::new(), HashMap::new()];
        let mut unpacked = Vec::new();
        let of_day = Span { from: day, to: day + calendar::DAY };
        for (level, sums) in [Level::Day, Level::Hour].into_iter().zip(&mut sums) {
            each(shelf, extra, level, of_day, &mut |head, bytes| {
                let sum = sums.entry(head.journal).or_insert([0_u128; RESOURCES]);
                let add = |row: &Row<'_>| {
                    row.amounts
                        .iter()
                        .for_each(|one| sum[one.resource as usize] += u128::from(one.value));
                };
                let from = || head.node.clone();
                unpack::read(bytes, head, &mut unpacked, add)
                    .map_err(|source| UsageError::Batch { from: from(), source })
            })?;
        }
        let [days, hours] = sums;
        told.extend(
            days.into_iter()
                .filter(|(journal, sum)| hours.get(journal) == Some(sum))
                .map(|(journal, _)| (journal, day)),
        );
    }
    Ok(told)
}

impl<'a> Run<'a> {
    fn new(query: &'a Query, tenants: &'a Tenants) -> Self {
        let Only { organization, project, namespace, .. } = &query.only;
        let named = [organization, project]
            .iter()
            .any(|name| name.as_ref().is_some_and(|name| !name.is_empty()));
        let candidates = match (query.of, namespace) {
            (Scope::Nodes, _) => None,
            (Scope::Pods, Some(namespace)) => Some(BTreeSet::from([namespace.clone()])),
            (Scope::Pods, None) if named => {
                let set =
                    |name: &'a Option<String>| name.as_deref().filter(|name| !name.is_empty());
                Some(tenants.namespaces_of(set(organization), set(project)))
            }
            (Scope::Pods, None) => None,
        };
        Self {
            query,
            tenants,
            candidates,
            lines: HashMap::new(),
            nodes: HashSet::new(),
            coverage: Coverage::default(),
            unpacked: Vec::new(),
            key: String::new(),
        }
    }

    /// Add what counts of a batch.
    fn add(&mut self, head: &Head, bytes: &[u8]) -> Result<(), UsageError> {
        if self.query.only.node.as_ref().is_some_and(|node| *node != head.node) {
            return Ok(());
        }
        if let Some(names) = &self.candidates
            && !names.iter().any(|name| head.may_have(name))
        {
            return Ok(());
        }
        let mut unpacked = std::mem::take(&mut self.unpacked);
        let read = unpack::read(bytes, head, &mut unpacked, |row| self.add_row(head, row));
        self.unpacked = unpacked;
        read.map_err(|source| UsageError::Batch { from: head.node.clone(), source })?;
        if self.lines.len() > MAX_LINES {
            return Err(UsageError::TooManyLines { most: MAX_LINES });
        }
        Ok(())
    }

    fn counts(&self, head: &Head, row: &Row<'_>) -> bool {
        let Only { organization, project, namespace, .. } = &self.query.only;
        match (self.query.of, row.pod) {
            (Scope::Nodes, None) => true,
            (Scope::Nodes, Some(_)) | (Scope::Pods, None) => false,
            (Scope::Pods, Some(pod)) => {
                let owner = self.tenants.owner(pod.namespace, head.from);
                namespace.as_ref().is_none_or(|name| name == pod.namespace)
                    && organization.as_ref().is_none_or(|name| *name == owner.organization)
                    && project.as_ref().is_none_or(|name| *name == owner.project)
            }
        }
    }

    fn add_row(&mut self, head: &Head, row: &Row<'_>) {
        if !self.counts(head, row) {
            return;
        }
        let device = self.query.only.device.as_deref();
        let fits =
            |amount: &&AmountRow<'_>| device.is_none_or(|device| amount.device == Some(device));
        if device.is_some() && !row.amounts.iter().any(|amount| fits(&amount)) {
            return;
        }
        self.note(head, row);
        if self.query.by.contains(&Dimension::Device) {
            for amount in row.amounts.iter().filter(fits) {
                self.sums(head, row, amount.device.unwrap_or_default()).amounts
                    [amount.resource as usize] += u128::from(amount.value);
            }
            return;
        }
        let sums = self.sums(head, row, "");
        for amount in row.amounts.iter().filter(fits) {
            sums.amounts[amount.resource as usize] += u128::from(amount.value);
        }
        sums.gap_seconds = sums.gap_seconds.saturating_add(row.marks.gap_seconds);
    }

    /// The line that this counts for.
    fn sums(&mut self, head: &Head, row: &Row<'_>, device: &str) -> &mut Sums {
        self.key.clear();
        for dimension in &self.query.by {
            let owner = || row.pod.map(|pod| self.tenants.owner(pod.namespace, head.from));
            match dimension {
                Dimension::Organization => {
                    self.key.push_str(owner().map_or("", |owner| &owner.organization))
                }
                Dimension::Project => self.key.push_str(owner().map_or("", |owner| &owner.project)),
                Dimension::Namespace => self.key.push_str(row.pod.map_or("", |pod| pod.namespace)),
                Dimension::Workload => {
                    let name =
                        row.pod.map_or("", |pod| pod.vm.or(pod.controller).unwrap_or(pod.name));
                    self.key.push_str(name);
                }
                Dimension::Node => self.key.push_str(&head.node),
                Dimension::Device => self.key.push_str(device),
                Dimension::Month => self.key.push_str(&calendar::month_text(head.from)),
                Dimension::Day => self.key.push_str(&calendar::day_text(head.from)),
                Dimension::Hour => self.key.push_str(&calendar::moment_text(head.from)),
            }
            // Sorts before anything that a name may have.
            self.key.push('\0');
        }
        if !self.lines.contains_key(&self.key) {
            self.lines.insert(self.key.clone(), Sums::default());
        }
        self.lines.get_mut(&self.key).expect("it was just put there")
    }

    fn note(&mut self, head: &Head, row: &Row<'_>) {
        let coverage = &mut self.coverage;
        coverage.records += 1;
        coverage.from = Some(coverage.from.map_or(head.from, |from| from.min(head.from)));
        coverage.to = Some(coverage.to.map_or(head.to(), |to| to.max(head.to())));
        coverage.gap_seconds = coverage.gap_seconds.saturating_add(row.marks.gap_seconds);
        coverage.resets = coverage.resets.saturating_add(row.marks.resets);
        coverage.clock_steps = coverage.clock_steps.saturating_add(row.marks.clock_steps);
        for missing in &row.marks.missing {
            let seconds = coverage.missing_seconds.entry(missing.resource).or_default();
            *seconds = seconds.saturating_add(missing.seconds);
        }
        if !self.nodes.contains(&head.node) {
            self.nodes.insert(head.node.clone());
        }
    }

    fn finish(mut self, shelf: &Shelf, now: i64) -> Answer {
        self.coverage.nodes = self.nodes.len() as u64;
        let only = self.query.only.node.as_deref();
        let journals = shelf.index().journals.iter();
        let mut newest: BTreeMap<&str, i64> = BTreeMap::new();
        for (journal, held) in
            journals.filter(|(_, held)| only.is_none_or(|node| node == held.node))
        {
            let until = newest.entry(&held.node).or_insert(held.until);
            *until = held.until.max(*until);
            // A journal that ended before this time has nothing to say about it.
            if held.until <= self.query.span.from {
                continue;
            }
            for (level, numbers) in [(Level::Hour, &held.hours), (Level::Day, &held.days)] {
                let numbers = numbers.holes();
                if !numbers.is_empty() && self.coverage.holes.len() < MAX_LISTED {
                    let node = held.node.clone();
                    self.coverage.holes.push(Hole { node, journal: *journal, level, numbers });
                }
            }
        }
        let due = self.query.span.to.min(now - BEHIND);
        let behind = newest
            .into_iter()
            .filter(|(_, until)| *until < due && *until > self.query.span.from - FORGOTTEN);
        let behind = behind.map(|(node, until)| Behind { node: node.to_owned(), until });
        self.coverage.behind = behind.take(MAX_LISTED).collect();
        let mut lines: Vec<(String, Sums)> = self.lines.into_iter().collect();
        lines.sort_by(|left, right| left.0.cmp(&right.0));
        let lines = lines.into_iter().map(|(key, sums)| line(&key, &sums)).collect();
        Answer { lines, coverage: self.coverage }
    }
}

fn line(key: &str, sums: &Sums) -> Line {
    let pairs = Resource::ALL.into_iter().zip(sums.amounts).filter(|(_, sum)| *sum > 0);
    Line {
        key: key.split_terminator('\0').map(str::to_owned).collect(),
        amounts: pairs.map(|(resource, sum)| (resource, Total(sum))).collect(),
        gap_seconds: sums.gap_seconds,
    }
}

/// The same lines with fewer dimensions.
#[must_use]
pub fn fold(lines: &[Line], keep: &[usize]) -> Vec<Line> {
    let mut folded: BTreeMap<Vec<String>, (BTreeMap<Resource, Total>, u64)> = BTreeMap::new();
    for line in lines {
        let key =
            keep.iter().map(|place| line.key.get(*place).cloned().unwrap_or_default()).collect();
        let (amounts, gap) = folded.entry(key).or_default();
        for (resource, total) in &line.amounts {
            amounts.entry(*resource).or_default().0 += total.0;
        }
        *gap = gap.saturating_add(line.gap_seconds);
    }
    let line = |(key, (amounts, gap_seconds))| Line { key, amounts, gap_seconds };
    folded.into_iter().map(line).collect()
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
