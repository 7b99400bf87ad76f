//! Interrupted at every call of every kind, resumed, and taken back.

mod case;
mod gpu;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::AtomicBool,
};

use self::case::{Case, Given, Heard, TOKEN};
use super::*;
use crate::{
    host::fake::{Accident, Died, Tree},
    serve::{self, Places},
    small_disk::SmallDisk,
    wire::Message,
};

/// In memory where there is such a place: these tests sync many thousand times.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The tree without what says when: nothing here does, so all of it; told as what differs.
fn differences(left: &Tree, right: &Tree) -> Vec<String> {
    let keys: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let differs = keys.into_iter().filter(|path| left.get(*path) != right.get(*path));
    differs.map(|path| format!("{path}: {:?} / {:?}", left.get(path), right.get(path))).collect()
}

/// Run something that may die; `None` if it did.
fn survive<T>(work: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(value) => Some(value),
        Err(panic) if panic.is::<Died>() => None,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn uninterrupted(case: &Case) -> (Tree, Tree, usize, usize) {
    let (runs, host) = (directory(), (case.machine)());
    let start = host.tree();
    let outcome = case.execute(runs.path(), &host).unwrap();
    assert!(matches!(outcome, Outcome::Finished { .. }), "{outcome:?}");
    let calls = host.calls().len();
    let end = host.tree();
    host.recover();
    let outcome = case.undo(runs.path(), &host).unwrap();
    assert!(matches!(outcome, Outcome::Undone { .. }), "{outcome:?}");
    assert_eq!(differences(&start, &host.tree()), [""; 0]);
    (start, end, calls, host.calls().len())
}

const ACCIDENTS: [Accident; 4] =
    [Accident::DieBefore, Accident::DieDuring, Accident::DieAfter, Accident::Fail];

fn interrupt_everywhere(case: &Case) {
    let (start, end, calls, _) = uninterrupted(case);
    for call in 0..calls {
        for accident in ACCIDENTS {
            let told = |what: &str| format!("{what}, {accident:?} at call {call}");
            let (runs, host) = (directory(), (case.machine)());
            host.plan_accident(call, accident);
            // Dies or fails; what it says then is not the matter of this test.
            let _interrupted = survive(|| case.execute(runs.path(), &host));
            let at = host.calls().get(call).cloned();
            assert!(host.recover(), "{}", told("no accident"));
            let outcome = case.execute(runs.path(), &host).unwrap();
            let finished = matches!(outcome, Outcome::Finished { .. });
            assert!(finished, "{}: {at:?} {outcome:?}", told("resume"));
            assert_eq!(differences(&end, &host.tree()), [""; 0], "{} {at:?}", told("end"));
            let outcome = case.undo(runs.path(), &host).unwrap();
            let undone = matches!(outcome, Outcome::Undone { .. });
            assert!(undone, "{}: {outcome:?}", told("undo"));
            assert_eq!(differences(&start, &host.tree()), [""; 0], "{} {at:?}", told("start"));
        }
    }
}

fn interrupt_then_undo_everywhere(case: &Case) {
    let (start, _, calls, undo_calls) = uninterrupted(case);
    for call in 0..calls {
        let accident = ACCIDENTS[call % ACCIDENTS.len()];
        let (runs, host) = (directory(), (case.machine)());
        host.plan_accident(call, accident);
        let _interrupted = survive(|| case.execute(runs.path(), &host));
        let at = host.calls().get(call).cloned();
        host.recover();
        let outcome = case.undo(runs.path(), &host).unwrap();
        assert!(matches!(outcome, Outcome::Undone { .. }), "{call} {at:?} {outcome:?}");
        assert_eq!(differences(&start, &host.tree()), [""; 0], "{accident:?} at {call} {at:?}");
    }
    for call in 0..undo_calls {
        let accident = ACCIDENTS[call % ACCIDENTS.len()];
        let (runs, host) = (directory(), (case.machine)());
        case.execute(runs.path(), &host).unwrap();
        host.plan_accident(call, accident);
        let _interrupted = survive(|| case.undo(runs.path(), &host));
        let at = host.calls().get(call).cloned();
        host.recover();
        let outcome = case.undo(runs.path(), &host).unwrap();
        assert!(matches!(outcome, Outcome::Undone { .. }), "{call} {at:?} {outcome:?}");
        assert_eq!(differences(&start, &host.tree()), [""; 0], "{accident:?} at {call} {at:?}");
    }
}

#[test]
fn a_control_plane_interrupted_anywhere_resumes_to_the_same_end_and_undoes_to_the_start() {
    interrupt_everywhere(&Case::control_plane());
}

#[test]
fn a_worker_interrupted_anywhere_resumes_to_the_same_end_and_undoes_to_the_start() {
    interrupt_everywhere(&Case::worker());
}

#[test]
fn a_run_interrupted_anywhere_can_be_undone_and_an_undo_interrupted_anywhere_goes_on() {
    interrupt_then_undo_everywhere(&Case::control_plane());
}

#[test]
fn a_second_execution_of_a_finished_run_changes_and_records_nothing() {
    let (case, runs, host) = (Case::control_plane(), directory(), Case::host());
    let first = case.execute(runs.path(), &host).unwrap();
    let (tree, journal) =
        (host.tree(), fs_err::read(runs.path().join("r1/journal.jsonl")).unwrap());
    assert_eq!(case.execute(runs.path(), &host).unwrap(), first);
    assert_eq!(host.tree(), tree);
    assert_eq!(fs_err::read(runs.path().join("r1/journal.jsonl")).unwrap(), journal);
}

#[test]
fn what_was_found_as_wanted_is_never_undone() {
    let (case, runs, host) = (Case::control_plane(), directory(), Case::host());
    case.execute(runs.path(), &host).unwrap();
    let installed = host.tree();
    let mut again = Case::control_plane();
    again.plan.cluster = "other".to_owned();
    let directory = create(runs.path(), "r2", &again.plan).unwrap();
    let (heard, stop) = (Heard::default(), AtomicBool::new(false));
    let outcome = execute(&directory, &host, &again.blobs, &Given, &heard, &stop).unwrap();
    assert!(matches!(outcome, Outcome::Finished { changed: 0, .. }), "{outcome:?}");
    assert_eq!(differences(&installed, &host.tree()), [""; 0]);
    let listed = list(runs.path()).unwrap();
    let force: Vec<bool> = listed.iter().map(|run| run.in_force).collect();
    assert_eq!(force, [true, false]);
}

#[test]
fn a_survey_changes_nothing_and_agrees_with_the_run() {
    let (case, runs, host) = (Case::control_plane(), directory(), Case::host());
    let tree = host.tree();
    let before = survey(&case.plan.steps, &host, &case.blobs);
    assert_eq!(host.tree(), tree);
    let satisfied: Vec<&str> =
        before.iter().filter(|step| step.satisfied).map(|step| step.id.as_str()).collect();
    assert_eq!(satisfied, ["built-in"]);
    case.execute(runs.path(), &host).unwrap();
    for step in survey(&case.plan.steps, &host, &case.blobs) {
        assert!(step.satisfied, "{step:?}");
    }
}

#[test]
fn the_join_token_is_nowhere_but_in_memory() {
    let (case, runs, host) = (Case::worker(), directory(), Case::host());
    let heard = Heard::default();
    case.execute_for(runs.path(), &host, &heard).unwrap();
    let told = heard.0.lock().unwrap().join("\n") + &host.calls().join("\n");
    assert!(!told.contains(TOKEN));
    for (path, node) in host.tree() {
        assert!(!String::from_utf8_lossy(&node.content).contains(TOKEN), "{path}");
    }
    let journal = fs_err::read_to_string(runs.path().join("r1/journal.jsonl")).unwrap();
    assert!(!journal.contains(TOKEN));
}

#[test]
fn a_run_that_was_asked_to_stop_says_so_and_goes_on_later() {
    let (case, runs, host) = (Case::worker(), directory(), Case::host());
    let path = create(runs.path(), "r1", &case.plan).unwrap();
    let (heard, stop) = (Heard::default(), AtomicBool::new(true));
    let outcome = execute(&path, &host, &case.blobs, &Given, &heard, &stop).unwrap();
    assert_eq!(outcome, Outcome::Interrupted);
    assert_eq!(host.tree(), Case::host().tree());
    assert!(matches!(case.execute(runs.path(), &host).unwrap(), Outcome::Finished { .. }));
}

#[test]
fn a_foreign_kubernetes_is_refused_and_survives_undo() {
    let (case, runs, host) = (Case::control_plane(), directory(), Case::host());
    host.plant("/etc/kubernetes/admin.conf", "theirs");
    let start = host.tree();
    let outcome = case.execute(runs.path(), &host).unwrap();
    let Outcome::Failed { step, failure } = outcome else { panic!("{outcome:?}") };
    assert_eq!((step.as_str(), failure.code.as_str()), ("init", "STEP-003"));
    case.undo(runs.path(), &host).unwrap();
    assert_eq!(differences(&start, &host.tree()), [""; 0]);
}

#[test]
fn a_run_that_was_taken_back_in_part_is_not_resumed_by_a_new_apply() {
    let (case, runs, host) = (Case::worker(), directory(), Case::host());
    case.execute(runs.path(), &host).unwrap();
    let digest = case.plan.digest().unwrap();
    // An undo that died after its first steps.
    let mut journal = journal::Journal::open(&runs.path().join("r1")).unwrap();
    journal.append(0, Entry::Undone { step: "join".to_owned() }).unwrap();
    drop(journal);
    assert_eq!(list(runs.path()).unwrap()[0].outcome, Outcome::Interrupted);
    assert_eq!(unfinished(runs.path(), &digest).unwrap(), None);
}

/// A run with kubeadm's output on one side, an attached installer on the other.
#[tokio::test(start_paused = true)]
async fn the_phases_of_kubeadm_reach_who_is_attached_and_its_secrets_do_not() {
    let (case, runs, host) = (Case::control_plane(), directory(), Case::host());
    let volatile = runs.path().join("volatile");
    let writer = NoteWriter::begin(&volatile, "r1");
    case.execute_for(runs.path(), &host, &writer).unwrap();
    let file = fs_err::read_to_string(volatile.join(NOTES_FILE)).unwrap();
    // As it stood while `init` was at work: who attaches late hears where it is.
    let journal = runs.path().join("r1/journal.jsonl");
    let whole = fs_err::read_to_string(&journal).unwrap();
    let done = whole.lines().position(|line| line.contains(r#"{"is":"done","step":"init"}"#));
    let so_far: String = whole.split_inclusive('\n').take(done.unwrap()).collect();
    fs_err::write(&journal, so_far).unwrap();

    let places = Places { runs: runs.path().to_owned(), volatile, ..Places::system() };
    let (send, mut receive) = tokio::sync::mpsc::channel(256);
    let reply = serve::attach(&places, "r1", 0, &send).await.unwrap();
    assert_eq!(reply, crate::wire::Reply::Ended { outcome: Outcome::Interrupted });
    drop(send);
    let mut told = Vec::new();
    while let Some(Message::Event(event)) = receive.recv().await {
        told.push(serde_json::to_string(&event).unwrap());
    }
    assert!(told.last().unwrap().contains("[phase] done"), "{told:?}");
    for phase in ["[certs] Generating", "[bootstrap-token] Using token: ****", "[phase] done"] {
        assert!(file.contains(phase), "{phase}: {file}");
    }
    for secret in [TOKEN, &"0123456789abcdef".repeat(4), "kubeadm join"] {
        assert!(!file.contains(secret) && !told.concat().contains(secret), "{secret}: {file}");
    }
}

#[test]
fn a_run_on_a_full_disk_changes_nothing_it_has_not_written_down() {
    let name = "run::tests::a_run_on_a_full_disk_changes_nothing_it_has_not_written_down";
    let Some(disk) = SmallDisk::within(name, 256) else { return };
    let case = Case::control_plane();
    let mut stopped_at = std::collections::BTreeSet::new();
    for left in 0..7 {
        let (runs, host) = (disk.root().join(format!("runs-{left}")), Case::host());
        let start = host.tree();
        create(&runs, "r1", &case.plan).unwrap();
        drop(journal::Journal::open(&runs.join("r1")).unwrap());
        let directory = runs.join("r1");
        disk.leave(left);
        let (heard, stop) = (Heard::default(), AtomicBool::new(false));
        let ended = execute(&directory, &host, &case.blobs, &Given, &heard, &stop);
        let full = match ended {
            Err(error) => Failure::from(&error),
            // A content that undo needs found no room; its step has not begun.
            Ok(Outcome::Failed { failure, .. }) => failure,
            Ok(outcome) => panic!("{left} pages: {outcome:?}"),
        };
        assert!(full.message.contains("No space left"), "{left} pages: {full}");
        stopped_at.insert(journal::load(&directory).unwrap().records.len());
        // Nor can it be undone without room; that does no harm.
        disk.leave(0);
        assert!(case.undo(&runs, &host).is_err() || host.tree() == start, "{left} pages");
        disk.free();
        if left % 2 == 0 {
            let outcome = case.execute(&runs, &host).unwrap();
            assert!(matches!(outcome, Outcome::Finished { .. }), "{left} pages: {outcome:?}");
        }
        let outcome = case.undo(&runs, &host).unwrap();
        assert!(matches!(outcome, Outcome::Undone { .. }), "{left} pages: {outcome:?}");
        assert_eq!(differences(&start, &host.tree()), [""; 0], "{left} pages");
        fs_err::remove_dir_all(&runs).unwrap();
    }
    assert!(stopped_at.len() > 3, "always at the same place: {stopped_at:?}");
}

/// From before nodes served their own images; the blank states are as that kdc wrote them.
#[test]
fn a_run_that_imported_its_images_is_still_told_and_taken_back() {
    const PLAN: &str = include_str!("../../../tests/fixtures/run/imported/plan.json");
    let plan: NodePlan = serde_json::from_str(PLAN).unwrap();
    assert_eq!(plan.digest().unwrap(), Digest::of(PLAN.as_bytes()), "its journal would not fit");
    let (runs, host) = (directory(), Case::host());
    for path in ["/usr/bin/ctr", "/etc/systemd/system/containerd.service"] {
        host.plant(path, "");
    }
    let start = host.tree();
    let run = create(runs.path(), "r1", &plan).unwrap();
    let mut journal = journal::Journal::open(&run).unwrap();
    let begun = |step: &str, before: serde_json::Value| Entry::Begun {
        step: step.to_owned(),
        before: serde_json::from_value(before).unwrap(),
    };
    let done = |step: &str| Entry::Done { step: step.to_owned() };
    let missing = || serde_json::json!({"was": "missing", "parents": []});
    let owned = ["/var/lib/containerd", "/etc/containerd", "/run/containerd"];
    let owned: serde_json::Map<_, _> =
        owned.iter().map(|path| ((*path).to_owned(), missing())).collect();
    let before = serde_json::json!({
        "major": 1, "minor": 6, "file": {"was": "missing", "parents": ["/etc/containerd"]},
        "active": false, "answers": false, "owned": owned,
    });
    let opened = Entry::Opened {
        version: journal::JOURNAL_VERSION,
        run: "r1".to_owned(),
        cluster: "c".to_owned(),
        node: "n1".to_owned(),
        plan: plan.digest().unwrap(),
        agent: "0.1.0".to_owned(),
    };
    let images = serde_json::json!({"images": {}});
    for entry in [
        opened,
        begun("containerd-config", before),
        done("containerd-config"),
        begun("images", images),
        done("images"),
        Entry::Ended { outcome: Outcome::Finished { changed: 2, found: 0 } },
    ] {
        journal.append(1, entry).unwrap();
    }
    drop(journal);
    host.plant("/@active/containerd.service", "");
    host.plant("/etc/containerd/config.toml", "version = 2\n");
    let manifest = plan.index.as_str();
    for name in ["k8s.gcr.io|pause:3.2", "sha256:1d"] {
        host.plant(&format!("/var/lib/containerd/images/{name}"), &format!("{manifest} 1 -"));
    }

    let listed = list(runs.path()).unwrap();
    assert!(listed[0].in_force, "{listed:?}");
    let outcome = Case::control_plane().undo(runs.path(), &host).unwrap();
    assert!(matches!(outcome, Outcome::Undone { .. }), "{outcome:?}");
    let removed = host
        .calls()
        .iter()
        .any(|call| call.contains("images remove --sync k8s.gcr.io/pause:3.2 sha256:1d"));
    assert!(removed, "{:?}", host.calls());
    assert_eq!(differences(&start, &host.tree()), [""; 0]);
}
