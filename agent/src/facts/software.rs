//! Packages, programs, and container or Kubernetes software that kdc did not put here.

use std::collections::{BTreeMap, BTreeSet};

use super::{Foreign, Known, PROGRAMS, look::Look};
use crate::step::{NodePlan, Step};

const PATH: &[&str] =
    &["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Software that would fight with ours: name, files that show it, process names that show it.
const FOREIGN: &[(&str, &[&str], &[&str])] = &[
    ("containerd", &["/etc/containerd/config.toml"], &["containerd"]),
    ("cri-o", &["/usr/bin/crio", "/etc/crio/crio.conf"], &["crio"]),
    ("docker", &["/usr/bin/dockerd", "/usr/sbin/dockerd", "/var/run/docker.sock"], &["dockerd"]),
    ("etcd", &["/var/lib/etcd/member"], &["etcd"]),
    ("k3s", &["/etc/rancher/k3s", "/var/lib/rancher/k3s"], &["k3s-server", "k3s-agent"]),
    (
        "kubelet",
        &[
            "/etc/kubernetes/kubelet.conf",
            "/etc/kubernetes/admin.conf",
            "/var/lib/kubelet/config.yaml",
        ],
        &["kubelet"],
    ),
    ("microk8s", &["/var/snap/microk8s"], &[]),
    ("rke2", &["/etc/rancher/rke2", "/var/lib/rancher/rke2"], &["rke2"]),
];

/// Programs whose mere presence counts.
const FOREIGN_PROGRAMS: &[(&str, &str)] = &[
    ("containerd", "containerd"),
    ("etcd", "etcd"),
    ("k3s", "k3s"),
    ("kubelet", "kubelet"),
    ("kubelet", "kubeadm"),
    ("rke2", "rke2"),
];

/// Installed packages from dpkg's own file; on a system without dpkg the reason why not.
pub(super) fn probe_packages(look: &Look) -> Known<BTreeMap<String, String>> {
    look.parsed("/var/lib/dpkg/status", |text| Ok(parse_dpkg_status(text)))
}

fn parse_dpkg_status(text: &str) -> BTreeMap<String, String> {
    let mut packages = BTreeMap::new();
    let (mut name, mut version, mut installed) = ("", "", false);
    for line in text.lines().chain([""]) {
        if line.is_empty() {
            if installed && !name.is_empty() {
                packages.insert(name.to_owned(), version.to_owned());
            }
            (name, version, installed) = ("", "", false);
        } else if let Some(value) = line.strip_prefix("Package: ") {
            name = value;
        } else if let Some(value) = line.strip_prefix("Version: ") {
            version = value;
        } else if let Some(value) = line.strip_prefix("Status: ") {
            installed = value.ends_with(" installed");
        }
    }
    packages
}

/// Where each known program is.
pub(super) fn probe_programs(look: &Look) -> BTreeMap<String, String> {
    PROGRAMS
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), find_program(look, name)?)))
        .collect()
}

fn find_program(look: &Look, name: &str) -> Option<String> {
    PATH.iter()
        .map(|directory| format!("{directory}/{name}"))
        .find(|path| look.path(path).is_file())
}

/// What is ours by receipt, so that a second `apply` does not take it for a stranger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ours(BTreeSet<&'static str>);

impl Ours {
    /// Everything that the plans in force put on this node.
    #[must_use]
    pub fn of<'a>(plans: impl IntoIterator<Item = &'a NodePlan>) -> Self {
        let steps = plans.into_iter().flat_map(|plan| &plan.steps);
        Self(steps.flat_map(|planned| names_of(&planned.step)).collect())
    }
}

fn names_of(step: &Step) -> Vec<&'static str> {
    match step {
        Step::ConfigureContainerd { .. } => vec!["containerd"],
        Step::InstallPackages { packages } => packages
            .iter()
            .filter(|package| package.name.starts_with("containerd"))
            .map(|_| "containerd")
            .collect(),
        Step::PlaceBinary { path, .. } => FOREIGN_PROGRAMS
            .iter()
            .filter(|(_, program)| path.ends_with(&format!("/{program}")))
            .map(|(what, _)| *what)
            .collect(),
        Step::InitControlPlane { .. } => vec!["kubelet", "etcd"],
        Step::JoinNode { .. } => vec!["kubelet"],
        _ => Vec::new(),
    }
}

/// Container and Kubernetes software that is not ours.
pub(super) fn probe_foreign(look: &Look, ours: &Ours) -> Known<Vec<Foreign>> {
    let running = match running_names(look) {
        Ok(running) => running,
        Err(reason) => return Known::Unknown(reason),
    };
    let mut found = Vec::new();
    for (what, files, processes) in FOREIGN.iter().filter(|(what, ..)| !ours.0.contains(what)) {
        let programs = FOREIGN_PROGRAMS.iter().filter(|(owner, _)| owner == what);
        let mut evidence: Vec<String> =
            programs.filter_map(|(_, program)| find_program(look, program)).collect();
        evidence
            .extend(files.iter().filter(|path| look.exists(path)).map(|path| (*path).to_owned()));
        evidence.extend(
            processes
                .iter()
                .filter(|name| running.contains(**name))
                .map(|name| format!("process {name} runs")),
        );
        found.extend(
            evidence.into_iter().map(|evidence| Foreign { what: (*what).to_owned(), evidence }),
        );
    }
    Known::Known(found)
}

/// Names of the processes of this machine.
fn running_names(look: &Look) -> Result<BTreeSet<String>, String> {
    let pids =
        look.names("/proc").into_iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
    let mut seen = false;
    let names = pids
        // A process may end between listing and reading.
        .filter_map(|pid| look.text(&format!("/proc/{pid}/comm")).ok())
        .inspect(|_| seen = true)
        .map(|name| name.trim().to_owned())
        .collect();
    if seen { Ok(names) } else { Err("no process can be seen under /proc".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_packages_count_and_the_last_one_needs_no_blank_line() {
        let text = "Package: a\nStatus: install ok installed\nVersion: 1\n\n\
            Package: b\nStatus: deinstall ok config-files\nVersion: 2\n\n\
            Package: c\nStatus: install ok half-installed\nVersion: 2\n\n\
            Package: d\nVersion: 3-1\nStatus: hold ok installed\nDescription: x\n Package: not\n";
        let packages = parse_dpkg_status(text);
        assert_eq!(packages.keys().collect::<Vec<_>>(), ["a", "d"]);
        assert_eq!(packages["d"], "3-1");
    }
}
