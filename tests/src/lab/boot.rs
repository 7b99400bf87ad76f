//! From a process of the host to PID 1 of a light server, in three stages of hidden subcommands.
//!
//! 1. [`enter`] joins the supervisor's cgroups and the server's network namespace, then becomes `unshare`, which makes
//!    other namespaces and forks: its child is PID 1 of the new process namespace.
//! 2. [`init`] is that child. It moves on to the cgroups that are to be the server's whole tree and makes a namespace
//!    of them, lays the server's root out of mounts, turns to it, and becomes `/sbin/init`.
//!
//! All mounts are made in the server's own mount namespace and vanish with it: a power cut needs no cleaning.

use std::convert::Infallible;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use nix::unistd::{chdir, pivot_root, sethostname};

use crate::lab::cgroup::{self, Role};
use crate::lab::state::{ServerState, State};
use crate::lab::{network, personal};
use crate::program::must;

/// Kernel-wide values that Kubernetes wants to set. A server gets a copy of each, so the host's stay as they are.
const COPIED_SYSCTLS: &[&str] = &[
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "vm/swappiness",
    "vm/max_map_count",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/pid_max",
    "kernel/threads-max",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "fs/file-max",
    "fs/nr_open",
    "fs/aio-max-nr",
    "fs/inotify/max_user_instances",
    "fs/inotify/max_user_watches",
];

/// Character devices of a server: name, major, minor.
const DEVICES: &[(&str, u64, u64)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("kmsg", 1, 11),
    ("tty", 5, 0),
    ("fuse", 10, 229),
    ("tun", 10, 200),
];

/// The environment of PID 1, and of what `exec` runs.
pub const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Joins cgroups and network, then becomes `unshare`, which starts [`init`].
pub fn enter(state: &State, server: &ServerState) -> Result<Infallible> {
    cgroup::join(&state.cgroups_for(&server.name, Role::Supervisor))?;
    network::enter(&network::file_of(&server.namespace))?;
    let own = std::env::current_exe().context("cannot tell my own path")?;
    let error = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--uts", "--ipc", "--propagation", "private"])
        .args(["--kill-child", "--"])
        .arg(own)
        .args(["_init", &state.name, &server.name])
        .exec();
    Err(error).context("cannot start unshare (package util-linux)")
}

/// Lays out the server's root and becomes its systemd.
pub fn init(state: &State, server: &ServerState) -> Result<Infallible> {
    cgroup::join(&state.cgroups_for(&server.name, Role::System))?;
    unshare(CloneFlags::CLONE_NEWCGROUP).context("cannot make a cgroup namespace")?;
    write_pid(&state.folder, &server.name)?;
    umask(Mode::from_bits_truncate(0o022));
    sethostname(&server.name).context("cannot set the host name")?;
    let disk = state.disk(&server.name);
    if server.disk_mib.is_some() {
        let image = disk.with_extension("img");
        must(&[
            "mount".as_ref(),
            "-o".as_ref(),
            "loop,errors=remount-ro".as_ref(),
            image.as_os_str(),
            disk.as_os_str(),
        ])?;
    }
    let root = lay_root(state, &disk)?;
    mount_kernel(&root)?;
    mount_cgroups(&root.join("sys/fs/cgroup"), state.unified)?;
    make_devices(&root)?;
    copy_sysctls(&root)?;
    hide_the_hosts(&root)?;
    personal::settle(state, server, &root)?;
    turn_to(&root)?;
    let error = Command::new("/sbin/init")
        .args(["--log-target=console", "--show-status=1"])
        .env_clear()
        .env("container", "kdc-lab")
        .envs([PATH.split_once('=').context("PATH has no `=`")?])
        .exec();
    Err(error).context("cannot become /sbin/init")
}

/// Notes which process of the host will be PID 1: `/proc` is still the host's here.
fn write_pid(folder: &Path, server: &str) -> Result<()> {
    let own = fs_err::read_link("/proc/self")?;
    let fresh = folder.join(format!("{server}.pid.new"));
    fs_err::write(&fresh, own.to_string_lossy().as_bytes())?;
    Ok(fs_err::rename(fresh, folder.join(format!("{server}.pid")))?)
}

/// The overlay on the base, with `/var/lib` from the disk itself: containerd's overlays can't lie on an overlay.
fn lay_root(state: &State, disk: &Path) -> Result<PathBuf> {
    let (upper, work, lib) = (disk.join("upper"), disk.join("work"), disk.join("lib"));
    let root = state.folder.join("root");
    for folder in [&upper, &work, &root] {
        fs_err::create_dir_all(folder)?;
    }
    fs_err::set_permissions(&upper, PermissionsExt::from_mode(0o755))?;
    copy_lib(&state.base.join("var/lib"), &lib)?;
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        state.base.display(),
        upper.display(),
        work.display()
    );
    attach("overlay", &root, "overlay", MsFlags::empty(), &layers)?;
    bind(&root.join("var/lib/dpkg"), &lib.join("dpkg"))?;
    bind(&lib, &root.join("var/lib"))?;
    Ok(root)
}

/// Gives the disk its own copy of the base's `/var/lib`, once; a copy that was cut short is made anew.
///
/// `dpkg` stays on the overlay: its 750 small files would be most of what is copied, and removed by `down`.
fn copy_lib(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        return Ok(());
    }
    let partial = to.with_extension("partial");
    if partial.exists() {
        fs_err::remove_dir_all(&partial)?;
    }
    fs_err::create_dir(&partial)?;
    for entry in fs_err::read_dir(from)? {
        let entry = entry?;
        if entry.file_name() == "dpkg" {
            fs_err::create_dir(partial.join("dpkg"))?;
        } else {
            let (from, to) = (entry.path(), partial.join(entry.file_name()));
            must(&["cp".as_ref(), "-a".as_ref(), from.as_os_str(), to.as_os_str()])?;
        }
    }
    Ok(fs_err::rename(partial, to)?)
}

