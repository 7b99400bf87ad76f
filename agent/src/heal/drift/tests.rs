use super::*;
use crate::{
    heal::Remedy,
    host::{Attributes, fake::FakeHost},
    step::{Content, Step},
};

fn planned(id: &str, step: Step) -> PlannedStep {
    PlannedStep { id: id.to_owned(), phase: "host".to_owned(), step, needs: Vec::new() }
}

fn write(text: &str) -> Step {
    let content = Content::Text(text.to_owned());
    Step::WriteFile { path: "/etc/kdc/x".to_owned(), mode: 0o644, content }
}

fn panic(value: &str) -> Step {
    Step::SetSysctl { key: "kernel.panic".to_owned(), value: value.to_owned() }
}

fn receipt(run: &str, steps: Vec<(PlannedStep, bool)>) -> Receipt {
    Receipt { run: run.to_owned(), index: Digest::of(b""), steps, unfinished: false }
}

fn at(seconds: u64) -> Moment {
    Moment { boot: "a".to_owned(), since_boot_ms: seconds * 1000 }
}

struct Case {
    host: FakeHost,
    settings: SelfHealing,
    memory: Memory,
}

impl Case {
    fn new() -> Self {
        let host = FakeHost::debian();
        host.plant_directory("/etc/kdc");
        host.plant("/etc/fstab", "");
        host.plant("/proc/self/mounts", "");
        Self { host, settings: SelfHealing::default(), memory: Memory::default() }
    }

    fn look(&mut self, receipts: &[Receipt], second: u64) -> Vec<Watched> {
        let Self { host, settings, memory } = self;
        let eyes = Eyes { host: &*host, settings, now: &at(second), dear_at_once: 1 };
        look(&eyes, receipts, memory).findings
    }
}

fn words(findings: &[Watched]) -> Vec<(&str, &str, bool)> {
    let word = |one: &'_ Watched| one.state.word();
    findings.iter().map(|one| (one.subject.as_str(), word(one), one.remedy.is_some())).collect()
}

#[test]
fn drift_is_what_a_steps_own_probe_says_and_carries_what_would_put_it_back() {
    let mut case = Case::new();
    let receipts = [receipt(
        "r1",
        vec![(planned("sysctl", panic("10")), true), (planned("file", write("wanted")), true)],
    )];
    let found = case.look(&receipts, 0);
    assert_eq!(
        words(&found),
        [("sysctl kernel.panic", "fail", true), ("file /etc/kdc/x", "fail", true),]
    );
    assert_eq!(found[0].wanted.as_deref(), Some("10"));
    assert_eq!(found[0].found.as_deref(), Some("0"));
    let remedy = found[1].remedy.clone().unwrap();
    assert_eq!(remedy.remedy, Remedy::PutBackFile);
    assert_eq!(remedy.origin.unwrap(), Origin { run: "r1".to_owned(), step: "file".to_owned() });
    case.host.plant("/etc/kdc/x", "other");
    assert_eq!(case.look(&receipts, 1)[1].state, State::Warn);
    case.host.write("/etc/kdc/x", b"wanted", Attributes::root(0o644)).unwrap();
    assert_eq!(case.look(&receipts, 2)[1].state, State::Ok);
}

#[test]
fn what_was_found_as_wanted_is_not_ours_to_put_back() {
    let mut case = Case::new();
    let found = case.look(&[receipt("r1", vec![(planned("file", write("wanted")), false)])], 0);
    assert_eq!(words(&found), [("file /etc/kdc/x", "fail", false)]);
    assert!(found[0].hint.as_ref().unwrap().contains("never changed it"));
}

#[test]
fn the_newest_run_that_changed_a_thing_says_how_it_is_wanted() {
    let mut case = Case::new();
    case.host.write("/etc/kdc/x", b"two", Attributes::root(0o644)).unwrap();
    let one = receipt("r1", vec![(planned("file", write("one")), true)]);
    let two = receipt("r2", vec![(planned("file", write("two")), true)]);
    let same = receipt("r3", vec![(planned("file", write("two")), false)]);
    assert_eq!(case.look(&[one.clone(), two.clone(), same.clone()], 0)[0].state, State::Ok);
    case.host.plant("/etc/kdc/x", "one");
    let found = case.look(&[one, two, same], 1);
    assert_eq!(found[0].remedy.as_ref().unwrap().origin.as_ref().unwrap().run, "r2");
}

#[test]
fn a_kind_that_is_off_is_not_looked_at() {
    let mut case = Case::new();
    case.settings.kinds.insert(Kind::Sysctl, Mode::Off);
    let steps = vec![(planned("s", panic("1")), true), (planned("f", write("w")), true)];
    let found = case.look(&[receipt("r1", steps)], 0);
    assert_eq!(words(&found), [("file /etc/kdc/x", "fail", true)]);
}

fn binary(name: &str, text: &str) -> (PlannedStep, bool) {
    let (path, digest) = (format!("/usr/bin/{name}"), Digest::of(text.as_bytes()));
    (planned(name, Step::PlaceBinary { path, digest }), true)
}

#[test]
fn large_files_are_read_one_a_look_and_again_only_when_they_change() {
    let mut case = Case::new();
    for name in ["a", "b"] {
        let path = format!("/usr/bin/{name}");
        case.host.write(&path, name.as_bytes(), Attributes::root(0o755)).unwrap();
    }
    let receipts = [receipt("r1", vec![binary("a", "a"), binary("b", "b")])];
    let reads = |case: &Case, from: usize| {
        let calls = case.host.calls();
        calls[from..].iter().filter(|call| call.starts_with("open /usr/bin/")).count()
    };
    let states = |found: &[Watched]| found.iter().map(|one| one.state.word()).collect::<Vec<_>>();
    assert_eq!(states(&case.look(&receipts, 0)), ["ok", "unknown"]);
    assert_eq!(states(&case.look(&receipts, 60)), ["ok", "ok"]);
    let from = case.host.calls().len();
    assert_eq!(states(&case.look(&receipts, 120)), ["ok", "ok"]);
    assert_eq!(reads(&case, from), 0);
    // Both change at once: both are told at once.
    for name in ["a", "b"] {
        case.host.write(&format!("/usr/bin/{name}"), b"x", Attributes::root(0o755)).unwrap();
    }
    assert_eq!(states(&case.look(&receipts, 180)), ["warn", "warn"]);
    // An hour later they are read again, one a look.
    let from = case.host.calls().len();
    let found = case.look(&receipts, 4000);
    assert_eq!(states(&found), ["warn", "warn"]);
    assert_eq!(reads(&case, from), 1);
    // Another version is wanted: what was seen of the old one counts no more.
    let receipts = [receipt("r2", vec![binary("a", "x"), binary("b", "b")])];
    assert_eq!(states(&case.look(&receipts, 4001)), ["ok", "warn"]);
}

#[test]
fn a_look_changes_nothing_on_the_host() {
    let mut case = Case::new();
    let steps = vec![
        (planned("s", panic("10")), true),
        (planned("f", write("w")), true),
        (planned("m", Step::LoadKernelModule { module: "dummy".to_owned() }), true),
        (planned("w", Step::DisableSwap), true),
        binary("a", "a"),
    ];
    let before = case.host.tree();
    let found = case.look(&[receipt("r1", steps)], 0);
    assert_eq!(case.host.tree(), before);
    assert_eq!(
        words(&found),
        [
            ("sysctl kernel.panic", "fail", true),
            ("file /etc/kdc/x", "fail", true),
            ("module dummy", "fail", true),
            ("swap", "fail", false),
            ("file /usr/bin/a", "fail", true),
        ]
    );
}
