use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use super::{write::LOCK_PAUSE, *};
use crate::small_disk::SmallDisk;

fn opened() -> Entry {
    Entry::Opened {
        version: JOURNAL_VERSION,
        run: "r".to_owned(),
        cluster: "c".to_owned(),
        node: "n".to_owned(),
        plan: Digest::of(b"plan"),
        agent: "0.1.0".to_owned(),
    }
}

fn found(step: &str) -> Entry {
    Entry::Found { step: step.to_owned() }
}

fn three_lines(directory: &Path) -> Vec<u8> {
    let mut journal = Journal::open(directory).unwrap();
    for entry in [opened(), found("a"), found("b")] {
        journal.append(7, entry).unwrap();
    }
    fs_err::read(directory.join(FILE_NAME)).unwrap()
}

#[test]
fn what_was_written_is_read_back_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    three_lines(directory.path());
    let mut journal = Journal::open(directory.path()).unwrap();
    assert!(!journal.was_torn());
    assert_eq!(journal.records().len(), 3);
    assert_eq!(journal.append(8, found("c")).unwrap().seq, 4);
    drop(journal);
    assert_eq!(load(directory.path()).unwrap().records[3].entry, found("c"));
}

#[test]
fn a_journal_cut_at_any_byte_loads_with_its_whole_lines_and_takes_new_ones() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = three_lines(directory.path());
    for length in 0..bytes.len() {
        let directory = tempfile::tempdir().unwrap();
        fs_err::write(directory.path().join(FILE_NAME), &bytes[..length]).unwrap();
        let whole = bytes[..length].iter().filter(|byte| **byte == b'\n').count();
        let torn = bytes[..length].last().is_some_and(|byte| *byte != b'\n');
        let mut journal = Journal::open(directory.path()).unwrap();
        assert_eq!((journal.records().len(), journal.was_torn()), (whole, torn), "{length}");
        journal.append(9, found("z")).unwrap();
        drop(journal);
        assert_eq!(load(directory.path()).unwrap().records.len(), whole + 1, "{length}");
    }
}

#[test]
fn a_flipped_byte_in_any_whole_line_is_refused_with_its_number() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = three_lines(directory.path());
    for place in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[place] ^= 1;
        let line = bytes[..place].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        match parse(&damaged, Path::new("journal.jsonl")) {
            Err(JournalError::Broken { line: found, .. }) => assert_eq!(found, line, "{place}"),
            // Without its last line end the last line is torn, which is no damage inside.
            Ok(reading) => assert!(reading.torn && place == bytes.len() - 1, "{place}"),
            Err(other) => panic!("{place}: {other}"),
        }
    }
}

#[test]
fn lost_and_swapped_lines_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = three_lines(directory.path());
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    for order in [vec![1, 2], vec![0, 2], vec![1, 0, 2], vec![0, 0]] {
        let shuffled: Vec<u8> = order.iter().flat_map(|n| lines[*n].to_vec()).collect();
        assert!(parse(&shuffled, Path::new("j")).is_err(), "{order:?}");
    }
}

#[test]
fn a_journal_that_is_too_large_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    three_lines(directory.path());
    let path = directory.path().join(FILE_NAME);
    let file = fs_err::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(MAX_JOURNAL_BYTES + 7).unwrap();
    for refused in [
        Journal::open(directory.path()).map(|_| ()).unwrap_err(),
        load(directory.path()).map(|_| ()).unwrap_err(),
    ] {
        assert_eq!(refused.code(), "JOURNAL-001", "{refused}");
    }
    assert_eq!(fs_err::metadata(&path).unwrap().len(), MAX_JOURNAL_BYTES + 7);
}

/// Bytes behind the whole lines, as a write that ran out of disk leaves them.
#[test]
fn a_line_after_one_that_failed_follows_the_last_whole_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(directory.path()).unwrap();
    journal.append(1, opened()).unwrap();
    let path = directory.path().join(FILE_NAME);
    let mut file = fs_err::OpenOptions::new().append(true).open(&path).unwrap();
    std::io::Write::write_all(&mut file, b"{\"seq\":2,\"prev\":").unwrap();
    journal.append(2, found("a")).unwrap();
    drop(journal);
    let reading = load(directory.path()).unwrap();
    assert_eq!((reading.records.len(), reading.torn), (2, false));
}

#[test]
fn a_second_writer_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let first = Journal::open(directory.path()).unwrap();
    assert!(is_busy(directory.path()).unwrap());
    assert!(matches!(Journal::open(directory.path()), Err(JournalError::Busy { .. })));
    drop(first);
    assert!(!is_busy(directory.path()).unwrap());
}

#[test]
fn a_look_at_the_journal_does_not_keep_its_run_from_starting() {
    let directory = tempfile::tempdir().unwrap();
    drop(Journal::open(directory.path()).unwrap());
    let file = std::fs::OpenOptions::new().read(true).open(directory.path().join(FILE_NAME));
    let look = Flock::lock(file.unwrap(), FlockArg::LockSharedNonblock).unwrap();
    let looker = std::thread::spawn(move || {
        std::thread::sleep(LOCK_PAUSE);
        drop(look);
    });
    assert!(Journal::open(directory.path()).is_ok());
    looker.join().unwrap();
}

#[test]
fn on_a_full_disk_the_journal_keeps_its_whole_lines_and_goes_on_once_there_is_room() {
    let name = "journal::tests::\
                on_a_full_disk_the_journal_keeps_its_whole_lines_and_goes_on_once_there_is_room";
    let Some(disk) = SmallDisk::within(name, 64) else { return };
    let run = disk.root().join("r1");
    fs_err::create_dir(&run).unwrap();
    let mut journal = Journal::open(&run).unwrap();
    journal.append(0, opened()).unwrap();
    // Lines of many lengths, so that the disk ends at many places within a line.
    for round in 1..40 {
        disk.leave(1);
        let step = "s".repeat(round * 37);
        let error = loop {
            if let Err(error) = journal.append(1, found(&step)) {
                break error;
            }
        };
        assert_eq!(error.code(), "JOURNAL-001");
        assert!(error.hint().is_some_and(|hint| hint.contains("disk space")), "{error}");
        let reading = load(&run).unwrap();
        assert_eq!((reading.records.as_slice(), reading.torn), (journal.records(), false));
        assert!(journal.append(1, found(&step)).is_err(), "there is still no room");
        disk.free();
        journal.append(2, found("room")).unwrap();
        assert_eq!(load(&run).unwrap().records, journal.records());
    }
    drop(journal);
    assert!(!Journal::open(&run).unwrap().was_torn());
}
