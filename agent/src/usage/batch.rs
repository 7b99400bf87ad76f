//! A batch: records of one journal, one level and one stretch of time, as a node sends them and control planes keep them.
//!
//! ```text
//! KUB1 | level | journal (16) | from (8) | first number (8) | records (4) | node | digests of namespaces | body
//! body, deflated:  texts, each once | records: subject, amounts, marks, all as small numbers that name those texts
//! ```
//!
//! The numbers of its records follow each other without holes. What stands before the body is enough to know whether a
//! question is about it, so that most bodies are never unpacked. Thirty pods of one day are about two kilobytes. It comes from
//! other nodes, so everything is bounded before it is believed.

use std::collections::BTreeMap;

use flate2::{Compression, write::DeflateEncoder};

use crate::meter::record::{Amount, JournalId, Level, Marks, Record, Resource, Subject};

/// First bytes, with the version of the form.
const MAGIC: &[u8; 4] = b"KUB1";
/// Most records of one batch.
pub const MAX_RECORDS: usize = 20_000;
/// Largest body, unpacked.
pub(super) const MAX_BODY: u64 = 16 * 1024 * 1024;
/// Longest text in it.
pub(super) const MAX_TEXT: usize = 1024;
/// Most texts.
pub(super) const MAX_TEXTS: usize = 200_000;
/// Longest name of a node: one of DNS.
const MAX_NODE: usize = 253;
/// Most amounts of one record.
pub(super) const MAX_AMOUNTS: usize = 10_000;
/// Largest batch, packed.
pub const MAX_BATCH: usize = 4 * 1024 * 1024;

/// It is no batch, or can't be made into one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// It ends too early, or is something else.
    #[error("it is no batch of usage records: {0}")]
    Malformed(&'static str),
    /// Larger than anything a node has.
    #[error("its {what} is over the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it may be.
        limit: usize,
    },
    /// Records of different journals, levels, times or nodes, or with holes between their numbers.
    #[error("its records do not belong together: {0}")]
    Mixed(&'static str),
}

use BatchError::{Malformed, Mixed, TooLarge};

/// What stands before the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// How long the time of each record is.
    pub level: Level,
    /// Where the records stand on their node.
    pub journal: JournalId,
    /// Begin of their time.
    pub from: i64,
    /// Number of the first.
    pub first: u64,
    /// How many there are.
    pub count: u32,
    /// The node.
    pub node: String,
    /// Digests of the namespaces in it, in order.
    namespaces: Vec<u32>,
    /// Where the body begins.
    pub(super) body: usize,
}

impl Head {
    /// Number of the last record.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.first.saturating_add(u64::from(self.count)).saturating_sub(1)
    }

    /// End of the records' time.
    #[must_use]
    pub fn to(&self) -> i64 {
        self.from.saturating_add(self.level.seconds())
    }

    /// Records of pods in that namespace may be in it; `false` is certain.
    #[must_use]
    pub fn may_have(&self, namespace: &str) -> bool {
        self.namespaces.binary_search(&digest(namespace)).is_ok()
    }

    /// Read it; the body is not looked at.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(bytes: &[u8]) -> Result<Self, BatchError> {
        let mut left = bytes;
        if take(&mut left, 4)? != MAGIC {
            return Err(Malformed("it does not begin as one"));
        }
        let level = match take(&mut left, 1)? {
            [0] => Level::Minute,
            [1] => Level::Hour,
            [2] => Level::Day,
            _ => return Err(Malformed("no such level")),
        };
        let journal = JournalId::from_bytes(array(&mut left)?);
        let from = i64::from_le_bytes(array(&mut left)?);
        let first = u64::from_le_bytes(array(&mut left)?);
        let count = u32::from_le_bytes(array(&mut left)?);
        if from < 0 || level.start_of(from) != from || from > i64::MAX / 2 {
            return Err(Malformed("its time does not begin where one of its level does"));
        }
        if count == 0 || first == 0 || first.checked_add(u64::from(count)).is_none() {
            return Err(Malformed("it has no records"));
        }
        if count as usize > MAX_RECORDS {
            return Err(TooLarge { what: "number of records", limit: MAX_RECORDS });
        }
        let length = usize::from(u16::from_le_bytes(array(&mut left)?));
        let node = std::str::from_utf8(take(&mut left, length)?)
            .map_err(|_| Malformed("a node's name"))?;
        if node.is_empty() || node.len() > MAX_NODE {
            return Err(Malformed("a node's name"));
        }
        let many = usize::from(u16::from_le_bytes(array(&mut left)?));
        let mut namespaces = Vec::with_capacity(many);
        for _ in 0..many {
            namespaces.push(u32::from_le_bytes(array(&mut left)?));
        }
        if !namespaces.is_sorted() {
            return Err(Malformed("digests of namespaces"));
        }
        let (node, body) = (node.to_owned(), bytes.len() - left.len());
        Ok(Self { level, journal, from, first, count, node, namespaces, body })
    }
}

