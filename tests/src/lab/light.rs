//! One light server: started, asked, broken and mended.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::cgroup::{self, Role};
use crate::lab::state::{ServerState, State};
use crate::lab::{boot, network, program_path};
use crate::program::{must, run_with_input};
use crate::server::{Fault, Output, Server};

/// A light server of a lab.
#[derive(Debug, Clone)]
pub struct LightServer {
    state: State,
    own: ServerState,
}

impl LightServer {
    /// A server as its lab's state describes it.
    pub fn new(state: &State, name: &str) -> Result<Self> {
        Ok(Self { state: state.clone(), own: state.server(name)?.clone() })
    }

    /// The process of the host that is its PID 1, while it runs.
    pub fn init_pid(&self) -> Option<i32> {
        let note = self.state.folder.join(format!("{}.pid", self.own.name));
        let pid: i32 = fs_err::read_to_string(note).ok()?.trim().parse().ok()?;
        let status = fs_err::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let is_first = status.lines().any(|l| l.starts_with("NSpid:") && l.ends_with("\t1"));
        let alive = !status.lines().any(|l| l.starts_with("State:\tZ"));
        // The number may have passed to another process: it is ours only inside our cgroup.
        let cgroups = fs_err::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let place = format!("/kdc-lab-{}/{}", self.state.name, self.own.name);
        let ours = cgroups.lines().any(|l| format!("{l}/").contains(&format!("{place}/")));
        (is_first && alive && ours).then_some(pid)
    }

    /// Powers it on, without waiting for anything but its PID 1.
    pub fn start(&self) -> Result<()> {
        if self.is_running() {
            bail!("`{}` is running", self.own.name);
        }
        self.clear()?;
        self.make_cgroups()?;
        network::make_link(&self.state, &self.own)?;
        let log = fs_err::File::create(self.console())?.into_parts().0;
        // `setsid --fork` makes it nobody's child, so that it outlives us and leaves no zombie with us.
        let status = Command::new("setsid")
            .args(["--fork".as_ref(), program_path()?.as_os_str()])
            .args(["_boot", &self.state.name, &self.own.name])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .current_dir("/")
            .status()
            .context("cannot start setsid (package util-linux)")?;
        if !status.success() {
            bail!("setsid ended with {status}");
        }
        Ok(())
    }

