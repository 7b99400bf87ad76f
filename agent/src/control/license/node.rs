//! The licence on one node: `kdc-license.service`, a unit that the daemon has systemd run every ten minutes, and that ends.
//!
//! It tells the cluster what machine this is (an annotation of its own node, with the kubelet's credentials, which may write
//! to no other), fetches how the licence stands for the daemon's metrics, and on control planes keeps copies of licence and
//! record, from which the cluster gets back what it lost. Where the API server doesn't answer nothing happens: the node runs
//! on, and what was known stays.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use super::{
    CLOCK_ANNOTATION, FINGERPRINT_ANNOTATION, LICENSE_KEY, LICENSE_MAP, RECORD_KEY, RECORD_MAP,
    STANDING_KEY, STANDING_MAP,
    kept::{self, Kept},
    machine,
    publish::Published,
    record::{self, Record},
    round::{built_in_keys, put_map, read_record},
};
use crate::{
    control::{
        ADMIN_CONF, NAMESPACE, USER,
        api::{ApiServer, Kind, Patch, text},
        error::ControlError,
        time,
    },
    facts::{Known, Look},
    gpu::watch::{KUBELET, node_name, replace},
    heal::watch::clock::Kept as ClockKept,
    license::Timestamp,
    wire::Failure,
};

/// The unit.
pub const UNIT_NAME: &str = "kdc-license.service";
/// Where copies are.
pub const FOLDER: &str = "/var/lib/kdc/license";
/// What the daemon reads.
pub const DOCUMENT: &str = "/run/kdc/license.json";
/// The longest document.
pub const MAX_DOCUMENT: u64 = 2 * 1024 * 1024;
const KEPT_FILE: &str = "license.json";
const RECORD_FILE: &str = "record.json";

/// Where to look.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The kubelet's credentials [default: where distributions keep them].
    #[arg(long, value_name = "PATH")]
    pub kubelet: Option<PathBuf>,
    /// Credentials of a control plane.
    #[arg(long, value_name = "PATH", default_value = ADMIN_CONF)]
    pub admin: PathBuf,
    /// Where to keep copies.
    #[arg(long, value_name = "PATH", default_value = FOLDER)]
    pub folder: PathBuf,
    /// Where to tell the daemon.
    #[arg(long, value_name = "PATH", default_value = DOCUMENT)]
    pub document: PathBuf,
    /// The root below which the machine is looked at.
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub root: PathBuf,
}

/// What the daemon reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeDocument {
    /// The form.
    pub v: u32,
    /// This node's name.
    pub node: String,
    /// What the leader published.
    pub published: Published,
}

/// A round failed.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The kubelet's credentials can't be used.
    #[error("{} can't be used: {reason}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file of kdc's own can't be read or written.
    #[error("kdc's own files about the licence can't be read or written")]
    Files(#[from] io::Error),
    /// The API server refused, or did not answer.
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl NodeError {
    /// Stable code, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Credentials { .. } => "AGENT-124",
            Self::Files(_) => "AGENT-123",
            Self::Control(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Credentials { .. } => {
                Some("`systemctl status kubelet`: is it registered?".to_owned())
            }
            Self::Files(_) => {
                Some("look at /var/lib/kdc and /run/kdc: is the disk full?".to_owned())
            }
            Self::Control(error) => error.hint(),
        }
    }
}

impl From<&NodeError> for Failure {
    fn from(error: &NodeError) -> Self {
        Self::from_error(error.code(), error, error.hint())
    }
}

/// The name of this boot.
#[must_use]
pub fn boot_id() -> String {
    crate::gpu::node::boot_id(&Look::machine())
}

/// One round. A node that is part of no cluster has nothing to do.
///
/// # Errors
/// What could not be told or fetched; what could was.
pub async fn round(options: &Options) -> Result<(), NodeError> {
    let known = || KUBELET.iter().map(PathBuf::from).find(|path| path.exists());
    let Some(kubelet) = options.kubelet.clone().or_else(known) else {
        return Ok(());
    };
    let told = tell(options, &kubelet).await;
    // Copies are kept even where the node can't be told of.
    if options.admin.exists() {
        keep_copies(options).await?;
    }
    told
}

