//! A host that can only be looked at: whatever would change it is refused here, so a look can't
//! change anything, whatever a step's probe may try.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::host::{Attributes, Feed, Host, HostError, Output, Program, Stamp, Stat};

/// What systemd says of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct UnitSeen {
    /// `loaded`, `not-found`, `masked`.
    pub(super) load: String,
    /// `enabled`, `disabled`, `static`.
    pub(super) file: String,
    /// `active`, `inactive`, `failed`.
    pub(super) active: String,
    /// It goes by another text than the file has now.
    pub(super) stale: bool,
}

/// The host, to be looked at.
pub(super) struct Looking<'a> {
    host: &'a dyn Host,
    units: Mutex<BTreeMap<String, UnitSeen>>,
}

impl<'a> Looking<'a> {
    pub(super) fn new(host: &'a dyn Host) -> Self {
        Self { host, units: Mutex::default() }
    }

    /// Ask systemd for all these units with one call: a call for each costs more than all the rest
    /// of a look.
    pub(super) fn ask_units(&self, units: &[&str]) -> Result<(), HostError> {
        if units.is_empty() {
            return Ok(());
        }
        let program = Program::new("systemctl")
            .args(["show", "-p", "Id,LoadState,UnitFileState,ActiveState,NeedDaemonReload", "--"])
            .args(units.iter().copied())
            .within_secs(20);
        let text = self.host.run_checked(&program)?.text();
        // In the order asked: what it calls a unit itself may be the name that an alias leads to.
        let seen = text.split("\n\n").map(parse_unit);
        let mut known = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(units.iter().map(|unit| (*unit).to_owned()).zip(seen));
        Ok(())
    }

    /// What systemd said of a unit, if it was asked.
    pub(super) fn unit(&self, unit: &str) -> Option<UnitSeen> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner).get(unit).cloned()
    }

    /// The answer to a step's own question.
    fn answer(&self, program: &Program) -> Option<Result<Output, HostError>> {
        let arguments: Vec<&str> = program.arguments().iter().map(String::as_str).collect();
        match (program.name(), arguments.as_slice()) {
            ("systemctl", ["show", "-p", "LoadState,UnitFileState,ActiveState", "--", unit]) => {
                let UnitSeen { load, file, active, .. } = self.unit(unit)?;
                let text =
                    format!("LoadState={load}\nUnitFileState={file}\nActiveState={active}\n");
                Some(Ok(Output::ok(text)))
            }
            // Whether it answers is not the file's matter, and asking costs a start of the program.
            ("ctr", ["version"]) => Some(Ok(Output::ok(""))),
            ("containerd", ["--version"]) | ("dpkg-query", ["--show", ..]) => None,
            // Rules are looked at for undo alone.
            ("iptables" | "iptables-save" | "ip6tables" | "ip6tables-save" | "nft", _) => {
                Some(Err(refused(program, io::ErrorKind::NotFound)))
            }
            _ => Some(Err(refused(program, io::ErrorKind::PermissionDenied))),
        }
    }
}

fn refused(program: &Program, kind: io::ErrorKind) -> HostError {
    HostError::Start { program: program.name().to_owned(), source: kind.into() }
}

fn parse_unit(text: &str) -> UnitSeen {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_default().to_owned()
    };
    UnitSeen {
        load: value("LoadState"),
        file: value("UnitFileState"),
        active: value("ActiveState"),
        stale: value("NeedDaemonReload") == "yes",
    }
}

/// What a look never does.
fn never(action: &'static str, path: &str) -> HostError {
    HostError::File {
        action,
        path: path.to_owned(),
        source: io::Error::other("a look changes nothing"),
    }
}

