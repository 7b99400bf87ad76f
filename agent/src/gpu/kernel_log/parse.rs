//! Records of `/dev/kmsg`, and the NVIDIA driver's messages in them.
//!
//! Only what the kernel itself wrote counts (facility 0): who can write to `/dev/kmsg` can't make a GPU look sick. What a
//! program can choose, its name in the message, comes after the Xid's number and is only shown.

use crate::gpu::report::RecoveryAction;

/// Longest text kept of a message.
const LONGEST_TEXT: usize = 240;

/// One record of `/dev/kmsg`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// Who wrote it; 0 is the kernel.
    pub facility: u32,
    /// Its number since boot.
    pub sequence: u64,
    /// When, since boot.
    pub microseconds: u64,
    /// What it says, without the lines of keys that may follow.
    pub message: &'a str,
}

/// A message of the NVIDIA driver that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuMessage {
    /// An error.
    Xid(LogXid),
    /// A GPU is gone from the bus. Mostly Xid 79 says so too, but not always.
    FellOff {
        /// Where it was, if the message says.
        slot: Option<String>,
    },
    /// Which GPU is at an address; the driver says so before its first error.
    Named {
        /// The address.
        slot: String,
        /// Its name for good.
        uuid: String,
    },
}

/// An error as the kernel's log tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogXid {
    /// Address of the GPU without its function, e.g. `0000:05:00`.
    pub slot: String,
    /// The GPU instance it happened in.
    pub gpu_instance: Option<u32>,
    /// Its number.
    pub xid: u32,
    /// The process that was on the GPU.
    pub pid: Option<u32>,
    /// How bad the driver calls it (NVLink 5 errors only).
    pub severity: Option<Severity>,
    /// What the driver says is to be done from now on (Xid 154 only).
    pub recovery_action: Option<RecoveryAction>,
    /// The message after the number.
    pub text: String,
}

/// How bad the driver calls an NVLink error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The link is dead.
    Fatal,
    /// It goes on.
    Nonfatal,
}

/// Read one record: `6,1234,5678901,-;message`, then lines of ` KEY=value`.
#[must_use]
pub fn parse_record(bytes: &[u8]) -> Option<Record<'_>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, rest) = text.split_once(';')?;
    let mut fields = head.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let sequence = fields.next()?.parse().ok()?;
    let microseconds = fields.next()?.parse().ok()?;
    let message = rest.split('\n').next().unwrap_or_default();
    Some(Record { facility: priority >> 3, sequence, microseconds, message })
}

/// Read a message of the driver. Nothing for any other.
#[must_use]
pub fn parse_message(message: &str) -> Option<GpuMessage> {
    let said = message.strip_prefix("NVRM: ")?;
    if let Some(rest) = said.strip_prefix("Xid (") {
        return parse_xid(rest).map(GpuMessage::Xid);
    }
    if let Some(rest) = said.strip_prefix("GPU at PCI:") {
        let (address, uuid) = rest.split_once(": ")?;
        let uuid = uuid.trim();
        let good = uuid.starts_with("GPU-") && uuid.len() <= 64 && uuid.is_ascii();
        return good.then_some(()).and_then(|()| {
            Some(GpuMessage::Named { slot: parse_slot(address)?, uuid: uuid.into() })
        });
    }
    if !said.contains("has fallen off the bus") {
        return None;
    }
    let address = said.strip_prefix("GPU ").or_else(|| said.strip_prefix("The NVIDIA GPU "));
    let address = address.and_then(|rest| rest.split([' ', '(']).next());
    Some(GpuMessage::FellOff { slot: address.and_then(|at| parse_slot(at.trim_end_matches(':'))) })
}

/// After `NVRM: Xid (`: `PCI:0000:05:00 GPU-I:03): 79, pid=1, name=x, text`. Old drivers leave `PCI:` out.
fn parse_xid(rest: &str) -> Option<LogXid> {
    let (place, rest) = rest.split_once("): ")?;
    let mut place = place.split_whitespace();
    let slot = parse_slot(place.next()?.trim_start_matches("PCI:"))?;
    let gpu_instance = place.next().and_then(|at| at.strip_prefix("GPU-I:")?.parse().ok());
    let (number, text) = rest.split_once(',').unwrap_or((rest, ""));
    let number = number.trim();
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    let xid = number.parse().ok().filter(|_| digits && number.len() <= 5)?;
    let text = text.trim();
    let pid = text.strip_prefix("pid=").and_then(|rest| {
        let end = rest.find(',').unwrap_or(rest.len());
        rest.get(..end)?.trim_matches('\'').parse().ok()
    });
    Some(LogXid {
        slot,
        gpu_instance,
        xid,
        pid,
        severity: if (144..=150).contains(&xid) { parse_severity(text) } else { None },
        recovery_action: if xid == 154 { parse_recovery(text) } else { None },
        text: shortened(text),
    })
}

