//! The operator's workstation of a lab: a process inside the lab's network, at its address `.1`, with no way out.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::lab::cgroup::{self, Role};
use crate::lab::state::State;
use crate::lab::{network, program_path};
use crate::server::Output;

/// The workstation's part of the lab's cgroups.
pub const PART: &str = "workstation";

/// Becomes a program inside the lab's network, where the servers' names resolve. `down` ends it.
///
/// Only for a process with one thread: it moves itself.
pub fn become_program(state: &State, argv: &[OsString]) -> Result<Infallible> {
    let (name, arguments) = argv.split_first().context("no program named")?;
    cgroup::join(&state.cgroups_of(PART))?;
    network::enter(&network::file_of(&state.namespace))?;
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .context("cannot keep mounts private")?;
    for file in ["hosts", "resolv.conf"] {
        let at = Path::new("/etc").join(file);
        let from = state.folder.join(file);
        mount(Some(&from), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("cannot bind `{}` at `{}`", from.display(), at.display()))?;
    }
    let error = Command::new(name).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start `{}`", name.to_string_lossy()))
}

/// Becomes a program in the cgroups of the workstation, or of a server's visitors, and nothing more of the lab.
pub fn join(state: &State, server: Option<&str>, argv: &[OsString]) -> Result<Infallible> {
    let (name, arguments) = argv.split_first().context("no program named")?;
    cgroup::join(&match server {
        Some(server) => state.cgroups_for(&state.server(server)?.name, Role::Visitor),
        None => state.cgroups_of(PART),
    })?;
    let error = Command::new(name).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start `{}`", name.to_string_lossy()))
}

/// A command that will run on the workstation: for tests, which add to it and spawn it.
pub fn command<S: AsRef<OsStr>>(state: &State, argv: &[S]) -> Result<Command> {
    let mut command = Command::new(program_path()?);
    command.args(["run", &state.name, "--"]).args(argv);
    Ok(command)
}

/// Runs a program on the workstation to its end.
pub fn run<S: AsRef<OsStr>>(state: &State, argv: &[S]) -> Result<Output> {
    let output = command(state, argv)?.output().context("cannot start kdc-lab")?;
    Ok(Output::from(output))
}

/// The words of an `ssh` to a server, to be run on the workstation.
pub fn ssh_words(state: &State, server: &str, command: &[OsString]) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["ssh".into(), "-F".into(), state.ssh_config.clone().into()];
    words.push(server.into());
    words.extend(command.iter().cloned());
    words
}
