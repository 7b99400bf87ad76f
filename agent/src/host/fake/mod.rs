//! A machine in memory that can die at its *n*-th call.
//!
//! Everything it is lies in one tree of paths, the state behind its programs included (under
//! `/@…`), so that "equal to an uninterrupted run" is one comparison.

mod mig;
mod programs;
mod sysfs;

use std::{
    collections::BTreeMap,
    io::{self, Read},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::{Attributes, Feed, Host, HostError, Kind, Output, Program, Stamp, Stat, parent};

/// Something at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) attributes: Attributes,
    /// A file's bytes, a link's target.
    pub(crate) content: Vec<u8>,
}

/// All that a machine is.
pub(crate) type Tree = BTreeMap<String, Node>;

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accident {
    /// The process dies before the call has any effect.
    DieBefore,
    /// The process dies in the middle of a program's work, or before any other effect.
    DieDuring,
    /// The process dies after the effect, before it learns of it.
    DieAfter,
    /// The disk is full.
    Fail,
}

/// What a death unwinds with.
pub(crate) struct Died;

#[derive(Default)]
struct State {
    tree: Tree,
    calls: Vec<String>,
    accident: Option<(usize, Accident)>,
    now_ms: u64,
}

/// The machine.
#[derive(Default)]
pub(crate) struct FakeHost(Mutex<State>);

impl FakeHost {
    /// A small Debian with systemd.
    pub(crate) fn debian() -> Self {
        let host = Self::default();
        let directories = [
            "/etc/systemd/system",
            "/usr/sbin",
            "/usr/bin",
            "/var/lib/systemd",
            "/var/log",
            "/run",
            "/sys/class/net",
            "/sys/fs/cgroup/cpu",
            "/sys/module/overlay",
            "/proc/sys/net/ipv4",
            "/etc/sysctl.d",
            "/etc/modules-load.d",
            "/lib/modules",
            "/proc/sys/kernel",
            "/@active",
            "/@packages",
            "/@nft",
            "/opt",
            "/usr/local/bin",
        ];
        for path in directories {
            host.plant_directory(path);
        }
        host.plant("/proc/sys/net/ipv4/ip_forward", "0\n");
        host.plant("/proc/sys/kernel/panic", "0\n");
        host.plant("/proc/sys/kernel/osrelease", "6.1\n");
        host.plant("/proc/modules", "xfs 1 0 - Live 0\n");
        let swaps = "Filename Type Size Used Priority\n/swap file 1 0 -2\n";
        host.plant("/proc/swaps", swaps);
        host.plant("/etc/fstab", "/dev/a / ext4 defaults 0 1\n/swap none swap sw 0 0\n");
        host.plant("/etc/motd", "hello\n");
        host.plant("/proc/net/route", "Iface Destination Gateway Flags RefCnt Use Metric Mask\n");
        host.plant("/proc/self/mountinfo", "1 0 8:1 / / rw - ext4 /dev/a rw\n");
        host
    }

    /// Put a file there before the test.
    pub(crate) fn plant(&self, path: &str, text: &str) {
        self.plant_directory(parent(path));
        self.insert(path, Kind::File, 0o644, text.as_bytes());
    }

    /// Put a written-down tree there: `PATH = TEXT`, `PATH -> TARGET` and `PATH/`, a line each. A PCI device's
    /// `driver` link makes the driver too.
    pub(crate) fn plant_tree(&self, text: &str) {
        for line in text.lines().filter(|line| line.starts_with('/')) {
            if let Some((path, target)) = line.split_once(" -> ") {
                self.plant_directory(parent(path));
                self.insert(path, Kind::Link, 0o777, target.as_bytes());
                if let Some((_, driver)) = target.split_once("bus/pci/drivers/") {
                    let address = parent(path).rsplit('/').next().unwrap_or_default().to_owned();
                    self.plant_driver(driver);
                    let place = format!("/sys/bus/pci/drivers/{driver}/{address}");
                    self.insert(&place, Kind::Link, 0o777, address.as_bytes());
                }
            } else if let Some((path, text)) = line.split_once(" = ") {
                self.plant(path, &format!("{}\n", text.replace("\\n", "\n")));
            } else {
                self.plant_directory(line.trim_end_matches('/'));
            }
        }
    }

    /// Have a PCI driver loaded.
    pub(crate) fn plant_driver(&self, driver: &str) {
        self.plant_directory("/sys/bus/pci/drivers");
        sysfs::add_driver(&mut self.state().tree, driver);
    }

