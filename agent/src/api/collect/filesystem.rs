//! File systems on this node's own disks: size and room.
//!
//! `statvfs` on a file system of another machine waits for as long as that does not answer. So only
//! types that are known to be local are asked, in a thread of its own; where even that one hangs (a
//! dying disk), the last figures age and `node_filesystem_device_error` says so.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use nix::sys::statvfs::statvfs;

use crate::{
    api::page::{Kind, Page},
    heal::watch::disk,
};

/// Types whose room is worth telling and whose `statvfs` asks nobody else. Everything that is not
/// here (nfs, cifs, fuse, ceph, 9p, autofs…) is never touched.
const LOCAL: &[&str] = &[
    "bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs", "ntfs3",
    "reiserfs", "tmpfs", "vfat", "xfs", "zfs",
];

/// Where the kernel and container runtimes mount what is no room of the node's.
const INNER: &[&str] = &[
    "/dev",
    "/proc",
    "/sys",
    "/run/credentials",
    "/run/containerd",
    "/run/k3s/containerd",
    "/var/lib/containers/storage",
    "/var/lib/docker",
    "/var/lib/kubelet/pods",
];

/// Most file systems that are told; a node with more has bind mounts by the thousand.
const MOST: usize = 256;

/// A figure older than this is told to be in error.
const STALE: Duration = Duration::from_secs(15);

/// A mounted file system of this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Mount {
    device: String,
    point: String,
    kind: String,
    read_only: bool,
}

/// What `statvfs` said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    size: u64,
    free: u64,
    available: u64,
    files: u64,
    files_free: u64,
}

/// The newest figures, and when they were taken.
#[derive(Debug, Default)]
struct Table {
    rows: Vec<(Mount, Option<Room>)>,
    taken: Option<Instant>,
    /// A look that began and has not ended.
    begun: Option<Instant>,
}

/// File systems, as looked at last. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct FileSystems {
    table: Arc<Mutex<Table>>,
}

impl FileSystems {
    /// Look again, unless the look before still waits. Blocks for as long as the disks take.
    pub(crate) fn look(&self, proc: &Path) {
        let lock = || self.table.lock().unwrap_or_else(PoisonError::into_inner);
        lock().begun = Some(Instant::now());
        let rows = mounts(proc).into_iter().map(|mount| {
            let room = room(Path::new(&mount.point));
            (mount, room)
        });
        let rows: Vec<_> = rows.collect();
        *lock() = Table { rows, taken: Some(Instant::now()), begun: None };
    }

    /// How long the look under way waits already.
    pub(crate) fn waits(&self) -> Option<Duration> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.begun.map(|begun| begun.elapsed())
    }

    /// What is left of one; nothing where it could not be asked lately.
    pub(crate) fn room(&self, point: &str) -> Option<disk::Room> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.taken.filter(|taken| taken.elapsed() <= STALE)?;
        let (_, room) = table.rows.iter().rev().find(|(mount, _)| mount.point == point)?;
        let Room { size, available, files, files_free, .. } = (*room)?;
        Some(disk::Room { size, available, files, files_free })
    }

    /// Was a look ever finished?
    pub(crate) fn has_rooms(&self) -> bool {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).taken.is_some()
    }

    /// The families.
    pub(crate) fn tell(&self, page: &mut Page) {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let stale = table.taken.is_none_or(|taken| taken.elapsed() > STALE);
        let mut family =
            |name: &str, help: &str, of: &dyn Fn(&Mount, Option<&Room>) -> Option<u64>| {
                page.family(&format!("node_filesystem_{name}"), Kind::Gauge, help);
                for (mount, room) in &table.rows {
                    let room = room.as_ref().filter(|_| !stale);
                    if let Some(number) = of(mount, room) {
                        let Mount { device, point, kind, .. } = mount;
                        let labels =
                            [("device", device.as_str()), ("fstype", kind), ("mountpoint", point)];
                        page.sample(&labels, number);
                    }
                }
            };
        let help = "Filesystem space available to non-root users in bytes.";
        family("avail_bytes", help, &|_, room| room.map(|room| room.available));
        let help = "Whether an error occurred while getting statistics for the given device.";
        family("device_error", help, &|_, room| Some(u64::from(room.is_none())));
        let help = "Filesystem total file nodes.";
        family("files", help, &|_, room| room.map(|room| room.files));
        let help = "Filesystem total free file nodes.";
        family("files_free", help, &|_, room| room.map(|room| room.files_free));
        let help = "Filesystem free space in bytes.";
        family("free_bytes", help, &|_, room| room.map(|room| room.free));
        let help = "Filesystem read-only status.";
        family("readonly", help, &|mount, room| room.map(|_| u64::from(mount.read_only)));
        let help = "Filesystem size in bytes.";
        family("size_bytes", help, &|_, room| room.map(|room| room.size));
    }
}