    /// Waits until its sshd greets.
    pub fn wait_for_ssh(&self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        let address = SocketAddr::new(self.address(), self.ssh_port());
        network::inside(&network::file_of(&self.state.namespace), || {
            while !greets(address) {
                if Instant::now() > end {
                    let console = self.console();
                    let text = fs_err::read_to_string(&console).unwrap_or_default();
                    let tail: Vec<_> = text.lines().rev().take(5).collect();
                    let tail: Vec<_> = tail.into_iter().rev().collect();
                    bail!(
                        "`{}` doesn't answer SSH after {} s; `{}` ends with:\n{}",
                        self.own.name,
                        limit.as_secs(),
                        console.display(),
                        tail.join("\n")
                    );
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        })
    }

    /// Cuts its power: every process ends at once, and what a real server forgets is forgotten.
    pub fn power_cut(&self) -> Result<()> {
        if let Some(pid) = self.init_pid() {
            // It may have ended since; what is left is found by its cgroup.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        self.clear()
    }

    /// Makes its disk, where it has one of a fixed size.
    pub fn make_disk(&self) -> Result<()> {
        let disk = self.state.disk(&self.own.name);
        fs_err::create_dir_all(&disk)?;
        if let Some(mib) = self.own.disk_mib {
            let image = disk.with_extension("img");
            fs_err::File::create(&image)?.set_len(mib << 20)?;
            let head =
                ["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,root_owner=0:0"];
            let words: Vec<_> = head.iter().map(AsRef::as_ref).chain([image.as_os_str()]).collect();
            must(&words)?;
        }
        Ok(())
    }

    /// A command on it as root, for callers that want its streams.
    pub fn command(&self, argv: &[&str]) -> Result<Command> {
        let words = self.words(argv)?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        Ok(command)
    }

    fn words(&self, argv: &[&str]) -> Result<Vec<OsString>> {
        let pid = self.pid()?.to_string();
        let enter = ["nsenter", "-t", &pid, "-m", "-u", "-i", "-n", "-p", "-C", "--"];
        let clean = ["env", "-C", "/", "-i", "HOME=/root", "LANG=C.UTF-8", boot::PATH];
        let mut words = Vec::new();
        if self.state.unified {
            words.push(program_path()?.into());
            let join = ["_join", "--server", &self.own.name, &self.state.name, "--"];
            words.extend(join.map(OsString::from));
        }
        words.extend([&enter[..], &clean[..], argv].concat().into_iter().map(OsString::from));
        Ok(words)
    }

    /// Where its PID 1 writes to.
    pub fn console(&self) -> PathBuf {
        self.state.folder.join(format!("{}.console", self.own.name))
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        self.state.cgroups_of(&self.own.name)
    }

    fn make_cgroups(&self) -> Result<()> {
        for cgroup in self.cgroups() {
            cgroup::make(&cgroup)?;
            if self.state.unified {
                cgroup::delegate(&cgroup)?;
                for leaf in Role::ALL {
                    cgroup::make(&cgroup.join(leaf.leaf()))?;
                }
            }
        }
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        cgroup::kill_all(&self.cgroups())?;
        cgroup::remove(&self.cgroups())?;
        network::remove_link(&self.state, &self.own)
    }

    fn pid(&self) -> Result<i32> {
        self.init_pid().with_context(|| {
            format!(
                "`{}` is off; `kdc-lab fault {} {} start` starts it",
                self.own.name, self.state.name, self.own.name
            )
        })
    }

    fn sh(&self, script: &str) -> Result<String> {
        let output = self.exec(&["sh", "-c", script])?;
        if !output.succeeded() {
            bail!("`{script}` failed on `{}`: {}", self.own.name, output.stderr_text().trim());
        }
        Ok(output.stdout_text())
    }

    fn own_disk(&self) -> Result<()> {
        if self.own.disk_mib.is_none() {
            bail!(
                "`{}` writes to the host's disk; disk faults need `up --disk SIZE`",
                self.own.name
            );
        }
        Ok(())
    }
}

/// Whether an SSH server answers at an address.
fn greets(address: SocketAddr) -> bool {
    use std::io::Read;
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else {
        return false;
    };
    let mut greeting = [0; 4];
    stream.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
        && stream.read_exact(&mut greeting).is_ok()
        && &greeting == b"SSH-"
}

impl Server for LightServer {
    fn name(&self) -> &str {
        &self.own.name
    }

    fn address(&self) -> IpAddr {
        self.own.address.into()
    }

    fn host_key(&self) -> &str {
        &self.own.host_key
    }

    fn is_running(&self) -> bool {
        self.init_pid().is_some()
    }

    fn exec_with_input(&self, argv: &[&str], input: &[u8]) -> Result<Output> {
        run_with_input(&self.words(argv)?, input)
    }

    fn root(&self) -> Option<PathBuf> {
        Some(PathBuf::from(format!("/proc/{}/root", self.init_pid()?)))
    }

    fn network_namespace(&self) -> Option<PathBuf> {
        Some(network::file_of(&self.own.namespace))
    }

    /// Asked with the host's programs in its network, since a fresh server has none of its own.
    fn ruleset(&self) -> Result<String> {
        let enter = format!("--net={}", network::file_of(&self.own.namespace).display());
        let mut text = String::new();
        for words in [
            &["nft", "-s", "list", "ruleset"][..],
            &["iptables-legacy-save"],
            &["ip6tables-legacy-save"],
        ] {
            text += &must(&[&["nsenter", enter.as_str(), "--"], words].concat())?.stdout_text();
        }
        Ok(text)
    }

    fn inflict(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Kill => self.power_cut(),
            Fault::Start => {
                self.start()?;
                self.wait_for_ssh(Duration::from_secs(120))
            }
            Fault::Cut => network::set_link(&self.state, &self.own, false),
            Fault::Mend => network::set_link(&self.state, &self.own, true),
            Fault::Shape(rate) => network::shape(&self.state, &self.own, Some(rate)),
            Fault::Unshape => network::shape(&self.state, &self.own, None),
            Fault::Fill => self.own_disk().and_then(|()| self.fill()),
            Fault::Unfill => {
                self.own_disk().and_then(|()| self.sh(&format!("rm -f {FILLER}")).map(drop))
            }
            Fault::ReadOnly => self.own_disk().and_then(|()| self.read_only()),
            Fault::Writable => self.own_disk().and_then(|()| self.writable()),
        }
    }
}

/// What fills a disk.
const FILLER: &str = "/var/lib/kdc-lab-fill";

impl LightServer {
    /// Takes all free space in one go, then block by block until the disk has none left.
    fn fill(&self) -> Result<()> {
        let free = "n=$(($(stat -f -c '%a * %S' /var/lib))); [ $n -lt 1048576 ] || fallocate -l $((n - 524288))";
        self.sh(&format!(
            "{free} {FILLER}; cat /dev/zero >> {FILLER} 2>/dev/null; sync -f {FILLER}"
        ))?;
        Ok(())
    }

    /// Read-only by the kernel's own hand, as after a disk error, where open files forbid a plain remount.
    fn read_only(&self) -> Result<()> {
        if self.exec(&["mount", "-o", "remount,ro", "/var/lib"])?.succeeded() {
            return Ok(());
        }
        let device =
            self.sh("basename $(findmnt -n -o SOURCE --target /var/lib | sed 's/\\[.*//')")?;
        let trigger = format!("/sys/fs/ext4/{}/trigger_fs_error", device.trim());
        must(&["sh", "-c", "echo kdc-lab > \"$1\"", "sh", &trigger]).map(drop)
    }

    fn writable(&self) -> Result<()> {
        let output = self.exec(&["mount", "-o", "remount,rw", "/var/lib"])?;
        if !output.succeeded() {
            bail!(
                "`{}` can't write its disk again ({}): files were open, so the kernel had to be told of a disk \
                 error; `kill` and `start` mend it",
                self.own.name,
                output.stderr_text().trim()
            );
        }
        Ok(())
    }
}
