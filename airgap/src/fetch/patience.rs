//! How long to wait and how often to try again.

use std::time::Duration;

use rand::Rng as _;

/// Waiting and trying again: each pause is twice the last one, less a random part of up to a half,
/// so that many builders don't come back at the same moment.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Tries in a row that brought nothing before giving up.
    pub attempts: u32,
    /// Pause after the first.
    pub first_pause: Duration,
    /// Longest pause.
    pub longest_pause: Duration,
    /// To connect, and for an answer to begin.
    pub answer: Duration,
    /// Without (hardly any) bytes in the middle of an answer.
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 6,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(30),
            answer: Duration::from_secs(30),
            stall: Duration::from_secs(45),
        }
    }
}

impl Patience {
    /// The pause after the `failed`-th try in a row (from 1); `asked` is what the server asks for.
    pub(crate) fn pause(&self, failed: u32, asked: Option<Duration>) -> Duration {
        let doubled = self.first_pause.saturating_mul(1 << (failed - 1).min(16));
        let share = rand::rng().random_range(0.5..1.0);
        let own = doubled.min(self.longest_pause).mul_f64(share);
        asked.map_or(own, |asked| own.max(asked.min(self.longest_pause * 2)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_heed_the_server_within_reason() {
        let patience = Patience::default();
        for (failed, most) in [(1, 500), (2, 1000), (3, 2000), (10, 30_000), (40, 30_000)] {
            let pause = patience.pause(failed, None);
            let most = Duration::from_millis(most);
            assert!(pause <= most && pause >= most / 2, "{failed}: {pause:?}");
        }
        assert_eq!(patience.pause(1, Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(patience.pause(1, Some(Duration::from_secs(9999))), Duration::from_secs(60));
    }
}
