//! The time between two looks: how long it was, where it lies on the calendar, and whether anybody looked.

use super::Moment;
use crate::meter::record::Level;

/// A gap that is longer than this is not spread over its minutes.
const LONGEST_SPREAD_MS: u64 = 3_600_000;
/// The clock and the time since the boot may drift apart by so much between two looks, and a thousandth of the time.
const STEP_MS: u64 = 1_000;

/// The time between two looks at a subject.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) from_ms: i64,
    pub(super) to_ms: i64,
    /// Nobody looked in it.
    pub(super) gap: bool,
    /// Time before it in which nobody looked either, and in which nothing can have been used.
    pub(super) off_ms: u64,
    pub(super) stepped: bool,
    pub(super) rebooted: bool,
}

impl Span {
    /// Its parts by minutes: a second in each, and how long the part is.
    pub(super) fn parts(self) -> Vec<(i64, u64)> {
        let minute = Level::Minute.seconds() * 1000;
        let whole = self.to_ms.saturating_sub(self.from_ms).max(0) as u64;
        // The last moment of the span, not the first one behind it.
        let last = self.to_ms.saturating_sub(1).div_euclid(1000);
        if whole > LONGEST_SPREAD_MS {
            return vec![(last, whole)];
        }
        let (mut parts, mut at) = (Vec::new(), self.from_ms);
        while at < self.to_ms {
            let end = (at.div_euclid(minute) + 1).saturating_mul(minute).min(self.to_ms);
            parts.push((at.div_euclid(1000), (end - at) as u64));
            at = end;
        }
        if parts.is_empty() {
            parts.push((last, 0));
        }
        parts
    }
}

/// The time between two looks, on the calendar as it stands now.
pub(super) fn span(before: Moment, now: Moment, every_ms: u64) -> Span {
    let rebooted = before.boot != now.boot;
    let by_clock = now.unix_ms.saturating_sub(before.unix_ms);
    let span = |gone: u64, gap, stepped, off_ms| {
        let gone = i64::try_from(gone).unwrap_or(i64::MAX);
        let from_ms = now.unix_ms.saturating_sub(gone);
        Span { from_ms, to_ms: now.unix_ms, gap, off_ms, stepped, rebooted }
    };
    if rebooted {
        // How long it was off, the clock alone can say; where it ran for longer than that, it was set.
        let off = by_clock.saturating_sub(i64::try_from(now.boot_ms).unwrap_or(i64::MAX));
        return span(now.boot_ms, true, off < 0, off.max(0).unsigned_abs());
    }
    let gone = now.boot_ms.saturating_sub(before.boot_ms);
    let apart = by_clock.saturating_sub(i64::try_from(gone).unwrap_or(i64::MAX)).unsigned_abs();
    let stepped = apart > STEP_MS + gone / 1000;
    let gap = gone > every_ms.saturating_mul(5) / 2;
    // Without a step the spans of a subject follow each other without seams, whatever the clock drifts.
    let gone = if stepped { gone } else { by_clock.max(0).unsigned_abs() };
    span(gone, gap, stepped, 0)
}