    pub(crate) fn plant_directory(&self, path: &str) {
        let mut whole = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            whole = format!("{whole}/{part}");
            if !self.state().tree.contains_key(&whole) {
                self.insert(&whole, Kind::Directory, 0o755, b"");
            }
        }
    }

    fn insert(&self, path: &str, kind: Kind, mode: u32, content: &[u8]) {
        let node = Node { kind, attributes: Attributes::root(mode), content: content.to_vec() };
        self.state().tree.insert(path.to_owned(), node);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything the machine is now.
    pub(crate) fn tree(&self) -> Tree {
        self.state().tree.clone()
    }

    /// Every call so far.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// Have the `call`-th call from now on (from 0) go wrong.
    pub(crate) fn plan_accident(&self, call: usize, accident: Accident) {
        let mut state = self.state();
        state.calls.clear();
        state.accident = Some((call, accident));
    }

    /// Nothing goes wrong any more. Says whether the accident happened.
    pub(crate) fn recover(&self) -> bool {
        let mut state = self.state();
        let happened = state.accident.is_none_or(|(call, _)| state.calls.len() > call);
        state.accident = None;
        state.calls.clear();
        happened
    }

    /// Count a call and make its effect, with its accident if it has one.
    fn call<T>(
        &self,
        what: String,
        effect: impl FnOnce(&mut Tree, bool) -> Result<T, HostError>,
    ) -> Result<T, HostError> {
        let mut state = self.state();
        let number = state.calls.len();
        state.calls.push(what.clone());
        let accident = state.accident.filter(|(call, _)| *call == number).map(|(_, how)| how);
        let result = match accident {
            Some(Accident::Fail) => {
                let source = io::Error::from(io::ErrorKind::StorageFull);
                return Err(HostError::File { action: "use", path: what, source });
            }
            Some(Accident::DieBefore) => None,
            Some(Accident::DieDuring) => Some(effect(&mut state.tree, true)),
            Some(Accident::DieAfter) | None => Some(effect(&mut state.tree, false)),
        };
        drop(state);
        match (accident, result) {
            (None, Some(result)) => result,
            // Not a panic that prints: the test that planned it catches it.
            _ => std::panic::resume_unwind(Box::new(Died)),
        }
    }
}

fn no(action: &'static str, path: &str, kind: io::ErrorKind) -> HostError {
    HostError::File { action, path: path.to_owned(), source: kind.into() }
}

/// Names right below a directory.
pub(crate) fn names_in(tree: &Tree, path: &str) -> Vec<String> {
    let start = if path == "/" { "/".to_owned() } else { format!("{path}/") };
    tree.range(start.clone()..)
        .take_while(|(known, _)| known.starts_with(&start))
        .filter_map(|(known, _)| known.strip_prefix(&start))
        .filter(|name| !name.contains('/'))
        .map(str::to_owned)
        .collect()
}

fn put(tree: &mut Tree, path: &str, node: Node) -> Result<(), HostError> {
    let above = parent(path);
    if above != "/" && tree.get(above).is_none_or(|node| node.kind != Kind::Directory) {
        return Err(no("write", path, io::ErrorKind::NotFound));
    }
    let is_directory = |node: &Node| node.kind == Kind::Directory;
    if tree.get(path).is_some_and(is_directory) && !is_directory(&node) {
        return Err(no("write", path, io::ErrorKind::IsADirectory));
    }
    tree.insert(path.to_owned(), node);
    Ok(())
}

impl Host for FakeHost {
    fn stat(&self, path: &str) -> Result<Option<Stat>, HostError> {
        self.call(format!("stat {path}"), |tree, _| {
            let stat = |node: &Node| Stat {
                kind: node.kind,
                attributes: node.attributes,
                size: node.content.len() as u64,
            };
            Ok(tree.get(path).map(stat))
        })
    }

    fn stamp(&self, path: &str) -> Result<Option<Stamp>, HostError> {
        self.call(format!("stamp {path}"), |tree, _| {
            // Nothing else of it is known here.
            let stamp = |node: &Node| {
                let seen = format!("{:?} {:?} {:?}", node.kind, node.attributes, node.content);
                let hex = kdc_bundles::index::Digest::of(seen.as_bytes()).hex().to_owned();
                let changed_ns = i64::from_str_radix(&hex[..15], 16).unwrap_or_default();
                Stamp { size: node.content.len() as u64, inode: 1, changed_ns }
            };
            Ok(tree.get(path).map(stamp))
        })
    }

