//! What is measured, as it is kept and passed on: [`Record`].
//!
//! A record says what one subject (the node, or a pod) used of each [`Resource`] in one minute, hour or day. Every amount
//! is a whole number in the smallest unit that is counted, and what a division leaves is carried on to the next sample, so
//! amounts can be added in any order and grouping and come to the same total. A coarser record is the exact sum of its
//! finer ones. What is not known is never filled in silently: [`Marks`] say it.
//!
//! Two records of one subject may cover the same minute (a clock that was set back, a pod that came back): both count. What
//! counts a record once is its journal, level and [`Record::seq`], which has no holes.
//!
//! The node's own records hold all that the node used, pods included: they are never added to those of its pods.
//!
//! ```
//! use kdc_agent::meter::record::{Amount, Amounts, Resource};
//!
//! let mut amounts = Amounts::default();
//! amounts.add(Resource::CpuTime, None, 1_500_000);
//! amounts.add(Resource::CpuTime, None, 500_000);
//! assert_eq!(amounts.of(Resource::CpuTime), 2_000_000);
//! ```

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::marks::{Marks, Missing};

/// Name of one journal: a new one with each new journal (a node set up again, a disk that was lost).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(transparent)]
pub struct JournalId(#[schemars(with = "String")] [u8; 16]);

impl JournalId {
    /// The id with these bits.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bits.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// 32 hexadecimal digits, or nothing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Display for JournalId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl Serialize for JournalId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JournalId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let wrong = || serde::de::Error::custom("a journal's id has 32 hexadecimal digits");
        Self::parse(&text).ok_or_else(wrong)
    }
}

/// How long a record's time is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum Level {
    /// 60 seconds.
    Minute,
    /// 60 minutes.
    Hour,
    /// 24 hours, from midnight to midnight UTC.
    Day,
}

impl Level {
    /// Every level, the finest first.
    pub const ALL: [Self; 3] = [Self::Minute, Self::Hour, Self::Day];

    /// Its seconds.
    #[must_use]
    pub fn seconds(self) -> i64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Day => 86_400,
        }
    }

    /// Where the stretch of this level begins that holds the moment.
    #[must_use]
    pub fn start_of(self, moment: i64) -> i64 {
        moment.saturating_sub(moment.rem_euclid(self.seconds()))
    }

    /// The word for it in files, answers and options.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }
}

/// What is counted, and in which unit.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum Resource {
    /// Time on processors, in microseconds.
    CpuTime,
    /// Working set (what can't be dropped), in byte-seconds.
    Memory,
    /// Writable layers, logs and `emptyDir` volumes, in byte-seconds.
    EphemeralStorage,
    /// Used space of a mounted volume, in byte-seconds; the device is the claim, or the volume's name.
    VolumeStorage,
    /// Bytes read from block devices.
    DiskRead,
    /// Bytes written to block devices.
    DiskWritten,
    /// Bytes received; the device is the interface.
    NetworkReceived,
    /// Bytes sent; the device is the interface.
    NetworkSent,
    /// Share of a GPU that was set aside, in thousandths of it times seconds; the device is its UUID.
    GpuAllocated,
    /// Memory of a GPU that was set aside, in byte-seconds.
    GpuMemoryAllocated,
    /// Time in which a GPU was busy, in microseconds.
    GpuUsed,
    /// Memory of a GPU in use, in byte-seconds.
    GpuMemoryUsed,
    /// Energy drawn by a GPU, in millijoules.
    GpuEnergy,
}

impl Resource {
    /// Every resource, in the order of records.
    pub const ALL: [Self; 13] = [
        Self::CpuTime,
        Self::Memory,
        Self::EphemeralStorage,
        Self::VolumeStorage,
        Self::DiskRead,
        Self::DiskWritten,
        Self::NetworkReceived,
        Self::NetworkSent,
        Self::GpuAllocated,
        Self::GpuMemoryAllocated,
        Self::GpuUsed,
        Self::GpuMemoryUsed,
        Self::GpuEnergy,
    ];

