//! What is mounted: from the kernel's table alone, since asking a file system may hang.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::inventory::{Found, sight::Sight};

const TABLE: &str = "/proc/self/mountinfo";
/// Most lines that are kept.
const MAX_MOUNTS: usize = 4096;
/// The kernel's own, and those that containers come and go with.
const PSEUDO: &[&str] = &[
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "overlay",
    "proc",
    "pstore",
    "ramfs",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tmpfs",
    "tracefs",
];

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Where.
    pub mount_point: String,
    /// Type (`ext4`, `nfs4`).
    pub kind: String,
    /// What is mounted (`/dev/sda1`, `server:/export`).
    pub device: String,
    /// Device number (`8:1`).
    pub number: String,
    /// Nothing can be written.
    pub read_only: bool,
    /// Its content is elsewhere, so that asking it may hang.
    pub network: bool,
}

/// File systems that hold something: without the kernel's own and those of containers.
pub(super) fn probe(sight: &Sight) -> Found<Vec<Mount>> {
    let pick = |text: &str| {
        let told = text.lines().filter(|line| parse(line).is_some());
        told.take(MAX_MOUNTS).map(str::to_owned).collect()
    };
    sight.excerpt(TABLE, pick).map(|lines| lines.iter().filter_map(|line| parse(line)).collect())
}

fn parse(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(2);
    let (number, _, point) = (left.next()?, left.next()?, left.next()?);
    let options = left.next()?;
    let mut right = right.split(' ');
    let (kind, device) = (right.next()?, right.next()?);
    if PSEUDO.contains(&kind) {
        return None;
    }
    Some(Mount {
        mount_point: unescape(point),
        kind: kind.to_owned(),
        device: unescape(device),
        number: number.to_owned(),
        read_only: options.split(',').any(|option| option == "ro"),
        network: is_network(kind),
    })
}

/// Does a file system of this type ask another machine or program, which may never answer?
#[must_use]
pub fn is_network(kind: &str) -> bool {
    const NETWORK: &[&str] = &[
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "smb3",
        "smbfs",
        "virtiofs",
    ];
    NETWORK.contains(&kind) || kind == "fuse" || kind.starts_with("fuse.")
}

/// The kernel writes blanks as octal escapes.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_kept_with_their_device_and_the_kernels_own_are_not() {
        let mount = parse("36 35 98:0 /sub /mnt/a\\040b ro,noatime shared:1 - ext4 /dev/vdb rw");
        let mount = mount.unwrap();
        assert_eq!(mount.mount_point, "/mnt/a b");
        assert_eq!((mount.number.as_str(), mount.device.as_str()), ("98:0", "/dev/vdb"));
        assert!(mount.read_only && !mount.network);
        assert!(parse("1 2 0:5 / /n rw - nfs4 s:/x rw").unwrap().network);
        assert!(parse("1 2 0:5 / /n rw - fuse.sshfs s:/x rw").unwrap().network);
        for line in ["1 2 0:5 / /proc rw - proc proc rw", "", "1 2 3", "1 2 0:1 / /x rw"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
