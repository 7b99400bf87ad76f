//! Spans of time and amounts, in words for people.

/// `29 days`, `3 hours`, `10 minutes`, `5 seconds`: whole ones of the largest unit, from two on.
pub(super) fn span(seconds: i64) -> String {
    let seconds = seconds.unsigned_abs();
    for (unit, name) in [(86_400, "days"), (3600, "hours"), (60, "minutes")] {
        if seconds >= 2 * unit {
            return format!("{} {name}", seconds / unit);
        }
    }
    format!("{seconds} seconds")
}

/// `1.4 GiB`, `12 MiB`.
pub(super) fn bytes(number: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    match number {
        number if number >= 1024 * MIB => format!("{:.1} GiB", number as f64 / (1024 * MIB) as f64),
        number if number >= MIB => format!("{} MiB", number / MIB),
        number => format!("{number} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_amounts_are_in_the_unit_that_people_would_use() {
        for (seconds, text) in [
            (0, "0 seconds"),
            (119, "119 seconds"),
            (120, "2 minutes"),
            (7199, "119 minutes"),
            (7200, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (-180, "3 minutes"),
            (i64::MIN, "106751991167300 days"),
        ] {
            assert_eq!(span(seconds), text, "{seconds}");
        }
        for (number, text) in [
            (12, "12 bytes"),
            (5 << 20, "5 MiB"),
            (1_503_238_553, "1.4 GiB"),
            (u64::MAX, "17179869184.0 GiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }
}
