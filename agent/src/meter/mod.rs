//! What the node and each pod on it used: measured, kept on the node, told to those who ask.
//!
//! ```text
//!  cgroups, /proc, /sys, gpus.json ─► reading ─► Sample ─► journal: on the disk ─► tally (pure) ─► records ─► journal
//!                                                                                                 1 min → 1 h → 1 day
//! ```
//!
//! Counters are integrated: what a counter grew by counts once, whoever dies in between. What has no counter is measured
//! at each look and taken for the time between two looks. What is not known is marked.

pub mod journal;
mod marks;
pub mod record;
pub mod sample;
pub mod tally;
