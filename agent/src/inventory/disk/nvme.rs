//! NVMe: who the controller is, and its health log.
//!
//! The log is in no file: it is asked of the controller with one admin command (Get Log Page 02h of the
//! NVMe base specification), which needs root. The command has a time limit of its own, and so has the
//! thread that asks.

use std::{os::fd::AsRawFd as _, sync::mpsc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::inventory::{Found, sight::Sight};

const CONTROLLERS: &str = "/sys/class/nvme";
const LOG_BYTES: usize = 512;
const COMMAND_LIMIT_MS: u32 = 1000;
const ANSWER_LIMIT: Duration = Duration::from_millis(1500);

/// An NVMe controller, by what the kernel knows of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Nvme {
    /// Controller (`nvme0`).
    pub controller: String,
    /// `live`, or what is wrong.
    pub state: Found<String>,
    /// `pcie`, `tcp`, `rdma`, `fc`.
    pub transport: Found<String>,
    /// PCI or network address.
    pub address: Found<String>,
    /// The controller's health log. Not part of the content hash.
    pub health: Found<Health>,
}

/// The health log of an NVMe controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// What is critical; empty where nothing is.
    pub warnings: Vec<String>,
    /// Temperature.
    pub celsius: i32,
    /// Spare blocks left.
    pub spare_percent: u8,
    /// Below this the maker calls it critical.
    pub spare_threshold_percent: u8,
    /// Share of its life that is used; may pass 100.
    pub used_percent: u8,
    /// Bytes written by the host.
    pub written_bytes: u64,
    /// Bytes read by the host.
    pub read_bytes: u64,
    /// Hours under power.
    pub power_on_hours: u64,
    /// Starts.
    pub power_cycles: u64,
    /// Power cuts.
    pub unsafe_shutdowns: u64,
    /// Data that could not be given back as it was.
    pub media_errors: u64,
}

/// The controller of a namespace; absent for other disks.
pub(super) fn probe(sight: &Sight, disk: &str) -> Found<Nvme> {
    let link = format!("/sys/class/block/{disk}/device");
    if !disk.starts_with("nvme") {
        return Found::absent(link);
    }
    let parent = sight.link_name(&link);
    let controller = parent.parsed(|parent| match parent.strip_prefix("nvme-subsys") {
        None => Ok(parent),
        // With native multipath the namespace belongs to the subsystem; any path may be asked.
        Some(_) => sight
            .names(&format!("/sys/class/nvme-subsystem/{parent}"))
            .value()
            .into_iter()
            .flatten()
            .find(|name| is_controller(name))
            .cloned()
            .ok_or_else(|| format!("{parent} has no controller")),
    });
    controller.map(|controller| {
        let read = |name: &str| sight.text(&format!("{CONTROLLERS}/{controller}/{name}"));
        Nvme {
            state: read("state"),
            transport: read("transport"),
            address: read("address"),
            health: probe_health(sight, &controller),
            controller,
        }
    })
}