/// The mounts that are told: the first of each device and place.
fn mounts(proc: &Path) -> Vec<Mount> {
    // The daemon's own view is fenced in by its unit; that of PID 1 is the node's.
    let paths: [PathBuf; 2] = [proc.join("1/mounts"), proc.join("self/mounts")];
    let text = paths.iter().find_map(|path| fs_err::read_to_string(path).ok()).unwrap_or_default();
    parse_mounts(&text)
}

fn parse_mounts(text: &str) -> Vec<Mount> {
    let mut seen = BTreeSet::new();
    let mut mounts = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let mut word = || words.next();
        let (Some(device), Some(point), Some(kind), options) = (word(), word(), word(), word())
        else {
            continue;
        };
        let point = unescape(point);
        if !LOCAL.contains(&kind) || INNER.iter().any(|root| lies_in(&point, root)) {
            continue;
        }
        // Not what `statvfs` says: to the daemon its unit makes all read-only.
        let read_only = options.is_some_and(|options| options.split(',').any(|one| one == "ro"));
        let (device, kind) = (unescape(device), kind.to_owned());
        let mount = Mount { device, point, kind, read_only };
        if seen.insert(mount.clone()) && mounts.len() < MOST {
            mounts.push(mount);
        }
    }
    mounts
}

fn lies_in(point: &str, root: &str) -> bool {
    point.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// `\040` is a space in these files.
fn unescape(text: &str) -> String {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let byte = octal.and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match byte {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

fn room(point: &Path) -> Option<Room> {
    let found = statvfs(point).ok()?;
    let block = found.fragment_size();
    let bytes = |blocks: u64| blocks.saturating_mul(block);
    Some(Room {
        size: bytes(found.blocks()),
        free: bytes(found.blocks_free()),
        available: bytes(found.blocks_available()),
        files: found.files(),
        files_free: found.files_free(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::page::Format;

    #[test]
    fn only_file_systems_of_this_node_are_ever_touched() {
        let text = "/dev/vda / ext4 rw 0 0\nserver:/x /mnt/dead nfs4 rw 0 0\n//s/y /mnt/c cifs rw 0 0\n\
                    sshfs /mnt/f fuse.sshfs rw 0 0\ntmpfs /run/a\\040b tmpfs rw 0 0\n/dev/vda / ext4 rw 0 0\n\
                    tmpfs /dev/shm tmpfs rw 0 0\ntmpfs /var/lib/kubelet/pods/x/y tmpfs rw 0 0\n\
                    ceph /mnt/ceph ceph rw 0 0\nauto /net autofs rw 0 0\n/dev/vdb /dev-data xfs rw 0 0\nx\n";
        let points: Vec<String> = parse_mounts(text).into_iter().map(|mount| mount.point).collect();
        assert_eq!(points, ["/", "/run/a b", "/dev-data"]);
    }

    #[test]
    fn a_place_that_is_gone_is_told_as_an_error_and_the_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        fs_err::create_dir_all(folder.path().join("self")).unwrap();
        let here = folder.path().display();
        let text = format!("/dev/a {here} ext4 ro,noatime 0 0\n/dev/b {here}/gone ext4 rw 0 0\n");
        fs_err::write(folder.path().join("self/mounts"), text).unwrap();
        let systems = FileSystems::default();
        let tell = || {
            let mut page = Page::new(Format::Classic, String::new());
            systems.tell(&mut page);
            page.finish()
        };
        assert_eq!(tell(), "", "nobody has looked yet");
        systems.look(folder.path());
        let page = tell();
        let error = |device: &str, point: &str, number: u64| {
            format!(
                "node_filesystem_device_error{{device=\"{device}\",fstype=\"ext4\",mountpoint=\"{point}\"}} {number}\n"
            )
        };
        assert!(page.contains(&error("/dev/a", &here.to_string(), 0)), "{page}");
        assert!(page.contains(&error("/dev/b", &format!("{here}/gone"), 1)), "{page}");
        assert_eq!(page.matches("node_filesystem_size_bytes{").count(), 1, "{page}");
        assert!(
            page.contains(
                &error("/dev/a", &here.to_string(), 1).replace("device_error", "readonly")
            )
        );
        assert_eq!(systems.waits(), None);
    }
}
