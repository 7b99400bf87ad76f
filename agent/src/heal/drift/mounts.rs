//! File systems that should be mounted. kdc mounts nothing itself; but where `/etc/fstab` gives the
//! store, containerd or etcd a disk of its own and that is missing after a reboot, they begin anew
//! on the root disk, and all seems well until that is full. Told, never mounted: what runs by then
//! would lose its files from sight.

use super::{
    super::{Kind, Mode, State, Watched},
    Eyes,
};
use crate::host::{Host, HostError};

const FSTAB: &str = "/etc/fstab";
const MOUNTS: &str = "/proc/self/mounts";

/// Folders that a node's work lies in.
const OURS: &[&str] = &["/var/lib/kdc", "/var/lib/containerd", "/var/lib/kubelet", "/var/lib/etcd"];

/// Most lines of either file.
const MOST_LINES: usize = 4096;

/// A finding for each file system of fstab that is mounted at boot.
pub(super) fn look(eyes: &Eyes<'_>) -> Vec<Watched> {
    if eyes.settings.mode_of(Kind::Mount) == Mode::Off {
        return Vec::new();
    }
    judge(eyes.host)
        .unwrap_or_else(|error| vec![Watched::unknown(Kind::Mount, "mounts", error.to_string())])
}

fn judge(host: &dyn Host) -> Result<Vec<Watched>, HostError> {
    let fstab = host.read_text(FSTAB)?.unwrap_or_default();
    let mounts = host.read_text(MOUNTS)?.unwrap_or_default();
    let mounted: Vec<String> =
        mounts.lines().take(MOST_LINES).filter_map(|line| field(line, 1)).collect();
    let wanted = fstab.lines().take(MOST_LINES).filter(|line| !line.trim_start().starts_with('#'));
    Ok(wanted.filter_map(|line| finding(line, &mounted)).collect())
}

/// A field, with fstab's way to write a blank undone.
fn field(line: &str, number: usize) -> Option<String> {
    Some(line.split_whitespace().nth(number)?.replace("\\040", " "))
}

fn finding(line: &str, mounted: &[String]) -> Option<Watched> {
    let (source, place) = (field(line, 0)?, field(line, 1)?);
    let (kind, options) = (field(line, 2)?, field(line, 3).unwrap_or_default());
    let has = |option: &str| options.split(',').any(|one| one == option);
    if !place.starts_with('/') || kind == "swap" || has("noauto") || has("x-systemd.automount") {
        return None;
    }
    let subject = format!("mount {place}");
    if mounted.contains(&place) {
        return Some(Watched::new(Kind::Mount, subject, State::Ok, "as wanted"));
    }
    let near = |folder: &&str| within(folder, &place) || within(&place, folder);
    let state = if OURS.iter().any(near) { State::Fail } else { State::Warn };
    let text = format!("{FSTAB} wants {source} on {place}, and nothing is mounted there");
    let hint =
        format!("`systemctl status '{place}'`, then `mount {place}` with the services stopped");
    Some(Watched::new(Kind::Mount, subject, state, text).with_hint(hint))
}

/// Whether a path is a folder, or lies in it.
fn within(folder: &str, path: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn a_file_system_that_is_not_there_is_told_and_worse_where_the_nodes_work_lies() {
        let host = FakeHost::debian();
        host.plant(
            FSTAB,
            "# disks\n/dev/a / ext4 defaults 0 1\n/dev/b /var/lib/containerd xfs defaults 0 2\n\
             /dev/c /srv/my\\040files ext4 nofail 0 2\n/dev/d /mnt ext4 noauto 0 0\n\
             /dev/e none swap sw 0 0\n/dev/f /home ext4\n",
        );
        host.plant(MOUNTS, "/dev/a / ext4 rw 0 0\n/dev/f /home ext4 rw 0 0\n");
        let found: Vec<(String, &str)> = judge(&host)
            .unwrap()
            .into_iter()
            .map(|finding| (finding.subject, finding.state.word()))
            .collect();
        let expected = [
            ("mount /", "ok"),
            ("mount /var/lib/containerd", "fail"),
            ("mount /srv/my files", "warn"),
            ("mount /home", "ok"),
        ];
        assert_eq!(found, expected.map(|(subject, word)| (subject.to_owned(), word)));
    }
}
