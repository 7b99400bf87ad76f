//! `/proc/diskstats`: whole disks and devices of the mapper; partitions and loop devices are left out.

use super::{Sample, Source};
use crate::api::page::{Kind, Page};

#[derive(Clone, Copy)]
enum Unit {
    One,
    Sector,
    Millisecond,
}

/// The columns after a device's name, in the kernel's order; an older kernel has fewer.
const COLUMNS: &[(&str, Unit, &str)] = &[
    ("reads_completed_total", Unit::One, "The number of reads completed."),
    ("reads_merged_total", Unit::One, "The number of reads merged."),
    ("read_bytes_total", Unit::Sector, "The number of bytes read."),
    ("read_time_seconds_total", Unit::Millisecond, "Seconds spent by all reads."),
    ("writes_completed_total", Unit::One, "The number of writes completed."),
    ("writes_merged_total", Unit::One, "The number of writes merged."),
    ("written_bytes_total", Unit::Sector, "The number of bytes written."),
    ("write_time_seconds_total", Unit::Millisecond, "Seconds spent by all writes."),
    ("io_now", Unit::One, "The number of I/Os currently in progress."),
    ("io_time_seconds_total", Unit::Millisecond, "Seconds spent doing I/Os."),
    ("io_time_weighted_seconds_total", Unit::Millisecond, "Seconds spent doing I/Os, weighted."),
    ("discards_completed_total", Unit::One, "The number of discards completed."),
    ("discards_merged_total", Unit::One, "The number of discards merged."),
    ("discarded_sectors_total", Unit::One, "The number of sectors discarded."),
    ("discard_time_seconds_total", Unit::Millisecond, "Seconds spent by all discards."),
    ("flush_requests_total", Unit::One, "The number of flush requests completed."),
    ("flush_requests_time_seconds_total", Unit::Millisecond, "Seconds spent by all flushes."),
];

/// node_exporter leaves these out too.
fn is_ignored(device: &str) -> bool {
    let after = |prefix: &str| device.strip_prefix(prefix);
    let digits = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
    if ["ram", "loop", "fd"].iter().any(|prefix| after(prefix).is_some_and(digits)) {
        return true;
    }
    // sda1, vdb2, xvda3, hda1: letters and then digits; nvme0n1p1 and mmcblk0p1: `p` and digits.
    let letters_then_digits = |rest: &str| {
        let digits_from = rest.find(|letter: char| letter.is_ascii_digit()).unwrap_or(0);
        digits_from > 0
            && digits(&rest[digits_from..])
            && rest[..digits_from].bytes().all(|byte| byte.is_ascii_lowercase())
    };
    if ["sd", "vd", "xvd", "hd"].iter().any(|prefix| after(prefix).is_some_and(letters_then_digits))
    {
        return true;
    }
    after("nvme").is_some_and(|rest| rest.rsplit_once('p').is_some_and(|(_, part)| digits(part)))
}

/// Counters and gauges of every disk.
pub(super) fn diskstats(page: &mut Page, sample: &Sample) {
    let rows: Vec<(&str, Vec<u64>)> = sample
        .text(Source::Disks)
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace().skip(2);
            let device = fields.next().filter(|device| !is_ignored(device))?;
            Some((device, fields.map_while(|field| field.parse().ok()).collect()))
        })
        .collect();
    for (column, (name, unit, help)) in COLUMNS.iter().enumerate() {
        let kind = if name.ends_with("_total") { Kind::Counter } else { Kind::Gauge };
        page.family(&format!("node_disk_{name}"), kind, help);
        for (device, numbers) in &rows {
            let Some(number) = numbers.get(column).copied() else { continue };
            let labels = [("device", *device)];
            match unit {
                Unit::One => page.sample(&labels, number),
                Unit::Sector => page.sample(&labels, number.saturating_mul(512)),
                Unit::Millisecond => page.sample(&labels, number as f64 / 1000.0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::collect::tests::page_of;

    #[test]
    fn disks_are_told_in_bytes_and_seconds_and_their_parts_are_left_out() {
        let page = page_of(&[(
            Source::Disks,
            " 254 0 vda 10 1 20 3000 40 5 60 7000 8 9000 10000 11 12 13 14000 15 16000\n \
             259 0 nvme0n1 1 2 3 4 5 6 7 8 9 10 11\n 259 1 nvme0n1p1 1 2 3 4 5 6 7 8 9 10 11\n \
             7 0 loop0 1 2 3 4 5 6 7 8 9 10 11\n 8 1 sda1 1 2 3 4 5 6 7 8 9 10 11\n 8 1\nnonsense\n",
        )]);
        for line in [
            "node_disk_reads_completed_total{device=\"vda\"} 10",
            "node_disk_read_bytes_total{device=\"vda\"} 10240",
            "node_disk_write_time_seconds_total{device=\"vda\"} 7",
            "node_disk_io_now{device=\"vda\"} 8",
            "node_disk_io_time_seconds_total{device=\"vda\"} 9",
            "node_disk_io_time_weighted_seconds_total{device=\"vda\"} 10",
            "node_disk_discards_completed_total{device=\"vda\"} 11",
            "node_disk_discard_time_seconds_total{device=\"vda\"} 14",
            "node_disk_flush_requests_total{device=\"vda\"} 15",
            "node_disk_flush_requests_time_seconds_total{device=\"vda\"} 16",
            "node_disk_io_now{device=\"nvme0n1\"} 9",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        for absent in ["loop0", "sda1", "nvme0n1p1", "flush_requests_total{device=\"nvme0n1\"}"] {
            assert!(!page.contains(absent), "{absent} in\n{page}");
        }
    }

    #[test]
    fn whole_disks_are_told_from_their_parts() {
        for device in ["sda1", "vdb12", "xvda3", "hda1", "nvme0n1p15", "loop7", "ram0", "fd0"] {
            assert!(is_ignored(device), "{device}");
        }
        for device in
            ["sda", "sdaa", "vda", "nvme10n2", "dm-0", "md127", "mmcblk0", "sr0", "nvme0n1"]
        {
            assert!(!is_ignored(device), "{device}");
        }
    }
}
