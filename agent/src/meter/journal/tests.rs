use std::collections::BTreeSet;

use super::*;
use crate::{
    meter::{
        record::{Amounts, Pod, Resource, Subject},
        sample::{Counter, Height, Reading},
    },
    small_disk::SmallDisk,
};

const ID: [u8; 16] = [9; 16];

fn sample(turn: u64) -> Sample {
    let reading = |number: u64| {
        let pod = Pod {
            uid: format!("u{number}"),
            namespace: "a".into(),
            name: format!("p{number}"),
            ..Pod::default()
        };
        let subject = if number == 0 { Subject::Node } else { Subject::Pod(pod) };
        let counter = Counter {
            resource: Resource::CpuTime,
            device: None,
            source: String::new(),
            value: turn * (number + 1) * 1_000,
        };
        let level = Height { resource: Resource::Memory, device: None, value: 1 << 20 };
        Reading {
            subject,
            life: 1,
            begun_boot_ms: None,
            counters: vec![counter],
            levels: vec![level],
            missing: vec![],
        }
    };
    Sample {
        unix_ms: 1_767_225_600_000 + turn as i64 * 15_000,
        boot_ms: turn * 15_000,
        boot: [1; 16],
        every_ms: 15_000,
        node: "n".to_owned(),
        whole: true,
        readings: (0..3).map(reading).collect(),
    }
}

fn open(folder: &Path) -> Journal {
    Journal::open(folder, JournalId::from_bytes(ID)).unwrap()
}

fn all(folder: &Path, level: Level) -> Vec<Record> {
    read(folder, level, None, usize::MAX).unwrap().records
}

/// All that is counted: records of minutes, and what is under way.
fn counted(folder: &Path, journal: &Journal) -> Vec<(String, u128)> {
    let mut sums = std::collections::BTreeMap::new();
    let mut add = |subject: &Subject, amounts: &Amounts| {
        let name = match subject {
            Subject::Node => "node".to_owned(),
            Subject::Pod(pod) => pod.uid.clone(),
        };
        *sums.entry(name).or_default() += amounts.of(Resource::CpuTime);
    };
    all(folder, Level::Day).iter().for_each(|one| add(&one.subject, &one.amounts));
    journal.tally().under_way().for_each(|(subject, amounts)| add(subject, amounts));
    sums.into_iter().collect()
}

#[test]
fn a_journal_that_is_killed_between_any_two_samples_goes_on_as_if_it_was_not() {
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut journal = open(whole.path());
    for turn in 0..300 {
        journal.take(&sample(turn)).unwrap();
        // Dropped without a word, at every place.
        open(killed.path()).take(&sample(turn)).unwrap();
    }
    for level in Level::ALL {
        assert_eq!(all(whole.path(), level), all(killed.path(), level), "{level:?}");
    }
    let hours = all(whole.path(), Level::Hour);
    assert_eq!(hours.len(), 3);
    let minutes: u128 = all(whole.path(), Level::Minute)[..60 * 3]
        .iter()
        .map(|one| one.amounts.of(Resource::CpuTime))
        .sum();
    assert_eq!(hours.iter().map(|one| one.amounts.of(Resource::CpuTime)).sum::<u128>(), minutes);
    assert_eq!(counted(killed.path(), &open(killed.path())), counted(whole.path(), &journal));
}