/// Tell what machine this is, and fetch how the licence stands.
async fn tell(options: &Options, kubelet: &Path) -> Result<(), NodeError> {
    let wrong = |reason| NodeError::Credentials { path: kubelet.to_owned(), reason };
    let name = node_name(kubelet).map_err(wrong)?;
    let api = ApiServer::with(kubelet, NAMESPACE, None).await?;
    let Some(node) = api.get(Kind::Node, &name).await? else {
        return Err(wrong(format!("the cluster has no node `{name}`")));
    };
    let look = Look::at(&options.root);
    let print = machine::fingerprint(&look);
    let mut annotations = Map::new();
    if !print.is_empty() {
        let text = serde_json::to_string(&print).expect("texts serialise");
        if node["metadata"]["annotations"][FINGERPRINT_ANNOTATION].as_str() != Some(&text) {
            annotations.insert(FINGERPRINT_ANNOTATION.to_owned(), text.into());
        }
    }
    let kept = options.admin.exists().then(|| ClockKept::read(&look));
    if let Some(Known::Known(ClockKept { synchronised: true, .. })) = kept {
        let now = i64::try_from(time::now().as_secs()).unwrap_or(i64::MAX);
        let now = Timestamp::from_unix(now).to_string();
        annotations.insert(CLOCK_ANNOTATION.to_owned(), now.into());
    }
    if !annotations.is_empty() {
        let patch = json!({ "metadata": { "annotations": annotations } });
        api.patch(Kind::Node, (&name, None), (Patch::Merge, &patch)).await?;
    }
    // Read by name with the kubelet's credentials: kdc's rights let every node do so.
    let Some(map) = api.get(Kind::ConfigMap, STANDING_MAP).await? else { return Ok(()) };
    match Published::parse(text(&map["data"][STANDING_KEY])) {
        Ok(published) => {
            let document = NodeDocument { v: 1, node: name, published };
            let bytes = serde_json::to_vec(&document).expect("texts and numbers serialise");
            replace(&options.document, &bytes)?;
        }
        Err(why) => tracing::warn!("ConfigMap {STANDING_MAP} can't be read: {why}"),
    }
    Ok(())
}

/// What is on this node and in the cluster becomes what both know.
async fn keep_copies(options: &Options) -> Result<(), NodeError> {
    let folder = Folder::at(&options.folder);
    // The credentials may do anything; what is done with them may not.
    let api = ApiServer::with(&options.admin, NAMESPACE, Some(USER)).await?;
    let keys = built_in_keys();
    let copy = folder.kept()?;
    let map = api.get(Kind::ConfigMap, LICENSE_MAP).await?;
    let version = map.as_ref().map(|map| text(&map["metadata"]["resourceVersion"]).to_owned());
    let there = map.as_ref().map(|map| Kept::parse(text(&map["data"][LICENSE_KEY])));
    match (there, copy) {
        // Somebody's slip of the hand is for an operator to see, and no reason to lose the copy.
        (Some(Err(_)), _) | (None, None) => {}
        (Some(Ok(there)), copy) => {
            let merged = there.clone().merge(&copy.clone().unwrap_or_default(), &keys);
            if merged != there {
                let what = (LICENSE_MAP, LICENSE_KEY);
                put_map(&api, what, &merged.to_text(), version.as_deref()).await?;
            }
            if copy.as_ref() != Some(&merged) {
                folder.put_kept(&merged)?;
            }
        }
        (None, Some(copy)) => {
            let merged = Kept::default().merge(&copy, &keys);
            put_map(&api, (LICENSE_MAP, LICENSE_KEY), &merged.to_text(), None).await?;
        }
    }
    let copy = folder.record()?;
    let (there, version) = read_record(&api).await?;
    let merged = match (&copy, &version) {
        (Some(copy), Some(_)) => there.clone().merge(copy),
        (Some(copy), None) => copy.clone(),
        (None, _) => there.clone(),
    };
    if merged != there {
        put_map(&api, (RECORD_MAP, RECORD_KEY), &merged.to_text(), version.as_deref()).await?;
    }
    if copy.as_ref().is_none_or(|copy| merged.differs_from(copy)) && merged != Record::default() {
        folder.put_record(&merged)?;
    }
    Ok(())
}

/// A control plane's copies.
#[derive(Debug)]
pub(super) struct Folder<'a>(&'a Path);

impl<'a> Folder<'a> {
    pub(super) fn at(path: &'a Path) -> Self {
        Self(path)
    }

    fn read(&self, name: &str, most: usize) -> io::Result<Option<String>> {
        let file = match fs_err::File::open(self.0.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut text = String::new();
        file.take(most as u64 + 1).read_to_string(&mut text)?;
        Ok(Some(text))
    }

    fn put(&self, name: &str, text: &str) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        if !self.0.exists() {
            fs_err::create_dir_all(self.0)?;
            fs_err::set_permissions(self.0, std::fs::Permissions::from_mode(0o700))?;
        }
        replace(&self.0.join(name), text.as_bytes())?;
        fs_err::File::open(self.0)?.sync_all()
    }

    /// The files; what can't be read is as if it were not there, and told.
    pub(super) fn kept(&self) -> io::Result<Option<Kept>> {
        let text = self.read(KEPT_FILE, kept::MAX_BYTES)?;
        Ok(text.and_then(|text| understood(KEPT_FILE, Kept::parse(&text))))
    }

    /// The record; as [`Self::kept`].
    pub(super) fn record(&self) -> io::Result<Option<Record>> {
        let text = self.read(RECORD_FILE, record::MAX_BYTES)?;
        Ok(text.and_then(|text| understood(RECORD_FILE, Record::parse(&text))))
    }

    pub(super) fn put_kept(&self, kept: &Kept) -> io::Result<()> {
        self.put(KEPT_FILE, &kept.to_text())
    }

    fn put_record(&self, record: &Record) -> io::Result<()> {
        self.put(RECORD_FILE, &record.to_text())
    }
}

fn understood<T>(name: &str, read: Result<T, String>) -> Option<T> {
    match read {
        Ok(value) => Some(value),
        Err(why) => {
            tracing::warn!("this node's copy {name} can't be read and is left aside: {why}");
            None
        }
    }
}