/// One record of a batch while it is read; texts are the batch's.
#[derive(Debug)]
pub struct Row<'a> {
    /// Its number.
    pub seq: u64,
    /// The pod, or `None` for the node.
    pub pod: Option<PodRow<'a>>,
    /// Amounts, as they stand there.
    pub amounts: &'a [AmountRow<'a>],
    /// Marks.
    pub marks: &'a Marks,
}

/// A pod's names.
#[derive(Debug, Clone, Copy)]
pub struct PodRow<'a> {
    /// UID.
    pub uid: &'a str,
    /// Namespace.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
    /// What made it.
    pub controller: Option<&'a str>,
    /// The virtual machine in it.
    pub vm: Option<&'a str>,
}

/// One amount.
#[derive(Debug, Clone, Copy)]
pub struct AmountRow<'a> {
    /// Of what.
    pub resource: Resource,
    /// On which device.
    pub device: Option<&'a str>,
    /// How much.
    pub value: u64,
}

/// Write records as a batch.
///
/// # Errors
/// When they do not belong together, or are too many.
pub fn encode(records: &[Record]) -> Result<Vec<u8>, BatchError> {
    let first = records.first().ok_or(Malformed("it has no records"))?;
    if records.len() > MAX_RECORDS {
        return Err(TooLarge { what: "number of records", limit: MAX_RECORDS });
    }
    for (record, number) in records.iter().zip(first.seq..) {
        let same = record.journal == first.journal && record.level == first.level;
        if !same || record.node != first.node {
            return Err(Mixed("of another journal, level or node"));
        }
        if record.seq != number || record.from != first.from {
            return Err(Mixed("of another time, or with a hole before it"));
        }
    }
    let mut namespaces: Vec<u32> = records
        .iter()
        .filter_map(|record| match &record.subject {
            Subject::Pod(pod) => Some(digest(&pod.namespace)),
            Subject::Node => None,
        })
        .collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    let level = match first.level {
        Level::Minute => 0,
        Level::Hour => 1,
        Level::Day => 2,
    };
    let count = u32::try_from(records.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::from(MAGIC);
    bytes.push(level);
    bytes.extend_from_slice(first.journal.as_bytes());
    bytes.extend_from_slice(&first.from.to_le_bytes());
    bytes.extend_from_slice(&first.seq.to_le_bytes());
    bytes.extend_from_slice(&count.to_le_bytes());
    let length = |length: usize| u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes();
    if first.node.is_empty() || first.node.len() > MAX_NODE {
        return Err(Malformed("a node's name"));
    }
    bytes.extend_from_slice(&length(first.node.len()));
    bytes.extend_from_slice(first.node.as_bytes());
    bytes.extend_from_slice(&length(namespaces.len()));
    namespaces.iter().for_each(|one| bytes.extend_from_slice(&one.to_le_bytes()));
    let packed = pack(&write_body(records)?);
    bytes.extend_from_slice(&packed);
    // What is written is what can be read.
    Head::read(&bytes)?;
    Ok(bytes)
}

pub(super) fn pack(body: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("memory can be written")
}

/// Texts of a batch, each with its place.
#[derive(Default)]
struct Texts<'a> {
    places: BTreeMap<&'a str, usize>,
    order: Vec<&'a str>,
}