/// The files as a power cut may leave them: those that were not synced are cut anywhere, or end in zeros.
#[test]
fn after_a_power_cut_at_any_byte_of_a_sample_that_sample_alone_is_missing_and_nothing_counts_twice()
{
    let origin = tempfile::tempdir().unwrap();
    let mut journal = open(origin.path());
    (0..7).for_each(|turn| journal.take(&sample(turn)).unwrap());
    let before = newest(origin.path());
    let good = fs_err::read(&before).unwrap().len();
    journal.take(&sample(7)).unwrap();
    drop(journal);
    let bytes = fs_err::read(&before).unwrap();
    assert!(bytes.len() > good);
    for cut in good..=bytes.len() {
        for zeros in [0, 64] {
            let folder = tempfile::tempdir().unwrap();
            copy(origin.path(), folder.path());
            let mut left = bytes[..cut].to_vec();
            left.resize(left.len() + zeros, 0);
            fs_err::write(newest(folder.path()), left).unwrap();
            let mut journal = open(folder.path());
            assert_eq!(journal.warning(), None);
            // Zeros in place of zeros are the sample itself.
            let is_whole = bytes[cut..].iter().all(|byte| zeros > 0 && *byte == 0);
            let turns = if is_whole { 7 } else { 6 };
            let now = counted(folder.path(), &journal);
            assert_eq!(now[0], ("node".to_owned(), turns * 1_000), "cut at {cut}, {zeros} zeros");
            journal.take(&sample(8)).unwrap();
            let now = counted(folder.path(), &journal);
            assert_eq!(now[0].1, 8_000, "the next sample has all of it");
            assert_eq!(now[2].1, 24_000);
        }
    }
}

/// Records that were told and whose end did not come to the disk are written again, the same.
#[test]
fn a_torn_record_is_written_again_with_its_number() {
    let origin = tempfile::tempdir().unwrap();
    let mut journal = open(origin.path());
    (0..13).for_each(|turn| journal.take(&sample(turn)).unwrap());
    drop(journal);
    let wanted = all(origin.path(), Level::Minute);
    assert_eq!(wanted.len(), 9);
    let segment = origin.path().join("minute/0000000001.kdm");
    let bytes = fs_err::read(&segment).unwrap();
    for cut in 0..bytes.len() {
        fs_err::write(&segment, &bytes[..cut]).unwrap();
        // The samples since the tally make them again: it is younger than ten minutes.
        let folder = tempfile::tempdir().unwrap();
        copy(origin.path(), folder.path());
        drop(open(folder.path()));
        assert_eq!(all(folder.path(), Level::Minute), wanted, "cut at {cut}");
        assert_eq!(verify(folder.path(), Level::Minute).unwrap().problems, Vec::<String>::new());
    }
}

#[test]
fn a_damaged_open_file_begins_a_new_journal_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = open(folder.path());
    (0..9).for_each(|turn| journal.take(&sample(turn)).unwrap());
    drop(journal);
    let path = newest(folder.path());
    let mut bytes = fs_err::read(&path).unwrap();
    bytes[40] ^= 1;
    fs_err::write(&path, bytes).unwrap();
    let mut journal = Journal::open(folder.path(), JournalId::from_bytes([3; 16])).unwrap();
    assert!(journal.warning().unwrap().contains("damaged"), "{:?}", journal.warning());
    (9..20).for_each(|turn| journal.take(&sample(turn)).unwrap());
    let records = all(folder.path(), Level::Minute);
    let ids: BTreeSet<JournalId> = records.iter().map(|one| one.journal).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(verify(folder.path(), Level::Minute).unwrap().problems, Vec::<String>::new());
    let id = JournalId::from_bytes(ID);
    let rest =
        read(folder.path(), Level::Minute, Some(Cursor { journal: id, seq: 4 }), 1000).unwrap();
    assert_eq!(rest.records.len(), records.len() - 4);
}

#[test]
fn who_reads_in_small_parts_gets_every_record_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = open(folder.path());
    let (mut cursor, mut got, mut lost) = (None, Vec::new(), 0);
    for turn in 0..400 {
        journal.take(&sample(turn)).unwrap();
        let batch = read(folder.path(), Level::Minute, cursor, 2).unwrap();
        lost += batch.lost;
        if let Some(last) = batch.records.last() {
            cursor = Some(Cursor { journal: last.journal, seq: last.seq });
        }
        got.extend(batch.records);
    }
    assert_eq!((got, lost), (all(folder.path(), Level::Minute), 0));
    let nothing = read(folder.path(), Level::Day, None, 9).unwrap();
    assert_eq!(nothing, Batch::default());
}

