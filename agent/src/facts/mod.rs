//! Facts: what a node is, read without changing anything.
//!
//! A field that could not be read is [`Known::Unknown`] with the reason, which is never the same as
//! absent: a check over it is `unknown`, and unknown never counts as passed.

mod kernel;
mod look;
mod network;
mod software;
mod storage;
mod system;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{SystemTime, UNIX_EPOCH},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use self::look::USUAL_FILE_BYTES;
pub use self::{look::Look, software::Ours};

/// Programs that facts look for on PATH: what kubeadm's own preflight insists on, what steps call,
/// and what the installer's checks ask about. A check never asks for one that is not listed here.
pub const PROGRAMS: &[&str] = &[
    "conntrack",
    "containerd",
    "crictl",
    "ctr",
    "dpkg",
    "ebtables",
    "ethtool",
    "ip",
    "iptables",
    "iptables-save",
    "kubeadm",
    "kubectl",
    "kubelet",
    "modprobe",
    "mount",
    "nft",
    "nsenter",
    "runc",
    "socat",
    "swapoff",
    "sysctl",
    "systemctl",
    "systemd-run",
    "tc",
    "touch",
    "ufw",
];

/// A value, or why it could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Known<T> {
    /// Read.
    Known(T),
    /// Could not look, and why.
    Unknown(String),
}

impl<T> Known<T> {
    /// The value, if it was read.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }
}

/// cgroup hierarchy in force; decides the cgroup driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CgroupVersion {
    /// Legacy or hybrid: driver `cgroupfs`.
    V1,
    /// Unified: driver `systemd`.
    V2,
}

/// A mounted file system that an install writes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileSystem {
    /// Mount point.
    pub mount_point: String,
    /// Type (`ext4`, `overlay`).
    pub kind: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Free for root, bytes.
    pub free_bytes: u64,
    /// Free inodes; 0 where the file system does not count them (btrfs).
    pub free_inodes: u64,
    /// Mount options that matter (`ro`, `noexec`).
    pub options: BTreeSet<String>,
}

/// An address on a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// Link name.
    pub link: String,
    /// Address with prefix length (`10.66.0.11/24`).
    pub address: String,
    /// Link MTU.
    pub mtu: u32,
    /// Link MAC.
    pub mac: String,
}

/// Things on the host that would fight with what kdc installs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Foreign {
    /// What it is (`containerd`, `docker`, `kubelet`, `k3s`, `etcd`).
    pub what: String,
    /// Where it was seen (`unit containerd.service active`, `/usr/bin/containerd`).
    pub evidence: String,
}

/// Who an agent found in charge of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ownership {
    /// Cluster name in the receipt, if this node is part of one.
    pub cluster: Option<String>,
    /// Runs whose changes are in force, oldest first.
    pub runs: Vec<String>,
    /// Components of the profile that those runs put into the cluster.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub components: BTreeSet<String>,
}

/// Everything `check` and `plan` judge by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// Version of the agent that looked.
    pub agent_version: String,
    /// `uname -n`.
    pub hostname: String,
    /// `/etc/machine-id`.
    pub machine_id: Known<String>,
    /// `linux/amd64`.
    pub platform: String,
    /// `ID` and `VERSION_ID` of os-release (`debian 12`).
    pub os: Known<String>,
    /// `uname -r`.
    pub kernel: String,
    /// systemd is PID 1, and its version.
    pub systemd: Known<String>,
    /// cgroup hierarchy.
    pub cgroup: Known<CgroupVersion>,
    /// Logical CPUs usable.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: Known<u64>,
    /// Active swap devices and files with their sizes in bytes.
    pub swap: Known<BTreeMap<String, u64>>,
    /// File systems holding `/`, `/var/lib`, `/tmp`, `/run` and their kin.
    pub file_systems: Known<Vec<FileSystem>>,
    /// Addresses on all links but loopback.
    pub addresses: Known<Vec<Address>>,
    /// Links with a default route (IPv4).
    pub default_routes: Known<Vec<String>>,
    /// There is an `/etc/resolv.conf`, which the kubelet reads for every pod.
    #[serde(default = "not_looked::<bool>")]
    pub has_resolv_conf: Known<bool>,
    /// TCP and UDP ports something listens on (`6443/tcp`).
    pub listening: Known<BTreeSet<String>>,
    /// Loaded or built-in kernel modules out of those kdc cares about.
    pub modules: Known<BTreeSet<String>>,
    /// Values of the sysctls kdc cares about.
    pub sysctls: Known<BTreeMap<String, String>>,
    /// Installed packages with version, as the package manager prints them.
    pub packages: Known<BTreeMap<String, String>>,
    /// Foreign container or Kubernetes software that is not ours by receipt.
    pub foreign: Known<Vec<Foreign>>,
    /// GPUs of NVIDIA's on the PCI bus, whoever holds them.
    #[serde(default = "not_looked::<u32>")]
    pub nvidia_gpus: Known<u32>,
    /// Programs found on PATH out of those kdc cares about (`iptables`, `conntrack`).
    pub programs: BTreeMap<String, String>,
    /// Wall clock as milliseconds since the epoch, at the moment of the answer.
    pub clock_unix_ms: u64,
    /// Effective capabilities include `CAP_SYS_RESOURCE` (not so in some containers).
    pub cap_sys_resource: Known<bool>,
    /// `/proc/sys/net/netfilter/nf_conntrack_max` can be written (not so in a network namespace).
    pub conntrack_max_writable: Known<bool>,
    /// What kdc itself holds here.
    pub ownership: Ownership,
}

