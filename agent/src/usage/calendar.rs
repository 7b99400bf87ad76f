//! Days and months in UTC, as people write them: what a report is about, and what bills are made of.
//!
//! Everything here counts in seconds since 1970. There are no time zones: a month of a bill begins at midnight UTC, for
//! every node and tenant alike.

use jiff::civil::{Date, Time};
use kdc_profiles::moment;
pub use kdc_profiles::moment::render as moment_text;

use crate::meter::record::Level;

/// Seconds of a day.
pub const DAY: i64 = 86_400;

/// Midnight at which that day begins.
#[must_use]
pub fn begin_of(day: Date) -> i64 {
    moment::unix_seconds(day.to_datetime(Time::midnight()))
}

fn date_of(moment: i64) -> Date {
    moment::date_time(moment).date()
}

/// `2026-11-24`.
#[must_use]
pub fn day_text(moment: i64) -> String {
    date_of(moment).to_string()
}

/// `2026-11`.
#[must_use]
pub fn month_text(moment: i64) -> String {
    let date = date_of(moment);
    format!("{:04}-{:02}", date.year(), date.month())
}

/// Midnights at which the month of that moment begins and ends.
#[must_use]
pub fn month_around(moment: i64) -> (i64, i64) {
    let date = date_of(moment);
    (begin_of(date.first_of_month()), begin_of(date.last_of_month()) + DAY)
}

/// A stretch of time: `from` counts, `to` does not any more.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    /// Where it begins, in Unix seconds.
    pub from: i64,
    /// Where it ends.
    pub to: i64,
}

impl Span {
    /// The moment is in it.
    #[must_use]
    pub fn holds(&self, moment: i64) -> bool {
        (self.from..self.to).contains(&moment)
    }

    /// The whole day that begins then is in it.
    #[must_use]
    pub fn holds_day(&self, day: i64) -> bool {
        day >= self.from && day.saturating_add(DAY) <= self.to
    }

    /// The days that it touches, by their midnights.
    pub fn days(&self) -> impl Iterator<Item = i64> + use<> {
        let to = self.to;
        let first = Level::Day.start_of(self.from);
        (0..).map(move |count| first + count * DAY).take_while(move |day| *day < to)
    }

    /// Both ends at full hours.
    #[must_use]
    pub fn is_by_hours(&self) -> bool {
        [self.from, self.to].iter().all(|end| Level::Hour.start_of(*end) == *end)
    }
}

/// What an operator wrote as a moment: `2026-11`, `2026-11-24`, `2026-11-24T13`, `2026-11-24T13:00[:00]Z`. As an end, a
/// month or day is meant with all of it.
///
/// # Errors
/// What would be right.
pub fn parse_moment(text: &str, is_end: bool) -> Result<i64, String> {
    let wrong = || {
        "expected a month (2026-11), a day (2026-11-24) or an hour (2026-11-24T13:00Z), all of it in UTC".to_owned()
    };
    let (date, hour) = match text.split_once('T') {
        Some((date, hour)) => (date, Some(hour)),
        None => (text, None),
    };
    let number = |text: &str, digits: usize| {
        let good = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
        good.then(|| text.parse::<i16>().ok()).flatten()
    };
    let mut parts = date.split('-');
    let year = parts.next().and_then(|text| number(text, 4)).filter(|year| *year >= 1970);
    let year = year.ok_or_else(wrong)?;
    let mut two = || parts.next().map(|text| number(text, 2).ok_or_else(wrong)).transpose();
    let month = two()?.filter(|month| (1..=12).contains(month)).ok_or_else(wrong)?;
    let day = two()?;
    if parts.next().is_some() {
        return Err(wrong());
    }
    let none = || format!("{date} is no day of the calendar");
    let small = |number: i16| i8::try_from(number).map_err(|_| none());
    let found = Date::new(year, small(month)?, small(day.unwrap_or(1))?).map_err(|_| none())?;
    let first = begin_of(found);
    match (day, hour) {
        (None, None) => Ok(if is_end { month_around(first).1 } else { first }),
        (Some(_), None) => Ok(if is_end { first + DAY } else { first }),
        (Some(_), Some(hour)) => {
            let hour = hour.strip_suffix('Z').unwrap_or(hour);
            let mut parts = hour.splitn(2, ':');
            let whole = parts.next().and_then(|text| number(text, 2)).filter(|hour| *hour <= 24);
            let whole = whole.ok_or_else(wrong)?;
            match parts.next() {
                None | Some("00" | "00:00") => Ok(first + i64::from(whole) * 3600),
                Some(_) => {
                    Err("usage is kept by the hour: expected a full hour (2026-11-24T13:00Z)"
                        .to_owned())
                }
            }
        }
        (None, Some(_)) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn days_are_named_as_the_calendar_does() {
        for (moment, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(moment_text(moment), text);
        }
        let (from, to) = month_around(951_782_400);
        assert_eq!((day_text(from), day_text(to)), ("2000-02-01".into(), "2000-03-01".into()));
        assert_eq!(month_text(month_around(1_767_225_599).1), "2026-01");
    }

    #[test]
    fn what_operators_write_is_a_whole_month_day_or_hour() {
        let day = |text: &str| parse_moment(text, false);
        let end = |text: &str| parse_moment(text, true).map(moment_text);
        assert_eq!(day("2000-02-29"), Ok(951_782_400));
        assert_eq!(end("2000-02").as_deref(), Ok("2000-03-01T00:00:00Z"));
        assert_eq!(end("1999-12").as_deref(), Ok("2000-01-01T00:00:00Z"));
        assert_eq!(end("2000-02-29").as_deref(), Ok("2000-03-01T00:00:00Z"));
        assert_eq!(end("2000-02-29T07").as_deref(), Ok("2000-02-29T07:00:00Z"));
        assert_eq!(end("2000-02-29T07:00:00Z").as_deref(), Ok("2000-02-29T07:00:00Z"));
        for (wrong, why) in [
            ("2000", "a month (2026-11)"),
            ("2000-13", "a month (2026-11)"),
            ("2001-02-29", "no day of the calendar"),
            ("2000-02-29T07:30Z", "full hour"),
            ("2000-02T07", "a month (2026-11)"),
            ("2000-02-29T25", "a month (2026-11)"),
            ("1969-02-20", "a month (2026-11)"),
            ("2000-2-9", "a month (2026-11)"),
            ("2000-02-29-1", "a month (2026-11)"),
            ("yesterday", "a month (2026-11)"),
        ] {
            let said = day(wrong).unwrap_err();
            assert!(said.contains(why), "{wrong}: {said}");
        }
    }

    proptest! {
        #[test]
        fn a_day_is_where_its_date_says(day in -200_000_i64..200_000) {
            prop_assert_eq!(begin_of(date_of(day * DAY)), day * DAY);
        }
    }
}
