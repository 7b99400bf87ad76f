//! Cgroups: what a server's systemd sees as its whole tree, and how every process of a lab is found.
//!
//! A process is put into the lab's cgroups before it does anything, and a server's own cgroup namespace keeps it
//! below them. So the cgroup is the one true list of what runs: no process id has to be remembered, and none can
//! be mistaken. Joining a cgroup that `down` has removed fails, so a late starter can't outlive its lab.
//!
//! A host has either several hierarchies, one for each controller or two (v1, with an empty v2 tree beside it), or
//! one for all (v2, Debian 12's default). In v1 a lab is a cgroup in each. In v2 a cgroup either holds processes or
//! hands controllers down to its children, never both; so a lab lies at the top of the tree, the one place where its
//! controllers don't depend on whose session made it, and only leaves hold processes:
//!
//! ```text
//! kdc-lab-demo/                 hands every controller down
//!   workstation/                what the operator runs, and the lab's own short-lived programs
//!   node1/                      hands every controller down
//!     supervisor/               `unshare`, the parent of PID 1
//!     system/                   the root of node1's cgroup namespace: its systemd moves on to init.scope below
//!       visitor/                what `exec` runs: a process can't enter the tree from outside the namespace
//! ```

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What stands for the v2 tree, which has no controllers on a host of v1: systemd keeps its units there all the same.
const UNIFIED: &str = "unified";

/// The v1 hierarchies, by the options that mount them.
const HIERARCHIES: &[&str] =
    &["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "name=systemd"];

/// The controllers of v2 that a server's systemd and kubelet use.
const CONTROLLERS: &[&str] = &["cpu", "cpuset", "io", "memory", "pids"];

/// Where a lab lies.
#[derive(Debug, PartialEq, Eq)]
pub struct Places {
    /// Whether the host has v2 alone.
    pub unified: bool,
    /// The lab's cgroup in every hierarchy.
    pub cgroups: Vec<PathBuf>,
}

/// Which processes of a server: in v2 each kind has a leaf of its own, in v1 all share the server's cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The parent of PID 1, outside of the server's namespaces.
    Supervisor,
    /// PID 1 and what it starts.
    System,
    /// What `exec` brings in from outside.
    Visitor,
}

impl Role {
    /// Every role, a parent before its child.
    pub const ALL: [Self; 3] = [Self::Supervisor, Self::System, Self::Visitor];

    /// Its leaf below the server's cgroup in v2.
    pub fn leaf(self) -> &'static str {
        match self {
            Self::Supervisor => "supervisor",
            Self::System => "system",
            Self::Visitor => "system/visitor",
        }
    }
}

/// Where the lab `name` lies. In v1 it is below our own cgroup, so that limits on us hold for it too.
pub fn places(name: &str) -> Result<Places> {
    let mounts = fs_err::read_to_string("/proc/self/mountinfo")?;
    let own = fs_err::read_to_string("/proc/self/cgroup")?;
    choose_places(&mounts, &own, &format!("kdc-lab-{name}"))
}

