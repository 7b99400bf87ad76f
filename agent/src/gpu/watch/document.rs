//! What the watch publishes: one JSON document, replaced whole, with the moment it is of.
//!
//! The moment counts from the boot ([`since_boot`]), so a step of the clock makes it neither older nor younger; what is of
//! another boot is of no age at all.

use std::{
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::gpu::node::NodeGpus;

/// Where it lies. On a file system in memory.
pub const DOCUMENT: &str = "/run/kdc/gpus.json";
/// Form of the document; a change that a reader must know of raises it.
pub const FORM: u32 = 1;
/// Largest document that is read: 128 GPUs with all their fields have some 2 MiB.
const LARGEST: u64 = 8 * 1024 * 1024;
/// Older than this, nobody watches any more.
pub const STALE: Duration = Duration::from_secs(60);

/// The GPUs of this node, as the watch saw them last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    /// Form of the document.
    pub form: u32,
    /// Version of the agent that wrote it.
    pub agent_version: String,
    /// The boot that the moments below count from.
    pub boot: String,
    /// When it was written, by the node's clock, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// When it was written, in milliseconds since the boot.
    pub at_boot_ms: u64,
    /// When every GPU was asked for everything last.
    pub surveyed_boot_ms: Option<u64>,
    /// When what changes from second to second was asked last.
    pub sampled_boot_ms: Option<u64>,
    /// The GPUs.
    pub node: NodeGpus,
}

impl Published {
    /// How old it is; nothing where it is of another boot, or of the time to come.
    #[must_use]
    pub fn age(&self, boot: &str, now: Duration) -> Option<Duration> {
        let own = self.boot == boot;
        own.then(|| now.checked_sub(Duration::from_millis(self.at_boot_ms))).flatten()
    }
}

/// The document can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{} can't be used", path.display())]
pub struct DocumentError {
    /// The document.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl DocumentError {
    /// Stable code, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        "AGENT-067"
    }

    /// The next thing to try.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        "`systemctl restart kdc-gpu`: it writes the document anew; `journalctl -u kdc-gpu` says more"
    }
}

/// Read the document; nothing where there is none.
///
/// # Errors
/// When it can't be read, is too large, or makes no sense.
pub fn read(path: &Path) -> Result<Option<Published>, DocumentError> {
    let failed = |source| DocumentError { path: path.to_owned(), source };
    let file = match fs_err::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 == LARGEST {
        return Err(failed(io::Error::other(format!("it is larger than {LARGEST} bytes"))));
    }
    parse(&bytes).map(Some).map_err(|reason| failed(io::Error::other(reason)))
}

fn parse(bytes: &[u8]) -> Result<Published, String> {
    /// What tells which form the rest has.
    #[derive(Deserialize)]
    struct Head {
        form: u32,
    }
    let head: Head = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if head.form != FORM {
        return Err(format!("it is of form {}, and this agent reads {FORM}", head.form));
    }
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// Put a file in its place whole or not at all, readable by root alone. One that was killed half-way leaves a scratch
/// file that the next takes.
///
/// # Errors
/// When it can't be written.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use fs_err::os::unix::fs::OpenOptionsExt as _;
    let mut scratch = path.as_os_str().to_owned();
    scratch.push(".new");
    let scratch = PathBuf::from(scratch);
    let mut options = fs_err::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&scratch)?;
    file.write_all(bytes)?;
    // Costs nothing in memory; on a disk the name must not come before what it names.
    file.sync_all()?;
    fs_err::rename(&scratch, path)
}

/// Time since the boot, also while the machine slept.
#[must_use]
pub fn since_boot() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        facts::Look,
        gpu::{Surveyor, node::NodeGpus},
    };

    fn published() -> Published {
        let empty = tempfile::tempdir().unwrap();
        let report = Surveyor::only_bus(&Look::at(empty.path()), "a test");
        let node =
            NodeGpus { report, errors: Vec::new(), verdicts: Vec::new(), warnings: Vec::new() };
        Published {
            form: FORM,
            agent_version: "1".to_owned(),
            boot: "a".to_owned(),
            at_unix_ms: 5,
            at_boot_ms: 4_000,
            surveyed_boot_ms: None,
            sampled_boot_ms: Some(3_999),
            node,
        }
    }

    #[test]
    fn a_document_is_read_back_and_only_a_good_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gpus.json");
        assert_eq!(read(&path).unwrap(), None);
        let text = serde_json::to_string(&published()).unwrap();
        replace(&path, text.as_bytes()).unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), published());
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs_err::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 1, "no scratch file stays");
        for bad in [
            "",
            "{}",
            "[]",
            &text[..text.len() / 2],
            &text.replace("\"form\":1", "\"form\":2"),
            &text.replace("\"node\"", "\"knot\""),
        ] {
            fs_err::write(&path, bad).unwrap();
            let error = read(&path).unwrap_err();
            assert_eq!(error.code(), "AGENT-067", "{bad}");
        }
        fs_err::write(&path, vec![b' '; 9 << 20]).unwrap();
        assert!(read(&path).unwrap_err().source.to_string().contains("larger"));
        fs_err::remove_file(&path).unwrap();
        fs_err::create_dir(&path).unwrap();
        assert!(read(&path).is_err() && replace(&path, b"x").is_err());
    }

    #[test]
    fn only_what_is_of_this_boot_has_an_age() {
        let document = published();
        let age = |boot: &str, ms| document.age(boot, Duration::from_millis(ms));
        assert_eq!(age("a", 4_500), Some(Duration::from_millis(500)));
        assert_eq!(age("a", 3_000), None);
        assert_eq!(age("b", 4_500), None);
        assert!(since_boot() > Duration::ZERO);
    }
}
