//! Errors of GPUs (Xids): the table of what to do about each, and the list of those since boot.
//!
//! **Counted once.** The same error comes twice, as a line of the kernel's log and as an event of NVML. Both are received
//! live and stamped with the moment they were received; an event and a line of one GPU and number that are received within
//! [`SAME_ERROR`] of each other are one error, pair by pair. Lines that were in the log before the agent looked
//! have no event. A GPU that falls off the bus is told in two lines, with and without Xid 79: within [`SAME_FALL`] by
//! the log's own clock they are one.

use std::{collections::BTreeMap, path::Path, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    kernel_log::{GpuMessage, LogXid, Record, Severity, parse_message, slot},
    report::RecoveryAction,
    sample::NvmlXid,
};

pub use super::xid_table::{Action, SITE_TABLE, TableError, XidRow, XidTable};

/// An event and a line received within this are one error.
pub const SAME_ERROR: Duration = Duration::from_secs(5);
/// Two lines about a lost GPU within this are one loss.
pub const SAME_FALL: Duration = Duration::from_secs(60);
/// The Xid of a GPU that fell off the bus.
const FELL_OFF: u32 = 79;
/// Most kinds of errors kept; beyond, the one that was quiet longest is forgotten.
const MOST_KINDS: usize = 512;
/// Most events that wait for their counterpart.
const MOST_WAITING: usize = 256;
/// Largest file of what was counted.
const LARGEST_FILE: u64 = 1024 * 1024;

/// Who told of an error first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Teller {
    /// The kernel's log.
    KernelLog,
    /// NVML.
    Nvml,
}

/// One kind of error of one GPU, since boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct XidRecord {
    /// PCI address without its function; nothing where the message doesn't say.
    pub slot: Option<String>,
    /// Its number.
    pub xid: u32,
    /// Did the driver call it one that it goes on after (NVLink 5)?
    pub nonfatal: bool,
    /// How often it happened.
    pub count: u64,
    /// When last, since boot.
    pub last_microseconds: u64,
    /// Who told of it first.
    pub teller: Teller,
    /// What the driver wanted done after the last one (Xid 154).
    pub recovery_action: Option<RecoveryAction>,
    /// The message of the last one.
    pub text: String,
    /// The driver said afterwards that nothing is to be done about this GPU.
    pub settled: bool,
}

/// Errors of all GPUs since boot, and how far the kernel's log was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct XidLog {
    boot: String,
    sequence: Option<u64>,
    records: Vec<XidRecord>,
    names: BTreeMap<String, String>,
    #[serde(skip)]
    waiting: Vec<Waiting>,
}

/// An error that one of the two told, whose counterpart may follow.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Waiting {
    slot: String,
    xid: u32,
    teller: Teller,
    received: Duration,
}

impl XidLog {
    /// Nothing since this boot.
    #[must_use]
    pub fn new(boot: &str) -> Self {
        Self { boot: boot.to_owned(), ..Self::default() }
    }

    /// What was counted since this boot. A file of an earlier boot, a torn one or none is a beginning.
    #[must_use]
    pub fn load(path: &Path, boot: &str) -> Self {
        let read = || -> Option<Self> {
            if fs_err::metadata(path).ok()?.len() > LARGEST_FILE {
                return None;
            }
            let log: Self = serde_json::from_slice(&fs_err::read(path).ok()?).ok()?;
            (log.boot == boot && log.records.len() <= MOST_KINDS).then_some(log)
        };
        read().unwrap_or_else(|| Self::new(boot))
    }

