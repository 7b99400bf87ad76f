//! What the node is: root, systemd, platform, system, kernel, cgroup, name, clock.

use super::{Judgement, Needs, known};
use crate::facts::{CgroupVersion, Facts};

pub(super) fn root(_facts: &Facts, needs: &Needs) -> Judgement {
    if needs.root {
        return Judgement::ok("the agent runs as root");
    }
    Judgement::fail(
        "the agent does not run as root",
        "log in as root, or as a user that may use sudo",
    )
}

pub(super) fn systemd(facts: &Facts, _needs: &Needs) -> Judgement {
    // The probe reads a version only where systemd is PID 1.
    known(&facts.systemd, "systemd's version", |version| {
        if version.is_empty() {
            return Judgement::fail(
                "systemd is not PID 1",
                "use a server that is started by systemd",
            );
        }
        Judgement::ok(format!("systemd {version}"))
    })
}

pub(super) fn platform(facts: &Facts, needs: &Needs) -> Judgement {
    if needs.platforms.contains(&facts.platform) {
        return Judgement::ok(facts.platform.clone());
    }
    Judgement::fail(
        format!("the node is {}, the bundle is for {}", facts.platform, needs.platforms.join(", ")),
        "use a bundle that is built for this platform",
    )
}

pub(super) fn system(facts: &Facts, needs: &Needs) -> Judgement {
    known(&facts.os, "/etc/os-release", |system| {
        if needs.systems.is_empty() {
            return Judgement::warn(
                format!("{system}; the bundle doesn't say what its packages are for"),
                "add the parameter `systems` (e.g. `debian 12`) to the bundle's definition",
            );
        }
        if needs.systems.iter().any(|known| known == system) {
            return Judgement::ok(system.clone());
        }
        Judgement::fail(
            format!("the node runs {system}, the bundle's packages are for {}", {
                needs.systems.join(", ")
            }),
            "use a bundle whose packages are for this system",
        )
    })
}

/// Major and minor of `uname -r`.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub(super) fn kernel(facts: &Facts, _needs: &Needs) -> Judgement {
    match kernel_version(&facts.kernel) {
        None => Judgement::unknown("the kernel's version", &format!("`{}`", facts.kernel)),
        Some(version) if version >= (4, 19) => Judgement::ok(facts.kernel.clone()),
        Some(_) => Judgement::fail(
            format!("kernel {} is older than 4.19", facts.kernel),
            "install a kernel of the system's current release and reboot",
        ),
    }
}

pub(super) fn cgroup(facts: &Facts, _needs: &Needs) -> Judgement {
    known(&facts.cgroup, "the cgroup hierarchy", |version| {
        Judgement::ok(match version {
            CgroupVersion::V1 => "v1, driver cgroupfs",
            CgroupVersion::V2 => "v2, driver systemd",
        })
    })
}

pub(super) fn hostname(facts: &Facts, _needs: &Needs) -> Judgement {
    let label = |text: &str| {
        (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-')
    };
    let name = &facts.hostname;
    if name == "localhost" || name.len() > 253 || !name.split('.').all(label) {
        return Judgement::fail(
            format!("`{name}` can't be the name of a Kubernetes node's host"),
            "set one of lower-case letters, digits and `-`: `hostnamectl set-hostname NAME`",
        );
    }
    Judgement::ok(name.clone())
}

pub(super) fn clock(facts: &Facts, _needs: &Needs) -> Judgement {
    // 2025-01-01 and 2100-01-01: outside, every certificate looks not yet valid or expired.
    const SANE_MS: std::ops::Range<u64> = 1_735_689_600_000..4_102_444_800_000;
    if SANE_MS.contains(&facts.clock_unix_ms) {
        return Judgement::ok("between 2025 and 2100; nodes are compared with each other");
    }
    Judgement::fail(
        format!("the clock stands at {} s after 1970", facts.clock_unix_ms / 1000),
        "set the clock: `date -s '…'`, then `hwclock --systohc`, or start a time service",
    )
}
