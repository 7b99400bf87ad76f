//! What the log promises, on real files in a folder of its own.

use std::{collections::BTreeSet, path::Path};

use super::{
    chain::{Findings, Problem, Walk},
    export::{self, Content, Verdict},
    key::{NamedKey, NodeKey, parse_keys, render_keys},
    *,
};

fn moment(at: u64) -> Moment {
    Moment { at_unix_ms: at, boot: "b-1".to_owned() }
}

fn deed(number: u64) -> Entry {
    Entry::HealEnded { number, outcome: "done".to_owned(), detail: String::new() }
}

/// A log with so many deeds (and what it says of itself).
fn written(folder: &Path, deeds: u64) -> Log {
    let log = Log::at(&folder.join("audit"));
    for number in 1..=deeds {
        log.append(&deed(number), &Who::part("heal"), &moment(number)).unwrap();
    }
    log
}

fn lines_of(log: &Log) -> std::path::PathBuf {
    log.folder().join("00000000000000000001.jsonl")
}

fn keys_of(log: &Log, node: &str) -> Vec<NamedKey> {
    let key = NodeKey::load(log.folder()).unwrap().unwrap().public();
    vec![NamedKey { node: node.to_owned(), key }]
}

fn check(log: &Log) -> Verdict {
    let file = export::of_log(log, "w1", 99).unwrap();
    let mut all = export::verify(&file, &keys_of(log, "w1"), &mut |_, _| {}).unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn words(findings: &Findings) -> Vec<&'static str> {
    findings.problems.iter().map(Problem::word).collect()
}

#[test]
fn what_is_written_comes_back_in_order_and_verifies_with_the_public_key_alone() {
    let folder = tempfile::tempdir().unwrap();
    let log = written(folder.path(), 70);
    let file = export::of_log(&log, "w1", 99).unwrap();
    let mut kinds = Vec::new();
    let mut seen = |node: &str, line: &Line| {
        assert_eq!(node, "w1");
        kinds.push((line.seq, line.kind.clone()));
    };
    let verdicts = export::verify(&file, &keys_of(&log, "w1"), &mut seen).unwrap();
    let Findings { lines, first, last, problems, remarks, .. } = &verdicts[0].findings;
    assert_eq!((problems.len(), remarks.len()), (0, 0), "{verdicts:?}");
    // The log's own first line, 70 deeds, one checkpoint.
    assert_eq!((*lines, *first, *last), (72, Some(1), Some(72)));
    assert_eq!(kinds[0], (1, "log.opened".to_owned()));
    assert_eq!(kinds[64], (65, "log.checkpoint".to_owned()));
    assert_eq!(verdicts[0].held_against, ["the node's own head"]);
}

/// Issue 5's bar: every single-bit flip of an export is detected.
#[test]
fn every_single_bit_flip_of_an_export_is_detected() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::at(&folder.path().join("audit"));
    for number in 1..=6 {
        log.append(&deed(number), &Who::part("heal"), &moment(number)).unwrap();
    }
    let keys = keys_of(&log, "w1");
    let good = |file: &[u8]| {
        export::verify(file, &keys, &mut |_, _| {})
            .is_ok_and(|all| all.iter().all(|one| one.findings.is_good()))
    };
    let mut file = export::of_log(&log, "w1", 99).unwrap();
    assert!(good(&file));
    for bit in 0..file.len() * 8 {
        file[bit / 8] ^= 1 << (bit % 8);
        assert!(!good(&file), "bit {} of byte {} is not covered", bit % 8, bit / 8);
        file[bit / 8] ^= 1 << (bit % 8);
    }
    for length in 0..file.len() {
        assert!(!good(&file[..length]), "cut to {length} bytes");
    }
}

