//! A real sshd on loopback, in a mount namespace of its own.
//!
//! `/dev/shm`, `/var/tmp`, `/tmp`, `/run` and `/etc` are its own, so what a test stages or changes
//! there is gone with it. Login `root` by key; `ops` (password `ops-pass`, sudo with that password),
//! `free` (sudo without password) and `guest` (no sudo) by key or password. Needs root.

use std::{
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;

/// How a server differs from a plain one.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Lines for `sshd_config`; they win over the usual ones.
    pub config: Vec<String>,
    /// Mount options by directory (`/dev/shm` → `noexec`); the others may execute.
    pub mounts: Vec<(&'static str, &'static str)>,
    /// Host key types (default: ed25519).
    pub host_keys: Vec<&'static str>,
    /// Environment of what logins run (`NAME=value`).
    pub environment: Vec<String>,
    /// Shell lines run in the namespace before the server starts.
    pub prepare: String,
}

/// A running server; killed and cleaned up when dropped.
#[derive(Debug)]
pub struct Sshd {
    /// Port on 127.0.0.1.
    pub port: u16,
    folder: tempfile::TempDir,
    child: Child,
}

const SETUP: &str = r#"
set -e
mount -t tmpfs none /mnt
cp -a "$1/." /mnt/
mkdir /mnt/upper /mnt/work
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work overlay /etc
for user in ops free guest; do useradd -M -N -s /bin/sh -d /dev/shm/home -p "$(cat /mnt/password)" $user; done
mkdir -p /etc/sudoers.d
echo 'ops ALL=(ALL) ALL' >/etc/sudoers.d/ops
echo 'free ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/free
shift
while [ $# -gt 0 ]; do mount -t tmpfs -o "mode=1777,$2" none "$1"; shift 2; done
mkdir -p /run/sshd
mkdir -m 777 /dev/shm/home
. /mnt/prepare
exec /usr/sbin/sshd -D -e -f /mnt/sshd_config
"#;

/// Run a program to its end; its output, or an error with what it said.
///
/// # Errors
/// The program is missing or failed.
pub fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} is needed for this test"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{program} {arguments:?}: {said}");
    Ok(text)
}

/// Make a key pair at `path`.
///
/// # Errors
/// `ssh-keygen` is missing or failed.
pub fn keygen(path: &Path, kind: &str, passphrase: &str) -> anyhow::Result<()> {
    let path = path.display().to_string();
    run("ssh-keygen", &["-q", "-t", kind, "-N", passphrase, "-C", "test", "-f", &path]).map(drop)
}

impl Sshd {
    /// Start a server and wait until it answers.
    ///
    /// # Errors
    /// Something is missing on this machine, or the server doesn't start.
    pub fn start(options: &Options) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        let kinds =
            if options.host_keys.is_empty() { &["ed25519"][..] } else { &options.host_keys };
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        // Of two lines that say different things the first one counts.
        let mut config = options.config.iter().map(|line| format!("{line}\n")).collect::<String>();
        config += &format!(
            "Port {port}\nListenAddress 127.0.0.1\nPermitRootLogin yes\nStrictModes no\nUsePAM no\n\
             PidFile none\nAuthorizedKeysFile /mnt/authorized_keys\nSetEnv HOME=/dev/shm/home {}\n\
             KbdInteractiveAuthentication no\nMaxStartups 100\nSubsystem sftp internal-sftp\n",
            options.environment.join(" ")
        );
        for kind in kinds {
            keygen(&at(&format!("host_{kind}")), kind, "")?;
            config += &format!("HostKey /mnt/host_{kind}\n");
        }
        keygen(&at("id"), "ed25519", "")?;
        fs_err::copy(at("id.pub"), at("authorized_keys"))?;
        fs_err::write(at("sshd_config"), config)?;
        fs_err::write(at("prepare"), &options.prepare)?;
        fs_err::write(at("password"), run("openssl", &["passwd", "-6", "ops-pass"])?.trim())?;
        let child = Self::spawn(folder.path(), options)?;
        let server = Self { port, folder, child };
        server.wait()?;
        Ok(server)
    }

    fn spawn(folder: &Path, options: &Options) -> anyhow::Result<Child> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "/bin/sh", "-c", SETUP, "setup"]);
        command.arg(folder);
        for directory in ["/run", "/dev/shm", "/var/tmp", "/tmp"] {
            let extra = options.mounts.iter().find(|(at, _)| *at == directory);
            command.args([directory, extra.map_or("exec", |(_, extra)| extra)]);
        }
        let log = fs_err::File::create(folder.join("log"))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.into_parts().0);
        command.spawn().context("unshare (util-linux) is needed for this test")
    }

    fn wait(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = || fs_err::read_to_string(self.path("log")).unwrap_or_default();
            anyhow::ensure!(started.elapsed() < Duration::from_secs(20), "no sshd: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// A file of the server's folder (`id`, `host_ed25519.pub`, `log`).
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The server's process; it has the namespace to look into.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Pids of the processes that serve logins now.
    ///
    /// # Errors
    /// `/proc` can't be read.
    pub fn logins(&self) -> anyhow::Result<Vec<i32>> {
        let pid = self.pid();
        let path = format!("/proc/{pid}/task/{pid}/children");
        let text = fs_err::read_to_string(path)?;
        Ok(text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // Its logins first: they would keep the namespace and what is staged in it.
        for pid in self.logins().unwrap_or_default() {
            let pid = nix::unistd::Pid::from_raw(pid);
            // A login that ended by itself in the meantime is as good.
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).ok();
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
