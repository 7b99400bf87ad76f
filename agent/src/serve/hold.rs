//! The hold: one installer at a time changes a node.
//!
//! A locked file under `/run/kdc`; the lock lives and dies with the session's process, so a killed
//! installer never leaves a node held. An installer that lost its link and comes back under the
//! same name takes its own hold over: the process that still sits on the dead link is ended.

use std::{
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::ServeError;

/// How long an ended predecessor may take to let go.
const TAKE_OVER: Duration = Duration::from_secs(5);

/// Longest text of a lock file that is read.
const MAX_HOLD_BYTES: u64 = 4096;

/// Held until dropped.
#[derive(Debug)]
pub struct Hold {
    file: Flock<std::fs::File>,
    path: PathBuf,
}

impl Hold {
    /// Take the hold, for `holder` and `cluster`.
    ///
    /// # Errors
    /// When another session has it, or the file can't be made.
    pub fn take(directory: &Path, holder: &str, cluster: &str) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Hold { source };
        make_private(directory).map_err(failed)?;
        let path = directory.join("hold");
        let line = |text: &str| text.replace(char::is_control, " ");
        let (holder, cluster) = (line(holder), line(cluster));
        let mut asked_to_end = false;
        let begun = Instant::now();
        loop {
            match try_lock(&path).map_err(failed)? {
                Some(mut file) => {
                    file.set_len(0).map_err(failed)?;
                    file.rewind().map_err(failed)?;
                    let text = format!("{holder}\n{cluster}\n{}\n", std::process::id());
                    file.write_all(text.as_bytes()).map_err(failed)?;
                    return Ok(Self { file, path });
                }
                None => {
                    let (other, pid) = read_holder(&path).map_err(failed)?;
                    let ours = other.lines().next() == Some(holder.as_str());
                    if !ours || begun.elapsed() > TAKE_OVER {
                        let cluster = other.lines().nth(1).unwrap_or("?");
                        let name = other.lines().next().unwrap_or("another installer");
                        let holder = format!("{name} (cluster {cluster})");
                        return Err(ServeError::Held { holder, pid });
                    }
                    if !asked_to_end {
                        asked_to_end = true;
                        end_predecessor(&pid);
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // While it is still locked: who opened the old file sees that the path leads elsewhere.
        let removed = fs_err::remove_file(&self.path);
        if let Err(cause) = removed
            && cause.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%cause, "the hold's file stays; it is not locked any more");
        }
        if let Some(directory) = self.path.parent() {
            // Only if nothing else is in it.
            let _ = fs_err::remove_dir(directory);
        }
        let _ = self.file.flush();
    }
}

fn try_lock(path: &Path) -> std::io::Result<Option<Flock<std::fs::File>>> {
    let mut options = fs_err::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    fs_err::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    loop {
        if let Some(directory) = path.parent() {
            make_private(directory)?;
        }
        let file = options.open(path)?.into_file();
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => {
                let (ours, now) = (file.metadata()?, fs_err::metadata(path));
                if now.is_ok_and(|now| now.ino() == ours.ino()) {
                    return Ok(Some(file));
                }
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, cause)) => return Err(cause.into()),
        }
    }
}

fn read_holder(path: &Path) -> std::io::Result<(String, String)> {
    let mut text = String::new();
    match fs_err::File::open(path) {
        Ok(file) => {
            file.take(MAX_HOLD_BYTES).read_to_string(&mut text)?;
        }
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
        Err(cause) => return Err(cause),
    }
    let pid = text.lines().nth(2).unwrap_or("?").to_owned();
    Ok((text, pid))
}

/// End the agent that sits on our own dead link; only a process that serves an installer.
fn end_predecessor(pid: &str) {
    let Ok(number) = pid.parse::<i32>() else { return };
    let words = fs_err::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
    if number > 1 && serves_an_installer(&words) {
        // It may have ended by itself just now, which is what we want.
        let _gone = kill(Pid::from_raw(number), Signal::SIGTERM);
    }
}

/// Whether these are the words of `kdc-agent serve --stdio`. The program's own name says nothing:
/// the first connection runs a staged copy (`agent-<hex>`), later ones the installed agent.
fn serves_an_installer(cmdline: &[u8]) -> bool {
    let mut words = cmdline.split(|byte| *byte == 0);
    words.next().is_some_and(|program| !program.is_empty())
        && words.next() == Some(b"serve")
        && words.next() == Some(b"--stdio")
}

/// Make `/run/kdc`, closed to everyone but root.
pub(super) fn make_private(directory: &Path) -> std::io::Result<()> {
    match fs_err::metadata(directory) {
        Ok(_) => Ok(()),
        Err(_) => std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_holds_and_gets_it_when_the_first_lets_go() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("kdc");
        let first = Hold::take(&directory, "ops@laptop pid 7", "prod").unwrap();
        let refused = Hold::take(&directory, "eve@desk pid 9", "prod").unwrap_err();
        assert_eq!(refused.to_string(), "this node is held by ops@laptop pid 7 (cluster prod)");
        assert!(refused.hint().unwrap().contains(&std::process::id().to_string()));
        drop(first);
        assert!(!directory.exists(), "nothing is left behind");
        Hold::take(&directory, "eve@desk pid 9", "prod").unwrap();
    }

    #[test]
    fn a_file_left_by_a_killed_session_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("hold"), "ops@laptop\nprod\n1\n").unwrap();
        Hold::take(folder.path(), "eve@desk", "prod").unwrap();
    }

    #[test]
    fn a_predecessor_is_known_by_what_it_does_under_either_name() {
        for (cmdline, serves) in [
            (&b"/dev/shm/kdc-0/agent-0123456789abcdef\0serve\0--stdio\0"[..], true),
            (b"/usr/local/bin/kdc-agent\0serve\0--stdio\0", true),
            (b"/usr/local/bin/kdc-agent\0run\0r1\0", false),
            (b"/usr/sbin/sshd\0-D\0", false),
            (b"", false),
        ] {
            assert_eq!(serves_an_installer(cmdline), serves, "{}", cmdline.escape_ascii());
        }
    }

    #[test]
    fn a_holder_can_not_write_more_than_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let _hold = Hold::take(folder.path(), "a\nb\nc", "d\ne").unwrap();
        let text = fs_err::read_to_string(folder.path().join("hold")).unwrap();
        assert_eq!(text.lines().count(), 3);
    }
}
