//! Who the machine is: operating system, init, cgroup hierarchy, memory, swap, capabilities.

use std::collections::BTreeMap;

use super::{CgroupVersion, Known, look::Look};

/// Bit of `CAP_SYS_RESOURCE` (linux/capability.h).
const CAP_SYS_RESOURCE: u32 = 24;

const CONNTRACK_MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// `/etc/machine-id`, if it was set.
pub(super) fn probe_machine_id(look: &Look) -> Known<String> {
    look.parsed("/etc/machine-id", |text| match text.trim() {
        "" | "uninitialized" => Err("/etc/machine-id is not set".to_owned()),
        id => Ok(id.to_owned()),
    })
}

/// `debian 12`.
pub(super) fn probe_os(look: &Look) -> Known<String> {
    let file =
        if look.exists("/etc/os-release") { "/etc/os-release" } else { "/usr/lib/os-release" };
    look.parsed(file, parse_os_release)
}

fn parse_os_release(text: &str) -> Result<String, String> {
    let value = |key: &str| {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value.trim_matches(|c| c == '"' || c == '\''))
    };
    let id = value("ID").ok_or("os-release names no ID")?;
    Ok(match value("VERSION_ID") {
        Some(version) => format!("{id} {version}"),
        None => id.to_owned(),
    })
}

/// systemd's version where it is PID 1; empty where something else is. The version is the name of
/// the library that systemd's programs share, so that no program has to be started.
pub(super) fn probe_systemd(look: &Look) -> Known<String> {
    if !look.exists("/run/systemd/system") {
        return Known::Known(String::new());
    }
    for directory in [
        "/usr/lib/systemd",
        "/lib/systemd",
        "/usr/lib/x86_64-linux-gnu/systemd",
        "/usr/lib/aarch64-linux-gnu/systemd",
        "/usr/lib64/systemd",
    ] {
        let version = look.names(directory).into_iter().find_map(|name| {
            let version = name.strip_prefix("libsystemd-shared-")?.strip_suffix(".so")?;
            Some(version.to_owned())
        });
        if let Some(version) = version {
            return Known::Known(version);
        }
    }
    Known::Unknown("systemd runs, but its shared library was not found".to_owned())
}

/// Unified or legacy.
pub(super) fn probe_cgroup(look: &Look) -> Known<CgroupVersion> {
    if look.exists("/sys/fs/cgroup/cgroup.controllers") {
        return Known::Known(CgroupVersion::V2);
    }
    match ["memory", "cpu", "cpu,cpuacct"]
        .iter()
        .any(|name| look.exists(&format!("/sys/fs/cgroup/{name}")))
    {
        true => Known::Known(CgroupVersion::V1),
        false => Known::Unknown("no cgroup hierarchy is mounted under /sys/fs/cgroup".to_owned()),
    }
}

/// Memory of this machine (not of a recorded tree).
pub(super) fn probe_memory() -> Known<u64> {
    let mut system = match sysinfo::System::new() {
        Ok(system) => system,
        Err(cause) => return Known::Unknown(cause.to_string()),
    };
    system.refresh_memory();
    match system.total_memory() {
        0 => Known::Unknown("the kernel reported no memory size".to_owned()),
        bytes => Known::Known(bytes),
    }
}

/// Active swap, bytes each.
pub(super) fn probe_swap(look: &Look) -> Known<BTreeMap<String, u64>> {
    look.parsed("/proc/swaps", parse_swaps)
}

fn parse_swaps(text: &str) -> Result<BTreeMap<String, u64>, String> {
    let line_of = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let name = fields.next()?.to_owned();
        let kib: u64 = fields.nth(1)?.parse().ok()?;
        Some((name, kib.saturating_mul(1024)))
    };
    text.lines()
        .skip(1)
        .map(|line| line_of(line).ok_or_else(|| format!("/proc/swaps has a line `{line}`")))
        .collect()
}

/// May this agent raise limits and lower `oom_score_adj`?
pub(super) fn probe_cap_sys_resource(look: &Look) -> Known<bool> {
    look.parsed("/proc/self/status", |text| {
        let hex = text
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .ok_or("/proc/self/status has no CapEff")?;
        let bits = u64::from_str_radix(hex.trim(), 16).map_err(|cause| cause.to_string())?;
        Ok(bits >> CAP_SYS_RESOURCE & 1 == 1)
    })
}

/// Asks the kernel, writes nothing. In a network namespace of its own the file is read-only even
/// for root.
pub(super) fn probe_conntrack_max(look: &Look) -> Known<bool> {
    if !look.exists(CONNTRACK_MAX) {
        return Known::Unknown(format!("{CONNTRACK_MAX} is not there (nf_conntrack not loaded)"));
    }
    let writable = nix::unistd::access(&look.path(CONNTRACK_MAX), nix::unistd::AccessFlags::W_OK);
    Known::Known(writable.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_read_with_and_without_quotes_and_version() {
        for (text, wanted) in [
            ("ID=debian\nVERSION_ID=\"12\"\n", Ok("debian 12")),
            ("NAME=x\nID='rocky'\nVERSION_ID='9.4'\n", Ok("rocky 9.4")),
            ("ID=arch\n", Ok("arch")),
            ("NAME=x\n", Err(())),
        ] {
            assert_eq!(parse_os_release(text).as_deref().map_err(|_| ()), wanted, "{text}");
        }
    }

    #[test]
    fn swaps_are_bytes_and_a_strange_line_is_not_no_swap() {
        let head = "Filename\tType\tSize\tUsed\tPriority\n";
        assert!(parse_swaps(head).unwrap().is_empty());
        let one = parse_swaps(&format!("{head}/dev/sda2 partition\t1024\t0\t-2\n")).unwrap();
        assert_eq!(one["/dev/sda2"], 1_048_576);
        assert!(parse_swaps(&format!("{head}/dev/sda2\n")).is_err());
    }
}