impl Host for Looking<'_> {
    fn stat(&self, path: &str) -> Result<Option<Stat>, HostError> {
        self.host.stat(path)
    }

    fn stamp(&self, path: &str) -> Result<Option<Stamp>, HostError> {
        self.host.stamp(path)
    }

    fn open(&self, path: &str) -> Result<Option<Box<dyn Read + '_>>, HostError> {
        self.host.open(path)
    }

    fn read_link(&self, path: &str) -> Result<String, HostError> {
        self.host.read_link(path)
    }

    fn list(&self, path: &str) -> Result<Option<Vec<String>>, HostError> {
        self.host.list(path)
    }

    fn write_from(&self, path: &str, _: &mut dyn Read, _: Attributes) -> Result<(), HostError> {
        Err(never("write", path))
    }

    fn set_kernel_value(&self, path: &str, _: &str) -> Result<(), HostError> {
        Err(never("write", path))
    }

    fn make_directory(&self, path: &str, _: Attributes) -> Result<(), HostError> {
        Err(never("make directory", path))
    }

    fn make_link(&self, path: &str, _: &str) -> Result<(), HostError> {
        Err(never("make link", path))
    }

    fn set_attributes(&self, path: &str, _: Attributes) -> Result<(), HostError> {
        Err(never("change", path))
    }

    fn remove_scratch(&self, path: &str) -> Result<(), HostError> {
        Err(never("remove", path))
    }

    fn remove(&self, path: &str) -> Result<(), HostError> {
        Err(never("remove", path))
    }

    fn remove_directory(&self, path: &str) -> Result<bool, HostError> {
        Err(never("remove", path))
    }

    fn remove_tree(&self, path: &str) -> Result<(), HostError> {
        Err(never("remove", path))
    }

    fn stream(
        &self,
        program: &Program,
        feed: Feed<'_>,
        line: &mut dyn FnMut(&str),
    ) -> Result<Output, HostError> {
        self.answer(program).unwrap_or_else(|| self.host.stream(program, feed, line))
    }

    fn sleep(&self, duration: Duration) {
        self.host.sleep(duration);
    }

    fn now_unix_ms(&self) -> u64 {
        self.host.now_unix_ms()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn whatever_would_change_the_host_is_refused() {
        let host = FakeHost::debian();
        let before = host.calls().len();
        let looking = Looking::new(&host);
        let root = Attributes::root(0o644);
        assert!(looking.write("/etc/motd", b"x", root).is_err());
        assert!(looking.set_kernel_value("/proc/sys/kernel/panic", "1").is_err());
        assert!(looking.make_directory("/etc/x", root).is_err());
        assert!(looking.make_link("/etc/x", "/etc").is_err());
        assert!(looking.set_attributes("/etc/motd", root).is_err());
        assert!(looking.remove("/etc/motd").is_err());
        assert!(looking.remove_scratch("/etc/motd").is_err());
        assert!(looking.remove_directory("/opt").is_err());
        assert!(looking.remove_tree("/opt").is_err());
        for arguments in [["start", "a.service"], ["stop", "a.service"], ["daemon-reload", "x"]] {
            assert!(looking.run(&Program::new("systemctl").args(arguments)).is_err());
        }
        for program in ["modprobe", "sysctl", "dpkg", "kubeadm", "sh", "swapoff"] {
            assert!(looking.run(&Program::new(program)).is_err(), "{program}");
        }
        assert_eq!(host.calls().len(), before, "{:?}", host.calls());
        assert_eq!(looking.read_text("/etc/motd").unwrap().unwrap(), "hello\n");
    }

    #[test]
    fn what_systemd_says_of_units_comes_back_in_the_order_asked() {
        let text = "Id=a.service\nLoadState=loaded\nUnitFileState=enabled\nActiveState=active\n\
                    NeedDaemonReload=no\n\nId=b.service\nLoadState=masked\nActiveState=failed\n\
                    NeedDaemonReload=yes\n";
        let seen: Vec<UnitSeen> = text.split("\n\n").map(parse_unit).collect();
        assert_eq!(seen[0].active, "active");
        assert_eq!(seen[0].file, "enabled");
        assert!(!seen[0].stale);
        assert_eq!((seen[1].load.as_str(), seen[1].file.as_str()), ("masked", ""));
        assert!(seen[1].stale);
    }
}
