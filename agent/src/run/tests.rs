//! Interrupted at every call of every kind, resumed, and taken back.

use std::{
    collections::BTreeMap,
    io::{Cursor, Read},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Mutex, atomic::AtomicBool},
};

use kdc_bundles::index::Digest;

use super::*;
use crate::{
    host::fake::{Accident, Died, FakeHost, Tree},
    step::{
        BlobError, BlobSource, Condition, Content, ImageSource, PackageSource, PlannedStep, Step,
    },
    wire::JoinCredentials,
};

/// Blobs in memory.
struct Blobs(BTreeMap<Digest, Vec<u8>>);

impl BlobSource for Blobs {
    fn open(&self, digest: &Digest) -> Result<Box<dyn Read + Send>, BlobError> {
        let missing = || BlobError::Missing { digest: digest.clone() };
        Ok(Box::new(Cursor::new(self.0.get(digest).cloned().ok_or_else(missing)?)))
    }

    fn size(&self, digest: &Digest) -> Result<u64, BlobError> {
        Ok(self.0.get(digest).map_or(0, |bytes| bytes.len() as u64))
    }
}

struct Given;

impl Values for Given {
    fn get(&self, _name: &str) -> Result<Option<SecretText>, HostError> {
        let credentials = JoinCredentials {
            endpoint: "10.0.0.1:6443".to_owned(),
            token: SecretText::new(TOKEN.to_owned()),
            ca_cert_hash: "sha256:aa".to_owned(),
        };
        Ok(Some(SecretText::new(serde_json::to_string(&credentials).unwrap())))
    }
}

const TOKEN: &str = "abcdef.0123456789abcdef";

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Observer for Heard {
    fn event(&self, event: &Event) {
        self.0.lock().unwrap().push(serde_json::to_string(event).unwrap());
    }
}

fn archive() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind: tar::EntryType, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        archive.append_data(&mut header, name, content).unwrap();
    };
    add("tool", tar::EntryType::Directory, b"");
    add("tool/run", tar::EntryType::Regular, b"#!/bin/sh\n");
    archive.into_inner().unwrap()
}

struct Case {
    plan: NodePlan,
    blobs: Blobs,
}

