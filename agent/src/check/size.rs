//! How much the node has: CPUs, memory, disk, inodes; and that swap is off.

use std::collections::BTreeMap;

use super::{Judgement, Needs, is_ours, known};
use crate::facts::{Facts, FileSystem};

/// Bytes as people read them.
fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1024 * 1024))
}

pub(super) fn cpus(facts: &Facts, needs: &Needs) -> Judgement {
    if facts.cpus >= needs.cpus {
        return Judgement::ok(format!("{} (at least {})", facts.cpus, needs.cpus));
    }
    Judgement::fail(
        format!("{} CPUs, at least {} are needed", facts.cpus, needs.cpus),
        "give the node more CPUs, or a profile with a smaller `minimum`",
    )
}

pub(super) fn memory(facts: &Facts, needs: &Needs) -> Judgement {
    known(&facts.memory_bytes, "the memory's size", |bytes| {
        let (found, wanted) = (mib(*bytes), mib(needs.memory_bytes));
        if *bytes >= needs.memory_bytes {
            return Judgement::ok(format!("{found} (at least {wanted})"));
        }
        Judgement::fail(
            format!("{found}, at least {wanted} are needed"),
            "give the node more memory, or a profile with a smaller `minimum`",
        )
    })
}

/// The file system that holds `path`: the one with the longest mount point above it.
pub(super) fn holding<'f>(file_systems: &'f [FileSystem], path: &str) -> Option<&'f FileSystem> {
    let holds = |mount: &str| {
        let mount = mount.trim_end_matches('/');
        path.strip_prefix(mount).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    file_systems
        .iter()
        .filter(|file_system| holds(&file_system.mount_point))
        .max_by_key(|file_system| file_system.mount_point.trim_end_matches('/').len())
}

/// Needs of several paths added up for each file system; `Err` names a path nobody holds.
fn per_file_system<'f>(
    file_systems: &'f [FileSystem],
    needs: &BTreeMap<String, u64>,
) -> Result<Vec<(&'f FileSystem, u64)>, String> {
    let mut sums: BTreeMap<&str, (&FileSystem, u64)> = BTreeMap::new();
    for (path, need) in needs {
        let file_system = holding(file_systems, path).ok_or_else(|| path.clone())?;
        let entry = sums.entry(&file_system.mount_point).or_insert((file_system, 0));
        entry.1 = entry.1.saturating_add(*need);
    }
    Ok(sums.into_values().collect())
}

pub(super) fn disk(facts: &Facts, needs: &Needs) -> Judgement {
    known(&facts.file_systems, "the file systems", |file_systems| {
        let sums = match per_file_system(file_systems, &needs.disk_bytes) {
            Ok(sums) => sums,
            Err(path) => return Judgement::unknown(&path, "no file system seen that holds it"),
        };
        let (short, enough): (Vec<_>, Vec<_>) =
            sums.into_iter().partition(|(file_system, need)| file_system.free_bytes < *need);
        let tell = |list: &[(&FileSystem, u64)]| {
            let each = |(file_system, need): &(&FileSystem, u64)| {
                let free = mib(file_system.free_bytes);
                format!("{}: {free} free, {} needed", file_system.mount_point, mib(*need))
            };
            list.iter().map(each).collect::<Vec<_>>().join("; ")
        };
        if short.is_empty() {
            return Judgement::ok(tell(&enough));
        }
        let missing = short.iter().map(|(at, need)| need - at.free_bytes).max().unwrap_or(0);
        let fix = format!("free {} more, or enlarge the file system", mib(missing));
        // On a node of this cluster most of the bytes are in place already.
        if is_ours(facts, needs) {
            return Judgement::warn(tell(&short), fix);
        }
        Judgement::fail(tell(&short), fix)
    })
}

pub(super) fn inodes(facts: &Facts, needs: &Needs) -> Judgement {
    known(&facts.file_systems, "the file systems", |file_systems| {
        let sums = match per_file_system(file_systems, &needs.inodes) {
            Ok(sums) => sums,
            Err(path) => return Judgement::unknown(&path, "no file system seen that holds it"),
        };
        // 0 free means that the file system does not count inodes (btrfs).
        let short = sums.iter().find(|(at, need)| at.free_inodes != 0 && at.free_inodes < *need);
        match short {
            None => Judgement::ok("enough everywhere"),
            Some((at, need)) => {
                let detail = format!("{}: {} free, {need} needed", at.mount_point, at.free_inodes);
                let fix = "remove many small files there (`du --inodes -x`)";
                if is_ours(facts, needs) {
                    Judgement::warn(detail, fix)
                } else {
                    Judgement::fail(detail, fix)
                }
            }
        }
    })
}

pub(super) fn swap(facts: &Facts, needs: &Needs) -> Judgement {
    known(&facts.swap, "the active swap", |swap| {
        if swap.is_empty() {
            return Judgement::ok("off");
        }
        let list: Vec<&str> = swap.keys().map(String::as_str).collect();
        let list = list.join(", ");
        if needs.disables_swap {
            return Judgement::ok(format!(
                "on ({list}); the plan turns it off, as `settings.disableSwap` asks"
            ));
        }
        Judgement::fail(
            format!("on: {list}"),
            "`swapoff -a` and take its lines out of /etc/fstab, or set `settings.disableSwap: \
             true` in the cluster file (undo turns it on again)",
        )
    })
}
