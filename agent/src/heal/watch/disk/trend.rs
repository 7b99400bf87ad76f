//! How fast a file system fills, and when it will be full at that rate.
//!
//! The rate is the median of the slopes between all pairs of samples (Theil and Sen): one large pull
//! of images or one deleted log moves it by nothing, a steady leak is all of it. It counts only while
//! the last hour goes the same way.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// Between two samples that are kept.
const EVERY: Duration = Duration::from_secs(300);

/// Samples that are kept: six hours of them.
const KEPT: usize = 72;

/// Samples, and the time between the first and the last, without which nothing is foretold.
const LEAST_SAMPLES: usize = 8;
const LEAST_SPAN: Duration = Duration::from_secs(3600);

/// Most file systems that are followed.
const MOST_PLACES: usize = 64;

/// Room over time, by place.
#[derive(Debug, Clone, Default)]
pub struct Trends {
    places: BTreeMap<String, VecDeque<(Duration, u64)>>,
}

impl Trends {
    /// That much was available there at that time of the monotonic clock.
    pub fn note(&mut self, place: &str, at: Duration, available: u64) {
        if !self.places.contains_key(place) {
            if self.places.len() == MOST_PLACES {
                return;
            }
            self.places.insert(place.to_owned(), VecDeque::new());
        }
        let Some(samples) = self.places.get_mut(place) else { return };
        if samples.back().is_some_and(|(last, _)| at < *last + EVERY) {
            return;
        }
        if samples.len() == KEPT {
            samples.pop_front();
        }
        samples.push_back((at, available));
    }

    /// Forget the places that are not among these.
    pub fn keep(&mut self, places: &[String]) {
        self.places.retain(|place, _| places.contains(place));
    }

    /// Bytes a second by which the room there gets less; nothing where it does not, or where that
    /// can't be said yet.
    pub(super) fn loss(&self, place: &str) -> Option<f64> {
        let samples = self.places.get(place)?;
        let (first, last) = (samples.front()?.0, samples.back()?.0);
        if samples.len() < LEAST_SAMPLES || last.saturating_sub(first) < LEAST_SPAN {
            return None;
        }
        let all: Vec<(f64, f64)> = samples.iter().map(plain).collect();
        let recent = samples.iter().filter(|(at, _)| *at + LEAST_SPAN >= last);
        let recent: Vec<(f64, f64)> = recent.map(plain).collect();
        let slope = slope(&all)?;
        (slope < 0.0 && self::slope(&recent).is_none_or(|slope| slope < 0.0)).then_some(-slope)
    }
}

fn plain((at, available): &(Duration, u64)) -> (f64, f64) {
    (at.as_secs_f64(), *available as f64)
}

/// The median slope of all pairs.
fn slope(samples: &[(f64, f64)]) -> Option<f64> {
    let mut slopes = Vec::with_capacity(samples.len() * samples.len() / 2);
    for (place, (at, value)) in samples.iter().enumerate() {
        for (later, then) in &samples[place + 1..] {
            if later > at {
                slopes.push((then - value) / (later - at));
            }
        }
    }
    let middle = slopes.len() / 2;
    if slopes.is_empty() {
        return None;
    }
    let (_, median, _) = slopes.select_nth_unstable_by(middle, f64::total_cmp);
    Some(*median)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    /// A sample each five minutes.
    fn trends(values: impl IntoIterator<Item = u64>) -> Trends {
        let mut trends = Trends::default();
        for (number, value) in values.into_iter().enumerate() {
            trends.note("/", EVERY * u32::try_from(number).unwrap(), value);
        }
        trends
    }

    #[test]
    fn a_steady_leak_is_foretold_and_one_pull_of_images_is_not() {
        let hour = 12;
        let leak = trends((0..3 * hour).map(|number| 100 * GIB - number * GIB / 12));
        let loss = leak.loss("/").unwrap() * 3600.0;
        assert!((loss - GIB as f64).abs() < 1000.0, "{loss} bytes an hour");
        let pull =
            trends((0..3 * hour).map(|number| if number < 20 { 100 * GIB } else { 60 * GIB }));
        assert_eq!(pull.loss("/"), None);
        // One that a cleaner interrupts stays one.
        let saw = trends((0..72).map(|number| 100 * GIB - (number % 24) * GIB));
        assert!(saw.loss("/").is_some());
    }

    #[test]
    fn what_has_stopped_or_is_too_young_is_not_foretold() {
        assert_eq!(
            trends((0..12).map(|number| 100 * GIB - number * GIB)).loss("/"),
            None,
            "55 minutes"
        );
        assert!(trends((0..13).map(|number| 100 * GIB - number * GIB)).loss("/").is_some());
        let stopped = trends((0..72).map(|number| 100 * GIB - number.min(50) * GIB));
        assert_eq!(stopped.loss("/"), None);
        assert_eq!(Trends::default().loss("/"), None);
    }

    #[test]
    fn samples_are_bounded_whatever_comes() {
        let mut trends = trends(0..500);
        assert_eq!(trends.places["/"].len(), KEPT);
        trends.note("/", Duration::ZERO, 1);
        assert_eq!(trends.places["/"].len(), KEPT, "time that goes back is no sample");
        (0..200).for_each(|number| trends.note(&number.to_string(), Duration::ZERO, 1));
        assert_eq!(trends.places.len(), MOST_PLACES);
        trends.keep(&["/".to_owned()]);
        assert_eq!(trends.places.len(), 1);
    }

    proptest! {
        /// Whatever the figures are, a rate is a positive number, or there is none.
        #[test]
        fn a_rate_is_a_number(values in prop::collection::vec(any::<u64>(), 0..100)) {
            let loss = trends(values).loss("/");
            prop_assert!(loss.is_none_or(|loss| loss.is_finite() && loss > 0.0));
        }
    }
}