/// A name, what is done to the lines, and what is told of it.
type Case = (&'static str, fn(&mut Vec<String>), &'static [&'static str]);

#[test]
fn a_changed_a_missing_a_torn_line_and_a_cut_tail_are_told_apart() {
    let cases: [Case; 6] = [
        ("changed", |lines| lines[3] = lines[3].replace("done", "gone"), &["changed-line"]),
        ("removed", |lines| drop(lines.remove(3)), &["missing-lines"]),
        ("swapped", |lines| lines.swap(3, 4), &["missing-lines", "out-of-order", "missing-lines"]),
        ("torn", |lines| lines[7].truncate(40), &["torn-line"]),
        ("tail", |lines| lines.truncate(5), &["cut-tail"]),
        ("start", |lines| drop(lines.drain(..2)), &["missing-start"]),
    ];
    for (name, harm, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let log = written(folder.path(), 7);
        let path = lines_of(&log);
        let text = fs_err::read_to_string(&path).unwrap();
        let mut lines: Vec<String> = text.lines().map(|line| format!("{line}\n")).collect();
        assert_eq!(lines.len(), 8);
        harm(&mut lines);
        fs_err::write(&path, lines.concat()).unwrap();
        let found = words(&check(&log).findings);
        let told: Vec<_> = found.iter().filter(|word| **word != "cut-tail").copied().collect();
        match name {
            "tail" => assert_eq!(found, expected),
            _ => assert_eq!(told, expected, "{name}: {found:?}"),
        }
    }
}

/// Who has no key can still make lines whose digests fit; what signed heads say shows it.
#[test]
fn a_line_written_anew_with_a_digest_that_fits_is_told_by_the_next_line_or_by_the_head() {
    for (changed, expected) in [(3, "rewritten"), (7, "other-line")] {
        let folder = tempfile::tempdir().unwrap();
        let log = written(folder.path(), 7);
        let path = lines_of(&log);
        let text = fs_err::read_to_string(&path).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let (mut line, _) = line::parse(lines[changed].as_bytes()).unwrap();
        line.body["outcome"] = "failed".into();
        lines[changed] = line.render().0.trim_end().to_owned();
        fs_err::write(&path, lines.join("\n") + "\n").unwrap();
        assert_eq!(words(&check(&log).findings), [expected], "line {changed}");
    }
}

#[test]
fn another_key_is_told_whether_it_sealed_the_export_or_was_put_in_place_of_the_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let (log, other) = (written(folder.path(), 3), tempfile::tempdir().unwrap());
    let stranger = written(other.path(), 1);
    let file = export::of_log(&log, "w1", 99).unwrap();
    let verdicts = export::verify(&file, &keys_of(&stranger, "w1"), &mut |_, _| {}).unwrap();
    let found: BTreeSet<_> = verdicts.iter().flat_map(|verdict| words(&verdict.findings)).collect();
    assert_eq!(found, BTreeSet::from(["wrong-key", "nothing-of-key"]));
    // The key file is replaced: the log goes on, says so, and the old public key does not vouch for it any more.
    let old = keys_of(&log, "w1");
    fs_err::copy(stranger.folder().join("key"), log.folder().join("key")).unwrap();
    log.append(&deed(9), &Who::part("heal"), &moment(9)).unwrap();
    let verdict = check(&log);
    assert!(verdict.findings.is_good(), "{verdict:?}");
    assert_eq!(verdict.findings.remarks[0].kind, "log.key");
    let file = export::of_log(&log, "w1", 99).unwrap();
    let verdicts = export::verify(&file, &old, &mut |_, _| {}).unwrap();
    assert!(words(&verdicts[0].findings).contains(&"wrong-key"), "{verdicts:?}");
}

#[test]
fn a_torn_line_is_cut_off_and_the_log_says_so_and_goes_on() {
    for kept in [1, 20, 400] {
        let folder = tempfile::tempdir().unwrap();
        let log = written(folder.path(), 5);
        let path = lines_of(&log);
        let whole = fs_err::read(&path).unwrap();
        let next = log.append(&deed(6), &Who::part("heal"), &moment(6)).unwrap();
        let after = fs_err::read(&path).unwrap();
        // The power went while line 7 was written: its head was never kept either.
        let torn = (whole.len() + kept).min(after.len() - 1);
        fs_err::write(&path, &after[..torn]).unwrap();
        let mut walk = Walk::default();
        walk.feed(&whole, &mut |_| {});
        let (seq, sum) = walk.last().unwrap().clone();
        let key = NodeKey::load(log.folder()).unwrap().unwrap();
        let head = Head::sign(&key, &next.chain, seq, &sum, 5);
        fs_err::write(log.folder().join("head.json"), head.to_text()).unwrap();
        assert_eq!(words(&check(&log).findings), ["torn-line"]);
        log.append(&deed(7), &Who::part("heal"), &moment(7)).unwrap();
        let verdict = check(&log);
        assert!(verdict.findings.is_good(), "{kept}: {verdict:?}");
        let words = &verdict.findings.remarks[0].words;
        assert!(words.contains(&format!("{} bytes", torn - whole.len())), "{words}");
    }
}

#[test]
fn a_tail_that_was_cut_off_stays_told_after_the_log_went_on() {
    let folder = tempfile::tempdir().unwrap();
    let log = written(folder.path(), 9);
    let path = lines_of(&log);
    let text = fs_err::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().take(6).collect();
    fs_err::write(&path, lines.join("\n") + "\n").unwrap();
    for number in 10..13 {
        log.append(&deed(number), &Who::part("heal"), &moment(number)).unwrap();
    }
    let verdict = check(&log);
    assert_eq!(words(&verdict.findings), ["missing-lines"], "{verdict:?}");
    let damaged: Vec<_> = verdict.findings.remarks.iter().map(|one| &*one.kind).collect();
    assert_eq!(damaged, ["log.damaged"], "told once, not with each line");
}

#[test]
fn what_was_changed_inside_stays_as_evidence_and_the_log_goes_on_in_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let log = written(folder.path(), 5);
    let path = lines_of(&log);
    let harmed = fs_err::read_to_string(&path).unwrap().replacen("done", "gone", 1);
    fs_err::write(&path, &harmed).unwrap();
    for number in 6..9 {
        log.append(&deed(number), &Who::part("heal"), &moment(number)).unwrap();
    }
    assert_eq!(fs_err::read_to_string(&path).unwrap(), harmed);
    let verdict = check(&log);
    assert_eq!(words(&verdict.findings), ["changed-line"], "{verdict:?}");
    assert_eq!(verdict.findings.remarks.len(), 1);
}

