//! What machines are restored from: one disk, built once, and one booted state of it, saved once.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::{
    guest::Guest,
    qemu::{Hardware, Plug, Qemu},
};

const RECIPE: &str = include_str!("../../machine/build.sh");

/// The name of the saved state inside the disk.
pub(super) const BOOTED: &str = "booted";

/// A first boot under TCG takes half a minute alone and several on a loaded machine.
pub(super) const BOOT_LIMIT: Duration = Duration::from_secs(600);

/// Folder with `vmlinuz`, `initrd.img`, the pristine `disk.qcow2`, and booted states beside it.
///
/// Named after its recipe's digest; built when missing, about a minute.
///
/// # Errors
/// When the build fails; its output is on stderr.
pub fn folder(cache: &Path) -> Result<PathBuf> {
    let digest = hex::encode(Sha256::digest(RECIPE.as_bytes()));
    let folder = cache.join(format!("machine-{}", &digest[..16]));
    if folder.join("disk.qcow2").exists() {
        return Ok(folder);
    }
    fs_err::create_dir_all(cache)?;
    let _lock = lock(cache)?;
    if folder.join("disk.qcow2").exists() {
        return Ok(folder);
    }
    tracing::info!("building the machine disk, about a minute");
    let building = tempfile::Builder::new().prefix("machine-building").tempdir_in(cache)?;
    let script = building.path().join("build.sh");
    fs_err::write(&script, RECIPE)?;
    let status = Command::new("bash").arg(&script).arg(building.path()).status()?;
    if !status.success() {
        bail!("the machine disk's build ended with {status}");
    }
    fs_err::remove_file(script)?;
    fs_err::rename(building.keep(), &folder)?;
    Ok(folder)
}

/// A disk with a booted state of `hardware` in it; booted and saved when missing, under a minute.
///
/// # Errors
/// When the machine doesn't come up.
pub(super) fn booted(folder: &Path, hardware: &Hardware) -> Result<PathBuf> {
    let saved = folder.join(format!("booted-{}m-{}c.qcow2", hardware.memory_mib, hardware.cpus));
    if saved.exists() {
        return Ok(saved);
    }
    let _lock = lock(folder)?;
    if saved.exists() {
        return Ok(saved);
    }
    tracing::info!("booting a machine once, to restore it ever after");
    let place = tempfile::Builder::new().prefix("booting").tempdir_in(folder)?;
    let disk = place.path().join("disk.qcow2");
    overlay(&folder.join("disk.qcow2"), &disk)?;
    let cable = Cable::lay(&format!("kdc-boot-{}", std::process::id()))?;
    let qemu = Qemu::at(place.path());
    qemu.start(folder, hardware, &cable.plug(), None)?;
    let result = Guest::connect(&qemu.guest_socket(), BOOT_LIMIT)
        .and_then(|mut guest| wait_until_running(&mut guest))
        .and_then(|()| qemu.save_and_quit(BOOTED));
    if let Err(error) = result {
        qemu.kill()?;
        let console = fs_err::read_to_string(place.path().join("console")).unwrap_or_default();
        let tail: Vec<&str> = console.lines().rev().take(20).collect();
        return Err(error.context(format!("the machine's last words, newest first: {tail:#?}")));
    }
    fs_err::rename(disk, &saved)?;
    Ok(saved)
}

/// A new disk that holds only what differs from `base`.
pub(super) fn overlay(base: &Path, disk: &Path) -> Result<()> {
    program(&[
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "qcow2",
        "-b",
        &base.display().to_string(),
        &disk.display().to_string(),
    ])
}

/// sshd fails at first, having no host key; that is as wanted here.
fn wait_until_running(guest: &mut Guest) -> Result<()> {
    let state = guest.run(&["/bin/systemctl", "is-system-running", "--wait"], b"")?;
    let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
    if state != "running" && state != "degraded" {
        bail!("the machine is `{state}` after its boot");
    }
    guest.must(&["/bin/systemctl", "reset-failed"], b"")?;
    guest.must(&["/bin/sync"], b"").map(|_| ())
}

/// Run a program that must succeed.
pub(super) fn program(argv: &[&str]) -> Result<()> {
    let output =
        Command::new(argv[0]).args(&argv[1..]).output().with_context(|| format!("{argv:?}"))?;
    if !output.status.success() {
        bail!("{argv:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// A namespace with one tap and nothing at its other end.
struct Cable(String);

impl Cable {
    fn lay(namespace: &str) -> Result<Self> {
        program(&["ip", "netns", "add", namespace])?;
        let cable = Self(namespace.to_owned());
        program(&["ip", "-n", namespace, "tuntap", "add", "dev", "tap0", "mode", "tap"])?;
        program(&["ip", "-n", namespace, "link", "set", "tap0", "up"])?;
        Ok(cable)
    }

    fn plug(&self) -> Plug {
        Plug { namespace: self.0.clone(), tap: "tap0".to_owned() }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        if let Err(error) = program(&["ip", "netns", "del", &self.0]) {
            tracing::warn!("can't delete namespace {}: {error:#}", self.0);
        }
    }
}

fn lock(folder: &Path) -> Result<nix::fcntl::Flock<std::fs::File>> {
    let path = folder.join("machine.lock");
    let file = fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
    nix::fcntl::Flock::lock(file.into_parts().0, nix::fcntl::FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .with_context(|| format!("can't lock {}", path.display()))
}
