//! The software right above the hardware: kernel, distribution, cgroups, security modules.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Found, sight::Sight};

const CGROUP: &str = "/sys/fs/cgroup";
const SECURITY: &str = "/sys/kernel/security";

/// Kernel, distribution and how they are set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct System {
    /// `uname -n`.
    pub hostname: Found<String>,
    /// Kernel release.
    pub kernel: Found<String>,
    /// Kernel build.
    pub kernel_build: Found<String>,
    /// Kernel arguments.
    pub command_line: Found<String>,
    /// Why the kernel isn't as its maker left it (bits of `kernel.tainted`; 0: it is).
    pub tainted: Found<u64>,
    /// What the clock ticks by.
    pub clock_source: Found<String>,
    /// `ID` of os-release.
    pub os: Found<String>,
    /// `VERSION_ID` of os-release.
    pub os_version: Found<String>,
    /// `PRETTY_NAME` of os-release.
    pub os_name: Found<String>,
    /// `v1` or `v2`.
    pub cgroup: Found<String>,
    /// Controllers of the cgroup root.
    pub cgroup_controllers: Found<Vec<String>>,
    /// Linux security modules in force, in order.
    pub security_modules: Found<Vec<String>>,
    /// `enforcing` or `permissive`.
    pub selinux: Found<String>,
    /// AppArmor is on.
    pub apparmor: Found<bool>,
    /// Kernel lockdown (`none`, `integrity`, `confidentiality`).
    pub lockdown: Found<String>,
    /// Isolation groups of the IOMMU; absent where it is off.
    pub iommu_groups: Found<u32>,
}

/// Read it all.
pub(super) fn probe(sight: &Sight) -> System {
    let release = match sight.text("/etc/os-release") {
        Found::Absent { .. } => sight.text("/usr/lib/os-release"),
        found => found,
    };
    System {
        hostname: sight.text("/proc/sys/kernel/hostname"),
        kernel: sight.text("/proc/sys/kernel/osrelease"),
        kernel_build: sight.text("/proc/sys/kernel/version"),
        command_line: sight.text("/proc/cmdline"),
        tainted: sight.number("/proc/sys/kernel/tainted"),
        clock_source: sight
            .text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        os: release_field(&release, "ID"),
        os_version: release_field(&release, "VERSION_ID"),
        os_name: release_field(&release, "PRETTY_NAME"),
        cgroup: probe_cgroup(sight),
        cgroup_controllers: probe_controllers(sight),
        security_modules: sight
            .text(&format!("{SECURITY}/lsm"))
            .map(|text| text.split(',').map(str::to_owned).collect()),
        selinux: sight.flag("/sys/fs/selinux/enforce").map(|on| {
            let word = if on { "enforcing" } else { "permissive" };
            word.to_owned()
        }),
        apparmor: sight.text("/sys/module/apparmor/parameters/enabled").map(|text| text == "Y"),
        lockdown: sight.text(&format!("{SECURITY}/lockdown")).parsed(|text| {
            super::memory::chosen(&text).ok_or_else(|| format!("`{text}` marks no choice"))
        }),
        iommu_groups: probe_iommu(sight),
    }
}

fn release_field(release: &Found<String>, key: &str) -> Found<String> {
    let text = match release {
        Found::Present { value, .. } => value,
        Found::Absent { source } => return Found::absent(source),
        Found::Unknown { source, reason } => return Found::unknown(source, reason),
    };
    let value = text.lines().filter_map(|line| line.split_once('=')).find(|(name, _)| *name == key);
    match value {
        Some((_, value)) => {
            Found::present(value.trim_matches(['"', '\'']).to_owned(), release.source())
        }
        None => Found::absent(release.source()),
    }
}

fn probe_cgroup(sight: &Sight) -> Found<String> {
    if sight.exists(&format!("{CGROUP}/cgroup.controllers")) {
        return Found::present("v2".to_owned(), format!("{CGROUP}/cgroup.controllers"));
    }
    for name in ["memory", "cpu", "cpu,cpuacct"] {
        let path = format!("{CGROUP}/{name}");
        if sight.exists(&path) {
            return Found::present("v1".to_owned(), path);
        }
    }
    Found::unknown(CGROUP, "no hierarchy is mounted there")
}

fn probe_controllers(sight: &Sight) -> Found<Vec<String>> {
    let unified = sight.text(&format!("{CGROUP}/cgroup.controllers"));
    if unified.value().is_some() {
        return unified.map(|text| text.split_ascii_whitespace().map(str::to_owned).collect());
    }
    // Name, hierarchy, number of cgroups, enabled.
    sight.text("/proc/cgroups").map(|text| {
        let name = |line: &str| {
            let mut fields = line.split_ascii_whitespace();
            let name = fields.next()?;
            (!name.starts_with('#') && fields.nth(2) == Some("1")).then(|| name.to_owned())
        };
        text.lines().filter_map(name).collect()
    })
}

fn probe_iommu(sight: &Sight) -> Found<u32> {
    let groups = sight.names("/sys/kernel/iommu_groups");
    match groups.map(|names| u32::try_from(names.len()).unwrap_or(u32::MAX)) {
        Found::Present { value: 0, source } => Found::absent(source),
        found => found,
    }
}
