//! Machines: fresh servers with a kernel of their own, under QEMU's software emulation (TCG).
//!
//! For what a namespace can't show: modules, sysctls, swap, reboot, boot arguments, disks, cgroup v2, clock, a
//! power cut that loses unsynced writes. A machine is booted once per hardware, saved with its memory, and
//! restored from then on in seconds with the disk reset. It is plugged into a lab's bridge like any server,
//! and ends with the lab: its process is in the lab's cgroups.
//!
//! What it is not: fast. A TCG CPU computes about forty times slower than its host.

pub mod base;
mod guest;
mod probe;
mod qemu;

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};

use self::qemu::{Plug, Qemu};
pub use self::{guest::Guest, qemu::Hardware};
use crate::{
    lab::{
        cgroup,
        network::{self, BRIDGE},
        state::State,
    },
    program::must,
    server::{Fault, Output, Server},
};

/// One machine of a lab.
#[derive(Debug)]
pub struct Machine {
    name: String,
    address: Ipv4Addr,
    host_key: String,
    hardware: Hardware,
    kernel: PathBuf,
    folder: PathBuf,
    plug: Plug,
    cgroups: Vec<PathBuf>,
    qemu: Qemu,
    /// The guest agent takes one connection at a time.
    console: Mutex<()>,
}

impl Machine {
    /// Restore a fresh machine into a lab, with the lab's users, a host key of its own and the right time.
    ///
    /// # Errors
    /// When the base can't be built or the machine doesn't come up.
    pub fn restore(lab: &State, name: &str, octet: u8, hardware: Hardware) -> Result<Self> {
        let cache = lab.base.parent().and_then(|base| base.parent()).context("the lab's cache")?;
        let kernel = base::folder(cache)?;
        let saved = base::booted(&kernel, &hardware)?;
        let folder = lab.disk(name);
        fs_err::create_dir_all(&folder)?;
        fs_err::copy(&saved, folder.join("disk.qcow2"))?;
        let [a, b, c] = lab.subnet;
        let plug = Plug { namespace: lab.namespace.clone(), tap: format!("m{octet}") };
        let tap = plug.tap.as_str();
        must(&["ip", "-n", &plug.namespace, "tuntap", "add", "dev", tap, "mode", "tap"])?;
        must(&["ip", "-n", &plug.namespace, "link", "set", tap, "master", BRIDGE, "up"])?;
        let mut machine = Self {
            name: name.to_owned(),
            address: Ipv4Addr::new(a, b, c, octet),
            host_key: String::new(),
            hardware,
            kernel,
            plug,
            cgroups: lab.cgroups_of(name),
            qemu: Qemu::at(&folder),
            folder,
            console: Mutex::new(()),
        };
        machine.power_on(Some(base::BOOTED))?;
        machine.host_key = machine.make_its_own(lab, octet)?;
        Ok(machine)
    }

    /// The guest agent, for what must be done at the console.
    ///
    /// # Errors
    /// When the guest doesn't answer within the time a cold boot may take.
    pub fn at_console<T>(&self, work: impl FnOnce(&mut Guest) -> Result<T>) -> Result<T> {
        let _turn = self.console.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        work(&mut Guest::connect(&self.qemu.guest_socket(), base::BOOT_LIMIT)?)
    }

    /// Set the clock this far from the host's.
    ///
    /// # Errors
    /// When the guest doesn't.
    pub fn set_clock(&self, ahead_secs: i64) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let wanted = i64::try_from(now.as_secs())? + ahead_secs;
        self.at_console(|guest| guest.must(&["/bin/date", "-s", &format!("@{wanted}")], b""))
            .map(drop)
    }

    /// Plug in a disk that can only be read, until the power goes: `/dev/disk/by-id/virtio-SERIAL`, within seconds.
    ///
    /// # Errors
    /// When QEMU refuses it.
    pub fn plug_disk(&self, image: &Path, serial: &str) -> Result<()> {
        self.qemu.plug_disk(image, serial)
    }

    /// Reboot through its own systemd and wait until it answers again.
    ///
    /// # Errors
    /// When it doesn't come back within ten minutes.
    pub fn reboot(&self) -> Result<()> {
        let boot_id = |machine: &Self| -> Result<String> {
            machine.at_console(|guest| {
                guest.must(&["/bin/cat", "/proc/sys/kernel/random/boot_id"], b"")
            })
        };
        let before = boot_id(self)?;
        // The answer may be lost with the machine: what counts is the next boot's identity.
        let _ =
            self.at_console(|guest| guest.run(&["/bin/systemctl", "reboot", "--no-block"], b""));
        let limit = std::time::Instant::now() + base::BOOT_LIMIT;
        while std::time::Instant::now() < limit {
            std::thread::sleep(Duration::from_secs(1));
            if boot_id(self).is_ok_and(|now| now != before) {
                return Ok(());
            }
        }
        bail!("{} did not come back from its reboot", self.name)
    }

    /// Start again with other kernel arguments, from the same disk.
    ///
    /// # Errors
    /// When it doesn't start.
    pub fn boot_with(&mut self, arguments: &str) -> Result<()> {
        self.qemu.kill()?;
        arguments.clone_into(&mut self.hardware.boot_arguments);
        self.power_on(None)
    }

    fn power_on(&self, saved: Option<&str>) -> Result<()> {
        self.qemu.start(&self.kernel, &self.hardware, &self.plug, saved)?;
        let pid = self.qemu.pid().context("QEMU ended as soon as it started")?;
        for cgroup in &self.cgroups {
            cgroup::make(cgroup)?;
            fs_err::write(cgroup.join("cgroup.procs"), format!("{pid}\n"))?;
        }
        Ok(())
    }

    /// What a saved state can't hold: name, addresses, keys, identity, users, time.
    fn make_its_own(&self, lab: &State, octet: u8) -> Result<String> {
        let key = self.folder.join("ssh_host_ed25519_key");
        must(&[
            "ssh-keygen",
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-C",
            &self.name,
            "-f",
            &key.display().to_string(),
        ])?;
        let public = fs_err::read_to_string(key.with_extension("pub"))?;
        let identity = settle_script(&self.name, self.address, octet, lab);
        let known = fs_err::read(lab.key.with_extension("pub"))?;
        let secret = fs_err::read(&key)?;
        self.at_console(|guest| {
            put(guest, "/etc/ssh/ssh_host_ed25519_key", "600", &secret)?;
            put(guest, "/etc/ssh/ssh_host_ed25519_key.pub", "644", public.as_bytes())?;
            put(guest, "/run/lab-key.pub", "644", &known)?;
            for user in &lab.users {
                if let Some(file) = &user.password_file {
                    let line =
                        format!("{}:{}\n", user.name, fs_err::read_to_string(file)?.trim_end());
                    guest.must(&["/usr/sbin/chpasswd"], line.as_bytes())?;
                }
            }
            guest.must(&["/bin/sh", "-e"], identity.as_bytes())
        })?;
        self.set_clock(0)?;
        Ok(public.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
    }
}

