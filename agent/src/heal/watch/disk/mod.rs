//! Disks that fill: the file systems that hold what a node needs, against the room at which kubelet
//! begins to evict pods, with what the last hours foretell; and those that the kernel made read-only.
//!
//! The figures come from the thread that samples file systems anyhow ([`crate::api`]). It asks none
//! that is not the node's own, and where a disk hangs its figures age, here as there.

mod eviction;
mod trend;

use std::{collections::BTreeMap, time::Duration};

pub use self::{
    eviction::{Eviction, Limit},
    trend::Trends,
};
use super::{Thresholds, words};
use crate::heal::{Kind, State, Watched};

const KIND: Kind = Kind::Disk;

/// What a node needs, and where it lies. Half as much again as must be left is near the end.
const PLACES: &[(&str, &str)] = &[
    ("kubelet", "/var/lib/kubelet"),
    ("containerd", "/var/lib/containerd"),
    ("rancher", "/var/lib/rancher"),
    ("kdc", "/var/lib/kdc"),
    ("etcd", "/var/lib/etcd"),
    ("logs", "/var/log"),
];

/// Room that must be left where kubelet has no say.
const PLAIN: Limit = Limit::Percent(5.0);

/// A mounted file system; room only where it is the node's own and could be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// Where.
    pub point: String,
    /// Type (`ext4`).
    pub kind: String,
    /// Nothing can be written.
    pub read_only: bool,
    /// What is left; nothing where it could not be asked.
    pub room: Option<Room>,
}

/// What is left of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes in all.
    pub size: u64,
    /// Bytes that a program may still write.
    pub available: u64,
    /// Inodes in all; nought where the file system doesn't count them.
    pub files: u64,
    /// Inodes that are free.
    pub files_free: u64,
}

/// The mounts that hold what the node needs, from the kernel's table, with the room that somebody
/// else asked for: nothing is asked here, so nothing can hang.
pub(crate) fn parse_mounts(text: &str, room_of: impl Fn(&str) -> Option<Room>) -> Vec<FileSystem> {
    let mut systems: Vec<FileSystem> = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ').skip(1);
        let (Some(point), Some(kind), Some(options)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        if !PLACES.iter().any(|(_, path)| lies_in(path, point)) {
            continue;
        }
        // Of two that are mounted at one place the later hides the earlier.
        systems.retain(|system| system.point != point);
        systems.push(FileSystem {
            point: point.to_owned(),
            kind: kind.to_owned(),
            read_only: options.split(',').any(|option| option == "ro"),
            room: room_of(point),
        });
    }
    systems
}