fn choose_places(mounts: &str, own: &str, folder: &str) -> Result<Places> {
    let found = parse_places(mounts, own);
    if found.iter().any(|(hierarchy, _)| *hierarchy == "name=systemd") {
        let cgroups = found.into_iter().map(|(_, parent)| parent.join(folder)).collect();
        return Ok(Places { unified: false, cgroups });
    }
    let top = mounts
        .lines()
        .filter_map(|line| line.split_once(" - cgroup2 "))
        .find_map(|(left, _)| left.split(' ').nth(4))
        .context("no cgroup hierarchy is mounted: see `mount -t cgroup,cgroup2`")?;
    Ok(Places { unified: true, cgroups: vec![Path::new(top).join(folder)] })
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

/// Makes a cgroup; in v1 it may use every CPU that its parent may, which is so by itself in v2.
pub fn make(cgroup: &Path) -> Result<()> {
    fs_err::create_dir_all(cgroup)?;
    if cgroup.join("cgroup.subtree_control").exists() {
        return Ok(());
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let parent = cgroup.parent().context("a cgroup has a parent")?.join(file);
        if cgroup.join(file).exists() && parent.exists() {
            fs_err::write(cgroup.join(file), fs_err::read(parent)?)?;
        }
    }
    Ok(())
}

/// Hands every controller that a cgroup of v2 has down to its children. It must hold no process, unless it is the
/// top of the host's tree. At the top they stay handed down: another may rely on them by then.
pub fn delegate(cgroup: &Path) -> Result<()> {
    let has = fs_err::read_to_string(cgroup.join("cgroup.controllers"))?;
    let has: Vec<_> = has.split_whitespace().collect();
    if let Some(lacking) = CONTROLLERS.iter().find(|wanted| !has.contains(wanted)) {
        bail!(
            "the cgroup `{}` has no controller `{lacking}`, only {has:?}: a v1 hierarchy holds it, the kernel's command \
             line disables it (cgroup_disable), or the container we run in was not given it",
            cgroup.display()
        );
    }
    for controller in has {
        let file = cgroup.join("cgroup.subtree_control");
        if let Err(error) = fs_err::write(&file, format!("+{controller}\n")) {
            let busy = error.raw_os_error() == Some(Errno::EBUSY as i32);
            let hint = if busy {
                ", since it holds processes: in a container, give it the host's cgroup namespace \
                 (`--cgroupns=host`), or move them to a cgroup below first"
            } else {
                ""
            };
            return Err(anyhow::Error::from(error)
                .context(format!("`{}` can't hand `{controller}` down{hint}", cgroup.display())));
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
        if !kill_as_one(cgroups)? {
            for pid in left {
                // It may have ended since: then there is nothing to do.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Lets the kernel kill these cgroups whole, forks under way included. Says whether it can: v2 from Linux 5.14 on.
fn kill_as_one(cgroups: &[PathBuf]) -> Result<bool> {
    let files: Vec<_> = cgroups.iter().map(|cgroup| cgroup.join("cgroup.kill")).collect();
    if !files.iter().all(|file| file.exists()) {
        return Ok(false);
    }
    for file in files {
        fs_err::write(file, "1\n")?;
    }
    Ok(true)
}

/// A frozen process of v1 takes no signal, so what a container froze is thawed first.
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

/// Removes cgroups, from the leaves up. What joined one since all was killed is killed too: from then on none can.
pub fn remove(cgroups: &[PathBuf]) -> Result<()> {
    for cgroup in cgroups {
        remove(&children(cgroup))?;
        let limit = Instant::now() + Duration::from_secs(30);
        loop {
            match fs_err::remove_dir(cgroup) {
                Ok(()) => break,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
                // The kernel lets go of a cgroup a moment after its last process.
                Err(_) if Instant::now() < limit => {
                    kill_all(std::slice::from_ref(cgroup))?;
                    std::thread::sleep(Duration::from_millis(10));
                }
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

    #[test]
    fn a_lab_lies_below_its_maker_in_v1_and_at_the_top_of_the_tree_in_v2() {
        let v2 = "28 24 0:25 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        let v1 =
            "32 29 0:29 / /sys/fs/cgroup/systemd rw shared:3 - cgroup systemd rw,name=systemd\n";
        let own = "2:name=systemd:/user.slice\n0::/user.slice/user-0.slice/session-3.scope\n";
        let places = |unified, paths: &[&str]| Places {
            unified,
            cgroups: paths.iter().map(PathBuf::from).collect(),
        };
        assert_eq!(
            choose_places(v2, own, "kdc-lab-x").unwrap(),
            places(true, &["/sys/fs/cgroup/kdc-lab-x"])
        );
        assert_eq!(
            choose_places(v1, own, "kdc-lab-x").unwrap(),
            places(false, &["/sys/fs/cgroup/systemd/user.slice/kdc-lab-x"])
        );
        let none = choose_places("", own, "kdc-lab-x").unwrap_err().to_string();
        assert!(none.contains("no cgroup hierarchy"), "{none}");
    }

    #[test]
    fn a_cgroup_without_a_needed_controller_is_named_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let written = folder.path().join("cgroup.subtree_control");
        fs_err::write(folder.path().join("cgroup.controllers"), "cpu io pids cpuset\n").unwrap();
        let error = delegate(folder.path()).unwrap_err().to_string();
        assert!(error.contains("`memory`") && !written.exists(), "{error}");
        fs_err::write(folder.path().join("cgroup.controllers"), "cpuset cpu io memory pids\n")
            .unwrap();
        delegate(folder.path()).unwrap();
        assert!(written.exists());
    }
}
