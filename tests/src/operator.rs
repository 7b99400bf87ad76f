//! The operator of a test: a workstation in the lab with a home folder, a bundle, a key to trust and a cluster file.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

pub use crate::workspace::{built, checkout};
use crate::{
    lab::{Lab, workstation},
    program::must,
    server::{Output, Server},
};

/// The lab's bundle with the agent just built, and the key that it is signed with.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The bundle.
    pub file: PathBuf,
    /// The public key.
    pub key: PathBuf,
    /// Definition it was made from.
    pub definition: PathBuf,
}

impl Bundle {
    /// Made when what it is made from has changed, from inputs that are built when missing. Several test programs
    /// may ask at once: one makes it, and whoever has opened the one before keeps that.
    ///
    /// # Errors
    /// When an input can't be built; the error has the script's last words.
    pub fn of_the_lab() -> Result<Self> {
        static MADE: OnceLock<std::result::Result<Bundle, String>> = OnceLock::new();
        let make = || Self::make("lab", definition_of_the_lab()?);
        MADE.get_or_init(|| make().map_err(|error| format!("{error:#}")))
            .clone()
            .map_err(anyhow::Error::msg)
    }

    /// The same, with a runtime as upstream releases it: archives and bare programs in place of packages.
    ///
    /// # Errors
    /// As [`Bundle::of_the_lab`].
    pub fn of_archives() -> Result<Self> {
        let packages = definition_of_the_lab()?;
        Self::make("archives", printed("make-archive-inputs.sh", &packages)?)
    }

    fn make(name: &str, definition: PathBuf) -> Result<Self> {
        let (install, agent) = (built("kdc-install")?, built("kdc-agent")?);
        let folder = install.parent().context("a program's folder")?.join("lab-bundle");
        fs_err::create_dir_all(&folder)?;
        let bundle = Self {
            file: folder.join(format!("{name}.kdc")),
            key: folder.join("lab.key.pub"),
            definition,
        };
        let _lock = locked(&folder)?;
        let private = folder.join("lab.key");
        if !(private.exists() && bundle.key.exists()) {
            remove(&private)?;
            remove(&bundle.key)?;
            let words = ["bundle", "key", "new", "--unencrypted", "-o"].map(OsStr::new);
            must(&[&[install.as_os_str()], &words[..], &[private.as_os_str()]].concat())?;
        }
        let from = made_from(&[&install, &agent, &bundle.definition, &bundle.key])?;
        let note = folder.join(format!("{name}.made-from"));
        if bundle.file.exists() && fs_err::read_to_string(&note).is_ok_and(|old| old == from) {
            return Ok(bundle);
        }
        let fresh = folder.join(format!("{name}.kdc.new"));
        remove(&fresh)?;
        remove(&note)?;
        let words = [OsStr::new("bundle"), "create".as_ref(), "-f".as_ref()];
        let files = [bundle.definition.as_os_str(), "-o".as_ref(), fresh.as_os_str()];
        let key = ["--key".as_ref(), private.as_os_str()];
        must(&[&[install.as_os_str()], &words[..], &files, &key].concat())?;
        fs_err::rename(fresh, &bundle.file)?;
        fs_err::write(note, from)?;
        Ok(bundle)
    }
}

/// The path of the lab's own definition, after building what is missing of its inputs.
fn definition_of_the_lab() -> Result<PathBuf> {
    printed("make-bundle-inputs.sh", &built("kdc-agent")?)
}

/// The path that a script of `tests/kubernetes` prints last.
fn printed(script: &str, argument: &Path) -> Result<PathBuf> {
    let script = checkout().join("tests/kubernetes").join(script);
    let text = must(&[script.as_os_str(), argument.as_os_str()])?.stdout_text();
    Ok(PathBuf::from(text.lines().last().context("no definition was printed")?))
}

/// The right to change a folder, given back by the kernel when the file is closed.
fn locked(folder: &Path) -> Result<std::fs::File> {
    let lock = fs_err::File::create(folder.join("lock"))?.into_parts().0;
    lock.lock().with_context(|| format!("cannot lock `{}`", folder.display()))?;
    Ok(lock)
}