#[test]
fn rotation_keeps_the_chain_and_old_lines_that_went_for_room_are_no_attack() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::bounded(&folder.path().join("audit"), 3000, 3);
    for number in 1..=60 {
        log.append(&deed(number), &Who::part("heal"), &moment(number)).unwrap();
    }
    let files = |log: &Log| {
        let all = fs_err::read_dir(log.folder()).unwrap().flatten();
        let name = |entry: fs_err::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let mut names: Vec<_> = all.map(name).filter(|name| name.ends_with("jsonl")).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(files(&log).len(), 3);
    let verdict = check(&log);
    assert!(verdict.findings.is_good(), "{verdict:?}");
    assert!(verdict.findings.first > Some(1));
    assert!(verdict.findings.remarks.iter().any(|one| one.kind == "log.dropped"));
    // One file more is taken away by somebody else.
    fs_err::remove_file(log.folder().join(&files(&log)[0])).unwrap();
    assert_eq!(words(&check(&log).findings), ["missing-start"]);
}

#[test]
fn a_file_that_was_begun_without_a_whole_line_is_as_if_it_had_not_been() {
    let folder = tempfile::tempdir().unwrap();
    let log = written(folder.path(), 4);
    fs_err::write(log.folder().join("00000000000000000006.jsonl"), "{\"seq\":6").unwrap();
    log.append(&deed(5), &Who::part("heal"), &moment(5)).unwrap();
    let verdict = check(&log);
    assert!(verdict.findings.is_good(), "{verdict:?}");
    assert_eq!(verdict.findings.last, Some(7), "five lines, `log.recovered`, and the deed");
}

#[test]
fn a_log_whose_lines_are_all_gone_goes_on_behind_its_head() {
    let folder = tempfile::tempdir().unwrap();
    let log = written(folder.path(), 4);
    fs_err::remove_file(lines_of(&log)).unwrap();
    log.append(&deed(5), &Who::part("heal"), &moment(5)).unwrap();
    let verdict = check(&log);
    assert_eq!(words(&verdict.findings), ["missing-start"], "{verdict:?}");
    assert_eq!(verdict.findings.first, Some(6));
}

#[test]
fn the_head_that_the_cluster_keeps_shows_a_tail_that_the_nodes_own_head_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let log = written(folder.path(), 4);
    let early = (fs_err::read(lines_of(&log)).unwrap(), log.head().unwrap().unwrap());
    let late = written_on(&log, 5..9);
    // Whoever has the node puts back lines and head of yesterday.
    fs_err::write(lines_of(&log), &early.0).unwrap();
    fs_err::write(log.folder().join("head.json"), early.1.to_text()).unwrap();
    assert!(check(&log).findings.is_good(), "from inside it is not to be seen");
    let keeper = tempfile::tempdir().unwrap();
    let control_plane = written(keeper.path(), 1);
    let kept = serde_json::json!({ "w1": late }).to_string();
    let (_, _, key) = control_plane.read().unwrap();
    let title = export::title("cp1", 99, Content::Heads, None);
    let mut file = export::of_log(&log, "w1", 99).unwrap();
    file.extend(export::of_log(&control_plane, "cp1", 99).unwrap());
    file.extend(export::seal(&key, title, kept.as_bytes()));
    let keys = [keys_of(&log, "w1"), keys_of(&control_plane, "cp1")].concat();
    let verdicts = export::verify(&file, &keys, &mut |_, _| {}).unwrap();
    let text = verdicts[0].findings.problems[0].to_string();
    assert_eq!(
        text,
        "the tail was cut off: the cluster (asked through cp1) knows line 9, the log ends with line 5"
    );
    assert!(verdicts[1..].iter().all(|verdict| verdict.findings.is_good()), "{verdicts:?}");
}