    fn open(&self, path: &str) -> Result<Option<Box<dyn Read + '_>>, HostError> {
        self.call(format!("open {path}"), |tree, _| {
            let file = tree.get(path).filter(|node| node.kind == Kind::File);
            Ok(file.map(|node| Box::new(io::Cursor::new(node.content.clone())) as Box<dyn Read>))
        })
    }

    fn read_link(&self, path: &str) -> Result<String, HostError> {
        self.call(format!("read link {path}"), |tree, _| match tree.get(path) {
            Some(node) if node.kind == Kind::Link => {
                Ok(String::from_utf8_lossy(&node.content).into_owned())
            }
            _ => Err(no("read link", path, io::ErrorKind::InvalidInput)),
        })
    }

    fn list(&self, path: &str) -> Result<Option<Vec<String>>, HostError> {
        self.call(format!("list {path}"), |tree, _| {
            let there = tree.get(path).is_some_and(|node| node.kind == Kind::Directory);
            Ok(there.then(|| names_in(tree, path)))
        })
    }

    fn write_from(
        &self,
        path: &str,
        content: &mut dyn Read,
        attributes: Attributes,
    ) -> Result<(), HostError> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(|source| HostError::File {
            action: "write",
            path: path.to_owned(),
            source,
        })?;
        self.call(format!("write {path}"), |tree, during| {
            let node = Node { kind: Kind::File, attributes, content: bytes };
            if during { Ok(()) } else { put(tree, path, node) }
        })
    }

    fn set_kernel_value(&self, path: &str, value: &str) -> Result<(), HostError> {
        self.call(format!("set {path}"), |tree, _| {
            if let Some(done) = sysfs::write(tree, path, value) {
                return done;
            }
            let none = || no("set", path, io::ErrorKind::NotFound);
            tree.get_mut(path).ok_or_else(none)?.content = value.as_bytes().to_vec();
            Ok(())
        })
    }

    fn make_directory(&self, path: &str, attributes: Attributes) -> Result<(), HostError> {
        self.call(format!("make directory {path}"), |tree, _| {
            put(tree, path, Node { kind: Kind::Directory, attributes, content: Vec::new() })
        })
    }

    fn make_link(&self, path: &str, target: &str) -> Result<(), HostError> {
        self.call(format!("make link {path}"), |tree, _| {
            let (attributes, content) = (Attributes::root(0o777), target.as_bytes().to_vec());
            put(tree, path, Node { kind: Kind::Link, attributes, content })
        })
    }

    fn set_attributes(&self, path: &str, attributes: Attributes) -> Result<(), HostError> {
        self.call(format!("set attributes {path}"), |tree, _| match tree.get_mut(path) {
            Some(node) => {
                node.attributes = attributes;
                Ok(())
            }
            None => Err(no("set attributes", path, io::ErrorKind::NotFound)),
        })
    }

    fn remove(&self, path: &str) -> Result<(), HostError> {
        self.call(format!("remove {path}"), |tree, _| {
            if tree.get(path).is_some_and(|node| node.kind == Kind::Directory) {
                return Err(no("remove", path, io::ErrorKind::IsADirectory));
            }
            tree.remove(path);
            Ok(())
        })
    }

    fn remove_directory(&self, path: &str) -> Result<bool, HostError> {
        self.call(format!("remove directory {path}"), |tree, _| {
            let empty = names_in(tree, path).is_empty();
            if empty {
                tree.remove(path);
            }
            Ok(empty)
        })
    }

    fn remove_tree(&self, path: &str) -> Result<(), HostError> {
        self.call(format!("remove tree {path}"), |tree, _| {
            let below = format!("{path}/");
            tree.retain(|known, _| known != path && !known.starts_with(&below));
            Ok(())
        })
    }

    fn stream(
        &self,
        program: &Program,
        feed: Feed<'_>,
        line: &mut dyn FnMut(&str),
    ) -> Result<Output, HostError> {
        let mut input = Vec::new();
        feed(&mut input)
            .map_err(|source| HostError::Feed { program: program.name().to_owned(), source })?;
        let output = self.call(program.line(), |tree, during| {
            programs::run(tree, program, &input, during).ok_or_else(|| HostError::Start {
                program: program.name().to_owned(),
                source: io::ErrorKind::NotFound.into(),
            })
        })?;
        output.text().lines().for_each(line);
        Ok(output)
    }

    fn sleep(&self, duration: Duration) {
        self.state().now_ms += u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    }

    fn now_unix_ms(&self) -> u64 {
        self.state().now_ms
    }
}
