use proptest::prelude::*;

use super::*;
use crate::{
    meter::record::Record,
    usage::{samples, unpack},
};

const HOUR: i64 = 3600;

/// 2000-02-29.
const NOW: i64 = 951_782_400;

fn batch(level: Level, from: i64, first: u64) -> Vec<u8> {
    batch::encode(&samples::stretch(("n1", [7; 16]), level, 3, from, first)).unwrap()
}

fn journal() -> JournalId {
    JournalId::from_bytes([7; 16])
}

fn all(shelf: &Shelf, level: Level) -> Vec<Record> {
    let mut records = Vec::new();
    let span = Span { from: 0, to: i64::MAX / 4 };
    let damaged = shelf
        .each(level, span, |_, bytes| {
            records.extend(unpack::decode(bytes).unwrap());
            Ok(())
        })
        .unwrap();
    assert_eq!(damaged, []);
    records
}

#[test]
fn what_comes_twice_counts_once_and_in_parts_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    let (one, two) = (batch(Level::Hour, NOW, 1), batch(Level::Hour, NOW + HOUR, 5));
    assert_eq!(store.take(&two, "n1").unwrap(), Taken { new: 4, known: 0 });
    assert_eq!(store.take(&one, "n1").unwrap(), Taken { new: 4, known: 0 });
    assert_eq!(store.take(&one, "n1").unwrap(), Taken { new: 0, known: 4 });
    // The same records, cut otherwise, with two that are new.
    let longer = samples::stretch(("n1", [7; 16]), Level::Hour, 5, NOW + HOUR, 5);
    assert_eq!(
        store.take(&batch::encode(&longer).unwrap(), "n1").unwrap(),
        Taken { new: 2, known: 4 }
    );
    store.commit().unwrap();
    drop(store);
    let shelf = Shelf::open(folder.path()).unwrap();
    let mut numbers: Vec<u64> = all(&shelf, Level::Hour).iter().map(|record| record.seq).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=10).collect::<Vec<_>>());
    let mut again = Store::open(folder.path()).unwrap();
    assert_eq!(again.take(&two, "n1").unwrap(), Taken { new: 0, known: 4 });
    assert_eq!(again.held(journal()).until, NOW + 2 * HOUR);
}

#[test]
fn what_was_not_committed_was_never_taken() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    store.take(&batch(Level::Hour, NOW, 1), "n1").unwrap();
    store.commit().unwrap();
    store.take(&batch(Level::Hour, NOW + HOUR, 5), "n1").unwrap();
    store.take(&batch(Level::Day, NOW, 1), "n1").unwrap();
    // Killed here. A reader sees what was committed, and so does the next one who writes.
    drop(store);
    assert_eq!(all(&Shelf::open(folder.path()).unwrap(), Level::Hour).len(), 4);
    let mut store = Store::open(folder.path()).unwrap();
    assert!(!folder.path().join("days/2000-02.log").exists(), "nothing of it was promised");
    assert_eq!(
        store.take(&batch(Level::Hour, NOW + HOUR, 5), "n1").unwrap(),
        Taken { new: 4, known: 0 }
    );
    store.commit().unwrap();
    assert_eq!(all(store.shelf(), Level::Hour).len(), 8);
}

#[test]
fn a_lost_index_is_made_anew_from_what_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    for (place, first) in [1, 5, 9].into_iter().enumerate() {
        store.take(&batch(Level::Hour, NOW + HOUR * place as i64, first), "n1").unwrap();
    }
    store.commit().unwrap();
    drop(store);
    let file = folder.path().join("hours/2000-02-29.log");
    let whole = fs_err::read(&file).unwrap();
    for (index, kept) in [(None, 12), (Some("{"), 12), (Some(""), 12)] {
        match index {
            None => fs_err::remove_file(folder.path().join("index.json")).unwrap(),
            Some(text) => fs_err::write(folder.path().join("index.json"), text).unwrap(),
        }
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.held(journal()).hours.count(), kept);
        assert_eq!(all(store.shelf(), Level::Hour).len(), 12);
    }
    // A bit that turned in the second batch, and no index: the first is there, and the sender may bring the others again.
    let mut damaged = whole.clone();
    let place = whole.len() / 2;
    damaged[place] ^= 1;
    fs_err::write(&file, &damaged).unwrap();
    let span = Span { from: 0, to: i64::MAX / 4 };
    let told = Shelf::open(folder.path()).unwrap().each(Level::Hour, span, |_, _| Ok(())).unwrap();
    assert_eq!(told.len(), 1);
    assert!(told[0].at > 0 && (told[0].at as usize) < place, "{told:?}");
    fs_err::remove_file(folder.path().join("index.json")).unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    assert_eq!(store.held(journal()).hours.count(), 4);
    assert_eq!(
        store.take(&batch(Level::Hour, NOW + HOUR, 5), "n1").unwrap(),
        Taken { new: 4, known: 0 }
    );
}

