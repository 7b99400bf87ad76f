//! The clock: whether anybody keeps it right, how far it is off, and when it stepped.
//!
//! Certificates, leases and logs of a cluster go by the clocks of its nodes. The kernel knows whether
//! a time service keeps its clock ([`Kept`]); steps are seen by holding the wall clock against the one
//! that runs since boot, suspends included, and that nobody can set ([`Steps`]). What the agent keeps
//! itself (schedules, ages, limits) goes by the latter and notices nothing.

mod kernel;

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::{Thresholds, words};
use crate::{
    facts::{Known, Look},
    heal::{Kind, State, Watched},
};

const KIND: Kind = Kind::Clock;
const SUBJECT: &str = "clock";

/// After boot a time service may need that long.
const PATIENCE: Duration = Duration::from_secs(600);

/// A step is at least that long, and more than a tenth of the time since the last look: some time
/// services have the clock run slower or faster by that much, which is no step.
const LEAST_STEP_SECS: f64 = 1.0;

/// What the kernel thinks of its clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// A time service keeps it.
    pub synchronised: bool,
    /// What the kernel still has to make up for.
    pub offset_secs: f64,
    /// It is off by no more than that.
    pub most_error_secs: f64,
    /// It is off by about that.
    pub estimated_error_secs: f64,
}

impl Kept {
    /// Ask the kernel; of a recorded tree nobody can.
    #[must_use]
    pub fn read(look: &Look) -> Known<Self> {
        if !look.is_machine() {
            return Known::Unknown("a recorded tree has no clock".to_owned());
        }
        match kernel::ask() {
            Ok(kept) => Known::Known(kept),
            Err(reason) => Known::Unknown(reason),
        }
    }
}

/// What is to be said about the clock of a machine that runs since then.
#[must_use]
pub fn judge(kept: &Known<Kept>, up: Duration, thresholds: &Thresholds) -> Watched {
    let kept = match kept {
        Known::Known(kept) => kept,
        Known::Unknown(reason) => return Watched::unknown(KIND, SUBJECT, reason),
    };
    let finding = |state, text| Watched::new(KIND, SUBJECT, state, text);
    let off_ms = kept.offset_secs.abs() * 1000.0;
    if !kept.synchronised {
        if up < PATIENCE {
            let text = "no time service has set it yet since boot";
            return finding(State::Ok, text.to_owned());
        }
        let text = "no time service keeps it, or none reaches its servers".to_owned();
        let hint = "see `systemctl status chrony systemd-timesyncd` and have one of them reach a server; \
                    certificates and leases go by the clock";
        return finding(State::Warn, text).with_hint(hint);
    }
    let text = format!("a time service keeps it; it is off by about {off_ms:.0} ms");
    let state = match off_ms {
        off if off >= thresholds.clock_fail_ms as f64 => State::Fail,
        off if off >= thresholds.clock_warn_ms as f64 => State::Warn,
        _ => return finding(State::Ok, text),
    };
    let hint = "see `chronyc tracking` or `timedatectl timesync-status`: a clock that stays off has a bad server \
                or a bad oscillator";
    finding(state, text).with_hint(hint)
}

/// The wall clock and the one that runs since boot, read one right after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Since 1970.
    pub wall: Duration,
    /// Since boot.
    pub boot: Duration,
}

impl Reading {
    /// Now; nothing where the kernel has no such clocks.
    #[must_use]
    pub fn now() -> Option<Self> {
        let read = |clock| clock_gettime(clock).ok().map(Duration::from);
        // In between the process may wait: then both are read again, a few times.
        let mut best: Option<(Duration, Self)> = None;
        for _ in 0..3 {
            let (before, wall) = (read(ClockId::CLOCK_BOOTTIME)?, read(ClockId::CLOCK_REALTIME)?);
            let took = read(ClockId::CLOCK_BOOTTIME)?.saturating_sub(before);
            if best.is_none_or(|(least, _)| took < least) {
                best = Some((took, Self { wall, boot: before }));
            }
        }
        best.map(|(_, reading)| reading)
    }
}

/// Notices steps of the wall clock.
#[derive(Debug, Default)]
pub struct Steps {
    last: Option<Reading>,
    /// How many there were.
    pub count: u64,
}

impl Steps {
    /// Seconds by which the wall clock was set since the last look; nothing where it was not.
    pub fn look(&mut self, now: Reading) -> Option<f64> {
        let last = self.last.replace(now)?;
        let passed = now.boot.saturating_sub(last.boot).as_secs_f64();
        let step = now.wall.as_secs_f64() - last.wall.as_secs_f64() - passed;
        let is_step = step.abs() >= LEAST_STEP_SECS.max(passed / 10.0);
        self.count += u64::from(is_step);
        is_step.then_some(step)
    }
}