/// The file systems that hold what the node needs, and what of it each holds.
fn holders(systems: &[FileSystem]) -> BTreeMap<&str, (&FileSystem, Vec<&'static str>)> {
    let mut holders: BTreeMap<&str, (&FileSystem, Vec<&'static str>)> = BTreeMap::new();
    for (name, path) in PLACES {
        let holding = systems.iter().filter(|system| lies_in(path, &system.point));
        let Some(system) = holding.max_by_key(|system| system.point.len()) else { continue };
        holders.entry(&system.point).or_insert_with(|| (system, Vec::new())).1.push(name);
    }
    holders
}

fn lies_in(path: &str, point: &str) -> bool {
    let rest = path.strip_prefix(point.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Does that lie on a file system of the node's own, that answered lately?
pub(crate) fn is_own(systems: &[FileSystem], path: &str) -> bool {
    let holding = systems.iter().filter(|system| lies_in(path, &system.point));
    holding.max_by_key(|system| system.point.len()).is_some_and(|system| system.room.is_some())
}

/// Remember how much is left.
pub fn note(trends: &mut Trends, systems: &[FileSystem], at: Duration) {
    let holders = holders(systems);
    for (point, (system, _)) in &holders {
        if let Some(room) = system.room {
            trends.note(point, at, room.available);
        }
    }
    trends.keep(&holders.keys().map(|point| (*point).to_owned()).collect::<Vec<_>>());
}

/// What is to be said about the disks.
#[must_use]
pub fn judge(
    systems: &[FileSystem],
    eviction: Option<&Eviction>,
    trends: &Trends,
    thresholds: &Thresholds,
) -> Vec<Watched> {
    let judged = holders(systems).into_values().map(|(system, holds)| {
        let limits = Limits::of(eviction, &holds);
        judge_one(system, &holds, &limits, trends.loss(&system.point), thresholds)
    });
    judged.collect()
}

/// What must be left of one file system.
struct Limits {
    room: Limit,
    files: Limit,
    /// Kubelet will evict pods, so the limit is not ours.
    evicts: bool,
}

impl Limits {
    fn of(eviction: Option<&Eviction>, holds: &[&str]) -> Self {
        let plain = Self { room: PLAIN, files: PLAIN, evicts: false };
        let Some(eviction) = eviction else { return plain };
        let vendor = holds.contains(&"rancher");
        let (pods, images) =
            (holds.contains(&"kubelet") || vendor, holds.contains(&"containerd") || vendor);
        match (pods, images) {
            (false, false) => plain,
            (true, false) => Self { room: eviction.pods, files: eviction.pod_files, evicts: true },
            (false, true) => {
                Self { room: eviction.images, files: eviction.image_files, evicts: true }
            }
            (true, true) => Self {
                room: stricter(eviction.pods, eviction.images),
                files: stricter(eviction.pod_files, eviction.image_files),
                evicts: true,
            },
        }
    }
}

/// The one that is reached first; an amount is compared with a percentage on a disk of 100 GiB.
fn stricter(one: Limit, other: Limit) -> Limit {
    const WHOLE: u64 = 100 << 30;
    if one.of(WHOLE) >= other.of(WHOLE) { one } else { other }
}

fn judge_one(
    system: &FileSystem,
    holds: &[&str],
    limits: &Limits,
    loss: Option<f64>,
    thresholds: &Thresholds,
) -> Watched {
    let subject = format!("disk {}", system.point);
    let holds = holds.join(", ");
    if system.read_only {
        let text = format!("it is read-only, and holds {holds}");
        let hint = "the kernel makes a disk read-only when it gives errors: see `journalctl -k`, then check it \
                    with fsck while it is not mounted";
        return Watched::new(KIND, subject, State::Fail, text).with_hint(hint);
    }
    let Some(room) = system.room else {
        let reason = format!("{} can't be asked for its room; it holds {holds}", system.kind);
        return Watched::unknown(KIND, subject, reason);
    };
    let percent = |left: u64, whole: u64| left as f64 * 100.0 / whole.max(1) as f64;
    let (state, what) = judge_room(&room, limits, loss, thresholds);
    let text = format!(
        "{} of {} are left ({:.0} %){}; it holds {holds}",
        words::bytes(room.available),
        words::bytes(room.size),
        percent(room.available, room.size),
        what.map(|what| format!(": {what}")).unwrap_or_default()
    );
    let finding = Watched::new(KIND, subject, state.clone(), text);
    let hint =
        format!("see what fills it: `du -xh --max-depth=3 {} | sort -h | tail`", system.point);
    if state == State::Ok { finding } else { finding.with_hint(hint) }
}

/// The worst that is to be said.
fn judge_room(
    room: &Room,
    limits: &Limits,
    loss: Option<f64>,
    thresholds: &Thresholds,
) -> (State, Option<String>) {
    let least = limits.room.of(room.size);
    // Some file systems have as many files as they have room for.
    let (files, least_files) = match room.files {
        0 => (u64::MAX, 0),
        files => (room.files_free, limits.files.of(files)),
    };
    let near = |left: u64, least: u64| left <= least.saturating_add(least / 2);
    let now = if limits.evicts { "kubelet evicts pods" } else { "what writes here may fail" };
    if room.available <= least {
        return (State::Fail, Some(format!("below {} {now}", words::bytes(least))));
    }
    if files <= least_files {
        let text = format!("{files} inodes are free; below {least_files} {now}");
        return (State::Fail, Some(text));
    }
    let foretold = loss.map(|loss| (room.available - least) as f64 / loss);
    let soon = foretold.filter(|secs| *secs < thresholds.disk_warn_hours as f64 * 3600.0);
    let goal = if limits.evicts { "kubelet begins to evict pods" } else { "it is nearly full" };
    match soon {
        // Below the horizon, so far from what a number can't hold.
        Some(secs) => {
            let text = format!(
                "at the rate of the last hours {goal} in about {}",
                words::span(secs as i64)
            );
            (State::Warn, Some(text))
        }
        None if near(room.available, least) => {
            (State::Warn, Some(format!("below {} {goal}", words::bytes(least))))
        }
        None if near(files, least_files) => {
            (State::Warn, Some(format!("{files} inodes are free; below {least_files} {goal}")))
        }
        None => (State::Ok, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn system(point: &str, available: u64) -> FileSystem {
        let room = Room { size: 100 * GIB, available, files: 1000, files_free: 900 };
        FileSystem {
            point: point.to_owned(),
            kind: "ext4".to_owned(),
            read_only: false,
            room: Some(room),
        }
    }

    const KUBELET: Eviction = Eviction {
        pods: Limit::Percent(10.0),
        pod_files: Limit::Percent(5.0),
        images: Limit::Percent(15.0),
        image_files: Limit::Percent(5.0),
    };

    fn judged(
        systems: &[FileSystem],
        eviction: Option<&Eviction>,
    ) -> Vec<(String, &'static str, String)> {
        let told = judge(systems, eviction, &Trends::default(), &Thresholds::default());
        told.into_iter().map(|one| (one.subject, one.state.word(), one.text)).collect()
    }

    #[test]
    fn kubelets_own_limits_decide_where_it_has_a_say() {
        let root = |left: u64| judged(&[system("/", left)], Some(&KUBELET)).swap_remove(0);
        assert_eq!(root(40 * GIB).1, "ok");
        // Images are evicted from 15 GiB on, and 1.5 times that is near.
        assert_eq!(
            (root(22 * GIB).1, root(15 * GIB + 1).1, root(15 * GIB).1),
            ("warn", "warn", "fail")
        );
        assert!(
            root(15 * GIB).2.contains("below 15.0 GiB kubelet evicts pods"),
            "{}",
            root(15 * GIB).2
        );
        // Without a kubelet 5 % count.
        let plain = |left: u64| judged(&[system("/", left)], None).swap_remove(0).1;
        assert_eq!((plain(15 * GIB), plain(7 * GIB), plain(5 * GIB)), ("ok", "warn", "fail"));
    }

    #[test]
    fn each_file_system_is_told_once_with_what_it_holds() {
        let systems = [
            system("/", 90 * GIB),
            system("/var/lib/containerd", 10 * GIB),
            system("/var/lib/etcd", 6 * GIB),
            system("/var/library", GIB),
            system("/home", 0),
        ];
        let told = judged(&systems, Some(&KUBELET));
        let subjects: Vec<&str> = told.iter().map(|one| one.0.as_str()).collect();
        assert_eq!(subjects, ["disk /", "disk /var/lib/containerd", "disk /var/lib/etcd"]);
        assert!(told[0].2.ends_with("it holds kubelet, rancher, kdc, logs"), "{}", told[0].2);
        assert_eq!((told[0].1, told[1].1, told[2].1), ("ok", "fail", "warn"));
    }

    #[test]
    fn the_kernels_table_tells_what_lies_where_and_nothing_is_asked() {
        let text = "/dev/a / ext4 rw,relatime 0 0\nproc /proc proc rw 0 0\n/dev/b /var xfs rw 0 0\n\
            /dev/c /var/lib/kubelet/pods/x tmpfs rw 0 0\ns:/x /var/lib/containerd nfs4 rw 0 0\n\
            /dev/d /var ext4 ro,noatime 0 0\nnonsense\n";
        let room = Room { size: 10, available: 9, files: 0, files_free: 0 };
        let systems = parse_mounts(text, |point| (point == "/var").then_some(room));
        let points: Vec<(&str, bool)> =
            systems.iter().map(|system| (system.point.as_str(), system.read_only)).collect();
        assert_eq!(points, [("/", false), ("/var/lib/containerd", false), ("/var", true)]);
        assert_eq!((systems[1].room, systems[2].room), (None, Some(room)));
        assert!(is_own(&systems, "/var/lib/kubelet/config.yaml"));
        assert!(!is_own(&systems, "/var/lib/containerd/x"), "asking may never end");
    }

    #[test]
    fn a_disk_that_is_read_only_or_can_not_be_asked_is_never_ok() {
        let mut broken = system("/var/lib/kubelet", 90 * GIB);
        broken.read_only = true;
        let mut away = system("/var/lib/containerd", 90 * GIB);
        (away.room, away.kind) = (None, "nfs4".to_owned());
        let told = judged(&[system("/", 90 * GIB), away, broken], Some(&KUBELET));
        assert_eq!((told[0].1, told[1].1, told[2].1), ("ok", "unknown", "fail"));
        assert!(told[1].2.contains("nfs4 can't be asked"), "{}", told[1].2);
    }

    #[test]
    fn files_count_as_well_as_bytes_where_a_file_system_counts_them() {
        let with = |files: u64, free: u64| {
            let mut system = system("/", 90 * GIB);
            system.room = system.room.map(|room| Room { files, files_free: free, ..room });
            judged(&[system], Some(&KUBELET)).swap_remove(0)
        };
        assert_eq!((with(0, 0).1, with(1000, 100).1), ("ok", "ok"));
        assert_eq!((with(1000, 75).1, with(1000, 50).1), ("warn", "fail"));
        assert!(with(1000, 50).2.contains("50 inodes are free"), "{}", with(1000, 50).2);
    }

    #[test]
    fn what_the_last_hours_foretell_is_told_before_it_happens() {
        let mut trends = Trends::default();
        let leak = |number: u64| system("/", 50 * GIB - number * GIB / 4);
        for number in 0..24 {
            note(&mut trends, &[leak(number)], Duration::from_secs(300 * number));
        }
        // 3 GiB an hour, and 29 until kubelet evicts.
        let told =
            judge(&[leak(24)], Some(&KUBELET), &trends, &Thresholds::default()).swap_remove(0);
        assert_eq!(told.state.word(), "warn");
        let text = "at the rate of the last hours kubelet begins to evict pods in about 9 hours";
        assert!(told.text.contains(text), "{}", told.text);
        // One that is no longer mounted is forgotten.
        note(&mut trends, &[system("/var", GIB)], Duration::from_secs(9000));
        assert_eq!(trends.loss("/"), None);
    }
}
