//! Times as Kubernetes writes them. Only written, never read: clocks of different nodes are not compared.

use std::time::{SystemTime, UNIX_EPOCH};

use kdc_profiles::moment;

/// Since 1970, now.
pub(super) fn now() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// `2026-11-23T17:00:00Z`.
pub(super) fn rfc3339(seconds: u64) -> String {
    moment::render(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// The same with microseconds, as leases have it.
pub(super) fn rfc3339_micro(since: std::time::Duration) -> String {
    let text = rfc3339(since.as_secs());
    format!("{}.{:06}Z", text.trim_end_matches('Z'), since.subsec_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_named_as_the_calendar_does() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
        let since = std::time::Duration::from_micros(951_782_400_000_042);
        assert_eq!(rfc3339_micro(since), "2000-02-29T00:00:00.000042Z");
    }
}