/// What to say of a step.
#[must_use]
pub fn step_in_words(step: f64) -> String {
    let direction = if step > 0.0 { "forward" } else { "back" };
    // Below a thousand years.
    let span = match step.abs() {
        short if short < 120.0 => format!("{short:.1} seconds"),
        long => words::span(long as i64),
    };
    format!(
        "the node's clock was set {direction} by {span}; times in logs and events jump by that, what the agent \
         counts does not"
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kept(synchronised: bool, offset_secs: f64) -> Known<Kept> {
        Known::Known(Kept {
            synchronised,
            offset_secs,
            most_error_secs: 0.01,
            estimated_error_secs: 0.001,
        })
    }

    #[test]
    fn a_clock_that_nobody_keeps_or_that_is_off_is_told() {
        let day = Duration::from_secs(86_400);
        for (kept, up, state, part) in [
            (kept(true, 0.0004), day, "ok", "off by about 0 ms"),
            (kept(true, -0.1), day, "warn", "100 ms"),
            (kept(true, 1.0), day, "fail", "1000 ms"),
            (kept(false, 0.0), day, "warn", "no time service keeps it"),
            (kept(false, 0.0), Duration::from_secs(599), "ok", "yet since boot"),
            (Known::Unknown("EPERM".to_owned()), day, "unknown", "EPERM"),
        ] {
            let told = judge(&kept, up, &Thresholds::default());
            assert_eq!(told.state.word(), state);
            assert!(told.text.contains(part), "{}", told.text);
            assert_eq!(told.hint.is_some(), matches!(state, "warn" | "fail"));
        }
        let tree = tempfile::tempdir().unwrap();
        assert!(matches!(Kept::read(&Look::at(tree.path())), Known::Unknown(_)));
    }

    fn reading(wall_ms: u64, boot_ms: u64) -> Reading {
        Reading { wall: Duration::from_millis(wall_ms), boot: Duration::from_millis(boot_ms) }
    }

    #[test]
    fn a_step_is_told_with_its_size_and_a_clock_that_is_slewed_is_not() {
        let mut steps = Steps::default();
        assert_eq!(steps.look(reading(1_000_000, 0)), None, "the first look");
        for (wall, boot, wanted) in [
            (1_005_000, 5000, None),
            // A tenth slower and faster: chrony does that.
            (1_009_510, 10_000, None),
            (1_014_510, 15_000, None),
            // An hour forward, and back again.
            (4_619_510, 20_000, Some(3600.0)),
            (1_024_510, 25_000, Some(-3600.0)),
            // Half a minute without a look: a second is no step then.
            (1_056_000, 55_000, None),
            // A step below a second is none either.
            (1_061_900, 60_000, None),
            (1_068_000, 65_000, Some(1.1)),
        ] {
            let step = steps.look(reading(wall, boot)).map(|step| (step * 10.0).round() / 10.0);
            assert_eq!(step, wanted, "{wall}");
        }
        assert_eq!(steps.count, 3);
        assert!(
            step_in_words(-3600.0).contains("set back by 60 minutes"),
            "{}",
            step_in_words(-3600.0)
        );
        assert!(step_in_words(1.5).contains("forward by 1.5 seconds"));
    }

    #[test]
    fn this_machines_clocks_are_read() {
        let (first, second) = (Reading::now().unwrap(), Reading::now().unwrap());
        assert!(second.boot >= first.boot && first.wall > Duration::from_secs(1_700_000_000));
    }

    proptest! {
        /// Whatever the clocks do, there is an answer; and without a step there is none told.
        #[test]
        fn only_steps_are_steps(wall: u32, boot: u32, passed in 0_u32..100_000, step in -1_000_000_i64..1_000_000) {
            let mut steps = Steps::default();
            let wall = u64::from(wall) + 2_000_000;
            steps.look(reading(wall, u64::from(boot)));
            let after = (wall + u64::from(passed)).saturating_add_signed(step);
            let told = steps.look(reading(after, u64::from(boot) + u64::from(passed)));
            let least = 1000.max(i64::from(passed) / 10);
            if step.abs() < least {
                prop_assert_eq!(told, None);
            } else if step.abs() > least {
                prop_assert!((told.unwrap() * 1000.0 - step as f64).abs() < 1.0);
            }
        }
    }
}
