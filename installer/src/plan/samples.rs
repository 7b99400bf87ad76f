//! A small cluster, its bundle and its facts, for the tests of this crate.

use std::collections::{BTreeMap, BTreeSet};

use kdc_agent::facts::{Address, CgroupVersion, Facts, FileSystem, Known, Ownership};
use kdc_bundles::index::{Artifact, ArtifactKind, Blob, Digest, Index};
use kdc_profiles::cluster::{Cluster, parse};

const MIB: u64 = 1024 * 1024;

/// One control plane and one worker.
pub(crate) fn cluster() -> Cluster {
    cluster_of(2)
}

/// `cp1` at 10.0.0.11 and workers after it.
pub(crate) fn cluster_of(count: u32) -> Cluster {
    use std::fmt::Write;
    let mut text = String::from(
        "apiVersion: kdc.dev/v1\nkind: Cluster\nmetadata: {name: demo}\nspec:\n  profile: \
         cluster\n  network: {podCIDR: 10.244.0.0/16}\n  nodes:\n    - {name: cp1, role: \
         control-plane, address: 10.0.0.11}\n",
    );
    if count > 256 {
        text = text.replace("10.244.0.0/16", "172.16.0.0/12");
    }
    for number in 1..count {
        let address = std::net::Ipv4Addr::from(0x0a00_000b + number);
        writeln!(text, "    - {{name: w{number}, role: worker, address: {address}}}")
            .expect("text");
    }
    parse(&text, "cluster.yaml").unwrap_or_else(|problems| panic!("{problems}"))
}

fn artifact(kind: ArtifactKind, name: &str, size: u64, roles: &[&str]) -> (Artifact, Blob) {
    let digest = Digest::of(format!("{kind:?} {name}").as_bytes());
    let blob = Blob { digest: digest.clone(), size, pieces: vec![digest.clone()] };
    let artifact = Artifact {
        name: name.to_owned(),
        kind,
        platform: (kind != ArtifactKind::File).then(|| "linux/amd64".to_owned()),
        version: Some("1.0".to_owned()),
        media_type: "application/octet-stream".to_owned(),
        digest: digest.clone(),
        blobs: vec![digest],
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        unpack_to: None,
        licence: None,
        source: None,
    };
    (artifact, blob)
}

/// A bundle with one of everything.
pub(crate) fn index() -> Index {
    use ArtifactKind::{Agent, Binary, Image, Package};
    index_of(&[
        artifact(Binary, "kubeadm", 35 * MIB, &[]),
        artifact(Binary, "kubectl", 36 * MIB, &["control-plane"]),
        artifact(Binary, "kubelet", 100 * MIB, &[]),
        artifact(Binary, "crictl", 10 * MIB, &[]),
        artifact(Image, "k8s.gcr.io/kube-apiserver:v1.20.2", 105 * MIB, &["control-plane"]),
        artifact(Image, "k8s.gcr.io/kube-controller-manager:v1.20.2", 99 * MIB, &["control-plane"]),
        artifact(Image, "k8s.gcr.io/kube-scheduler:v1.20.2", 38 * MIB, &["control-plane"]),
        artifact(Image, "k8s.gcr.io/etcd:3.4.13-0", 40 * MIB, &["control-plane"]),
        artifact(Image, "k8s.gcr.io/kube-proxy:v1.20.2", 35 * MIB, &[]),
        artifact(Image, "k8s.gcr.io/coredns:1.7.0", 28 * MIB, &[]),
        artifact(Image, "k8s.gcr.io/pause:3.2", MIB, &[]),
        artifact(Package, "containerd", 25 * MIB, &[]),
        artifact(Package, "conntrack", MIB, &[]),
        artifact(Agent, "kdc-agent", 10 * MIB, &[]),
    ])
}

/// The same with the documents that `bundle create` adds.
pub(crate) fn index_with_documents() -> Index {
    let whole = index();
    let blobs =
        whole.artifacts.iter().map(|one| whole.blob(&one.digest).expect("its blob").clone());
    let mut parts: Vec<(Artifact, Blob)> = whole.artifacts.iter().cloned().zip(blobs).collect();
    for name in ["provenance.json", "sbom.spdx.json"] {
        let (made, blob) = artifact(ArtifactKind::Document, name, MIB, &[]);
        parts.push((Artifact { platform: None, ..made }, blob));
    }
    index_of(&parts)
}

/// The same with the runtime as upstream releases it: archives and a binary, no packages.
pub(crate) fn index_with_archives() -> Index {
    use ArtifactKind::{Archive, Binary};
    let whole = index();
    let from_packages =
        |artifact: &Artifact| artifact.kind == ArtifactKind::Package || artifact.name == "crictl";
    let mut parts: Vec<(Artifact, Blob)> = whole
        .artifacts
        .into_iter()
        .filter(|artifact| !from_packages(artifact))
        .map(|artifact| {
            let blob = whole.blobs.iter().find(|blob| blob.digest == artifact.digest);
            (artifact, blob.expect("its blob").clone())
        })
        .collect();
    for (name, target) in [
        ("containerd", "/usr/local"),
        ("cni-plugins", "/opt/cni/bin"),
        ("crictl", "/usr/local/bin"),
    ] {
        let (mut archive, blob) = artifact(Archive, name, 30 * MIB, &[]);
        archive.unpack_to = Some(target.to_owned());
        parts.push((archive, blob));
    }
    parts.push(artifact(Binary, "runc", 11 * MIB, &[]));
    index_of(&parts)
}

