//! How far a long pass over bytes is: a line when it begins, every quarter of a large one, and when
//! it ends.

use std::time::Instant;

use crate::show::{
    Screen,
    plain::{render_bytes, render_elapsed},
};

/// Less than this is over before anybody wonders.
const WORTH_QUARTERS_BYTES: u64 = 512 * 1024 * 1024;

/// One pass.
pub(super) struct Progress<'s> {
    screen: &'s Screen,
    word: &'static str,
    total_bytes: u64,
    done_bytes: u64,
    quarters: u64,
    started: Instant,
}

impl<'s> Progress<'s> {
    /// Says that `word` begins.
    pub(super) fn start(screen: &'s Screen, word: &'static str, total_bytes: u64) -> Self {
        screen.say(&format!("{word} {}", render_bytes(total_bytes)));
        let started = Instant::now();
        Self { screen, word, total_bytes, done_bytes: 0, quarters: 0, started }
    }

    /// That much more is done.
    pub(super) fn add(&mut self, bytes: u64) {
        self.done_bytes += bytes;
        let quarters = quarters(self.done_bytes, self.total_bytes);
        if quarters > self.quarters && quarters < 4 {
            self.quarters = quarters;
            let (done, word) = (render_bytes(self.done_bytes), self.word);
            self.screen.say(&format!("{word} {}% ({done})", quarters * 25));
        }
    }

    /// It is over.
    pub(super) fn finish(self) {
        let elapsed = render_elapsed(self.started.elapsed());
        self.screen.say(&format!("{} done in {elapsed}", self.word));
    }
}

/// A pass that is told how far it is altogether.
pub(super) struct Reach<'s> {
    progress: Progress<'s>,
    reached: u64,
}

impl<'s> Reach<'s> {
    /// As [`Progress::start`].
    pub(super) fn start(screen: &'s Screen, word: &'static str, total_bytes: u64) -> Self {
        Self { progress: Progress::start(screen, word, total_bytes), reached: 0 }
    }

    /// So much is done.
    pub(super) fn reach(&mut self, bytes: u64) {
        self.progress.add(bytes.saturating_sub(self.reached));
        self.reached = bytes;
    }

    /// It is over.
    pub(super) fn finish(self) {
        self.progress.finish();
    }
}

fn quarters(done: u64, total: u64) -> u64 {
    if total < WORTH_QUARTERS_BYTES { 0 } else { done / (total / 4) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_long_passes_say_their_quarters() {
        let total = super::WORTH_QUARTERS_BYTES;
        assert_eq!(super::quarters(total - 2, total - 1), 0);
        assert_eq!(super::quarters(total / 2, total), 2);
        assert_eq!(super::quarters(0, 0), 0);
    }
}