#[test]
fn a_licence_that_was_changed_in_an_export_is_told_with_who_sealed_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = written(folder.path(), 1);
    let (_, _, key) = log.read().unwrap();
    let title = export::title("w1", 99, Content::License, None);
    let mut file = export::of_log(&log, "w1", 99).unwrap();
    file.extend(export::seal(&key, title, br#"{"license":null,"standing":"nodes: 3"}"#));
    let told = |file: &[u8]| {
        let verdicts = export::verify(file, &keys_of(&log, "w1"), &mut |_, _| {}).unwrap();
        let bad = verdicts.iter().filter(|verdict| !verdict.findings.is_good());
        bad.map(|verdict| (verdict.node.clone(), words(&verdict.findings))).collect::<Vec<_>>()
    };
    assert_eq!(told(&file), []);
    let place = file.windows(8).position(|part| part == b"nodes: 3").unwrap();
    file[place + 7] = b'2';
    assert_eq!(told(&file), [("w1 (licence)".to_owned(), vec!["bad-seal"])]);
}

fn written_on(log: &Log, deeds: std::ops::Range<u64>) -> Head {
    let write = |number| log.append(&deed(number), &Who::part("heal"), &moment(number)).unwrap();
    let heads: Vec<Head> = deeds.map(write).collect();
    heads.last().cloned().unwrap()
}

#[test]
fn what_others_say_is_bounded_and_plain() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::at(&folder.path().join("audit"));
    let long = "\u{1b}[31mä".repeat(9000);
    let list = vec![long.clone(); 500];
    let who = Who { operator: long, ..Who::part("serve") };
    log.append(&Entry::UndoStarted { undo: "u".to_owned(), runs: list }, &who, &moment(1)).unwrap();
    let text = fs_err::read_to_string(lines_of(&log)).unwrap();
    assert!(text.len() < 2 * line::MAX_LINE_BYTES, "{}", text.len());
    assert!(!text.contains("\\u001b") && !text.contains('\u{1b}'));
    assert!(check(&log).findings.is_good());
}

#[test]
fn writers_at_once_make_one_chain() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let log = Log::at(&path);
            scope.spawn(move || written_on(&log, writer * 10..writer * 10 + 8));
        }
    });
    let verdict = check(&Log::at(&path));
    assert!(verdict.findings.is_good(), "{verdict:?}");
    assert_eq!(verdict.findings.lines, 33);
}

#[test]
fn nobody_but_the_owner_may_read_key_or_lines() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let log = written(folder.path(), 1);
    for name in ["", "key", "00000000000000000001.jsonl", "head.json"] {
        let mode = fs_err::metadata(log.folder().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}: {mode:o}");
    }
}

#[test]
fn what_control_handed_over_gets_into_the_log_first_under_a_kind_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::at(&folder.path().join("audit"));
    let path = folder.path().join(spool::SPOOL_FILE);
    let entry = Entry::ControlActed {
        action: "pod-deleted".to_owned(),
        subject: "w1".to_owned(),
        detail: String::new(),
    };
    let open = || std::fs::OpenOptions::new().append(true).create(true).open(&path).unwrap();
    spool::add(open(), &entry, &moment(7)).unwrap();
    fs_err::write(&path, fs_err::read_to_string(&path).unwrap() + "nonsense\n").unwrap();
    log.append(&deed(1), &Who::part("heal"), &moment(9)).unwrap();
    assert_eq!(fs_err::metadata(&path).unwrap().len(), 0);
    let mut seen = Vec::new();
    let file = export::of_log(&log, "w1", 99).unwrap();
    let mut on_line = |_: &str, line: &Line| seen.push((line.kind.clone(), line.body.clone()));
    export::verify(&file, &keys_of(&log, "w1"), &mut on_line).unwrap();
    let kinds: Vec<&str> = seen.iter().map(|(kind, _)| &**kind).collect();
    assert_eq!(kinds, ["log.opened", "control.spooled", "control.spooled", "heal.ended"]);
    assert_eq!((&seen[1].1["at"], &seen[1].1["entry"]), (&7.into(), &"control.acted".into()));
    assert_eq!(seen[2].1["entry"], "unreadable");
    // A spool that nobody empties takes no more, and says so.
    fs_err::write(&path, vec![b'x'; 1 << 20]).unwrap();
    assert_eq!(spool::add(open(), &entry, &moment(7)).unwrap_err().code(), "AUDIT-005");
}

#[test]
fn key_files_are_read_as_they_are_written_and_nonsense_is_told_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys_of(&written(folder.path(), 1), "w1");
    assert_eq!(parse_keys(&render_keys(&keys)).unwrap(), keys);
    for (text, why) in [
        ("", "no key"),
        ("w1", "line 1: expected"),
        ("# x\nw1 !!", "line 2: it is no base64"),
        ("w1 AAAA", "32 bytes"),
    ] {
        let error = parse_keys(text).unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }
}
