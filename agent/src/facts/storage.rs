//! File systems that an install writes to or starts programs from.

use std::collections::{BTreeMap, BTreeSet};

use super::{FileSystem, Known, look::Look};
use crate::inventory::is_network;

/// Paths whose file systems matter; every mount point at or above one of them is reported.
const WATCHED: &[&str] = &[
    "/dev/shm",
    "/etc",
    "/home",
    "/opt",
    "/root",
    "/run",
    "/tmp",
    "/usr/local/bin",
    "/var/lib/containerd",
    "/var/lib/etcd",
    "/var/lib/kdc",
    "/var/lib/kubelet",
    "/var/log",
    "/var/tmp",
];

const OPTIONS: &[&str] = &["ro", "noexec", "nosuid", "nodev"];

/// The mounted file systems above [`WATCHED`] paths, by mount point.
pub(super) fn probe_file_systems(look: &Look) -> Known<Vec<FileSystem>> {
    look.parsed("/proc/self/mounts", |text| {
        let mounts = parse_mounts(text);
        // A dead server would hold whoever asks for its sizes; and kdc writes to none of them.
        let local = mounts.into_iter().filter(|(_, mount)| !is_network(&mount.kind));
        local.map(|(point, mount)| measure(look, point, mount)).collect()
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    kind: String,
    options: BTreeSet<String>,
}

/// Of several mounts at one place the last one is seen.
fn parse_mounts(text: &str) -> BTreeMap<String, Mount> {
    let mut mounts = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(point), Some(kind), Some(options)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let point = unescape(point);
        let above = |path: &&&str| {
            point == "/"
                || path
                    .strip_prefix(point.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if WATCHED.iter().any(|path| above(&path)) {
            let options = options.split(',').filter(|name| OPTIONS.contains(name));
            let options = options.map(str::to_owned).collect();
            mounts.insert(point, Mount { kind: kind.to_owned(), options });
        }
    }
    mounts
}

/// The kernel writes blanks in mount points as octal escapes.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

fn measure(look: &Look, mount_point: String, mount: Mount) -> Result<FileSystem, String> {
    let stat = nix::sys::statvfs::statvfs(&look.path(&mount_point))
        .map_err(|cause| format!("statvfs of {mount_point}: {cause}"))?;
    let block = stat.fragment_size();
    Ok(FileSystem {
        mount_point,
        kind: mount.kind,
        size_bytes: stat.blocks().saturating_mul(block),
        // What root may use, since containerd, etcd and the agent are root.
        free_bytes: stat.blocks_free().saturating_mul(block),
        free_inodes: stat.files_free(),
        options: mount.options,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_above_watched_paths_are_kept_and_the_last_one_wins() {
        let text = "/dev/vda / ext4 rw,relatime 0 0\n\
            tmpfs /tmp tmpfs rw,noexec,nosuid 0 0\n\
            tmpfs /tmp tmpfs ro,nosuid 0 0\n\
            proc /proc proc rw 0 0\n\
            /dev/vdb /var/lib ext4 rw,noexec 0 0\n\
            nsfs /run/netns/a nsfs rw 0 0\n\
            tmpfs /var/lib/kubelet/pods/x tmpfs rw 0 0\n\
            broken\n";
        let mounts = parse_mounts(text);
        assert_eq!(mounts.keys().collect::<Vec<_>>(), ["/", "/tmp", "/var/lib"]);
        assert_eq!(mounts["/tmp"].options, BTreeSet::from(["ro".into(), "nosuid".into()]));
        assert_eq!(mounts["/var/lib"].options, BTreeSet::from(["noexec".into()]));
    }
}
