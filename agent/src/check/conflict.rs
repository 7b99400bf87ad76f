//! What would be in the way, or is missing: other software, ports, modules, mounts, routes.

use std::collections::BTreeSet;

use super::{Judgement, Needs, is_ours, known, size::holding};
use crate::facts::Facts;

pub(super) fn foreign(facts: &Facts, _needs: &Needs) -> Judgement {
    known(&facts.foreign, "what else is installed", |foreign| {
        if foreign.is_empty() {
            return Judgement::ok("none");
        }
        let list: Vec<String> =
            foreign.iter().map(|found| format!("{} ({})", found.what, found.evidence)).collect();
        let names: BTreeSet<&str> = foreign.iter().map(|found| found.what.as_str()).collect();
        let names: Vec<&str> = names.into_iter().collect();
        Judgement::fail(
            list.join("; "),
            format!(
                "remove {} from the node (kdc did not put it there and will not touch it), or \
                 use a fresh server",
                names.join(", ")
            ),
        )
    })
}

/// The listening ports that fall into a need such as `6443/tcp` or `30000-32767/tcp`.
fn taken<'l>(need: &str, listening: &'l BTreeSet<String>) -> Vec<&'l str> {
    let Some((range, protocol)) = need.split_once('/') else { return Vec::new() };
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else {
        return Vec::new();
    };
    let within = |port: &&String| {
        port.split_once('/').is_some_and(|(number, of)| {
            of == protocol && number.parse().is_ok_and(|port: u16| (first..=last).contains(&port))
        })
    };
    listening.iter().filter(within).map(String::as_str).collect()
}

pub(super) fn ports(facts: &Facts, needs: &Needs) -> Judgement {
    known(&facts.listening, "the listening ports", |listening| {
        let taken: Vec<&str> = needs.ports.iter().flat_map(|need| taken(need, listening)).collect();
        if taken.is_empty() {
            return Judgement::ok(format!("{} free", needs.ports.join(", ")));
        }
        let list = taken.join(", ");
        if is_ours(facts, needs) {
            return Judgement::ok(format!("{list} in use by this cluster"));
        }
        Judgement::fail(
            format!("in use: {list}"),
            "see who listens with `ss -lnp`, and stop it or move it to another port",
        )
    })
}

pub(super) fn modules(facts: &Facts, needs: &Needs) -> Judgement {
    known(&facts.modules, "the loaded modules", |loaded| {
        let missing: Vec<&str> = needs
            .modules
            .iter()
            .filter(|module| !loaded.contains(*module))
            .map(String::as_str)
            .collect();
        if missing.is_empty() {
            return Judgement::ok(format!("{} loaded or built in", needs.modules.join(", ")));
        }
        Judgement::ok(format!("the plan loads {}", missing.join(", ")))
    })
}

/// What an install writes to.
const WRITTEN: &[&str] = &["/etc", "/usr", "/usr/local/bin", "/var/lib", "/run", "/opt"];

/// Where programs are started from; CNI's lie in `/opt/cni/bin`.
const STARTED: &[&str] = &["/usr", "/usr/local/bin", "/var/lib", "/opt"];

/// Paths whose file system is mounted with `option`, as far as one is seen.
fn mounted_with<'p>(
    file_systems: &[crate::facts::FileSystem],
    paths: &[&'p str],
    option: &str,
) -> Vec<&'p str> {
    let has = |path: &&&str| {
        holding(file_systems, path).is_some_and(|held| held.options.contains(option))
    };
    paths.iter().filter(has).copied().collect()
}

pub(super) fn writable(facts: &Facts, _needs: &Needs) -> Judgement {
    known(&facts.file_systems, "the file systems", |file_systems| {
        if holding(file_systems, "/var/lib").is_none() {
            return Judgement::unknown("/var/lib", "no file system seen that holds it");
        }
        let read_only = mounted_with(file_systems, WRITTEN, "ro");
        if read_only.is_empty() {
            return Judgement::ok("all that are written to");
        }
        Judgement::fail(
            format!("read-only: {}", read_only.join(", ")),
            "look for disk errors (`dmesg`), then `mount -o remount,rw` and mend /etc/fstab",
        )
    })
}

pub(super) fn executable(facts: &Facts, _needs: &Needs) -> Judgement {
    known(&facts.file_systems, "the file systems", |file_systems| {
        if holding(file_systems, "/var/lib").is_none() {
            return Judgement::unknown("/var/lib", "no file system seen that holds it");
        }
        let barred = mounted_with(file_systems, STARTED, "noexec");
        if !barred.is_empty() {
            return Judgement::fail(
                format!("noexec: {}", barred.join(", ")),
                "take `noexec` out of /etc/fstab there and `mount -o remount,exec` it",
            );
        }
        if mounted_with(file_systems, &["/tmp"], "noexec").is_empty() {
            return Judgement::ok("all that programs are started from");
        }
        // Staging tries /dev/shm and /var/tmp too, and this agent did get started.
        Judgement::ok("/tmp is noexec; kdc does not need it")
    })
}

/// Without the file the kubelet starts no pod, and the install would wait for pods in vain.
pub(super) fn resolver(facts: &Facts, _needs: &Needs) -> Judgement {
    known(&facts.has_resolv_conf, "/etc/resolv.conf", |has| {
        if *has {
            return Judgement::ok("/etc/resolv.conf");
        }
        Judgement::fail(
            "there is no /etc/resolv.conf, and the kubelet starts no pod without",
            "write one; without a name server: `echo nameserver 192.0.2.1 > /etc/resolv.conf`, \
             an address where nobody answers",
        )
    })
}

pub(super) fn default_route(facts: &Facts, needs: &Needs) -> Judgement {
    known(&facts.default_routes, "the routes", |links| {
        if !links.is_empty() {
            return Judgement::ok(format!("through {}", links.join(", ")));
        }
        if needs.host_routes {
            return Judgement::ok(
                "none; `host-routes` sets the routes that pods and Services need",
            );
        }
        Judgement::warn(
            "none",
            "add one (a dummy link will do), else Service addresses can't be reached from the node",
        )
    })
}

pub(super) fn programs(facts: &Facts, needs: &Needs) -> Judgement {
    let missing: Vec<&str> = needs
        .programs
        .iter()
        .filter(|program| !facts.programs.contains_key(*program))
        .map(String::as_str)
        .collect();
    if missing.is_empty() {
        return Judgement::ok(match needs.programs.len() {
            0 => "none needed beyond the bundle's".to_owned(),
            _ => needs.programs.join(", "),
        });
    }
    Judgement::fail(
        format!("not found: {}", missing.join(", ")),
        "install what holds them, or add their packages to the bundle's definition",
    )
}