    /// The word for it in files, answers and options.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CpuTime => "cpuTime",
            Self::Memory => "memory",
            Self::EphemeralStorage => "ephemeralStorage",
            Self::VolumeStorage => "volumeStorage",
            Self::DiskRead => "diskRead",
            Self::DiskWritten => "diskWritten",
            Self::NetworkReceived => "networkReceived",
            Self::NetworkSent => "networkSent",
            Self::GpuAllocated => "gpuAllocated",
            Self::GpuMemoryAllocated => "gpuMemoryAllocated",
            Self::GpuUsed => "gpuUsed",
            Self::GpuMemoryUsed => "gpuMemoryUsed",
            Self::GpuEnergy => "gpuEnergy",
        }
    }
}

/// Whose use it is.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Subject {
    /// The node with all that runs on it.
    Node,
    /// One pod.
    Pod(Pod),
}

/// One pod, and the names it went by when it was measured.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// Its UID; of a static pod the digest that the kubelet made of its file.
    pub uid: String,
    /// Its namespace; empty where nothing on the node told it (another record of the same UID may).
    pub namespace: String,
    /// Its name; empty as the namespace is.
    pub name: String,
    /// What made it, as `Kind/name`; a ReplicaSet stands for its Deployment where the pod says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// The virtual machine that runs in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
}

/// So much of one resource.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct Amount {
    /// Of what.
    pub resource: Resource,
    /// On which device (UUID of a GPU, claim of a volume, interface); absent where there is one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// How much, in the resource's unit.
    pub value: u64,
}

/// Amounts in the order of resource and device. One that outgrew 64 bits stands there twice: read them with [`Self::of`],
/// or add them all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(from = "Vec<Amount>")]
pub struct Amounts(Vec<Amount>);

impl From<Vec<Amount>> for Amounts {
    /// Whatever their order.
    fn from(amounts: Vec<Amount>) -> Self {
        let mut all = Self::default();
        for Amount { resource, device, value } in amounts {
            all.add(resource, device.as_deref(), value);
        }
        all
    }
}

impl Amounts {
    /// So much more.
    pub fn add(&mut self, resource: Resource, device: Option<&str>, value: u64) {
        if value == 0 {
            return;
        }
        let key = (resource, device);
        let place = self.0.partition_point(|amount| amount.key() <= key);
        let last = place.checked_sub(1).and_then(|last| self.0.get_mut(last));
        match last.filter(|last| last.key() == key) {
            Some(found) => match found.value.checked_add(value) {
                Some(sum) => found.value = sum,
                None => self.insert(place, key, value),
            },
            None => self.insert(place, key, value),
        }
    }

    fn insert(&mut self, place: usize, key: (Resource, Option<&str>), value: u64) {
        let (resource, device) = (key.0, key.1.map(str::to_owned));
        self.0.insert(place, Amount { resource, device, value });
    }

    /// All of the others' too.
    pub fn merge(&mut self, others: &Self) {
        for Amount { resource, device, value } in &others.0 {
            self.add(*resource, device.as_deref(), *value);
        }
    }

    /// The sum of one resource over its devices.
    #[must_use]
    pub fn of(&self, resource: Resource) -> u128 {
        self.iter().filter(|one| one.resource == resource).map(|one| u128::from(one.value)).sum()
    }

    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Amount> {
        self.0.iter()
    }

    /// Nothing was used.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl Amount {
    fn key(&self) -> (Resource, Option<&str>) {
        (self.resource, self.device.as_deref())
    }
}