/// The index that a shipped definition leads to, with made-up content.
pub(crate) fn index_of_definition(name: &str) -> Index {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../bundles");
    let definition = kdc_profiles::definition::load(&std::path::Path::new(folder).join(name))
        .unwrap_or_else(|error| panic!("{error}"));
    let parts: Vec<(Artifact, Blob)> = (definition.artifacts.iter())
        .map(|defined| {
            let kind = serde_json::from_value(defined.kind.clone().into()).expect("a kind");
            let (made, blob) = artifact(kind, &defined.name, MIB, &[]);
            let (platform, version) = (defined.platform.clone(), defined.version.clone());
            let (roles, unpack_to) = (defined.roles.clone(), defined.unpack_to.clone());
            (Artifact { platform, version, roles, unpack_to, ..made }, blob)
        })
        .collect();
    Index { parameters: definition.parameters, ..index_of(&parts) }
}

fn index_of(parts: &[(Artifact, Blob)]) -> Index {
    let (mut artifacts, mut blobs): (Vec<Artifact>, Vec<Blob>) = parts.iter().cloned().unzip();
    artifacts.sort_by(|left, right| (left.kind, &left.name).cmp(&(right.kind, &right.name)));
    blobs.sort_by(|left, right| left.digest.cmp(&right.digest));
    let parameters = [
        ("kubernetesVersion", "v1.20.2"),
        ("kubeadmConfigApi", "v1beta2"),
        ("imagePrefix", "k8s.gcr.io"),
        ("pauseImage", "k8s.gcr.io/pause:3.2"),
        ("criSocket", "/run/containerd/containerd.sock"),
        ("cniBinDir", "/usr/lib/cni"),
        ("controlPlaneTaint", "node-role.kubernetes.io/master:NoSchedule"),
        ("controlPlaneLabel", "node-role.kubernetes.io/master"),
        ("testImage", "docker.io/kdc/test:1"),
        ("systems", "debian 12"),
    ];
    Index {
        version: kdc_bundles::index::INDEX_VERSION,
        name: "lab".to_owned(),
        bundle_version: "1".to_owned(),
        piece_size: MIB,
        parameters: parameters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        artifacts,
        blobs,
    }
}

/// Facts of one good node.
pub(crate) fn facts_of(name: &str, address: std::net::IpAddr) -> Facts {
    Facts {
        agent_version: "0.1.0".to_owned(),
        hostname: name.to_owned(),
        machine_id: Known::Known(Digest::of(name.as_bytes()).hex()[..32].to_owned()),
        platform: "linux/amd64".to_owned(),
        os: Known::Known("debian 12".to_owned()),
        kernel: "6.1.0-18-amd64".to_owned(),
        systemd: Known::Known("252".to_owned()),
        cgroup: Known::Known(CgroupVersion::V2),
        cpus: 2,
        memory_bytes: Known::Known(2 << 30),
        swap: Known::Known(BTreeMap::new()),
        file_systems: Known::Known(vec![FileSystem {
            mount_point: "/".to_owned(),
            kind: "ext4".to_owned(),
            size_bytes: 20 << 30,
            free_bytes: 10 << 30,
            free_inodes: 1_000_000,
            options: BTreeSet::new(),
        }]),
        addresses: Known::Known(vec![Address {
            link: "eth0".to_owned(),
            address: format!("{address}/16"),
            mtu: 1500,
            mac: "02:00:00:00:00:01".to_owned(),
        }]),
        default_routes: Known::Known(Vec::new()),
        has_resolv_conf: Known::Known(true),
        nvidia_gpus: Known::Known(0),
        listening: Known::Known(BTreeSet::new()),
        modules: Known::Known(BTreeSet::new()),
        sysctls: Known::Known(BTreeMap::new()),
        packages: Known::Known(BTreeMap::new()),
        foreign: Known::Known(Vec::new()),
        programs: kdc_agent::facts::PROGRAMS
            .iter()
            .map(|name| ((*name).to_owned(), format!("/usr/bin/{name}")))
            .collect(),
        clock_unix_ms: 1_795_000_000_000,
        cap_sys_resource: Known::Known(true),
        conntrack_max_writable: Known::Known(true),
        ownership: Ownership { cluster: None, runs: Vec::new(), components: BTreeSet::new() },
    }
}

/// Facts of every node of a cluster.
pub(crate) fn facts(cluster: &Cluster) -> BTreeMap<String, Facts> {
    let facts = |node: &kdc_profiles::cluster::Node| {
        (node.name.clone(), facts_of(&node.name, node.address))
    };
    cluster.nodes.iter().map(facts).collect()
}
