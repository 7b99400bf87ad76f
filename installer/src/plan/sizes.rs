//! How much a plan needs of a node: bytes sent, bytes on each path, and the needs of its checks.

use std::collections::{BTreeMap, BTreeSet};

use kdc_agent::{
    check::Needs,
    daemon::{config::API_PORT, registry::REGISTRY_PORT},
    facts,
};
use kdc_bundles::index::{ArtifactKind, Digest, Index};
use kdc_profiles::{cluster::Role, profile::HostNeeds};

use super::{Inputs, PlanError, facts_of, select::Selection};
use crate::distribution::parameters::Parameters;

/// An image in containerd: its layers unpacked to about three times their compressed size.
const IMAGE_FACTOR: u64 = 3;

/// A package installed takes about four times its archive, and dpkg unpacks beside what it replaces.
const PACKAGE_FACTOR: u64 = 5;

/// Programs compress to about a third.
const ARCHIVE_FACTOR: u64 = 4;

/// Bytes that one file of an unpacked image has on average, taken low.
const BYTES_PER_INODE: u64 = 16 * 1024;

const MIB: u64 = 1024 * 1024;

/// Bytes of these blobs together.
pub(super) fn sum(index: &Index, blobs: &[Digest]) -> Result<u64, PlanError> {
    let size = |digest: &Digest| {
        let blob = index.blob(digest);
        blob.map(|blob| blob.size)
            .ok_or_else(|| PlanError::MissingBlob { digest: digest.to_string() })
    };
    blobs.iter().map(size).try_fold(0_u64, |sum, size| Ok(sum.saturating_add(size?)))
}

/// Most bytes below each path: the store keeps every blob while images and packages unpack, and
/// containerd holds the blobs of the image that it pulls until it has unpacked them.
pub(super) fn peak_disk(
    index: &Index,
    selection: &Selection<'_>,
) -> Result<BTreeMap<String, u64>, PlanError> {
    let store = sum(index, &selection.blobs())?;
    let images = sum(index, &Selection::blobs_of(&selection.images))?;
    let pulled = selection.images.iter().map(|image| sum(index, &image.blobs));
    let largest = pulled.collect::<Result<Vec<_>, _>>()?.into_iter().max().unwrap_or(0);
    let packages = sum(index, &Selection::blobs_of(&selection.packages))?;
    let binaries = sum(index, &Selection::blobs_of(&selection.binaries))?
        .saturating_add(sum(index, &selection.agent.blobs)?);
    let mut peak = BTreeMap::from([
        ("/var/lib/kdc".to_owned(), store),
        (
            "/var/lib/containerd".to_owned(),
            images.saturating_mul(IMAGE_FACTOR).saturating_add(largest),
        ),
        ("/usr".to_owned(), packages.saturating_mul(PACKAGE_FACTOR)),
        ("/usr/local/bin".to_owned(), binaries),
    ]);
    for (archive, target) in selection.archives() {
        let bytes = sum(index, &archive.blobs)?.saturating_mul(ARCHIVE_FACTOR);
        let place = peak.entry(target.to_owned()).or_default();
        *place = place.saturating_add(bytes);
    }
    Ok(peak)
}

/// What the checks of one node judge its facts by.
///
/// # Errors
/// When the bundle lacks something the plan needs.
pub fn needs(inputs: &Inputs<'_>, node_name: &str, root: bool) -> Result<Needs, PlanError> {
    let missing = || PlanError::MissingFacts { node: node_name.to_owned() };
    let node = inputs.cluster.nodes.iter().find(|node| node.name == node_name);
    let node = node.ok_or_else(missing)?;
    let facts = facts_of(inputs, node_name)?;
    let parameters = Parameters::read(inputs.index)?;
    let host = &inputs.profile.host;
    let minimum = host.minimum.get(&node.role);
    let mut needs = Needs {
        cluster: inputs.cluster.name.clone(),
        root,
        platforms: platforms(inputs.index),
        systems: parameters.systems.clone(),
        cpus: minimum.map_or(1, |minimum| minimum.cpus),
        memory_bytes: minimum.map_or(0, |minimum| minimum.memory_mib.saturating_mul(MIB)),
        disk_bytes: BTreeMap::new(),
        inodes: BTreeMap::new(),
        ports: ports(host, node.role),
        modules: host.modules.clone(),
        programs: Vec::new(),
        disables_swap: inputs.cluster.settings.disable_swap,
        host_routes: inputs.cluster.network.cni == "host-routes",
    };
    if !needs.platforms.contains(&facts.platform) {
        // The check says so; sizes of what the bundle does not have can't be told.
        return Ok(needs);
    }
    let selection = Selection::of(inputs.index, &parameters, facts, node)?;
    needs.disk_bytes = peak_disk(inputs.index, &selection)?;
    let images = needs.disk_bytes.get("/var/lib/containerd").copied().unwrap_or(0);
    needs.inodes.insert("/var/lib/containerd".to_owned(), images / BYTES_PER_INODE);
    let spare = minimum.map_or(0, |minimum| minimum.disk_mib.saturating_mul(MIB));
    needs.disk_bytes.insert("/var/lib".to_owned(), spare);
    needs.programs = programs(&selection);
    Ok(needs)
}

/// Ports that must be free: the profile's for this role, and those of the node's own registry and
/// of its agent's API, which nobody else may reach.
#[must_use]
pub fn ports(host: &HostNeeds, role: Role) -> Vec<String> {
    let listed = host.ports.get(&role).into_iter().flatten().cloned();
    listed.chain([REGISTRY_PORT, API_PORT].map(|port| format!("{port}/tcp"))).collect()
}

/// Platforms that the bundle has an agent for.
fn platforms(index: &Index) -> Vec<String> {
    let agents = index.artifacts.iter().filter(|artifact| artifact.kind == ArtifactKind::Agent);
    let platforms: BTreeSet<String> =
        agents.filter_map(|artifact| artifact.platform.clone()).collect();
    platforms.into_iter().collect()
}

/// Programs that kubeadm and the steps call, and in which package they come: what the bundle has
/// a package, archive or binary for need not be there before.
const CALLED: &[(&str, &[&str])] = &[
    ("conntrack", &["conntrack"]),
    ("crictl", &["crictl", "cri-tools"]),
    ("ip", &["iproute2"]),
    ("iptables", &["iptables"]),
    ("mount", &["mount"]),
    ("nsenter", &["util-linux"]),
    ("systemctl", &["systemd"]),
];

fn programs(selection: &Selection<'_>) -> Vec<String> {
    let brought = |name: &str| {
        let lists = [&selection.packages, &selection.binaries];
        lists.into_iter().flatten().any(|artifact| artifact.name == name)
            || selection.archives().any(|(archive, _)| archive.name == name)
    };
    let mut programs: Vec<String> = CALLED
        .iter()
        .filter(|(_, packages)| !packages.iter().any(|package| brought(package)))
        .map(|(program, _)| (*program).to_owned())
        .collect();
    if !selection.packages.is_empty() {
        programs.push("dpkg".to_owned());
    }
    debug_assert!(programs.iter().all(|name| facts::PROGRAMS.contains(&name.as_str())));
    programs
}