fn is_controller(name: &str) -> bool {
    name.strip_prefix("nvme")
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

fn probe_health(sight: &Sight, controller: &str) -> Found<Health> {
    let device = format!("/dev/{controller}");
    let source = format!("{device} health log");
    let answer = sight.answer(&format!("health-{controller}"), &source, || {
        let (answer, receiver) = mpsc::sync_channel(1);
        let ask = move || {
            // Nobody waits any more where the limit is over.
            let _ = answer.send(ask_log(&device));
        };
        std::thread::Builder::new()
            .stack_size(256 * 1024)
            .spawn(ask)
            .map_err(|cause| cause.to_string())?;
        receiver
            .recv_timeout(ANSWER_LIMIT)
            .map_err(|_| format!("no answer within {} ms", ANSWER_LIMIT.as_millis()))?
    });
    answer.parsed(|log| parse(&log).ok_or_else(|| format!("a log of {} bytes", log.len())))
}

/// `struct nvme_passthru_cmd` of linux/nvme_ioctl.h.
#[repr(C)]
#[derive(Default)]
struct Command {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    words_2_3: [u32; 2],
    metadata: u64,
    address: u64,
    metadata_length: u32,
    data_length: u32,
    words_10_15: [u32; 6],
    timeout_ms: u32,
    result: u32,
}

/// `NVME_IOCTL_ADMIN_CMD`: read and write of 72 bytes, type `N`, number 0x41.
const ADMIN_COMMAND: nix::libc::c_ulong = 0xc048_4e41;
const _: () = assert!(size_of::<Command>() == 72, "as the number of the ioctl says");

fn ask_log(device: &str) -> Result<Vec<u8>, String> {
    const GET_LOG_PAGE: u8 = 0x02;
    const HEALTH: u32 = 0x02;
    /// The length, in words less one, above the page's number.
    const WORDS: u32 = (LOG_BYTES as u32 / 4 - 1) << 16;
    let file = fs_err::File::open(device).map_err(|cause| cause.kind().to_string())?;
    let mut log = vec![0_u8; LOG_BYTES];
    let mut command = Command {
        opcode: GET_LOG_PAGE,
        namespace: u32::MAX,
        address: log.as_mut_ptr() as u64,
        data_length: LOG_BYTES as u32,
        words_10_15: [HEALTH | WORDS, 0, 0, 0, 0, 0],
        timeout_ms: COMMAND_LIMIT_MS,
        ..Command::default()
    };
    #[expect(unsafe_code, reason = "an ioctl has no safe form; both buffers outlive the call")]
    // SAFETY: `command` is laid out as the kernel's struct, and says the true length of `log`.
    let status = unsafe {
        nix::libc::ioctl(file.file().as_raw_fd(), ADMIN_COMMAND, std::ptr::from_mut(&mut command))
    };
    match status {
        0 => Ok(log),
        -1 => Err(std::io::Error::last_os_error().kind().to_string()),
        status => Err(format!("the controller answered with status {status:#x}")),
    }
}

/// Numbers are little-endian; those of 16 bytes are cut to 8, which no disk outlives.
fn parse(log: &[u8]) -> Option<Health> {
    const WARNINGS: [&str; 6] = [
        "the spare blocks are used up",
        "the temperature is out of range",
        "its reliability is degraded",
        "it can only be read",
        "the backup of its volatile memory failed",
        "its persistent memory can only be read",
    ];
    /// Data is counted in thousands of 512 bytes.
    const UNIT: u64 = 512_000;
    if log.len() < LOG_BYTES {
        return None;
    }
    let long = |at: usize| log[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    let warnings = WARNINGS.iter().enumerate().filter(|(bit, _)| log[0] >> bit & 1 == 1);
    Some(Health {
        warnings: warnings.map(|(_, words)| (*words).to_owned()).collect(),
        celsius: i32::from(u16::from_le_bytes([log[1], log[2]])) - 273,
        spare_percent: log[3],
        spare_threshold_percent: log[4],
        used_percent: log[5],
        read_bytes: long(32).saturating_mul(UNIT),
        written_bytes: long(48).saturating_mul(UNIT),
        power_cycles: long(112),
        power_on_hours: long(128),
        unsafe_shutdowns: long(144),
        media_errors: long(160),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_read_at_the_places_of_the_specification() {
        let mut log = vec![0_u8; LOG_BYTES];
        log[0] = 0b101;
        log[1..3].copy_from_slice(&313_u16.to_le_bytes());
        (log[3], log[4], log[5]) = (90, 10, 104);
        log[48..56].copy_from_slice(&3_u64.to_le_bytes());
        log[128..136].copy_from_slice(&41_u64.to_le_bytes());
        log[160..168].copy_from_slice(&7_u64.to_le_bytes());
        let health = parse(&log).unwrap();
        assert_eq!(health.celsius, 40);
        assert_eq!((health.spare_percent, health.used_percent), (90, 104));
        assert_eq!(health.written_bytes, 1_536_000);
        assert_eq!((health.power_on_hours, health.media_errors), (41, 7));
        assert_eq!(health.warnings.len(), 2);
        assert!(health.warnings[1].contains("degraded"));
        assert_eq!(parse(&log[..100]), None);
    }

    #[test]
    fn controllers_are_not_namespaces() {
        assert!(is_controller("nvme0") && is_controller("nvme12"));
        assert!(!is_controller("nvme0n1") && !is_controller("nvme") && !is_controller("nvme0c0n1"));
    }
}
