//! Adding samples up to records: [`Tally`], a pure fold. Equal samples make equal records, whatever dies in between.
//!
//! What a counter grew by between two looks at a subject is spread evenly over the time between them, and what something
//! was high is taken to be the mean of the two looks. Time is what went by since the boot; the node's clock only says
//! where on the calendar it stands.
//!
//! | What happened | What is counted, what is marked |
//! |---|---|
//! | a pod is seen for the first time | its counters whole, levels since it began; `started` |
//! | the first sample of a journal | nothing: what counters say is of before; `started` |
//! | a pod is gone | what was seen last; levels for half of the time since; `ended` |
//! | a counter fell, or a cgroup was made again | what it says now is what it grew by; `resets` |
//! | the node was started again | counters whole, over the time since the boot; `resets`, and `gap` while it was off |
//! | nobody looked for more than two and a half intervals | counters, spread over the gap; levels not; `gap` |
//! | … for more than an hour | counters, all at the gap's end; levels not; `gap` |
//! | the clock jumped | all, by the time that really went by, up to where the clock stands now; `clock_steps` |
//! | one resource could not be read | later what its counter grew by; levels not; `missing` |

mod pairs;
mod sheet;
mod span;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::{
    sheet::{Key, Sheets, key, rename},
    span::{Span, span},
};
use super::{
    record::{JournalId, Level, Record, Resource, Subject},
    sample::{Reading, Sample},
};

/// Which counter or level of a subject: resource, device, source.
type Source = (Resource, Option<String>, String);

/// What is being added up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    journal: JournalId,
    /// Number of the next record of each level.
    next: [u64; 3],
    node: String,
    /// The last whole sample.
    last: Option<Moment>,
    #[serde(with = "pairs")]
    held: BTreeMap<Key, Held>,
    minutes: Sheets,
    hours: Sheets,
    days: Sheets,
}

/// When something was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Moment {
    unix_ms: i64,
    boot_ms: u64,
    boot: [u8; 16],
}

impl Moment {
    fn of(sample: &Sample) -> Self {
        Self { unix_ms: sample.unix_ms, boot_ms: sample.boot_ms, boot: sample.boot }
    }
}

/// What is known of a subject that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    subject: Subject,
    life: u64,
    at: Moment,
    #[serde(with = "pairs")]
    counters: BTreeMap<Source, u64>,
    #[serde(with = "pairs")]
    levels: BTreeMap<Source, u64>,
    /// What divisions left, in two-thousandths of a unit.
    #[serde(with = "pairs")]
    left: BTreeMap<Source, u64>,
    /// Milliseconds of gaps, and of each missing resource, that are no whole second yet.
    gap_ms: u64,
    #[serde(with = "pairs")]
    missing_ms: BTreeMap<Resource, u64>,
}

impl Tally {
    /// Nothing was seen yet.
    #[must_use]
    pub fn new(journal: JournalId) -> Self {
        Self {
            journal,
            next: [1; 3],
            node: String::new(),
            last: None,
            held: BTreeMap::new(),
            minutes: Sheets::new(Level::Minute),
            hours: Sheets::new(Level::Hour),
            days: Sheets::new(Level::Day),
        }
    }

    /// The journal's name.
    #[must_use]
    pub fn journal(&self) -> JournalId {
        self.journal
    }

    /// Count a sample, and hand out the records that are whole now. A sample from before the last one counts for nothing.
    pub fn take(&mut self, sample: &Sample) -> Vec<Record> {
        let now = Moment::of(sample);
        if self.last.is_some_and(|last| last.boot == now.boot && last.boot_ms > now.boot_ms) {
            return Vec::new();
        }
        self.node.clone_from(&sample.node);
        for reading in &sample.readings {
            self.take_reading(reading, now, sample);
        }
        if !sample.whole {
            return Vec::new();
        }
        self.part_with_the_gone(sample, now);
        self.last = Some(now);
        self.close(now.unix_ms.div_euclid(1000))
    }

    fn take_reading(&mut self, reading: &Reading, now: Moment, sample: &Sample) {
        let name = key(&reading.subject);
        let Some(mut held) = self.held.remove(&name) else {
            let held = self.welcome(reading, now, sample);
            self.held.insert(name, held);
            return;
        };
        rename(&mut held.subject, &reading.subject);
        let span = span(held.at, now, sample.every_ms);
        let reborn = held.life != reading.life || span.rebooted;
        self.count(&mut held, reading, span, reborn);
        (held.life, held.at) = (reading.life, now);
        self.held.insert(name, held);
    }