impl<'a> IntoIterator for &'a Amounts {
    type Item = &'a Amount;
    type IntoIter = std::slice::Iter<'a, Amount>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// What one subject used in one stretch of time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The journal it stands in.
    pub journal: JournalId,
    /// Its number among the records of its journal and level, from 1, without holes.
    pub seq: u64,
    /// How long its time is.
    pub level: Level,
    /// Begin of its time, in seconds since 1970 (UTC), at a boundary of the level.
    pub from: i64,
    /// End of its time, which is the begin of the next.
    pub to: i64,
    /// Name of the node as Kubernetes knows it; the host's name before there is one.
    pub node: String,
    /// Whose use it is.
    pub subject: Subject,
    /// How much of what.
    pub amounts: Amounts,
    /// What a reader must know to trust them.
    #[serde(default, skip_serializing_if = "Marks::is_empty")]
    pub marks: Marks,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let mut amounts = Amounts::default();
        amounts.add(Resource::NetworkSent, Some("eth0"), 7);
        amounts.add(Resource::CpuTime, None, 12);
        let pod =
            Pod { uid: "u".into(), namespace: "a".into(), name: "b".into(), ..Pod::default() };
        Record {
            journal: JournalId::from_bytes([0xab; 16]),
            seq: 3,
            level: Level::Minute,
            from: 60,
            to: 120,
            node: "n1".to_owned(),
            subject: Subject::Pod(pod),
            amounts,
            marks: Marks { started: 1, ..Marks::default() },
        }
    }

    #[test]
    fn a_record_is_written_in_few_words_and_read_back() {
        let text = serde_json::to_string(&record()).unwrap();
        let wanted = concat!(
            r#"{"journal":"abababababababababababababababab","seq":3,"level":"minute","from":60,"to":120,"#,
            r#""node":"n1","subject":{"kind":"pod","uid":"u","namespace":"a","name":"b"},"#,
            r#""amounts":[{"resource":"cpuTime","value":12},{"resource":"networkSent","device":"eth0","value":7}],"#,
            r#""marks":{"started":1}}"#
        );
        assert_eq!(text, wanted);
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record());
        let node = serde_json::to_string(&Subject::Node).unwrap();
        assert_eq!(node, r#"{"kind":"node"}"#);
        for wrong in ["ab", &"ab".repeat(17), &"xy".repeat(16)] {
            assert_eq!(JournalId::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_in_files_are_those_of_serde() {
        for resource in Resource::ALL {
            let text = serde_json::to_string(&resource).unwrap();
            assert_eq!(text, format!("\"{}\"", resource.name()));
        }
        for level in Level::ALL {
            assert_eq!(serde_json::to_string(&level).unwrap(), format!("\"{}\"", level.name()));
        }
        assert!(Resource::ALL.is_sorted() && Level::ALL.is_sorted());
    }

    #[test]
    fn levels_begin_at_boundaries_also_before_1970() {
        for (level, moment, start) in [
            (Level::Minute, 119, 60),
            (Level::Minute, 120, 120),
            (Level::Hour, 7_199, 3_600),
            (Level::Day, 86_399, 0),
            (Level::Day, -1, -86_400),
            (Level::Minute, i64::MIN, i64::MIN),
        ] {
            assert_eq!(level.start_of(moment), start, "{level:?} {moment}");
        }
    }

    #[test]
    fn sums_are_exact_also_beyond_64_bits() {
        let mut sum = Amounts::default();
        for value in [u64::MAX, 5, 0] {
            sum.add(Resource::VolumeStorage, Some("claim"), value);
        }
        let mut twice = sum.clone();
        twice.merge(&sum);
        let once = u128::from(u64::MAX) + 5;
        assert_eq!(sum.of(Resource::VolumeStorage), once);
        assert_eq!(twice.of(Resource::VolumeStorage), 2 * once);
        assert_eq!(twice.of(Resource::Memory), 0);
    }

    #[test]
    fn marks_add_up() {
        let mut marks = Marks { gap_seconds: 5, ..Marks::default() };
        marks.miss(Resource::VolumeStorage, 15);
        marks.miss(Resource::CpuTime, 1);
        let more = marks.clone();
        marks.merge(&more);
        assert_eq!(
            (marks.gap_seconds, marks.missing[0].seconds, marks.missing[1].seconds),
            (10, 2, 30)
        );
        assert!(!marks.is_empty() && Marks::default().is_empty());
    }
}
