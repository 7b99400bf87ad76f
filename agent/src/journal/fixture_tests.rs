//! Journals of released versions, which must load for ever.

use std::path::Path;

use super::*;
use crate::wire::Outcome;

/// Written by the first release's code: every kind of entry, a torn last line.
const V1: &[u8] = include_bytes!("../../tests/fixtures/journal/v1/journal.jsonl");

#[test]
fn the_journal_of_version_1_loads_with_every_kind_of_entry() {
    let reading = parse(V1, Path::new("v1")).unwrap();
    assert!(reading.torn);
    let kinds: Vec<String> = reading
        .records
        .iter()
        .map(|record| {
            let value = serde_json::to_value(&record.entry).unwrap();
            value.get("is").unwrap().as_str().unwrap().to_owned()
        })
        .collect();
    let expected = [
        "opened", "found", "begun", "done", "awaiting", "begun", "failed", "ended", "resumed",
        "done", "ended", "undone", "undone", "ended",
    ];
    assert_eq!(kinds, expected);
    let last = &reading.records.last().unwrap().entry;
    assert_eq!(*last, Entry::Ended { outcome: Outcome::Undone { steps: 2 } });
    let Entry::Begun { before, .. } = &reading.records[2].entry else { panic!() };
    assert_eq!(before.0.pointer("/live").unwrap(), "0");
}

#[test]
fn a_journal_of_a_newer_version_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(directory.path()).unwrap();
    let text = |text: &str| text.to_owned();
    let opened = Entry::Opened {
        version: JOURNAL_VERSION + 1,
        run: text("r"),
        cluster: text("c"),
        node: text("n"),
        plan: Digest::of(b""),
        agent: text("9.0.0"),
    };
    journal.append(0, opened).unwrap();
    let error = load(directory.path()).unwrap_err();
    assert!(matches!(error, JournalError::Broken { line: 1, .. }), "{error}");
    assert!(error.to_string().contains("journal version 2"), "{error}");
}