#[test]
fn the_oldest_go_where_there_is_no_room_and_a_reader_is_told_what_he_missed() {
    let folder = tempfile::tempdir().unwrap();
    let level = Level::Minute;
    let mut shelf = Shelf::open(folder.path(), JournalId::from_bytes(ID), level).unwrap();
    let mut seq = 0;
    // Names that don't pack, so that it is full soon.
    let noise = |seq: u64| hex::encode(<sha2::Sha256 as sha2::Digest>::digest(seq.to_le_bytes()));
    while segment::list(folder.path()).unwrap().first().is_none_or(|(number, _)| *number < 3) {
        let records: Vec<Record> = (0..200)
            .map(|_| {
                seq += 1;
                let pod = Pod { uid: noise(seq), name: noise(seq + (1 << 40)), ..Pod::default() };
                Record {
                    journal: JournalId::from_bytes(ID),
                    seq,
                    level,
                    from: 60,
                    to: 120,
                    node: "n".into(),
                    subject: Subject::Pod(pod),
                    amounts: Amounts::default(),
                    marks: super::super::record::Marks::default(),
                }
            })
            .collect();
        shelf.append(&records).unwrap();
        let sizes = segment::list(folder.path()).unwrap();
        let sum: u64 = sizes.iter().map(|(_, path)| fs_err::metadata(path).unwrap().len()).sum();
        assert!(sum <= segment::budget(level), "{sum}");
    }
    let parent = tempfile::tempdir().unwrap();
    fs_err::rename(folder.path(), parent.path().join("minute")).unwrap();
    let cursor = Some(Cursor { journal: JournalId::from_bytes(ID), seq: 5 });
    let batch = read(parent.path(), level, cursor, usize::MAX).unwrap();
    assert_eq!(batch.lost, batch.records[0].seq - 6);
    assert!(batch.lost > 0 && batch.records.last().unwrap().seq == seq);
    std::mem::forget(folder);
}

#[test]
fn a_second_writer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _first = open(folder.path());
    let error = Journal::open(folder.path(), JournalId::from_bytes(ID)).unwrap_err();
    assert_eq!(error.code(), "AGENT-112");
}

#[test]
fn on_a_full_disk_samples_wait_and_what_counters_grew_by_is_counted_when_there_is_room() {
    let test = "meter::journal::tests::on_a_full_disk_samples_wait_and_what_counters_grew_by_is_counted_when_there_is_room";
    let Some(disk) = SmallDisk::within(test, 64) else { return };
    let meter = disk.root().join("meter");
    let mut journal = Some(open(&meter));
    let mut refused = 0;
    for turn in 0..200 {
        match turn % 40 {
            5 => disk.leave(0),
            25 => disk.free(),
            _ => {}
        }
        if turn % 7 == 0 {
            // One that was killed begins a file, for which there may be no room.
            drop(journal.take());
        }
        if journal.is_none() {
            journal = Journal::open(&meter, JournalId::from_bytes(ID)).ok();
        }
        let taken = journal.as_mut().is_some_and(|journal| journal.take(&sample(turn)).is_ok());
        refused += u32::from(!taken);
    }
    disk.free();
    let mut journal = journal.unwrap_or_else(|| open(&meter));
    journal.take(&sample(200)).unwrap();
    assert!(refused > 10, "{refused} samples had no room");
    assert_eq!(counted(&meter, &journal)[0].1, 200_000);
    for level in Level::ALL {
        assert_eq!(verify(&meter, level).unwrap().problems, Vec::<String>::new());
    }
    let ids: BTreeSet<JournalId> =
        all(&meter, Level::Minute).iter().map(|one| one.journal).collect();
    assert_eq!(ids.len(), 1, "no new journal began");
}

fn newest(folder: &Path) -> PathBuf {
    let mut all: Vec<PathBuf> =
        fs_err::read_dir(folder.join("open")).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all.pop().unwrap()
}

fn copy(from: &Path, to: &Path) {
    for entry in fs_err::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let place = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs_err::create_dir_all(&place).unwrap();
            copy(&entry.path(), &place);
        } else {
            fs_err::copy(entry.path(), &place).unwrap();
        }
    }
}
