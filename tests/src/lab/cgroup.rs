//! Cgroups (v1, and the v2 tree beside it): what a server's systemd sees as its whole tree, and how every process of it is found.
//!
//! A process is put into the lab's cgroups before it does anything, and a server's own cgroup namespace keeps it
//! below them. So the cgroup is the one true list of what runs: no process id has to be remembered, and none can
//! be mistaken. Joining a cgroup that `down` has removed fails, so a late starter can't outlive its lab.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What stands for the v2 tree, which has no controllers on a host of v1: systemd keeps its units there all the same.
const UNIFIED: &str = "unified";

/// The v1 hierarchies, by the options that mount them.
const HIERARCHIES: &[&str] =
    &["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "name=systemd"];

/// Where `name` (a lab) lies in every hierarchy: below our own cgroup, so that limits on us hold for it too.
pub fn places(name: &str) -> Result<Vec<PathBuf>> {
    let mounts = fs_err::read_to_string("/proc/self/mountinfo")?;
    let own = fs_err::read_to_string("/proc/self/cgroup")?;
    let found = parse_places(&mounts, &own);
    if !found.iter().any(|(hierarchy, _)| *hierarchy == "name=systemd") {
        bail!(
            "this host has no cgroup v1 hierarchies (no `name=systemd`), which light servers need; boot it with \
             `systemd.unified_cgroup_hierarchy=0` on the kernel's command line"
        );
    }
    Ok(found.into_iter().map(|(_, parent)| parent.join(format!("kdc-lab-{name}"))).collect())
}

/// Own cgroup folder in each known hierarchy, from `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn parse_places(mounts: &str, own: &str) -> Vec<(&'static str, PathBuf)> {
    let mut found = Vec::new();
    for line in mounts.lines() {
        if let Some((left, _)) = line.split_once(" - cgroup2 ") {
            let path = own.lines().find_map(|line| line.strip_prefix("0::"));
            if let (Some(at), Some(path)) = (left.split(' ').nth(4), path) {
                found.push((UNIFIED, Path::new(at).join(path.trim_start_matches('/'))));
            }
            continue;
        }
        let Some((left, right)) = line.split_once(" - cgroup ") else { continue };
        let (Some(at), Some(options)) = (left.split(' ').nth(4), right.split(' ').nth(1)) else {
            continue;
        };
        let Some(hierarchy) =
            HIERARCHIES.iter().find(|h| options.split(',').any(|option| option == **h))
        else {
            continue;
        };
        let path = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next()?;
            controllers.split(',').any(|c| c == *hierarchy).then(|| fields.next())?
        });
        let Some(path) = path else { continue };
        let place = Path::new(at).join(path.trim_start_matches('/'));
        if !found.iter().any(|(_, known)| *known == place) {
            found.push((*hierarchy, place));
        }
    }
    found
}

/// The v1 hierarchies' mount options, as a server mounts them again inside, with the folder's name for each.
/// The v2 tree is mounted by the server's systemd.
pub fn mounts() -> Result<Vec<(String, PathBuf)>> {
    let mounts = fs_err::read_to_string("/proc/self/mountinfo")?;
    let own = fs_err::read_to_string("/proc/self/cgroup")?;
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for (hierarchy, _) in parse_places(&mounts, &own).into_iter().filter(|(h, _)| *h != UNIFIED) {
        let line = own.lines().filter_map(|line| line.split(':').nth(1));
        let options =
            line.into_iter().find(|c| c.split(',').any(|c| c == hierarchy)).unwrap_or(hierarchy);
        let folder = hierarchy.strip_prefix("name=").map_or(options, |name| name);
        found.push((options.to_owned(), PathBuf::from(folder)));
    }
    Ok(found)
}

/// Makes a cgroup and lets it use every CPU that its parent may.
pub fn make(cgroup: &Path) -> Result<()> {
    fs_err::create_dir_all(cgroup)?;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let parent = cgroup.parent().context("a cgroup has a parent")?.join(file);
        if cgroup.join(file).exists() && parent.exists() {
            fs_err::write(cgroup.join(file), fs_err::read(parent)?)?;
        }
    }
    Ok(())
}

/// Moves this process into cgroups that exist.
pub fn join(cgroups: &[PathBuf]) -> Result<()> {
    for cgroup in cgroups {
        fs_err::write(cgroup.join("cgroup.procs"), "0\n")
            .context("the lab is being taken down, or this kernel refuses")?;
    }
    Ok(())
}

/// Every process in a cgroup or below it.
pub fn processes(cgroup: &Path) -> Vec<i32> {
    let text = fs_err::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    for below in children(cgroup) {
        found.extend(processes(&below));
    }
    found
}

fn children(cgroup: &Path) -> Vec<PathBuf> {
    let entries = fs_err::read_dir(cgroup).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Kills every process in these cgroups and waits until none is left.
pub fn kill_all(cgroups: &[PathBuf]) -> Result<()> {
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        let mut left: Vec<i32> = cgroups.iter().flat_map(|cgroup| processes(cgroup)).collect();
        left.sort_unstable();
        left.dedup();
        // 0 is a process that our own namespace can't see: never ours.
        left.retain(|pid| *pid > 0);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > limit {
            bail!("processes {left:?} don't end after SIGKILL; see /proc/PID/stack");
        }
        thaw(cgroups);
        for pid in left {
            // It may have ended since: then there is nothing to do.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A frozen process takes no signal, so what a container froze is thawed first.
fn thaw(cgroups: &[PathBuf]) {
    for cgroup in cgroups {
        let state = cgroup.join("freezer.state");
        if state.exists() {
            // It may go away under us, when its last process ended.
            let _ = fs_err::write(state, "THAWED\n");
        }
        thaw(&children(cgroup));
    }
}

/// Removes cgroups without processes, from the leaves up.
pub fn remove(cgroups: &[PathBuf]) -> Result<()> {
    for cgroup in cgroups {
        remove(&children(cgroup))?;
        let limit = Instant::now() + Duration::from_secs(5);
        loop {
            match fs_err::remove_dir(cgroup) {
                Ok(()) => break,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
                // The kernel lets go of a cgroup a moment after its last process.
                Err(_) if Instant::now() < limit => std::thread::sleep(Duration::from_millis(10)),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_cgroups_are_found_where_they_are_mounted() {
        let mounts = "30 28 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      31 28 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      32 28 0:29 / /sys/fs/cgroup/systemd rw shared:3 - cgroup systemd rw,xattr,name=systemd\n\
                      33 28 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup rw\n";
        let own = "4:memory:/a/b\n3:cpu,cpuacct:/\n2:name=systemd:/user.slice\n0::/\n";
        let found = parse_places(mounts, own);
        let wanted = [
            ("memory", "/sys/fs/cgroup/memory/a/b"),
            ("cpu", "/sys/fs/cgroup/cpu,cpuacct"),
            ("name=systemd", "/sys/fs/cgroup/systemd/user.slice"),
            (UNIFIED, "/sys/fs/cgroup/unified"),
        ];
        assert_eq!(found, wanted.map(|(h, p)| (h, PathBuf::from(p))));
    }
}
