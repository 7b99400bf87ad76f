use proptest::prelude::*;

use super::*;
use crate::gpu::kernel_log::parse_record;

const AT: &str = "0000:05:00";

fn line(log: &mut XidLog, received: u64, text: &str) -> bool {
    let record = parse_record(text.as_bytes()).unwrap();
    log.take_line(&record, Duration::from_secs(received), true).is_some()
}

fn xid(sequence: u64, seconds: u64, xid: u32) -> String {
    format!(
        "4,{sequence},{},-;NVRM: Xid (PCI:{AT}): {xid}, pid=1, name=a, text",
        seconds * 1_000_000
    )
}

fn event(log: &mut XidLog, received: u64, xid: u64) -> bool {
    let event = NvmlXid { pci: Some(format!("{AT}.0")), xid };
    let received = Duration::from_secs(received);
    log.take_event(&event, received, received).is_some()
}

fn counts(log: &XidLog) -> Vec<(u32, u64)> {
    log.records().iter().map(|record| (record.xid, record.count)).collect()
}

#[test]
fn the_same_error_from_both_is_counted_once_whoever_comes_first() {
    let mut log = XidLog::new("b");
    assert!(line(&mut log, 10, &xid(1, 10, 94)));
    assert!(!event(&mut log, 11, 94));
    assert!(event(&mut log, 20, 31));
    assert!(!line(&mut log, 22, &xid(2, 20, 31)));
    assert_eq!(counts(&log), [(94, 1), (31, 1)]);
    assert_eq!(log.records()[1].text, "pid=1, name=a, text", "the line knows more");
}

#[test]
fn pairs_are_closed_one_by_one_and_what_comes_later_is_another_error() {
    let mut log = XidLog::new("b");
    for sequence in 1..=3 {
        assert!(line(&mut log, 10, &xid(sequence, 10, 94)));
    }
    for _ in 0..3 {
        assert!(!event(&mut log, 12, 94));
    }
    assert!(event(&mut log, 12, 94), "a fourth event has no line");
    assert!(event(&mut log, 30, 94));
    assert!(line(&mut log, 36, &xid(9, 36, 94)), "six seconds later");
    assert_eq!(counts(&log), [(94, 6)]);
}

#[test]
fn a_line_that_was_there_before_waits_for_no_event() {
    let mut log = XidLog::new("b");
    let old = xid(1, 10, 94);
    log.take_line(&parse_record(old.as_bytes()).unwrap(), Duration::ZERO, false);
    assert!(event(&mut log, 1, 94));
    assert_eq!(counts(&log), [(94, 2)]);
}

#[test]
fn a_gpu_that_falls_off_is_one_loss_in_two_lines_and_an_event() {
    let fallen = |sequence, seconds: u64| {
        let at = seconds * 1_000_000;
        format!("4,{sequence},{at},-;NVRM: GPU {AT}.0: GPU has fallen off the bus.")
    };
    let mut log = XidLog::new("b");
    assert!(line(&mut log, 10, &xid(1, 10, 79)));
    assert!(!line(&mut log, 10, &fallen(2, 10)));
    assert!(!event(&mut log, 11, 79));
    let mut turned = XidLog::new("b");
    assert!(line(&mut turned, 10, &fallen(1, 10)));
    assert!(!line(&mut turned, 10, &xid(2, 10, 79)));
    assert!(!event(&mut turned, 11, 79));
    let mut first = XidLog::new("b");
    assert!(event(&mut first, 10, 79));
    assert!(!line(&mut first, 10, &xid(1, 5, 79)));
    assert!(!line(&mut first, 10, &fallen(2, 5)));
    for log in [&log, &turned, &first] {
        assert_eq!(counts(log), [(79, 1)]);
    }
    assert!(line(&mut log, 900, &fallen(3, 900)), "a quarter of an hour later it is another");
}

#[test]
fn a_restart_counts_no_line_twice_and_a_boot_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gpu-xids.json");
    let mut log = XidLog::load(&path, "boot-1");
    for sequence in 1..=3 {
        line(&mut log, 10, &xid(sequence, 10, 13));
    }
    log.save(&path).unwrap();
    let mut again = XidLog::load(&path, "boot-1");
    assert_eq!(again.sequence(), Some(3));
    assert!(!line(&mut again, 99, &xid(3, 10, 13)) && line(&mut again, 99, &xid(4, 99, 13)));
    assert_eq!(counts(&again), [(13, 4)]);
    assert_eq!(XidLog::load(&path, "boot-2"), XidLog::new("boot-2"));
    for torn in ["", "{", "[]", r#"{"boot":"boot-1"}"#] {
        fs_err::write(&path, torn).unwrap();
        assert_eq!(XidLog::load(&path, "boot-1"), XidLog::new("boot-1"), "{torn}");
    }
}

#[test]
fn when_the_driver_says_that_nothing_is_left_to_do_earlier_errors_are_settled() {
    let mut log = XidLog::new("b");
    line(&mut log, 10, &xid(1, 10, 95));
    line(
        &mut log,
        10,
        &format!(
            "4,2,11,-;NVRM: Xid (PCI:{AT}): 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"
        ),
    );
    assert!(log.records()[0].settled && !log.records()[1].settled);
    line(&mut log, 99, &xid(3, 99, 95));
    assert!(!log.records()[0].settled, "it happened again");
}

#[test]
fn the_drivers_own_name_for_an_address_is_remembered() {
    let mut log = XidLog::new("b");
    line(&mut log, 1, &format!("6,1,1,-;NVRM: GPU at PCI:{AT}: GPU-abc"));
    assert_eq!(log.uuid_at("0000:05:00.0"), Some("GPU-abc"));
}

proptest! {
    /// Whatever comes, memory is bounded and no kind is there twice.
    #[test]
    fn no_flood_of_errors_takes_memory(kinds in prop::collection::vec((0_u32..2000, 0_u8..40, any::<bool>()), 0..1500)) {
        let mut log = XidLog::new("b");
        for (sequence, (number, bus, kernel)) in kinds.into_iter().enumerate() {
            let received = Duration::from_millis(sequence as u64);
            if kernel {
                let text = format!("4,{sequence},{sequence},-;NVRM: Xid (PCI:0000:{bus:02x}:00): {number}, x");
                log.take_line(&parse_record(text.as_bytes()).unwrap(), received, true);
            } else {
                let pci = Some(format!("0000:{bus:02x}:00.0"));
                log.take_event(&NvmlXid { pci, xid: u64::from(number) }, received, received);
            }
        }
        prop_assert!(log.records.len() <= MOST_KINDS && log.waiting.len() <= MOST_WAITING);
        let mut kinds: Vec<_> = log.records.iter().map(|r| (&r.slot, r.xid, r.nonfatal)).collect();
        let all = kinds.len();
        kinds.sort();
        kinds.dedup();
        prop_assert_eq!(kinds.len(), all);
    }
}
