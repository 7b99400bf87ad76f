//! What a lab consists of, written down before any of it is made.
//!
//! The whole plan (names, addresses, folders, cgroups) follows from the wish and the free subnet, so it is
//! on disk before the first resource exists. `down` needs nothing but this file, whenever `up` was killed.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::lab::cgroup::Role;

/// Folder that holds one folder for each lab. Every lab on this host is found here.
pub const LABS: &str = "/run/kdc-lab";

/// A lab as written to `/run/kdc-lab/NAME/state.json`; tests and other programs may read it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// The lab's name.
    pub name: String,
    /// The lab's own folder (`/run/kdc-lab/NAME`).
    pub folder: PathBuf,
    /// Whether every server was up once; `false` while `up` works and after it was killed.
    pub complete: bool,
    /// First three bytes of every address; the network is `.0/24`.
    pub subnet: [u8; 3],
    /// Whether servers have a default route that ends at the bridge.
    pub gateway: bool,
    /// Name of the network namespace that holds the bridge and the operator's workstation.
    pub namespace: String,
    /// Folder of the base root file system.
    pub base: PathBuf,
    /// Folder that holds one folder for each server's disk.
    pub disks: PathBuf,
    /// The lab's cgroup in every hierarchy.
    pub cgroups: Vec<PathBuf>,
    /// Whether the host has cgroup v2 alone: then `cgroups` is one, and only leaves below it hold processes.
    #[serde(default)]
    pub unified: bool,
    /// Private key that every user of every server knows.
    pub key: PathBuf,
    /// Every server's host key.
    pub known_hosts: PathBuf,
    /// `ssh -F` file: names, addresses, key, known hosts.
    pub ssh_config: PathBuf,
    /// Who can log in.
    pub users: Vec<User>,
    /// The servers.
    pub servers: Vec<ServerState>,
}

/// A user of every server. All of them know the lab's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Login name.
    pub name: String,
    /// How it becomes root.
    pub sudo: Sudo,
    /// File with its password (mode 0600), where it has one.
    pub password_file: Option<PathBuf>,
}

/// How a user becomes root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sudo {
    /// It is root.
    Root,
    /// `sudo` asks for its password.
    Password,
    /// `sudo` asks for nothing.
    Passwordless,
}

/// A light server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerState {
    /// Host name.
    pub name: String,
    /// Address on the bridge.
    pub address: Ipv4Addr,
    /// Its network namespace's name.
    pub namespace: String,
    /// Its end of the link on the bridge, in the lab's network namespace.
    pub link: String,
    /// Size of its disk; without one it writes to the host's.
    pub disk_mib: Option<u64>,
    /// `ssh-ed25519 AAAA…`; empty until it was made.
    pub host_key: String,
}

impl ServerState {
    /// Its network card's address: the same after a power cut, as a real card's is.
    pub fn mac(&self) -> String {
        let [a, b, c, d] = self.address.octets();
        format!("52:54:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }
}

impl State {
    /// The bridge's address, which is the operator's workstation too.
    pub fn gateway_address(&self) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, 1)
    }

    /// The network as `10.66.0.0/24`.
    pub fn network(&self) -> String {
        let [a, b, c] = self.subnet;
        format!("{a}.{b}.{c}.0/24")
    }

    /// The folder of a server's disk.
    pub fn disk(&self, server: &str) -> PathBuf {
        self.disks.join(server)
    }

    /// The cgroups of one part of the lab (a server's name, or `workstation`), one a hierarchy.
    pub fn cgroups_of(&self, part: &str) -> Vec<PathBuf> {
        self.cgroups.iter().map(|cgroup| cgroup.join(part)).collect()
    }

    /// The cgroups that processes of one role of a server are put into.
    pub fn cgroups_for(&self, server: &str, role: Role) -> Vec<PathBuf> {
        if self.unified {
            self.cgroups_of(&format!("{server}/{}", role.leaf()))
        } else {
            self.cgroups_of(server)
        }
    }

    /// A server by its name.
    pub fn server(&self, name: &str) -> Result<&ServerState> {
        let known = || self.servers.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = self.servers.iter().find(|server| server.name == name);
        found.with_context(|| {
            format!("lab `{}` has no server `{name}`; it has {}", self.name, known())
        })
    }

    /// Reads a lab's state; `None` where there is no lab of this name.
    pub fn read(name: &str) -> Result<Option<Self>> {
        check_name(name)?;
        Self::read_from(&folder_of(name))
    }

    /// Reads the state in a lab's folder; `None` where `up` was killed before it was written.
    pub fn read_from(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join("state.json");
        let text = match fs_err::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let state = serde_json::from_str(&text);
        Ok(Some(state.with_context(|| format!("`{}` is not a lab's state", path.display()))?))
    }

    /// Writes the state so that a reader sees the old one or this one, never a part.
    pub fn write(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("a lab's state can't be JSON")?;
        let fresh = self.folder.join("state.json.new");
        fs_err::write(&fresh, text)?;
        Ok(fs_err::rename(&fresh, self.folder.join("state.json"))?)
    }

    /// Every lab on this host, by name.
    pub fn all() -> Result<Vec<Self>> {
        let mut labs = Vec::new();
        for folder in folders()? {
            labs.extend(Self::read_from(&folder)?);
        }
        labs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(labs)
    }
}

/// The folder of a lab.
pub fn folder_of(name: &str) -> PathBuf {
    Path::new(LABS).join(name)
}

/// The folders of all labs, whole or half made.
pub fn folders() -> Result<Vec<PathBuf>> {
    let entries = match fs_err::read_dir(LABS) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let paths: std::io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
    Ok(paths?)
}

/// Refuses a name that can't be a folder, a cgroup, a part of a namespace's name and of a host name.
pub fn check_name(name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 32 || !name.chars().all(fits) || name.starts_with('-') {
        bail!("`{name}` can't name a lab or a server: 1 to 32 of a-z, 0-9 and `-`, not `-` first");
    }
    Ok(())
}

/// The exclusive right to change a lab: a lock on its folder, given back by the kernel when we die.
#[derive(Debug)]
pub struct Hold {
    _folder: std::fs::File,
}

impl Hold {
    /// Waits for the right to change what `folder` holds; `None` where the folder has gone meanwhile.
    pub fn take(folder: &Path) -> Result<Option<Self>> {
        use std::os::unix::fs::MetadataExt;
        let file = match fs_err::File::open(folder) {
            Ok(file) => file.into_parts().0,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        file.lock().with_context(|| format!("cannot lock `{}`", folder.display()))?;
        // Whoever held it before us may have removed the folder, and another may have made it anew.
        let same = fs_err::metadata(folder).ok().map(|now| now.ino())
            == file.metadata().ok().map(|m| m.ino());
        if same { Ok(Some(Self { _folder: file })) } else { Self::take(folder) }
    }

    /// Waits for the right to change what `folder` holds; makes the folder where it is missing.
    pub fn take_or_make(folder: &Path) -> Result<Self> {
        loop {
            fs_err::create_dir_all(folder)?;
            if let Some(hold) = Self::take(folder)? {
                return Ok(hold);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_folder_are_refused() {
        for bad in ["", "..", "a/b", "-x", "A", "a b", &"x".repeat(33)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        check_name("demo-1").unwrap();
    }
}
