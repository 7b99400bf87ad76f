//! A plan with a step of every kind, and what it is carried out with.

use std::{
    collections::BTreeMap,
    io::{Cursor, Read, Write as _},
    path::Path,
    sync::{Mutex, atomic::AtomicBool},
};

use kdc_bundles::index::Digest;

use super::super::{Observer, Outcome, RunError, create, execute, undo};
use crate::{
    daemon::{
        self,
        registry::{REGISTRY_PATH, RegistryFile},
    },
    host::{HostError, fake::FakeHost},
    step::{
        BlobError, BlobSource, Condition, Content, ImageSource, NodePlan, PackageSource,
        PlannedStep, Step, change::Values,
    },
    wire::{Event, JoinCredentials, SecretText},
};

/// Blobs in memory.
pub(super) struct Blobs(BTreeMap<Digest, Vec<u8>>);

impl BlobSource for Blobs {
    fn open(&self, digest: &Digest) -> Result<Box<dyn Read + Send>, BlobError> {
        let missing = || BlobError::Missing { digest: digest.clone() };
        Ok(Box::new(Cursor::new(self.0.get(digest).cloned().ok_or_else(missing)?)))
    }

    fn size(&self, digest: &Digest) -> Result<u64, BlobError> {
        Ok(self.0.get(digest).map_or(0, |bytes| bytes.len() as u64))
    }
}

pub(super) struct Given;

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

pub(super) const TOKEN: &str = "abcdef.0123456789abcdef";

#[derive(Default)]
pub(super) struct Heard(pub(super) Mutex<Vec<String>>);

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
    add("share/tool/help", tar::EntryType::Regular, b"run it");
    let plain = archive.into_inner().unwrap();
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zipped.write_all(&plain).unwrap();
    zipped.finish().unwrap()
}

/// The manifest of both images.
const MANIFEST: &[u8] = br#"{"layers":[]}"#;

/// Whose images the node serves.
fn index() -> Digest {
    Digest::of(b"")
}

pub(super) struct Case {
    pub(super) plan: NodePlan,
    pub(super) blobs: Blobs,
    /// The machine that it is carried out on.
    pub(super) machine: fn() -> FakeHost,
}

fn plan_of(steps: Vec<(&str, Step)>) -> NodePlan {
    let planned = steps.into_iter().map(|(id, step)| PlannedStep {
        id: id.to_owned(),
        phase: "host".to_owned(),
        needs: if id == "join" { vec!["join".to_owned()] } else { Vec::new() },
        step,
    });
    NodePlan {
        node: "n1".to_owned(),
        cluster: "c".to_owned(),
        index: index(),
        steps: planned.collect(),
    }
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
        let manifest = blob(MANIFEST);
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
                    registries: vec![text("k8s.gcr.io"), text("_default")],
                    drop_ins: true,
                },
            ),
            ("archive", Step::UnpackArchive { digest: blob(&archive()), target: text("/opt/k") }),
            ("kubeadm", place("kubeadm")),
            ("kubectl", place("kubectl")),
            ("crictl", place("crictl")),
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
            (
                "registry",
                Step::WriteFile {
                    path: text(REGISTRY_PATH),
                    mode: 0o644,
                    content: Content::Text(RegistryFile { index: index() }.to_text()),
                },
            ),
            (
                "agent-unit",
                Step::InstallUnit {
                    unit: text(daemon::UNIT_NAME),
                    content: text("[Service]\n"),
                    drop_ins: BTreeMap::new(),
                },
            ),
            (
                "agent-state",
                Step::SetUnitState {
                    unit: text(daemon::UNIT_NAME),
                    enabled: true,
                    active: Some(true),
                },
            ),
            ("images", Step::PullImages { index: index(), images: images.to_vec() }),
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
        Self { plan: plan_of(steps), blobs: Blobs(blobs), machine: Self::host }
    }

    /// These steps alone, on a machine of their own.
    pub(super) fn alone(machine: fn() -> FakeHost, steps: Vec<(&str, Step)>) -> Self {
        Self { plan: plan_of(steps), blobs: Blobs(BTreeMap::new()), machine }
    }

    pub(super) fn control_plane() -> Self {
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

    pub(super) fn worker() -> Self {
        let config = "kind: JoinConfiguration\n".to_owned();
        Self::of(vec![("join", Step::JoinNode { config })])
    }

    pub(super) fn host() -> FakeHost {
        let host = FakeHost::debian();
        host.plant("/etc/old", "keep me");
        host.plant("/@ufw/22|tcp", "");
        host.plant("/var/lib/kdc/store/x", "");
        host.plant("/run/kdc/hold", "");
        for name in ["k8s.gcr.io|pause:3.2", "docker.io|lab|x:1"] {
            host.plant(&format!("/@registry/{name}"), Digest::of(MANIFEST).as_str());
        }
        host
    }

    pub(super) fn execute(&self, runs: &Path, host: &FakeHost) -> Result<Outcome, RunError> {
        self.execute_for(runs, host, &Heard::default())
    }

    pub(super) fn execute_for(
        &self,
        runs: &Path,
        host: &FakeHost,
        heard: &dyn Observer,
    ) -> Result<Outcome, RunError> {
        let directory = create(runs, "r1", &self.plan)?;
        execute(&directory, host, &self.blobs, &Given, heard, &AtomicBool::new(false))
    }

    pub(super) fn undo(&self, runs: &Path, host: &FakeHost) -> Result<Outcome, RunError> {
        let stop = AtomicBool::new(false);
        undo(runs, "undo-1", host, &self.blobs, &Given, &Heard::default(), &stop)
    }
}