    /// Somebody new. What its counters say it used since it began, which is after the last whole look: unless there was
    /// none.
    fn welcome(&mut self, reading: &Reading, now: Moment, sample: &Sample) -> Held {
        let mut held = Held {
            subject: reading.subject.clone(),
            life: reading.life,
            at: now,
            counters: BTreeMap::new(),
            levels: BTreeMap::new(),
            left: BTreeMap::new(),
            gap_ms: 0,
            missing_ms: BTreeMap::new(),
        };
        let begun = reading.begun_boot_ms.map(|begun| begun.min(now.boot_ms));
        let Some(last) = self.last else {
            self.mark(now.unix_ms, &held.subject, |marks| marks.started += 1);
            remember(&mut held, reading);
            return held;
        };
        let since = span(last, now, sample.every_ms);
        let ago = begun.map(|begun| i64::try_from(now.boot_ms - begun).unwrap_or(i64::MAX));
        let from_ms = ago.map_or(since.from_ms, |ago| now.unix_ms.saturating_sub(ago));
        // It can't have begun before the look that did not see it.
        let whole =
            Span { from_ms: from_ms.clamp(since.from_ms, since.to_ms), stepped: false, ..since };
        let at =
            whole.parts().first().map_or(now.unix_ms, |(second, _)| second.saturating_mul(1000));
        self.mark(at, &held.subject, |marks| marks.started += 1);
        let zeros = reading.counters.iter();
        held.counters =
            zeros.map(|one| ((one.resource, one.device.clone(), one.source.clone()), 0)).collect();
        // As high as it is now since it began; half of it where nobody knows when that was.
        for one in &reading.levels {
            let before = if begun.is_some() { one.value } else { 0 };
            held.levels.insert((one.resource, one.device.clone(), String::new()), before);
        }
        self.count(&mut held, reading, whole, false);
        held
    }

    /// What was used in a span that ends with this reading.
    fn count(&mut self, held: &mut Held, reading: &Reading, span: Span, reborn: bool) {
        let parts = span.parts();
        let mut resets = u64::from(reborn);
        for one in &reading.counters {
            let source = (one.resource, one.device.clone(), one.source.clone());
            let before = held.counters.insert(source, one.value);
            // One that was not there began at 0 after the last look.
            let fell = before.is_some_and(|before| before > one.value);
            resets += u64::from(fell && !reborn);
            let grown = match before {
                Some(before) if !fell && !reborn => one.value - before,
                _ => one.value,
            };
            self.spread(&held.subject, (one.resource, one.device.as_deref()), grown, &parts);
        }
        let seen: Vec<Source> = reading
            .levels
            .iter()
            .map(|one| (one.resource, one.device.clone(), String::new()))
            .collect();
        for (one, source) in reading.levels.iter().zip(&seen) {
            let before = held.levels.insert(source.clone(), one.value);
            if !span.gap {
                let twice = u128::from(before.unwrap_or(0)) + u128::from(one.value);
                self.level(held, source, twice, &parts);
            }
        }
        self.lower_the_rest(held, reading, &seen, span, &parts);
        self.miss(held, reading, &parts, span);
        let Some((second, _)) = parts.last() else { return };
        let sheet = self.minutes.at(*second, &held.subject);
        sheet.marks.resets += resets;
        sheet.marks.clock_steps += u64::from(span.stepped);
    }

    /// Levels that are not told any more went down to nothing, unless they could not be read.
    fn lower_the_rest(
        &mut self,
        held: &mut Held,
        reading: &Reading,
        seen: &[Source],
        span: Span,
        parts: &[(i64, u64)],
    ) {
        let rest: Vec<(Source, u64)> = held
            .levels
            .iter()
            .filter(|(source, _)| !seen.contains(source) && !reading.missing.contains(&source.0))
            .map(|(source, value)| (source.clone(), *value))
            .collect();
        for (source, value) in rest {
            held.levels.remove(&source);
            if !span.gap {
                self.level(held, &source, u128::from(value), parts);
            }
        }
    }

    /// What a counter grew by, over the parts of a span: what divisions leave goes to the later parts.
    fn spread(
        &mut self,
        subject: &Subject,
        (resource, device): (Resource, Option<&str>),
        grown: u64,
        parts: &[(i64, u64)],
    ) {
        if grown == 0 {
            return;
        }
        let whole: u128 = parts.iter().map(|(_, ms)| u128::from(*ms)).sum::<u128>().max(1);
        let (mut gone_ms, mut told) = (0_u128, 0_u64);
        for (place, (second, ms)) in parts.iter().enumerate() {
            gone_ms += u128::from(*ms);
            let due = if place + 1 == parts.len() {
                grown
            } else {
                u64::try_from(u128::from(grown) * gone_ms / whole).unwrap_or(grown)
            };
            self.minutes.at(*second, subject).amounts.add(resource, device, due - told);
            told = due;
        }
    }

