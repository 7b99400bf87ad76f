//! Moments as kdc writes them and takes them: UTC, to the second, in the one spelling `2026-11-24T13:00:00Z`, so that
//! the order of texts is the order of time. The calendar is jiff's.

use jiff::{SignedDuration, civil::DateTime};

const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// Date and time of day in UTC; what lies beyond the calendar's years (-9999 to 9999) is its first or last moment.
#[must_use]
pub fn date_time(unix_seconds: i64) -> DateTime {
    EPOCH.saturating_add(SignedDuration::from_secs(unix_seconds))
}

/// Seconds since 1970 of a date and time in UTC.
#[must_use]
pub fn unix_seconds(moment: DateTime) -> i64 {
    moment.duration_since(EPOCH).as_secs()
}

/// `2026-11-24T13:00:00Z`.
#[must_use]
pub fn render(unix_seconds: i64) -> String {
    format!("{}Z", date_time(unix_seconds))
}

/// Read `2026-11-24T13:00:00Z`. No other spelling of the same moment is taken.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    let moment: DateTime = text.strip_suffix('Z')?.parse().ok()?;
    let seconds = unix_seconds(moment);
    (render(seconds) == text).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(render(seconds), text);
            assert_eq!(parse(text), Some(seconds));
        }
        assert_eq!(render(i64::MAX), "9999-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn other_spellings_and_days_there_are_not_are_no_moments() {
        for text in [
            "",
            "2026-11-24",
            "2026-11-24T13:00:00",
            "2026-11-24T13:00Z",
            "2026-11-24t13:00:00Z",
            "2026-11-24 13:00:00Z",
            "2026-11-24T13:00:00.0Z",
            "2026-11-24T13:00:00+01:00",
            "2026-11-24T13:00:00[UTC]Z",
            "20261124T130000Z",
            "2100-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T23:59:60Z",
            "\u{e4}026-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(seconds in -62_167_219_200_i64..=253_402_300_799) {
            prop_assert_eq!(parse(&render(seconds)), Some(seconds));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}") {
            let _ = parse(&text);
        }
    }
}