    /// Keep counts and place together, so that neither a restart nor a crash counts a line twice.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        super::watch::replace(path, &serde_json::to_vec(self)?)
    }

    /// Does it say the same, wherever in the kernel's log it is?
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.boot == other.boot && self.records == other.records && self.names == other.names
    }

    /// Number of the last line of the kernel's log that was taken in.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// Every kind of error, as first told.
    #[must_use]
    pub fn records(&self) -> &[XidRecord] {
        &self.records
    }

    /// The name of the GPU at an address, where the driver told it in the log.
    #[must_use]
    pub fn uuid_at(&self, pci: &str) -> Option<&str> {
        self.names.get(slot(pci)).map(String::as_str)
    }

    /// Take in a line of the kernel's log, received at a moment of the caller's clock; `live` where it was not there
    /// before the caller looked. Gives what it told, where it counts.
    pub fn take_line(
        &mut self,
        record: &Record<'_>,
        received: Duration,
        live: bool,
    ) -> Option<&XidRecord> {
        if self.sequence.is_some_and(|seen| record.sequence <= seen) {
            return None;
        }
        self.sequence = Some(record.sequence);
        if record.facility != 0 {
            return None;
        }
        match parse_message(record.message)? {
            GpuMessage::Named { slot, uuid } => {
                if self.names.len() < MOST_KINDS {
                    self.names.insert(slot, uuid);
                }
                None
            }
            GpuMessage::FellOff { slot } => {
                if let Some(slot) = slot.as_deref().filter(|_| live) {
                    self.is_told_twice(slot, FELL_OFF, Teller::KernelLog, received);
                }
                self.take_fall(slot, record)
            }
            GpuMessage::Xid(xid) => self.take_log_xid(&xid, record.microseconds, received, live),
        }
    }

    /// Take in an event of NVML, received at a moment of the caller's clock and of the time since boot.
    pub fn take_event(
        &mut self,
        event: &NvmlXid,
        received: Duration,
        since_boot: Duration,
    ) -> Option<&XidRecord> {
        let xid = u32::try_from(event.xid).ok()?;
        let slot = event.pci.as_deref().map(slot)?.to_owned();
        if self.is_told_twice(&slot, xid, Teller::Nvml, received) {
            return None;
        }
        self.count(XidRecord {
            slot: Some(slot),
            xid,
            nonfatal: false,
            count: 1,
            last_microseconds: u64::try_from(since_boot.as_micros()).unwrap_or(u64::MAX),
            teller: Teller::Nvml,
            recovery_action: None,
            text: String::new(),
            settled: false,
        })
    }

    fn take_log_xid(
        &mut self,
        told: &LogXid,
        microseconds: u64,
        received: Duration,
        live: bool,
    ) -> Option<&XidRecord> {
        let again = (live && self.is_told_twice(&told.slot, told.xid, Teller::KernelLog, received))
            || (told.xid == FELL_OFF && self.fell_lately(Some(&told.slot), microseconds));
        let record = XidRecord {
            slot: Some(told.slot.clone()),
            xid: told.xid,
            nonfatal: told.severity == Some(Severity::Nonfatal),
            count: 1,
            last_microseconds: microseconds,
            teller: Teller::KernelLog,
            recovery_action: told.recovery_action,
            text: told.text.clone(),
            settled: false,
        };
        if told.recovery_action == Some(RecoveryAction::None) {
            for earlier in self.records.iter_mut().filter(|known| known.slot == record.slot) {
                earlier.settled = true;
            }
        }
        if again {
            // Counted already; but the line knows more than the event did.
            self.learn(&record);
            return None;
        }
        self.count(record)
    }

    fn take_fall(&mut self, slot: Option<String>, record: &Record<'_>) -> Option<&XidRecord> {
        if self.fell_lately(slot.as_deref(), record.microseconds) {
            return None;
        }
        self.count(XidRecord {
            slot,
            xid: FELL_OFF,
            nonfatal: false,
            count: 1,
            last_microseconds: record.microseconds,
            teller: Teller::KernelLog,
            recovery_action: None,
            text: "GPU has fallen off the bus (without an Xid)".to_owned(),
            settled: false,
        })
    }

    /// Was this loss told already? A message without an address belongs to any.
    fn fell_lately(&self, slot: Option<&str>, microseconds: u64) -> bool {
        self.records.iter().any(|known| {
            known.xid == FELL_OFF
                && (slot.is_none() || known.slot.is_none() || known.slot.as_deref() == slot)
                && Duration::from_micros(microseconds.abs_diff(known.last_microseconds))
                    <= SAME_FALL
        })
    }

    /// Has the other one told this error? Then the pair is closed; otherwise it waits for the other.
    fn is_told_twice(&mut self, slot: &str, xid: u32, teller: Teller, received: Duration) -> bool {
        self.waiting.retain(|other| received.saturating_sub(other.received) <= SAME_ERROR);
        let other = self
            .waiting
            .iter()
            .position(|other| other.slot == slot && other.xid == xid && other.teller != teller);
        if let Some(other) = other {
            self.waiting.remove(other);
            return true;
        }
        if self.waiting.len() < MOST_WAITING {
            self.waiting.push(Waiting { slot: slot.to_owned(), xid, teller, received });
        }
        false
    }

    fn position(&self, record: &XidRecord) -> Option<usize> {
        self.records.iter().position(|known| {
            known.slot == record.slot
                && known.xid == record.xid
                // An event doesn't say; it belongs to what is there.
                && (known.nonfatal == record.nonfatal || known.text.is_empty())
        })
    }

    fn learn(&mut self, record: &XidRecord) {
        if let Some(known) = self.position(record).and_then(|at| self.records.get_mut(at)) {
            known.text.clone_from(&record.text);
            known.nonfatal = record.nonfatal;
            known.recovery_action = record.recovery_action;
            // Which the next line is compared by.
            known.last_microseconds = record.last_microseconds;
        }
    }

    fn count(&mut self, record: XidRecord) -> Option<&XidRecord> {
        let at = if let Some(at) = self.position(&record) {
            let known = self.records.get_mut(at)?;
            known.count = known.count.saturating_add(1);
            known.last_microseconds = record.last_microseconds;
            known.settled = false;
            if !record.text.is_empty() {
                known.text = record.text;
                known.nonfatal = record.nonfatal;
                known.recovery_action = record.recovery_action;
            }
            at
        } else {
            if self.records.len() >= MOST_KINDS {
                let quiet = (0..self.records.len())
                    .min_by_key(|at| self.records.get(*at).map(|known| known.last_microseconds))?;
                self.records.remove(quiet);
            }
            self.records.push(record);
            self.records.len() - 1
        };
        self.records.get(at)
    }
}

#[cfg(test)]
#[path = "xid_tests.rs"]
mod tests;
