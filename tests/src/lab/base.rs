//! The base: the root file system that every light server lies over, built once and kept by content.
//!
//! Its folder is named after the digest of the script that builds it (`tests/base/build.sh`), so an edited
//! script means a new base, and a folder of that name is always a whole one: it is built beside and renamed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// Builds the root file system into the folder named by its first argument.
const SCRIPT: &str = include_str!("../../base/build.sh");

/// kdc's folder for what can be built again: `$XDG_CACHE_HOME/kdc`, else `~/.cache/kdc`.
pub fn cache() -> Result<PathBuf> {
    if let Some(cache) = std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(cache).join("kdc"));
    }
    let home = std::env::home_dir().context("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(home.join(".cache/kdc"))
}

/// The base's root folder, built now where it is missing.
pub fn ensure(progress: &dyn Fn(&str)) -> Result<PathBuf> {
    let digest = hex::encode(Sha256::digest(SCRIPT));
    let cache = cache()?;
    let folder = cache.join(format!("base-{digest}"));
    let rootfs = folder.join("rootfs");
    if rootfs.exists() {
        return Ok(rootfs);
    }
    fs_err::create_dir_all(&cache)?;
    let lock = fs_err::File::create(cache.join("base.lock"))?.into_parts().0;
    if lock.try_lock().is_err() {
        progress("another kdc-lab is building the base root file system; waiting for it");
        lock.lock().context("cannot lock the base")?;
    }
    if rootfs.exists() {
        return Ok(rootfs);
    }
    progress("building the base root file system with mmdebstrap (once; about a minute)");
    let building = cache.join("base.building");
    remove(&building)?;
    fs_err::create_dir_all(&building)?;
    build(&building.join("rootfs"))?;
    fs_err::rename(&building, &folder)?;
    progress("the base root file system is built");
    Ok(rootfs)
}

/// Runs the script in a process namespace of its own, which dies with this process.
fn build(rootfs: &Path) -> Result<()> {
    let status = Command::new("setpriv")
        .args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .args(["bash", "-c", SCRIPT, "build.sh"])
        .arg(rootfs)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("cannot start setpriv (package util-linux)")?;
    if !status.success() {
        bail!(
            "building the base failed ({status}); what it said stands above. Is mmdebstrap installed (tests/setup.sh)?"
        );
    }
    Ok(())
}

/// Removes what a killed build left. Its mounts ended with its namespace, so only files can be there.
fn remove(folder: &Path) -> Result<()> {
    match fs_err::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
