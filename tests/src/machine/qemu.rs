//! One QEMU process and its monitor.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

/// What a machine is made of. A saved state restores only into the same hardware.
#[derive(Debug, Clone)]
pub struct Hardware {
    /// MiB of memory.
    pub memory_mib: u32,
    /// Virtual CPUs; each is one host thread under TCG.
    pub cpus: u32,
    /// More kernel arguments.
    pub boot_arguments: String,
    /// More disks (qcow2 files), seen as `/dev/vdb`, `/dev/vdc`…
    pub disks: Vec<PathBuf>,
}

impl Default for Hardware {
    fn default() -> Self {
        Self { memory_mib: 2048, cpus: 2, boot_arguments: String::new(), disks: Vec::new() }
    }
}

/// Where the machine is plugged in.
#[derive(Debug, Clone)]
pub(super) struct Plug {
    /// Network namespace the process runs in.
    pub(super) namespace: String,
    /// Tap device in it, made by the caller.
    pub(super) tap: String,
}

/// A running (or ended) QEMU process whose files lie in one folder.
#[derive(Debug)]
pub(super) struct Qemu {
    folder: PathBuf,
}

impl Qemu {
    /// The process whose sockets lie in `folder`, running or not.
    #[must_use]
    pub(super) fn at(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf() }
    }

    /// Start a machine from `folder/disk.qcow2`; with `saved`, at the state of that name.
    ///
    /// # Errors
    /// With QEMU's own words when it doesn't start.
    pub(super) fn start(
        &self,
        kernel: &Path,
        hardware: &Hardware,
        plug: &Plug,
        saved: Option<&str>,
    ) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &plug.namespace, "qemu-system-x86_64", "-daemonize"]);
        // TCG by name: /dev/kvm may exist and hang stock kernels.
        command.args([
            "-machine",
            "pc",
            "-accel",
            "tcg,thread=multi,tb-size=256",
            "-cpu",
            "qemu64",
        ]);
        command.args(["-m", &hardware.memory_mib.to_string(), "-smp", &hardware.cpus.to_string()]);
        command.arg("-kernel").arg(kernel.join("vmlinuz"));
        command.arg("-initrd").arg(kernel.join("initrd.img"));
        command.args(["-append", &boot_line(hardware)]);
        command.args(self.consoles()).args(self.drives(hardware)).args(network(plug));
        if let Some(name) = saved {
            command.args(["-loadvm", name]);
        }
        let output = command.output().context("can't run qemu-system-x86_64")?;
        if !output.status.success() {
            bail!("qemu: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// No screen; a serial console into a file, the monitor and the guest agent on sockets.
    fn consoles(&self) -> Vec<String> {
        let file = |name: &str| self.folder.join(name).display().to_string();
        let guest = format!("socket,path={},server=on,wait=off,id=guest", file("guest"));
        let monitor = format!("unix:{},server,nowait", file("qmp"));
        [
            ["-display", "none", "-vga", "none", "-device", "virtio-serial-pci"].map(str::to_owned),
            [
                "-serial".into(),
                format!("file:{}", file("console")),
                "-pidfile".into(),
                file("pid"),
                "-qmp".into(),
                monitor,
            ],
            [
                "-chardev".into(),
                guest,
                "-device".into(),
                GUEST_PORT.into(),
                "-device".into(),
                "virtio-rng-pci".into(),
            ],
        ]
        .concat()
    }

    /// The host's page cache survives a killed QEMU: what the guest flushed is kept, what it hadn't is lost, as
    /// in a power cut.
    fn drives(&self, hardware: &Hardware) -> Vec<String> {
        let first = self.folder.join("disk.qcow2");
        let disks = std::iter::once(&first).chain(&hardware.disks).enumerate();
        disks
            .flat_map(|(number, disk)| {
                let options = "format=qcow2,cache=unsafe,discard=unmap";
                let drive = format!("file={},if=none,id=d{number},{options}", disk.display());
                [
                    "-drive".into(),
                    drive,
                    "-device".into(),
                    format!("virtio-blk-pci,drive=d{number}"),
                ]
            })
            .collect()
    }

    /// The guest agent's socket.
    #[must_use]
    pub(super) fn guest_socket(&self) -> PathBuf {
        self.folder.join("guest")
    }

    /// The process, if it lives.
    #[must_use]
    pub(super) fn pid(&self) -> Option<Pid> {
        let text = fs_err::read_to_string(self.folder.join("pid")).ok()?;
        let pid = Pid::from_raw(text.trim().parse().ok()?);
        kill(pid, None).is_ok().then_some(pid)
    }

    /// Power cut: the process is gone at once, and with it what the guest had not flushed.
    ///
    /// # Errors
    /// When it doesn't die.
    pub(super) fn kill(&self) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        kill(pid, Signal::SIGKILL)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while kill(pid, None).is_ok() {
            if Instant::now() > deadline {
                bail!("qemu {pid} survived SIGKILL for 10 s");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Save memory and disk under a name inside `disk.qcow2`, and end.
    ///
    /// # Errors
    /// With the monitor's words.
    pub(super) fn save_and_quit(&self, name: &str) -> Result<()> {
        let mut monitor = Monitor::connect(&self.folder.join("qmp"))?;
        monitor.call("stop", json!({}))?;
        let said = monitor
            .call("human-monitor-command", json!({ "command-line": format!("savevm {name}") }))?;
        if said != json!("") {
            bail!("savevm: {said}");
        }
        monitor.call("quit", json!({}))?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.pid().is_some() {
            if Instant::now() > deadline {
                bail!("qemu still runs 30 s after quit");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Plug in a disk (a raw image, never written to) while the machine runs.
    ///
    /// # Errors
    /// With the monitor's words.
    pub(super) fn plug_disk(&self, image: &Path, serial: &str) -> Result<()> {
        let mut monitor = Monitor::connect(&self.folder.join("qmp"))?;
        let file = json!({ "driver": "file", "filename": image, "read-only": true });
        let node = json!({ "driver": "raw", "node-name": serial, "read-only": true, "file": file });
        monitor.call("blockdev-add", node)?;
        let device =
            json!({ "driver": "virtio-blk-pci", "drive": serial, "id": serial, "serial": serial });
        monitor.call("device_add", device).map(drop)
    }

    /// Pull the network cable, or plug it in again.
    ///
    /// # Errors
    /// With the monitor's words.
    pub(super) fn set_link(&self, up: bool) -> Result<()> {
        Monitor::connect(&self.folder.join("qmp"))?
            .call("set_link", json!({ "name": "n0", "up": up }))
            .map(|_| ())
    }
}

const GUEST_PORT: &str = "virtserialport,chardev=guest,name=org.qemu.guest_agent.0";

fn network(plug: &Plug) -> [String; 4] {
    let cable = format!("tap,id=n0,ifname={},script=no,downscript=no,vhost=off", plug.tap);
    ["-netdev".into(), cable, "-device".into(), "virtio-net-pci,netdev=n0".into()]
}

fn boot_line(hardware: &Hardware) -> String {
    format!(
        "console=ttyS0 root=/dev/vda ro quiet panic=-1 net.ifnames=0 \
         systemd.default_timeout_start_sec=300 {}",
        hardware.boot_arguments
    )
}

/// QEMU's machine protocol.
struct Monitor {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Monitor {
    fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("no QEMU at {}", socket.display()))?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let mut monitor = Self { reader: BufReader::new(stream.try_clone()?), stream };
        monitor.next_answer(|greeting| greeting.get("QMP").is_some())?;
        monitor.call("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    fn call(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut line = serde_json::to_vec(&json!({ "execute": command, "arguments": arguments }))?;
        line.push(b'\n');
        self.stream.write_all(&line)?;
        let mut answer =
            self.next_answer(|m| m.get("return").is_some() || m.get("error").is_some())?;
        match answer.get("error") {
            Some(error) => bail!("{command}: {error}"),
            None => Ok(answer["return"].take()),
        }
    }

    /// The next message that is wanted; events between are passed over.
    fn next_answer(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                bail!("QEMU closed its monitor");
            }
            let message: Value = serde_json::from_str(&line)?;
            if wanted(&message) {
                return Ok(message);
            }
        }
    }
}
