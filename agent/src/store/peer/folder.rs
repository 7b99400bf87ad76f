//! What a sharing node keeps below `/var/lib/kdc/share` (0700): its identity, what it was asked to
//! share, who the others are, and where it listens. All of it goes with `undo` and `depart`.

use std::{
    io::{Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use kdc_bundles::index::Digest;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::PeerError;
use crate::wire::{MAX_PEERS, Peer};

/// Where it is on a real node.
pub const SHARE_PATH: &str = "/var/lib/kdc/share";

/// Largest file of it that is read: a list of blobs is the longest.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// The folder. Making one touches nothing.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

/// What the installer asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Wanted {
    /// The index whose content is shared.
    pub(super) index: Digest,
    /// Blobs to fetch.
    pub(super) blobs: Vec<Digest>,
}

/// Where the unit listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Status {
    /// Its port.
    pub(super) port: u16,
    /// What it shows.
    pub(super) certificate: Digest,
}

/// Held by the unit for as long as it lives.
pub(super) type Life = Flock<std::fs::File>;

/// Tells one version of a file from another.
pub(super) type Stamp = (u64, i64, i64);

impl Folder {
    /// That of this node.
    #[must_use]
    pub fn system() -> Self {
        Self::at(Path::new(SHARE_PATH))
    }

    /// One elsewhere.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Make it, closed to everyone but its owner.
    pub(super) fn create(&self) -> Result<(), PeerError> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.path).map_err(|cause| {
            let text = format!("failed to create directory `{}`: {cause}", self.path.display());
            std::io::Error::new(cause.kind(), text)
        })?;
        Ok(())
    }

    /// Whether there is one.
    pub(super) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Remove it with all that is in it. That it is not there is no error.
    ///
    /// # Errors
    /// When a file can't be removed.
    pub fn remove(&self) -> std::io::Result<()> {
        match fs_err::remove_dir_all(&self.path) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    pub(super) fn wanted(&self) -> Result<Option<Wanted>, PeerError> {
        self.read("wanted.json")
    }

    pub(super) fn save_wanted(&self, wanted: &Wanted) -> Result<(), PeerError> {
        self.write("wanted.json", wanted)
    }

    /// Who else shares; nobody before the installer said.
    pub(super) fn peers(&self) -> Result<Vec<Peer>, PeerError> {
        Ok(self.read("peers.json")?.unwrap_or_default())
    }

    pub(super) fn save_peers(&self, peers: &[Peer]) -> Result<(), PeerError> {
        if peers.len() > MAX_PEERS {
            let reason = format!("it names {}; at most {MAX_PEERS} are taken", peers.len());
            return Err(PeerError::Peers { reason });
        }
        self.write("peers.json", &peers)
    }

    /// Changes whenever the list of peers is written.
    pub(super) fn peers_stamp(&self) -> Option<Stamp> {
        let meta = fs_err::metadata(self.path.join("peers.json")).ok()?;
        Some((meta.ino(), meta.mtime(), meta.mtime_nsec()))
    }

    pub(super) fn forget_peers(&self) -> Result<(), PeerError> {
        self.forget("peers.json")
    }

    pub(super) fn status(&self) -> Result<Option<Status>, PeerError> {
        self.read("status.json")
    }

    pub(super) fn save_status(&self, status: &Status) -> Result<(), PeerError> {
        self.write("status.json", status)
    }

    pub(super) fn forget_status(&self) -> Result<(), PeerError> {
        self.forget("status.json")
    }

    /// Take the lock that says that a unit shares; `None` while another process has it.
    pub(super) fn live(&self) -> Result<Option<Life>, PeerError> {
        let mut options = fs_err::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        fs_err::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(self.path.join("life"))?.into_file();
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Some(file)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, cause)) => Err(PeerError::Io(cause.into())),
        }
    }

    /// Whether a unit shares now. Writes nothing, so that who may not write can ask too.
    pub(super) fn is_live(&self) -> Result<bool, PeerError> {
        let file = match fs_err::File::open(self.path.join("life")) {
            Ok(file) => file.into_file(),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(cause) => return Err(cause.into()),
        };
        Ok(Flock::lock(file, FlockArg::LockSharedNonblock).is_err())
    }

    pub(super) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, PeerError> {
        let path = self.path.join(name);
        let file = match fs_err::File::open(&path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(cause.into()),
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|cause| PeerError::File { path, reason: cause.to_string() })
    }

    /// Whole or not at all, readable by the owner alone.
    pub(super) fn write<T: Serialize>(&self, name: &str, content: &T) -> Result<(), PeerError> {
        let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
        let bytes = serde_json::to_vec(content).map_err(std::io::Error::from)?;
        file.write_all(&bytes)?;
        file.as_file().sync_all()?;
        file.persist(self.path.join(name)).map_err(|cause| cause.error)?;
        Ok(fs_err::File::open(&self.path)?.sync_all()?)
    }

    fn forget(&self, name: &str) -> Result<(), PeerError> {
        match fs_err::remove_file(self.path.join(name)) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => Err(cause.into()),
            _ => Ok(()),
        }
    }
}