#[test]
fn two_can_not_write_at_once_and_what_is_no_batch_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    let busy = Store::open(folder.path()).unwrap_err();
    assert_eq!(busy.code(), "AGENT-132");
    for wrong in
        [Vec::new(), b"KUB1".to_vec(), batch(Level::Minute, NOW, 1), vec![0; MAX_BATCH + 1]]
    {
        let error = store.take(&wrong, "node w1").unwrap_err();
        assert_eq!(error.code(), "AGENT-131");
        assert!(error.to_string().contains("node w1"));
    }
    let mut cut = batch(Level::Hour, NOW, 1);
    cut.truncate(cut.len() - 1);
    assert!(store.take(&cut, "n1").is_err());
    assert!(!store.is_changed());
    assert_eq!(store.shelf().bytes(), 0);
}

#[test]
fn old_hours_go_but_not_those_without_a_day_nor_those_that_say_who_pays() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    let stretch = |journal: u8, level, from, first| {
        batch::encode(&samples::stretch(("n1", [journal; 16]), level, 3, from, first)).unwrap()
    };
    let old = NOW - 50 * DAY;
    for (journal, from) in [(1, old), (2, old), (1, old + DAY), (1, NOW - DAY)] {
        let first = u64::try_from(from - old).unwrap() + 1;
        store.take(&stretch(journal, Level::Hour, from, first), "n1").unwrap();
    }
    // The second journal has no record of its day: it ended before.
    store.take(&stretch(1, Level::Day, old, 1), "n1").unwrap();
    store.take(&stretch(1, Level::Day, old + DAY, 5), "n1").unwrap();
    store.commit().unwrap();
    let limits = Limits { hour_days: 40, days: 400, bytes: u64::MAX };
    let freed = store.prune(NOW, &limits, &|day| day == old + DAY).unwrap();
    assert!(freed > 0);
    let left: Vec<(JournalId, i64)> = all(store.shelf(), Level::Hour)
        .iter()
        .map(|record| (record.journal, record.from))
        .collect();
    let has = |journal: u8, from| left.contains(&(JournalId::from_bytes([journal; 16]), from));
    assert!(!has(1, old), "its day is kept");
    assert!(has(2, old), "nothing else tells of it");
    assert!(has(1, old + DAY), "somebody else paid from some hour on");
    assert!(has(1, NOW - DAY), "young");
    // What went is still known: it is not taken in a second time.
    assert_eq!(store.take(&stretch(1, Level::Hour, old, 1), "n1").unwrap().new, 0);
    store.prune(NOW, &Limits { days: 30, ..limits }, &|_| true).unwrap();
    assert!(
        all(store.shelf(), Level::Day).is_empty()
            == (NOW - 30 * DAY > crate::usage::calendar::month_around(old).1)
    );
    drop(store);
    Store::open(folder.path()).unwrap();
}

#[test]
fn too_much_is_never_on_the_disk_for_long() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    for day in 0..60 {
        let from = NOW - (60 - day) * DAY;
        store.take(&batch(Level::Day, from, u64::try_from(day).unwrap() * 4 + 1), "n1").unwrap();
        store.take(&batch(Level::Hour, from, u64::try_from(day).unwrap() * 4 + 1), "n1").unwrap();
    }
    store.commit().unwrap();
    let bytes = store.shelf().bytes();
    let limits = Limits { bytes: bytes / 4, ..Limits::default() };
    store.prune(NOW, &limits, &|_| false).unwrap();
    assert!(store.shelf().bytes() <= bytes / 4, "{} of {bytes}", store.shelf().bytes());
    assert!(!all(store.shelf(), Level::Day).is_empty(), "the youngest month stays");
    let on_disk: u64 = ["hours", "days"]
        .iter()
        .flat_map(|part| fs_err::read_dir(folder.path().join(part)).unwrap())
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert_eq!(on_disk, store.shelf().bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// A node sends, control planes die before or after keeping, answers get lost: each record is there once in the end.
    #[test]
    fn whatever_is_sent_again_and_whenever_it_dies_each_record_counts_once(
        sends in prop::collection::vec((0_usize..12, prop::bool::ANY, prop::bool::ANY), 1..40),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let batches: Vec<Vec<u8>> = (0..12).map(|place| batch(Level::Hour, NOW + HOUR * place, u64::try_from(place).unwrap() * 4 + 1)).collect();
        let mut committed = std::collections::BTreeSet::new();
        let mut pending = Vec::new();
        let mut store = Store::open(folder.path()).unwrap();
        for (place, commit, die) in sends {
            store.take(&batches[place], "n1").unwrap();
            pending.push(place);
            if commit {
                store.commit().unwrap();
                committed.extend(pending.drain(..));
            }
            if die {
                drop(store);
                pending.clear();
                store = Store::open(folder.path()).unwrap();
            }
        }
        store.commit().unwrap();
        committed.extend(pending);
        let mut numbers: Vec<u64> = all(store.shelf(), Level::Hour).iter().map(|record| record.seq).collect();
        numbers.sort_unstable();
        let wanted: Vec<u64> = committed.iter().flat_map(|place| (1..=4).map(move |one| *place as u64 * 4 + one)).collect();
        prop_assert_eq!(numbers, wanted);
    }
}