    /// `twice` the height, over the parts of a span.
    fn level(&mut self, held: &mut Held, source: &Source, twice: u128, parts: &[(i64, u64)]) {
        for (second, ms) in parts {
            let left = held.left.get(source).copied().unwrap_or(0);
            let all = twice * u128::from(*ms) + u128::from(left);
            let amount = u64::try_from(all / 2000).unwrap_or(u64::MAX);
            held.left.insert(source.clone(), (all % 2000) as u64);
            let sheet = self.minutes.at(*second, &held.subject);
            sheet.amounts.add(source.0, source.1.as_deref(), amount);
        }
        // Of a pod that is idle for good nothing is kept.
        if held.left.get(source) == Some(&0) {
            held.left.remove(source);
        }
    }

    /// Marks of time in which nothing, or one resource, was seen.
    fn miss(&mut self, held: &mut Held, reading: &Reading, parts: &[(i64, u64)], span: Span) {
        let mut off_ms = span.off_ms;
        for (second, ms) in parts {
            if span.gap {
                held.gap_ms += ms + std::mem::take(&mut off_ms);
                let sheet = self.minutes.at(*second, &held.subject);
                sheet.marks.gap_seconds += held.gap_ms / 1000;
                held.gap_ms %= 1000;
                continue;
            }
            for resource in &reading.missing {
                let millis = held.missing_ms.entry(*resource).or_default();
                *millis += ms;
                let seconds = *millis / 1000;
                *millis %= 1000;
                self.minutes.at(*second, &held.subject).marks.miss(*resource, seconds);
            }
        }
    }

    fn part_with_the_gone(&mut self, sample: &Sample, now: Moment) {
        let seen: std::collections::BTreeSet<Key> =
            sample.readings.iter().map(|reading| key(&reading.subject)).collect();
        let gone: Vec<Key> = self.held.keys().filter(|one| !seen.contains(*one)).cloned().collect();
        for name in gone {
            let Some(mut held) = self.held.remove(&name) else { continue };
            let span = span(held.at, now, sample.every_ms);
            let parts = span.parts();
            if !span.gap {
                for (source, value) in std::mem::take(&mut held.levels) {
                    self.level(&mut held, &source, u128::from(value), &parts);
                }
            }
            let second = parts.first().map_or(0, |(second, _)| *second);
            self.mark(second.saturating_mul(1000), &held.subject, |marks| marks.ended += 1);
        }
    }

    fn mark(
        &mut self,
        unix_ms: i64,
        subject: &Subject,
        mark: impl FnOnce(&mut super::record::Marks),
    ) {
        mark(&mut self.minutes.at(unix_ms.div_euclid(1000), subject).marks);
    }

    /// Records of every stretch that is over.
    fn close(&mut self, until: i64) -> Vec<Record> {
        let mut records = Vec::new();
        for (from, sheet) in self.minutes.close(until) {
            for sheets in [&mut self.hours, &mut self.days] {
                let coarser = sheets.at(from, &sheet.subject);
                coarser.amounts.merge(&sheet.amounts);
                coarser.marks.merge(&sheet.marks);
            }
            records.push((Level::Minute, from, sheet));
        }
        records.extend(
            self.hours.close(until).into_iter().map(|(from, one)| (Level::Hour, from, one)),
        );
        records
            .extend(self.days.close(until).into_iter().map(|(from, one)| (Level::Day, from, one)));
        records.into_iter().map(|(level, from, sheet)| self.record(level, from, sheet)).collect()
    }

    fn record(&mut self, level: Level, from: i64, sheet: sheet::Sheet) -> Record {
        let place = Level::ALL.iter().position(|one| *one == level).unwrap_or_default();
        let seq = self.next[place];
        self.next[place] += 1;
        Record {
            journal: self.journal,
            seq,
            level,
            from,
            to: from.saturating_add(level.seconds()),
            node: self.node.clone(),
            subject: sheet.subject,
            amounts: sheet.amounts,
            marks: sheet.marks,
        }
    }

    /// How many pods are there.
    #[must_use]
    pub fn pods(&self) -> usize {
        self.held.keys().flatten().count()
    }

    /// What was used today (by UTC) and is in no day's record yet, of each subject: closed minutes and those under way.
    pub fn under_way(&self) -> impl Iterator<Item = (&Subject, &super::record::Amounts)> {
        let days = self.days.iter().chain(self.minutes.iter());
        days.map(|(_, sheet)| (&sheet.subject, &sheet.amounts))
    }
}

fn remember(held: &mut Held, reading: &Reading) {
    let counters = reading.counters.iter();
    held.counters = counters
        .map(|one| ((one.resource, one.device.clone(), one.source.clone()), one.value))
        .collect();
    let levels = reading.levels.iter();
    held.levels =
        levels.map(|one| ((one.resource, one.device.clone(), String::new()), one.value)).collect();
}
