//! Leaving: after a finished undo, kdc's own files go too, and the host is as it was.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{Places, ServeError, runs};
use crate::{
    daemon,
    host::{Host, Program},
    run,
    store::peer,
    wire::Reply,
};

/// Where staged copies of the agent may lie (`kdc-<uid>` in each), and the login's home.
const STAGING: &[&str] = &["/dev/shm", "/var/tmp", "/tmp", "/root"];

/// Remove everything of kdc's own. Refused while changes are in force or a run goes on.
pub(super) fn depart(host: &dyn Host, places: &Places) -> Result<Reply, ServeError> {
    if let Some(busy) = runs::busy_run(host, places)? {
        return Err(ServeError::Busy { run: busy.run });
    }
    if let Some(standing) = run::in_force(&places.runs)?.into_iter().next() {
        return Err(ServeError::StillInForce { run: standing.run });
    }
    stop_daemon(host)?;
    // Before its folder goes: it would go on, and write.
    peer::end(host, &places.share)?;
    remove_all(Path::new("/"), login_home().as_deref())
        .map_err(|source| ServeError::Depart { source })?;
    Ok(Reply::Done)
}

/// The units belong to steps, and their undo has removed them; this is for what a cut-off undo left.
fn stop_daemon(host: &dyn Host) -> Result<(), ServeError> {
    for name in [crate::gpu::watch::UNIT_NAME, daemon::UNIT_NAME] {
        let unit = format!("/etc/systemd/system/{name}");
        if host.stat(&unit)?.is_some() {
            let disable = ["disable", "--now", "--quiet", name];
            host.run(&Program::new("systemctl").args(disable))?;
            host.remove(&unit)?;
            host.run_checked(&Program::new("systemctl").arg("daemon-reload"))?;
        }
    }
    // A round that the daemon had begun would go on and write. Where none goes on there is nothing to stop.
    host.run(&Program::new("systemctl").args(["stop", crate::control::license::node::UNIT_NAME]))?;
    Ok(())
}

/// Home of the login that used `sudo` to start us: where nothing else may execute, staging is there.
fn login_home() -> Option<PathBuf> {
    let uid = std::env::var("SUDO_UID").ok()?.parse().ok()?;
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok()??;
    Some(user.dir)
}

fn remove_all(root: &Path, home: Option<&Path>) -> io::Result<()> {
    remove_file(&root.join("usr/local/bin/kdc-agent"))?;
    // The folder is node-feature-discovery's own.
    remove_file(&root.join(crate::api::labels::PATH.trim_start_matches('/')))?;
    for directory in ["etc/kdc", "var/lib/kdc", "run/kdc"] {
        remove_tree(&root.join(directory))?;
    }
    for base in STAGING.iter().map(Path::new).chain(home) {
        let base = root.join(base.strip_prefix("/").unwrap_or(base));
        let Ok(entries) = fs_err::read_dir(&base) else { continue };
        for entry in entries {
            let entry = entry?;
            if is_staging(&entry.file_name().to_string_lossy()) && entry.file_type()?.is_dir() {
                remove_staged(&entry.path())?;
            }
        }
    }
    Ok(())
}

/// `kdc-<uid>`.
fn is_staging(name: &str) -> bool {
    name.strip_prefix("kdc-")
        .is_some_and(|uid| !uid.is_empty() && uid.bytes().all(|b| b.is_ascii_digit()))
}

/// Only what staging makes; a directory that holds something else stays.
fn remove_staged(directory: &Path) -> io::Result<()> {
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = ["agent-", "part-", "try-"].iter().any(|start| name.starts_with(start));
        if ours && entry.file_type()?.is_file() {
            remove_file(&entry.path())?;
        }
    }
    match fs_err::remove_dir(directory) {
        Err(cause) if cause.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => other,
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs_err::remove_file(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs_err::remove_dir_all(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_of_ours_goes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for (path, ours) in [
            ("usr/local/bin/kdc-agent", true),
            ("usr/local/bin/other", false),
            ("etc/kdc/routes.json", true),
            ("var/lib/kdc/runs/r1/plan.json", true),
            ("run/kdc/values/r1/join", true),
            ("dev/shm/kdc-0/agent-abc", true),
            ("tmp/kdc-1000/part-7", true),
            ("home/ops/kdc-1000/agent-abc", true),
            ("home/ops/kdc-1000.txt", false),
            ("home/eve/kdc-1001/agent-abc", false),
            ("tmp/kdc-1000/notes", false),
            ("tmp/kdc-demo/agent-x", false),
        ] {
            let path = root.join(path);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(&path, if ours { "ours" } else { "theirs" }).unwrap();
        }
        let home = Some(Path::new("/home/ops"));
        remove_all(root, home).unwrap();
        for gone in [
            "usr/local/bin/kdc-agent",
            "etc/kdc",
            "var/lib/kdc",
            "run/kdc",
            "dev/shm/kdc-0",
            "home/ops/kdc-1000",
        ] {
            assert!(!root.join(gone).exists(), "{gone}");
        }
        assert!(!root.join("tmp/kdc-1000/part-7").exists());
        for kept in [
            "usr/local/bin/other",
            "tmp/kdc-1000/notes",
            "tmp/kdc-demo/agent-x",
            "home/ops/kdc-1000.txt",
            "home/eve/kdc-1001/agent-abc",
            "run",
        ] {
            assert!(root.join(kept).exists(), "{kept}");
        }
        remove_all(root, home).unwrap();
    }
}