fn mount_kernel(root: &Path) -> Result<()> {
    let strict = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    attach("proc", &root.join("proc"), "proc", strict | MsFlags::MS_NOEXEC, "")?;
    attach("sysfs", &root.join("sys"), "sysfs", strict | MsFlags::MS_NOEXEC, "")?;
    attach("tmpfs", &root.join("run"), "tmpfs", strict, "mode=755")
}

/// The server's cgroups as its systemd wants to find them: of v2 the tree itself, of v1 a folder of hierarchies.
fn mount_cgroups(cgroups: &Path, unified: bool) -> Result<()> {
    let strict = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if unified {
        return attach("cgroup2", cgroups, "cgroup2", strict, "");
    }
    attach("tmpfs", cgroups, "tmpfs", strict, "mode=755")?;
    for (options, folder) in cgroup::mounts()? {
        let at = cgroups.join(&folder);
        fs_err::create_dir(&at)?;
        let options =
            if options.starts_with("name=") { format!("none,{options}") } else { options };
        attach("cgroup", &at, "cgroup", strict, &options)?;
        for alias in folder.to_string_lossy().split(',').filter(|alias| Path::new(alias) != folder)
        {
            symlink(&folder, cgroups.join(alias))?;
        }
    }
    Ok(())
}

fn make_devices(root: &Path) -> Result<()> {
    let dev = root.join("dev");
    attach("tmpfs", &dev, "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_STRICTATIME, "mode=755")?;
    for folder in ["pts", "shm", "mqueue", "net"] {
        fs_err::create_dir(dev.join(folder))?;
    }
    let pts = "newinstance,ptmxmode=666,mode=620,gid=5";
    attach("devpts", &dev.join("pts"), "devpts", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, pts)?;
    attach(
        "tmpfs",
        &dev.join("shm"),
        "tmpfs",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        "mode=1777",
    )?;
    let mask = umask(Mode::empty());
    for (name, major, minor) in DEVICES {
        let path = if *name == "tun" { dev.join("net/tun") } else { dev.join(name) };
        let mode = Mode::from_bits_truncate(if *name == "kmsg" { 0o644 } else { 0o666 });
        mknod(&path, SFlag::S_IFCHR, mode, makedev(*major, *minor))
            .with_context(|| format!("cannot make `{}`", path.display()))?;
    }
    umask(mask);
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ] {
        symlink(target, dev.join(name))?;
    }
    Ok(())
}

/// Lets a server set its network's values only; of some others it gets copies with the host's values.
fn copy_sysctls(root: &Path) -> Result<()> {
    let sys = root.join("proc/sys");
    let copies = root.join("run/sysctls");
    fs_err::create_dir(&copies)?;
    attach("tmpfs", &copies, "tmpfs", MsFlags::empty(), "mode=755")?;
    bind(&sys, &sys)?;
    bind(&sys.join("net"), &sys.join("net"))?;
    for name in COPIED_SYSCTLS.iter().filter(|name| sys.join(name).exists()) {
        let copy = copies.join(name.replace('/', "."));
        fs_err::write(&copy, fs_err::read(sys.join(name))?)?;
        bind(&copy, &sys.join(name))?;
    }
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    let trigger = root.join("proc/sysrq-trigger");
    if trigger.exists() {
        bind(&trigger, &trigger)?;
        attach("none", &trigger, "none", read_only, "")?;
    }
    attach("none", &sys, "none", read_only, "")?;
    // The copies live on in their bindings; the folder itself need not be seen.
    umount2(&copies, MntFlags::MNT_DETACH).context("cannot hide the sysctls' copies")?;
    Ok(fs_err::remove_dir(&copies)?)
}

/// Hides what a server would take for its own but can't change: the host's modules (its kernel then looks like one that
/// has all built in, as `up` has loaded what a server needs) and its swap.
fn hide_the_hosts(root: &Path) -> Result<()> {
    for (name, keep) in [("modules", 0), ("swaps", 1)] {
        let at = root.join("proc").join(name);
        let lines = if at.exists() { fs_err::read_to_string(&at)? } else { continue };
        if lines.lines().count() > keep {
            let shown: String = lines.split_inclusive('\n').take(keep).collect();
            let copy = root.join("run").join(name);
            fs_err::write(&copy, shown)?;
            bind(&copy, &at)?;
            // It lives on in its binding.
            fs_err::remove_file(&copy)?;
        }
    }
    Ok(())
}

/// Makes `root` the root of this mount namespace and lets go of everything else.
fn turn_to(root: &Path) -> Result<()> {
    chdir(root).context("cannot enter the root")?;
    pivot_root(".", ".").context("cannot turn to the root")?;
    umount2(".", MntFlags::MNT_DETACH).context("cannot let go of the host's mounts")?;
    chdir("/").context("cannot enter the root")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>)
        .context("cannot share the mounts")
}

fn bind(from: &Path, at: &Path) -> Result<()> {
    mount(Some(from), at, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("cannot bind `{}` at `{}`", from.display(), at.display()))
}

fn attach(source: &str, at: &Path, kind: &str, flags: MsFlags, options: &str) -> Result<()> {
    if !at.exists() {
        bail!("no place `{}` to mount {kind} at", at.display());
    }
    mount(Some(source), at, Some(kind), flags, Some(options))
        .with_context(|| format!("cannot mount {kind} at `{}` ({options})", at.display()))
}