/// `NETIR_LINK_EVT  Fatal   XC0 i0 Link 09 (0x…)`: the last such words, since a program's name may hold some.
fn parse_severity(text: &str) -> Option<Severity> {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.windows(2).rev().find_map(|two| match two {
        ["Fatal", link] if link.starts_with("XC") => Some(Severity::Fatal),
        ["Nonfatal", link] if link.starts_with("XC") => Some(Severity::Nonfatal),
        _ => None,
    })
}

/// `GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)`. The words change from driver to driver.
fn parse_recovery(text: &str) -> Option<RecoveryAction> {
    let (_, rest) = text.rsplit_once(" to 0x")?;
    let end = rest.bytes().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(rest.len());
    let number = rest.get(..end)?;
    u64::from_str_radix(number, 16).ok().map(RecoveryAction::from)
}

/// `0000:05:00`, also with a function or in capitals.
fn parse_slot(text: &str) -> Option<String> {
    let (address, function) = text.split_once('.').unwrap_or((text, "0"));
    let parts: Vec<&str> = address.split(':').collect();
    let hex = |part: &str, digits: std::ops::RangeInclusive<usize>| {
        digits.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let [domain, bus, device] = parts[..] else { return None };
    let good = hex(domain, 4..=8) && hex(bus, 2..=2) && hex(device, 2..=2) && hex(function, 1..=1);
    let domain = u32::from_str_radix(domain, 16).ok()?;
    good.then(|| format!("{domain:04x}:{bus}:{device}").to_lowercase())
}

/// The part of a PCI address that a message names: without the function.
#[must_use]
pub fn slot(pci: &str) -> &str {
    pci.split_once('.').map_or(pci, |(slot, _)| slot)
}

/// Bounded, and without what could move a terminal's cursor.
fn shortened(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(LONGEST_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_its_number_and_who_wrote_it() {
        let record = parse_record(b"4,1729,62917253,-;NVRM: x; y\n SUBSYSTEM=pci\n").unwrap();
        assert_eq!((record.facility, record.sequence, record.microseconds), (0, 1729, 62_917_253));
        assert_eq!(record.message, "NVRM: x; y");
        // Written by a program: facility 1 (user), level 4.
        assert_eq!(parse_record(b"12,1730,62917254,-;NVRM: x").unwrap().facility, 1);
        for bad in [&b""[..], b"4,1", b"4,1,2", b"x,1,2,-;m", b"4,-1,2,-;m", b"4,1,2,-;\xff"] {
            assert_eq!(parse_record(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn a_programs_name_can_change_neither_number_nor_severity() {
        let message = "NVRM: Xid (PCI:0000:05:00): 145, pid=7, name=a, X Nonfatal XC0, RLW_REMAP Fatal XC1 i0 Link 10 (0x1)";
        let Some(GpuMessage::Xid(xid)) = parse_message(message) else { panic!("{message}") };
        assert_eq!((xid.xid, xid.pid, xid.severity), (145, Some(7), Some(Severity::Fatal)));
    }

    #[test]
    fn what_is_no_error_of_a_gpu_is_nothing() {
        for message in [
            "",
            "Xid (PCI:0000:05:00): 79, x",
            "NVRM: Xid (PCI:0000:05:00): abc, x",
            "NVRM: Xid (PCI:0000:05:00): 123456, x",
            "NVRM: Xid (PCI:0000:05:00): +79, x",
            "NVRM: Xid (PCI:05:00): 79, x",
            "NVRM: Xid (79): GPU has fallen off",
            "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  580.95.05",
            "nvidia 0000:05:00.0: GPU has fallen off the bus",
            "NVRM: GPU at PCI:0000:05:00: something",
        ] {
            assert_eq!(parse_message(message), None, "{message}");
        }
    }
}