impl Case {
    #[expect(clippy::too_many_lines, reason = "one entry for each kind of step")]
    fn of(last: Vec<(&str, Step)>) -> Self {
        let mut blobs = BTreeMap::new();
        let mut blob = |bytes: &[u8]| {
            let digest = Digest::of(bytes);
            blobs.insert(digest.clone(), bytes.to_vec());
            digest
        };
        let package = |name: &str, digest| PackageSource {
            name: name.to_owned(),
            version: "1".to_owned(),
            digest,
        };
        // The fake dpkg reads a package's name out of its file.
        let packages = ["containerd", "iptables", "nftables"]
            .map(|name| package(name, blob(name.as_bytes())))
            .to_vec();
        let manifest = blob(br#"{"layers":[]}"#);
        let images = ["k8s.gcr.io/pause:3.2", "docker.io/lab/x:1"].map(|name| ImageSource {
            name: name.to_owned(),
            manifest: manifest.clone(),
            blobs: vec![manifest.clone()],
        });
        let text = |path: &str| path.to_owned();
        let program = blob(b"program");
        let place = |name: &str| Step::PlaceBinary {
            path: format!("/usr/local/bin/{name}"),
            digest: program.clone(),
        };
        let file = |path: &str| Step::WriteFile {
            path: path.to_owned(),
            mode: 0o640,
            content: Content::Text("new".to_owned()),
        };
        let mut steps = vec![
            ("directory", Step::CreateDirectory { path: text("/etc/kdc/deep"), mode: 0o700 }),
            ("new-file", file("/srv/a/b/new")),
            ("old-file", file("/etc/motd")),
            ("gone", Step::RemoveFile { path: text("/etc/old") }),
            ("module", Step::LoadKernelModule { module: text("br_netfilter") }),
            ("built-in", Step::LoadKernelModule { module: text("overlay") }),
            ("sysctl", Step::SetSysctl { key: text("net.ipv4.ip_forward"), value: text("1") }),
            ("swap", Step::DisableSwap),
            ("firewall", Step::OpenFirewall { ports: vec![text("6443/tcp"), text("22/tcp")] }),
            ("packages", Step::InstallPackages { packages }),
            (
                "containerd",
                Step::ConfigureContainerd {
                    sandbox_image: text("k8s.gcr.io/pause:3.2"),
                    cni_bin_dir: text("/usr/lib/cni"),
                    systemd_cgroup: false,
                    restrict_oom_score_adj: true,
                },
            ),
            ("archive", Step::UnpackArchive { digest: blob(&archive()), target: text("/opt/k") }),
            ("kubeadm", place("kubeadm")),
            ("kubectl", place("kubectl")),
            (
                "unit",
                Step::InstallUnit {
                    unit: text("kubelet.service"),
                    content: text("[Service]\n"),
                    drop_ins: BTreeMap::from([("10-a.conf".into(), text("[Service]\n"))]),
                },
            ),
            (
                "unit-state",
                Step::SetUnitState { unit: text("kubelet.service"), enabled: true, active: None },
            ),
            ("images", Step::ImportImages { images: images.to_vec() }),
            (
                "routes",
                Step::ConfigureHostRoutes {
                    pod_cidr: text("10.244.0.0/24"),
                    cluster_cidr: text("10.244.0.0/16"),
                    service_cidr: text("10.96.0.0/12"),
                    peers: BTreeMap::from([("10.0.0.2".into(), text("10.244.1.0/24"))]),
                },
            ),
        ];
        steps.extend(last);
        let planned = steps.into_iter().map(|(id, step)| PlannedStep {
            id: id.to_owned(),
            phase: "host".to_owned(),
            needs: if id == "join" { vec!["join".to_owned()] } else { Vec::new() },
            step,
        });
        let plan = NodePlan {
            node: "n1".to_owned(),
            cluster: "c".to_owned(),
            index: Digest::of(b""),
            steps: planned.collect(),
        };
        Self { plan, blobs: Blobs(blobs) }
    }

    fn control_plane() -> Self {
        let wait = |condition| Step::WaitUntil { condition, timeout_secs: 5 };
        let labels = BTreeMap::from([("x".to_owned(), "y".to_owned())]);
        Self::of(vec![
            ("init", Step::InitControlPlane { config: "kind: X\n".to_owned() }),
            ("ready", wait(Condition::NodesReady { nodes: vec!["n1".to_owned()] })),
            ("labels", Step::SetNodeLabels { node: "n1".to_owned(), labels, taints: Vec::new() }),
            (
                "manifests",
                Step::ApplyManifests { name: "dns".to_owned(), manifests: "kind: X\n".to_owned() },
            ),
        ])
    }

    fn worker() -> Self {
        let config = "kind: JoinConfiguration\n".to_owned();
        Self::of(vec![("join", Step::JoinNode { config })])
    }

    fn host() -> FakeHost {
        let host = FakeHost::debian();
        host.plant("/etc/old", "keep me");
        host.plant("/@ufw/22|tcp", "");
        host.plant("/var/lib/kdc/store/x", "");
        host.plant("/run/kdc/hold", "");
        host
    }

    fn execute(&self, runs: &Path, host: &FakeHost) -> Result<Outcome, RunError> {
        self.execute_for(runs, host, &Heard::default())
    }

    fn execute_for(
        &self,
        runs: &Path,
        host: &FakeHost,
        heard: &Heard,
    ) -> Result<Outcome, RunError> {
        let directory = create(runs, "r1", &self.plan)?;
        execute(&directory, host, &self.blobs, &Given, heard, &AtomicBool::new(false))
    }

    fn undo(&self, runs: &Path, host: &FakeHost) -> Result<Outcome, RunError> {
        let stop = AtomicBool::new(false);
        undo(runs, "undo-1", host, &self.blobs, &Given, &Heard::default(), &stop)
    }
}

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
    let (runs, host) = (directory(), Case::host());
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
            let (runs, host) = (directory(), Case::host());
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
        let (runs, host) = (directory(), Case::host());
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
        let (runs, host) = (directory(), Case::host());
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