fn remove(file: &Path) -> Result<()> {
    match fs_err::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Which state of these files something was made from: where they are, how long, and when they were written.
fn made_from(files: &[&Path]) -> Result<String> {
    let mut text = String::new();
    for file in files {
        let seen = fs_err::metadata(file)?;
        writeln!(text, "{} {} {:?}", file.display(), seen.len(), seen.modified()?)?;
    }
    Ok(text)
}

/// Who installs: everything `kdc-install` needs in one home folder of its own.
#[derive(Debug)]
pub struct Operator {
    home: tempfile::TempDir,
    lab: Lab,
    bundle: Bundle,
}

impl Operator {
    /// An operator with a cluster file for these servers; the first one is the control plane.
    ///
    /// # Errors
    /// When the bundle can't be made.
    pub fn new(lab: &Lab, profile: &str, servers: &[&dyn Server]) -> Result<Self> {
        Self::with(lab, profile, servers, Bundle::of_the_lab()?)
    }

    /// The same with another bundle.
    ///
    /// # Errors
    /// When the home folder can't be made.
    pub fn with(lab: &Lab, profile: &str, servers: &[&dyn Server], bundle: Bundle) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("kdc-operator").tempdir()?;
        let operator = Self { home, lab: lab.clone(), bundle };
        let cluster = operator.cluster(profile, servers);
        fs_err::write(operator.cluster_file(), serde_yaml::to_string(&cluster)?)?;
        Ok(operator)
    }

    fn cluster(&self, profile: &str, servers: &[&dyn Server]) -> Value {
        let nodes: Vec<Value> = servers
            .iter()
            .enumerate()
            .map(|(number, server)| {
                json!({
                    "name": server.name(), "address": server.address().to_string(),
                    "role": if number == 0 { "control-plane" } else { "worker" },
                    "ssh": { "hostKey": server.host_key() },
                })
            })
            .collect();
        json!({
            "apiVersion": "kdc.dev/v1", "kind": "Cluster", "metadata": { "name": "test" },
            "spec": {
                "profile": profile, "distribution": "kubeadm", "nodes": nodes,
                "ssh": { "user": "root", "identity": self.lab.state().key },
            },
        })
    }

    /// The cluster file, to be edited.
    #[must_use]
    pub fn cluster_file(&self) -> PathBuf {
        self.home.path().join("cluster.yaml")
    }

    /// The home folder, where kubeconfig and reports appear.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The bundle in use.
    #[must_use]
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// `kdc-install` with these arguments on the workstation, not started yet.
    ///
    /// # Errors
    /// When a program isn't built.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let install = built("kdc-install")?;
        let mut argv = vec![install.display().to_string()];
        argv.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let mut command = workstation::command(self.lab.state(), &argv)?;
        command.current_dir(self.home.path()).env("HOME", self.home.path());
        command
            .env_remove("SSH_AUTH_SOCK")
            .env_remove("XDG_CONFIG_HOME")
            .stdin(std::process::Stdio::null());
        Ok(command)
    }

    /// The arguments with the bundle and the key behind them.
    #[must_use]
    pub fn with_bundle(&self, arguments: &[&str]) -> Vec<String> {
        let mut all: Vec<String> =
            arguments.iter().map(|argument| (*argument).to_owned()).collect();
        all.extend(["--bundle".into(), self.bundle.file.display().to_string()]);
        all.extend(["--key".into(), self.bundle.key.display().to_string()]);
        all
    }

    /// Run `kdc-install` to its end.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        Ok(Output::from(self.command(arguments)?.output()?))
    }

    /// Run `kdc-install apply` with the bundle to its end.
    ///
    /// # Errors
    /// When it fails, with all it said.
    pub fn apply(&self) -> Result<Output> {
        self.must(&self.with_bundle(&["apply", "--output", "plain", "--yes"]))
    }

    /// Run `kdc-install undo` to its end.
    ///
    /// # Errors
    /// When it fails, with all it said.
    pub fn undo(&self) -> Result<Output> {
        self.must(&self.with_bundle(&["undo", "--yes", "--output", "plain"]))
    }

    fn must(&self, arguments: &[String]) -> Result<Output> {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = self.run(&words)?;
        if !output.succeeded() {
            bail!(
                "kdc-install {} ended with {}\n{}\n{}",
                words.join(" "),
                output.code,
                output.stdout_text(),
                output.stderr_text()
            );
        }
        Ok(output)
    }
}