impl Facts {
    /// There is a GPU of NVIDIA's, as far as is known.
    #[must_use]
    pub fn has_nvidia_gpu(&self) -> bool {
        self.nvidia_gpus.value().is_some_and(|gpus| *gpus > 0)
    }
}

/// What an agent of before this fact says of it.
fn not_looked<T>() -> Known<T> {
    Known::Unknown("the agent is too old to look".to_owned())
}

/// Look at everything. Starts no program and writes nothing; about two milliseconds on an idle
/// machine. Host name, kernel, CPUs, memory and addresses are this machine's whatever `look` is.
#[must_use]
pub fn collect(look: &Look, ownership: Ownership, ours: &Ours) -> Facts {
    let (hostname, kernel) = nix::sys::utsname::uname().map_or_else(
        |_| (String::new(), String::new()),
        |uname| {
            let text = |part: &std::ffi::OsStr| part.to_string_lossy().into_owned();
            (text(uname.nodename()), text(uname.release()))
        },
    );
    Facts {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        machine_id: system::probe_machine_id(look),
        platform: platform().to_owned(),
        os: system::probe_os(look),
        systemd: system::probe_systemd(look),
        cgroup: system::probe_cgroup(look),
        cpus: std::thread::available_parallelism()
            .map_or(0, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        memory_bytes: system::probe_memory(),
        swap: system::probe_swap(look),
        file_systems: storage::probe_file_systems(look),
        addresses: network::probe_addresses(look),
        default_routes: network::probe_default_routes(look),
        has_resolv_conf: Known::Known(look.exists("/etc/resolv.conf")),
        listening: network::probe_listening(look),
        modules: kernel::probe_modules(look, &kernel),
        sysctls: kernel::probe_sysctls(look),
        packages: software::probe_packages(look),
        foreign: software::probe_foreign(look, ours),
        nvidia_gpus: Known::Known(crate::gpu::on_bus(look)),
        programs: software::probe_programs(look),
        cap_sys_resource: system::probe_cap_sys_resource(look),
        conntrack_max_writable: system::probe_conntrack_max(look),
        ownership,
        hostname,
        kernel,
        clock_unix_ms: now_unix_ms(),
    }
}

/// Addresses on this machine's links.
pub(crate) fn own_addresses() -> Known<Vec<Address>> {
    network::probe_addresses(&Look::machine())
}

/// Milliseconds since the epoch; 0 for a clock before it.
#[must_use]
pub fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// This machine's platform, as OCI names it.
pub(crate) fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "linux/amd64",
        "aarch64" => "linux/arm64",
        _ => "linux/unknown",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn recorded() -> Look {
        let tree = "tests/fixtures/facts/debian12-cgroup1";
        Look::at(&Path::new(env!("CARGO_MANIFEST_DIR")).join(tree))
    }

    fn nobody() -> Ownership {
        Ownership { cluster: None, runs: Vec::new(), components: BTreeSet::new() }
    }

    fn known<T>(fact: &Known<T>) -> &T {
        match fact {
            Known::Known(value) => value,
            Known::Unknown(reason) => panic!("{reason}"),
        }
    }

    #[test]
    fn a_recorded_machine_reads_as_it_was() {
        let facts = collect(&recorded(), nobody(), &Ours::default());
        assert_eq!(known(&facts.os), "debian 12");
        assert_eq!(known(&facts.systemd), "");
        assert_eq!(*known(&facts.cgroup), CgroupVersion::V1);
        assert!(known(&facts.swap).is_empty());
        assert_eq!(known(&facts.default_routes), &["eth0"]);
        assert_eq!(*known(&facts.listening), BTreeSet::from(["22/tcp".to_owned()]));
        assert!(known(&facts.modules).contains("overlay"));
        assert_eq!(known(&facts.sysctls)["net.ipv4.ip_forward"], "1");
        assert!(!*known(&facts.cap_sys_resource));
        let packages: Vec<&String> = known(&facts.packages).keys().collect();
        assert_eq!(packages, ["bash", "coreutils", "iproute2"]);
        assert_eq!(facts.programs["iptables"], "/usr/sbin/iptables");
        let points: Vec<&str> =
            known(&facts.file_systems).iter().map(|seen| seen.mount_point.as_str()).collect();
        assert_eq!(points, ["/", "/dev/shm"]);
        let docker = Foreign { what: "docker".to_owned(), evidence: "/usr/bin/dockerd".to_owned() };
        assert_eq!(*known(&facts.foreign), [docker]);
    }

    #[test]
    fn what_can_not_be_read_is_unknown_with_the_reason_and_never_fine() {
        let empty = tempfile::tempdir().unwrap();
        let facts = collect(&Look::at(empty.path()), nobody(), &Ours::default());
        for (fact, unknown) in [
            ("swap", facts.swap.value().is_none()),
            ("file systems", facts.file_systems.value().is_none()),
            ("routes", facts.default_routes.value().is_none()),
            ("listening", facts.listening.value().is_none()),
            ("modules", facts.modules.value().is_none()),
            ("sysctls", facts.sysctls.value().is_none()),
            ("foreign", facts.foreign.value().is_none()),
            ("packages", facts.packages.value().is_none()),
            ("cgroup", facts.cgroup.value().is_none()),
        ] {
            assert!(unknown, "{fact}");
        }
        let Known::Unknown(reason) = facts.swap else { panic!("swap is known") };
        assert!(reason.contains("/proc/swaps"), "{reason}");
    }
}
