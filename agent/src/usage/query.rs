//! Questions about what was used ([`super::answer`] answers them).
//!
//! A question names a stretch of time, by what to tell amounts apart, and what to leave out.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{calendar::Span, ranges::Ranges};
use crate::meter::record::{JournalId, Level, Resource};

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Query {
    /// Of which time.
    pub span: Span,
    /// By what amounts are told apart; nothing: one line for all.
    #[serde(default)]
    pub by: Vec<Dimension>,
    /// Of pods, or of nodes with all that runs on them.
    #[serde(default)]
    pub of: Scope,
    /// What counts; everything where nothing is named.
    #[serde(default)]
    pub only: Only,
}

/// By what amounts are told apart.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum Dimension {
    /// Kube-DC organization.
    Organization,
    /// Kube-DC project.
    Project,
    /// Namespace.
    Namespace,
    /// What made the pod, or the pod itself where nothing did; a virtual machine by its name.
    Workload,
    /// Node.
    Node,
    /// UUID of a GPU, claim of a volume, network interface.
    Device,
    /// Month.
    Month,
    /// Day.
    Day,
    /// Hour; days of which no hours are kept stand at their first hour.
    Hour,
}

impl Dimension {
    /// The word for it in options, columns and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::Project => "project",
            Self::Namespace => "namespace",
            Self::Workload => "workload",
            Self::Node => "node",
            Self::Device => "device",
            Self::Month => "month",
            Self::Day => "day",
            Self::Hour => "hour",
        }
    }
}

/// Whose use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Scope {
    /// Of pods.
    #[default]
    Pods,
    /// Of nodes, with what runs on them and belongs to no pod.
    Nodes,
}

/// What counts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Only {
    /// One organization; an empty name: what belongs to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// One project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// One namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// One node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// One device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// A sum: larger than the numbers of JSON, so it is written as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, JsonSchema)]
#[schemars(transparent)]
pub struct Total(#[schemars(with = "String")] pub u128);

impl Serialize for Total {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Total {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse()
            .map(Self)
            .map_err(|_| serde::de::Error::custom("a sum is a whole number as text"))
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// In the order of their keys.
    pub lines: Vec<Line>,
    /// How much of the truth this is.
    pub coverage: Coverage,
}

/// Amounts of one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// As many names as the question has dimensions, in their order.
    pub key: Vec<String>,
    /// Sums, in each resource's unit; what is not here is nothing.
    pub amounts: BTreeMap<Resource, Total>,
    /// Seconds in which nobody looked, of all records of this line.
    pub gap_seconds: u64,
}

/// How much of the truth an answer is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Coverage {
    /// Records that were added.
    pub records: u64,
    /// Nodes with records in this time.
    pub nodes: u64,
    /// Begin of the first record's time.
    pub from: Option<i64>,
    /// End of the last one's.
    pub to: Option<i64>,
    /// Seconds in which nobody looked, over all records.
    pub gap_seconds: u64,
    /// Times that a counter began anew.
    pub resets: u64,
    /// Times that a clock jumped.
    pub clock_steps: u64,
    /// Seconds in which a resource could not be read.
    pub missing_seconds: BTreeMap<Resource, u64>,
    /// Records that their nodes numbered and that never came, of whatever time.
    pub holes: Vec<Hole>,
    /// Nodes whose records end before the time does.
    pub behind: Vec<Behind>,
    /// Days of which only the sum is kept, and of which only some hours were asked for: not counted.
    pub coarse: Vec<String>,
    /// Files of the store that can't be read to their end.
    pub damaged: Vec<String>,
}

/// Records that are not here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hole {
    /// The node.
    pub node: String,
    /// Its journal.
    pub journal: JournalId,
    /// Of which level.
    pub level: Level,
    /// Which numbers.
    pub numbers: Ranges,
}

/// A node's records end before the time does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Behind {
    /// The node.
    pub node: String,
    /// End of its latest record.
    pub until: i64,
}