impl<'a> Texts<'a> {
    fn place(&mut self, text: &'a str) -> Result<u64, BatchError> {
        if text.len() > MAX_TEXT {
            return Err(TooLarge { what: "length of a name", limit: MAX_TEXT });
        }
        let next = self.order.len();
        let place = *self.places.entry(text).or_insert_with(|| {
            self.order.push(text);
            next
        });
        Ok(place as u64)
    }

    /// 0: there is none.
    fn maybe(&mut self, text: Option<&'a str>) -> Result<u64, BatchError> {
        text.map_or(Ok(0), |text| Ok(self.place(text)? + 1))
    }
}

fn write_body(records: &[Record]) -> Result<Vec<u8>, BatchError> {
    let (mut texts, mut rows) = (Texts::default(), Vec::new());
    for record in records {
        match &record.subject {
            Subject::Node => number(&mut rows, 0),
            Subject::Pod(pod) => {
                number(&mut rows, 1);
                for text in [&pod.uid, &pod.namespace, &pod.name] {
                    number(&mut rows, texts.place(text)?);
                }
                number(&mut rows, texts.maybe(pod.controller.as_deref())?);
                number(&mut rows, texts.maybe(pod.vm.as_deref())?);
            }
        }
        if record.amounts.len() > MAX_AMOUNTS {
            return Err(TooLarge { what: "number of amounts", limit: MAX_AMOUNTS });
        }
        number(&mut rows, record.amounts.len() as u64);
        for Amount { resource, device, value } in &record.amounts {
            number(&mut rows, *resource as u64);
            number(&mut rows, texts.maybe(device.as_deref())?);
            number(&mut rows, *value);
        }
        write_marks(&mut rows, &record.marks);
    }
    let mut body = Vec::with_capacity(rows.len() * 2);
    number(&mut body, texts.order.len() as u64);
    for text in &texts.order {
        number(&mut body, text.len() as u64);
        body.extend_from_slice(text.as_bytes());
    }
    body.extend_from_slice(&rows);
    if body.len() as u64 > MAX_BODY || texts.order.len() > MAX_TEXTS {
        return Err(TooLarge { what: "body", limit: MAX_BODY as usize });
    }
    Ok(body)
}

fn write_marks(rows: &mut Vec<u8>, marks: &Marks) {
    let Marks { gap_seconds, resets, clock_steps, started, ended, missing } = marks;
    if marks.is_empty() {
        return number(rows, 0);
    }
    number(rows, 1);
    for value in [gap_seconds, resets, clock_steps, started, ended] {
        number(rows, *value);
    }
    number(rows, missing.len() as u64);
    for one in missing {
        number(rows, one.resource as u64);
        number(rows, one.seconds);
    }
}

pub(super) fn take<'a>(left: &mut &'a [u8], length: usize) -> Result<&'a [u8], BatchError> {
    let (taken, rest) = left.split_at_checked(length).ok_or(Malformed("it breaks off"))?;
    *left = rest;
    Ok(taken)
}

fn array<const N: usize>(left: &mut &[u8]) -> Result<[u8; N], BatchError> {
    let (taken, rest) = left.split_first_chunk::<N>().ok_or(Malformed("it breaks off"))?;
    *left = rest;
    Ok(*taken)
}

/// Seven bits a byte, the least first.
fn number(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

pub(super) fn varint(left: &mut &[u8]) -> Result<u64, BatchError> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = left.split_first().ok_or(Malformed("it breaks off"))?;
        *left = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed("a number is too long"))
}

pub(super) fn bounded(left: &mut &[u8], limit: usize) -> Result<usize, BatchError> {
    let value = usize::try_from(varint(left)?).unwrap_or(usize::MAX);
    if value > limit { Err(TooLarge { what: "count", limit }) } else { Ok(value) }
}

/// FNV-1a; it only says which bodies need not be looked at.
fn digest(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
