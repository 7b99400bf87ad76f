//! What is not known of an amount, beside the amount: [`Marks`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::record::Resource;

/// What a reader must know to trust the amounts. Counts and seconds, so that they add up as amounts do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Marks {
    /// Seconds in which nobody looked. What counters grew by meanwhile is in the amounts, spread evenly over a gap of up to
    /// an hour and at the end of a longer one; what has no counter (memory, storage, allocation) is not. A node that was
    /// off has them too.
    #[serde(skip_serializing_if = "is_zero")]
    pub gap_seconds: u64,
    /// Times that a counter began anew: the cgroup was made again, the node was started again.
    #[serde(skip_serializing_if = "is_zero")]
    pub resets: u64,
    /// Times that the clock jumped. Amounts are by the time that really went by; where they stand may be off.
    #[serde(skip_serializing_if = "is_zero")]
    pub clock_steps: u64,
    /// The subject was seen for the first time.
    #[serde(skip_serializing_if = "is_zero")]
    pub started: u64,
    /// The subject was gone. What it used after it was seen last is not in the amounts.
    #[serde(skip_serializing_if = "is_zero")]
    pub ended: u64,
    /// Seconds in which one resource could not be read while others could, by the order of resources.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// One resource could not be read for a while.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Missing {
    /// Which.
    pub resource: Resource,
    /// For how long.
    pub seconds: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Marks {
    /// There is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// So much longer without this resource.
    pub fn miss(&mut self, resource: Resource, seconds: u64) {
        if seconds == 0 {
            return;
        }
        let place = self.missing.partition_point(|missing| missing.resource < resource);
        match self.missing.get_mut(place) {
            Some(found) if found.resource == resource => {
                found.seconds = found.seconds.saturating_add(seconds);
            }
            _ => self.missing.insert(place, Missing { resource, seconds }),
        }
    }

    /// The others' too.
    pub fn merge(&mut self, others: &Self) {
        let pairs = [
            (&mut self.gap_seconds, others.gap_seconds),
            (&mut self.resets, others.resets),
            (&mut self.clock_steps, others.clock_steps),
            (&mut self.started, others.started),
            (&mut self.ended, others.ended),
        ];
        for (mine, more) in pairs {
            *mine = mine.saturating_add(more);
        }
        for Missing { resource, seconds } in &others.missing {
            self.miss(*resource, *seconds);
        }
    }
}