/// Write a file in the machine through a program's stdin: the content is in no argument.
fn put(guest: &mut Guest, path: &str, mode: &str, content: &[u8]) -> Result<()> {
    guest.must(&["/usr/bin/install", "-m", mode, "/dev/stdin", path], content).map(drop)
}

fn settle_script(name: &str, address: Ipv4Addr, octet: u8, lab: &State) -> String {
    let gateway = lab.gateway_address();
    let homes: Vec<String> = lab.users.iter().map(|user| user.name.clone()).collect();
    format!(
        "hostname {name}\n\
         echo {name} > /etc/hostname\n\
         printf '127.0.0.1 localhost\\n{address} {name}\\n' > /etc/hosts\n\
         echo 'nameserver {gateway}' > /etc/resolv.conf\n\
         systemd-id128 new > /etc/machine-id\n\
         printf '[Match]\\nName=eth0\\n[Link]\\nMACAddress=52:54:00:99:00:{octet:02x}\\n\
         [Network]\\nAddress={address}/24\\nLinkLocalAddressing=no\\n' > /etc/systemd/network/10-lab.network\n\
         for user in {users}; do\n\
           home=$(getent passwd $user | cut -d: -f6)\n\
           install -d -m 700 -o $user -g $user $home/.ssh\n\
           install -m 600 -o $user -g $user /run/lab-key.pub $home/.ssh/authorized_keys\n\
         done\n\
         ip link set eth0 down; ip link set eth0 address 52:54:00:99:00:{octet:02x}\n\
         systemctl restart systemd-networkd\n\
         ip link set eth0 up; ip addr replace {address}/24 dev eth0\n\
         systemctl restart ssh\n\
         sync\n",
        users = homes.join(" ")
    )
}

impl Server for Machine {
    fn name(&self) -> &str {
        &self.name
    }

    fn address(&self) -> IpAddr {
        self.address.into()
    }

    fn host_key(&self) -> &str {
        &self.host_key
    }

    fn is_running(&self) -> bool {
        self.qemu.pid().is_some()
    }

    fn exec_with_input(&self, argv: &[&str], input: &[u8]) -> Result<Output> {
        // The guest agent looks nothing up: a shell finds the program on its PATH.
        let found = [&["/usr/bin/env"], argv].concat();
        self.at_console(|guest| guest.run(&found, input)).map(Output::from)
    }

    fn ruleset(&self) -> Result<String> {
        probe::ruleset(self)
    }

    fn inflict(&self, fault: &Fault) -> Result<()> {
        let tap = self.plug.tap.as_str();
        match fault {
            Fault::Kill => self.qemu.kill(),
            Fault::Start => self.power_on(None),
            Fault::Cut => self.qemu.set_link(false),
            Fault::Mend => self.qemu.set_link(true),
            Fault::Shape(rate) => network::shape_tap(&self.plug.namespace, tap, Some(rate)),
            Fault::Unshape => network::shape_tap(&self.plug.namespace, tap, None),
            Fault::Fill => self.shell("dd if=/dev/zero of=/filler bs=1M status=none || true; sync"),
            Fault::Unfill => self.shell("rm -f /filler; sync"),
            Fault::ReadOnly => self.shell("mount -o remount,ro /"),
            Fault::Writable => self.shell("mount -o remount,rw /"),
        }
    }
}

impl Machine {
    fn shell(&self, line: &str) -> Result<()> {
        self.at_console(|guest| guest.must(&["/bin/sh", "-c", line], b"")).map(drop)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = self.qemu.kill() {
            tracing::warn!("{}: {error:#}", self.name);
        }
    }
}
