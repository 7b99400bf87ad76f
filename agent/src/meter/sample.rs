//! One look at the node and its pods: what counters stand at, and how high what has no counter is.

use super::record::{Resource, Subject};

/// One look. Whole where every subject that there is was looked at; otherwise it says nothing of those it leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// By the node's clock, in milliseconds since 1970.
    pub unix_ms: i64,
    /// In milliseconds since the boot, also while the machine slept.
    pub boot_ms: u64,
    /// Which boot that was.
    pub boot: [u8; 16],
    /// How far two looks are meant to be from each other, in milliseconds.
    pub every_ms: u64,
    /// Name of the node.
    pub node: String,
    /// Every subject was looked at.
    pub whole: bool,
    /// What was seen, each subject once.
    pub readings: Vec<Reading>,
}

/// What one subject's counters and levels were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Whose.
    pub subject: Subject,
    /// Which life of it: the same pod in a cgroup that was made again has another, and its counters began at 0.
    pub life: u64,
    /// When this life began, in milliseconds since the boot, where that is known.
    pub begun_boot_ms: Option<u64>,
    /// What only grows.
    pub counters: Vec<Counter>,
    /// What goes up and down.
    pub levels: Vec<Height>,
    /// What could not be read this time.
    pub missing: Vec<Resource>,
}

/// Where a counter stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counter {
    /// What it counts.
    pub resource: Resource,
    /// The device that amounts are told by.
    pub device: Option<String>,
    /// What tells several counters of one resource and device apart; empty where there is one.
    pub source: String,
    /// Where it stands, in the resource's unit.
    pub value: u64,
}

/// How high something is. Its amount is this times seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Height {
    /// What it is of.
    pub resource: Resource,
    /// The device that amounts are told by.
    pub device: Option<String>,
    /// The resource's unit, for each second.
    pub value: u64,
}
