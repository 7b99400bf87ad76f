//! Moments as licences spell them: RFC 3339 in UTC, to the second, in one form only.

use std::fmt;

use kdc_profiles::moment;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Seconds of a day.
pub const DAY: i64 = 86_400;

/// The last second of the year 9999, which is as far as four digits reach.
const LAST: i64 = 253_402_300_799;

/// A moment: seconds since 1970, never before that and never after the year 9999.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The moment that many seconds after 1970; what lies outside of the range is brought to its ends.
    #[must_use]
    pub const fn from_unix(seconds: i64) -> Self {
        Self(if seconds < 0 {
            0
        } else if seconds > LAST {
            LAST
        } else {
            seconds
        })
    }

    /// Seconds since 1970.
    #[must_use]
    pub const fn unix(self) -> i64 {
        self.0
    }

    /// The moment so many seconds later, or earlier.
    #[must_use]
    pub const fn plus_seconds(self, seconds: i64) -> Self {
        Self::from_unix(self.0.saturating_add(seconds))
    }

    /// The moment so many days later, or earlier.
    #[must_use]
    pub const fn plus_days(self, days: i64) -> Self {
        self.plus_seconds(days.saturating_mul(DAY))
    }

    /// Seconds from `earlier` to this; negative when that is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> i64 {
        self.0 - earlier.0
    }

    /// Read `2026-11-24T00:00:00Z`. No other spelling of the same moment is taken.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        moment::parse(text).filter(|seconds| (0..=LAST).contains(seconds)).map(Self)
    }

    /// The day alone: `2026-11-24`.
    #[must_use]
    pub fn day(self) -> String {
        moment::date_time(self.0).date().to_string()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&moment::render(self.0))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            de::Error::custom("a moment is written as `2026-11-24T00:00:00Z`, in UTC")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_and_written_in_one_form() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_478_399, "2026-11-23T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (LAST, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(Timestamp::from_unix(seconds).to_string(), text);
            assert_eq!(Timestamp::parse(text), Some(Timestamp(seconds)));
        }
        for other in [
            "",
            "2026-11-23",
            "2026-11-23T23:59:59",
            "2026-11-23t23:59:59Z",
            "2026-11-23 23:59:59Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-31T00:00:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T23:60:00Z",
            "2026-11-23T23:59:60Z",
            "1969-12-31T23:59:59Z",
            "+026-11-23T23:59:59Z",
            "2026-11-2\u{663}T23:59:59",
        ] {
            assert_eq!(Timestamp::parse(other), None, "{other}");
        }
    }

    #[test]
    fn every_day_of_five_centuries_is_found_again() {
        for day in (0..180_000).step_by(7) {
            let moment = Timestamp::from_unix(day * DAY + 1);
            assert_eq!(Timestamp::parse(&moment.to_string()), Some(moment));
        }
    }

    #[test]
    fn arithmetic_stays_in_the_range() {
        assert_eq!(Timestamp::from_unix(5).plus_days(-1), Timestamp(0));
        assert_eq!(Timestamp::from_unix(LAST).plus_days(i64::MAX), Timestamp(LAST));
        assert_eq!(Timestamp(DAY).since(Timestamp(0)), DAY);
    }
}
