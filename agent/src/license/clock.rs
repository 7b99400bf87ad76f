//! What time it is, for a licence: the wall clock, held against a floor that only rises.
//!
//! No defence without a network is perfect; this one has two aims. A clock that is set back by more than a day
//! gives no free time: then the floor is *now*, and the standing says that the clock is doubtful. And a
//! clock that jumps ahead (a bad battery, a restored virtual machine) burns nothing: what it says is
//! not written down before a second source confirms it or it has held for a day of running.
//!
//! A pure fold: `judge(record, look) -> (reading, record)`. The record is kept in two places, a file and the
//! cluster, of which the larger wins ([`ClockRecord::merge`]); without both it simply begins anew.

use serde::{Deserialize, Serialize};

use super::time::{DAY, Timestamp};

/// How far the wall clock may lie before the floor, or ahead of what is known, without a doubt.
pub const TOLERANCE: i64 = DAY;

/// How long a clock that nobody confirms must have held, running, before it is believed.
pub const HOLD: i64 = DAY;

/// Where a moment that can't be in the future comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Anchor {
    /// When the licence was issued: it is here, so it is later.
    LicenseIssued,
    /// When this program was built.
    Build,
    /// What an API server on another machine says, or a lease there.
    ApiServer,
    /// The newest change in a few folders of the system.
    Files,
    /// The last line of the audit log.
    Audit,
    /// The kernel says that the clock is kept by time servers, and this is it.
    TimeServers,
}

impl Anchor {
    /// It is right now, and not only at some time in the past.
    fn tells_now(self) -> bool {
        matches!(self, Self::ApiServer | Self::TimeServers)
    }

    fn words(self) -> &'static str {
        match self {
            Self::LicenseIssued => "the licence was issued",
            Self::Build => "this program was built",
            Self::ApiServer => "the API server gave the time",
            Self::Files => "files of the system were written",
            Self::Audit => "the audit log was written",
            Self::TimeServers => "time servers gave the time",
        }
    }
}

/// One look at the clocks of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The wall clock.
    pub wall: Timestamp,
    /// Seconds since boot, sleep included (`CLOCK_BOOTTIME`).
    pub boottime: i64,
    /// Which boot (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// What else is known.
    pub anchors: Vec<(Anchor, Timestamp)>,
}

/// What is kept between looks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClockRecord {
    /// It is not earlier than this.
    pub floor: Timestamp,
    /// The boot in which the floor was written down…
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot_id: String,
    /// …and the seconds since that boot.
    #[serde(default)]
    pub boottime: i64,
    /// A wall clock far ahead, that nobody has confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<Ahead>,
}

/// A wall clock far ahead of what is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ahead {
    /// What it said at the last look.
    pub wall: Timestamp,
    /// Seconds of running over which it has held.
    pub held: i64,
}

impl ClockRecord {
    /// Of two records the one with the later floor.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        if other.floor > self.floor { other } else { self }
    }
}

/// Why a clock is doubtful.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "doubt", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Doubt {
    /// The wall clock is more than a day before what is known.
    Behind {
        /// It.
        wall: Timestamp,
        /// What is known.
        floor: Timestamp,
        /// Why.
        because: String,
    },
    /// The wall clock is more than a day after what is known, and nothing confirms it.
    Ahead {
        /// It.
        wall: Timestamp,
        /// What is known.
        floor: Timestamp,
    },
}

impl Doubt {
    /// For people.
    #[must_use]
    pub fn in_words(&self) -> String {
        match self {
            Self::Behind { wall, floor, because } => format!(
                "the clock says {wall}, and it is at least {floor}, when {because}: set the clock; until then \
                 the later counts"
            ),
            Self::Ahead { wall, floor } => format!(
                "the clock says {wall}, and {floor} was expected; it is believed once time servers or the API \
                 server confirm it, or after a day of running"
            ),
        }
    }
}

/// The time that a licence is judged by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reading {
    /// Now.
    pub now: Timestamp,
    /// Why it may be wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<Doubt>,
}

impl Reading {
    /// A clock that nobody doubts.
    #[must_use]
    pub fn sure(now: Timestamp) -> Self {
        Self { now, doubt: None }
    }
}

/// Judge the clock, and say what is kept.
#[must_use]
pub fn judge(record: &ClockRecord, look: &Look) -> (Reading, ClockRecord) {
    let same_boot = !record.boot_id.is_empty() && record.boot_id == look.boot_id;
    let passed = if same_boot { look.boottime.saturating_sub(record.boottime).max(0) } else { 0 };
    let (floor, because) = floor_of(record, passed, look);
    let keep = |floor, ahead| ClockRecord {
        floor,
        boot_id: look.boot_id.clone(),
        boottime: look.boottime,
        ahead,
    };
    let wall = look.wall;
    if wall < floor.plus_seconds(-TOLERANCE) {
        let because = because.map_or("it was seen last", Anchor::words).to_owned();
        let doubt = Some(Doubt::Behind { wall, floor, because });
        return (Reading { now: floor, doubt }, keep(floor, None));
    }
    // With nothing ever known, the first clock seen is as good as any.
    let is_first = *record == ClockRecord::default();
    if wall <= floor.plus_seconds(TOLERANCE) || is_first || is_confirmed(look) {
        return (Reading::sure(wall), keep(floor.max(wall), None));
    }
    let ahead = still_ahead(record.ahead, passed, same_boot, wall);
    if ahead.held >= HOLD {
        return (Reading::sure(wall), keep(wall, None));
    }
    let doubt = Some(Doubt::Ahead { wall, floor });
    (Reading { now: floor, doubt }, keep(floor, Some(ahead)))
}

/// The latest moment that is known to have passed, and what it is known by.
fn floor_of(record: &ClockRecord, passed: i64, look: &Look) -> (Timestamp, Option<Anchor>) {
    let start = (record.floor.plus_seconds(passed), None);
    // A wrong clock writes wrong times into files and logs: those raise no floor beyond the clock itself.
    let believable = |anchor: &&(Anchor, Timestamp)| {
        !matches!(anchor.0, Anchor::Files | Anchor::Audit)
            || anchor.1 <= start.0.plus_seconds(TOLERANCE)
    };
    look.anchors.iter().filter(believable).fold(start, |latest, (anchor, at)| {
        if *at > latest.0 { (*at, Some(*anchor)) } else { latest }
    })
}

/// Another source says the same as the wall clock.
fn is_confirmed(look: &Look) -> bool {
    let says_so = |(anchor, at): &(Anchor, Timestamp)| {
        anchor.tells_now() && look.wall.since(*at).abs() <= TOLERANCE
    };
    look.anchors.iter().any(says_so)
}

/// How long it has been ahead, counting only time in which it went on as a clock does.
fn still_ahead(before: Option<Ahead>, passed: i64, same_boot: bool, wall: Timestamp) -> Ahead {
    let goes_on = |before: &Ahead| {
        let drift = wall.since(before.wall) - passed;
        // Over a boot nobody knows how long the machine was off, only that time didn't go back.
        if same_boot { drift.abs() <= TOLERANCE } else { (0..=TOLERANCE).contains(&drift) }
    };
    let held = before.filter(goes_on).map_or(0, |before| before.held.saturating_add(passed));
    Ahead { wall, held }
}

#[cfg(test)]
#[path = "clock_tests.rs"]
mod tests;
