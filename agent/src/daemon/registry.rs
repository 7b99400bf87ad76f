//! The node's own registry: the images of the index in force, for the containerd of this node alone.
//!
//! ```text
//! /etc/kdc/registry.json ─► Keeper ─► thread with a listener on 127.0.0.1 ─► containerd (hosts.toml)
//!                             │         └─ store, and other nodes for what that lacks
//!                             └─► /run/kdc/registry.json: what is served, or why nothing is
//! ```
//!
//! It has a thread and a runtime of its own, so that a slow round of the routes lets no pull wait.
//! The port is one that only root may listen on: whoever else runs programs on the node can't take
//! its place while it is away and give containerd other content under a tag.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};

use super::DaemonError;
use crate::{
    background::{self, Background},
    facts,
    host::{Attributes, Host},
    serve::registry::{Limits, Pulls, Registry},
    store::{
        Store,
        peer::{Folder, WithOthers},
    },
    wire::Failure,
};

/// What the daemon is told.
pub const REGISTRY_PATH: &str = "/etc/kdc/registry.json";

/// What it serves.
pub const SERVED_PATH: &str = "/run/kdc/registry.json";

/// Where it listens. Below 512: neither programs of users nor those that look for a free reserved
/// port (NFS, RPC) come here.
pub const REGISTRY_PORT: u16 = 327;

/// Memory for content on its way out, as much as one pull of containerd can take at a time.
const CONTENT_BYTES: u64 = 8 * 1024 * 1024;

/// The address as a URL.
#[must_use]
pub fn registry_url() -> String {
    format!("http://{}", registry_address())
}

fn registry_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, REGISTRY_PORT).into()
}

/// `/etc/kdc/registry.json`: whose images to serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegistryFile {
    /// Digest of an index that this node has verified.
    pub index: Digest,
}

impl RegistryFile {
    /// The file's text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let text = serde_json::to_string(self).expect("a digest is plain text");
        format!("{text}\n")
    }
}

/// `/run/kdc/registry.json`: how it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Served {
    /// Whose images are meant; absent where the daemon's file makes no sense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Digest>,
    /// Why they are not served; absent where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Served {
    /// What the daemon of this node says; `None` where it says nothing that makes sense.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn read(host: &dyn Host) -> Result<Option<Self>, crate::host::HostError> {
        let text = host.read_text(SERVED_PATH)?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }
}

/// Why nothing is served. It is a state and no end: the next round tries again.
#[derive(Debug, thiserror::Error)]
enum NotServed {
    #[error("{REGISTRY_PATH} makes no sense")]
    File(#[from] serde_json::Error),
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    #[error(transparent)]
    Catalog(#[from] crate::serve::registry::CatalogError),
    #[error("{at} can't be listened on")]
    Listen { at: SocketAddr, source: io::Error },
    #[error("no thread for the registry")]
    Thread(#[source] io::Error),
}

/// Keeps the registry as the file wants it.
pub(super) struct Keeper {
    store: Store,
    /// Who else has the content.
    others: Folder,
    address: SocketAddr,
    /// The file as it was last carried out.
    told: Option<String>,
    serving: Option<Background>,
    pulls: Pulls,
}

impl Keeper {
    /// For the store and the port of this node; counts what is taken.
    pub(super) fn system(pulls: Pulls) -> Self {
        Self { pulls, ..Self::new(Store::system(), Folder::system(), registry_address()) }
    }

    fn new(store: Store, others: Folder, address: SocketAddr) -> Self {
        Self { store, others, address, told: None, serving: None, pulls: Pulls::default() }
    }

    /// One round. Says how it stands, for the unit's status; nothing where nothing is to be served.
    pub(super) fn settle(&mut self, host: &dyn Host) -> Result<Option<String>, DaemonError> {
        let text = host.read_text(REGISTRY_PATH)?;
        let at = self.address;
        if self.serving.as_ref().is_some_and(Background::stands) && text == self.told {
            return Ok(Some(format!("images served at {at}")));
        }
        self.serving = None;
        self.told.clone_from(&text);
        let Some(text) = text else {
            host.remove(SERVED_PATH)?;
            return Ok(None);
        };
        let index = serde_json::from_str(&text).map(|file: RegistryFile| file.index);
        let served = index.as_ref().ok().cloned();
        let (failure, said) = match index.map_err(NotServed::from).and_then(|one| self.open(&one)) {
            Ok(serving) => {
                self.serving = Some(serving);
                tracing::info!(%at, "images are served");
                (None, format!("images served at {at}"))
            }
            Err(error) => {
                let failure = Failure::from_error("", &error, None).message;
                tracing::warn!(%failure, "no images are served");
                (Some(failure.clone()), format!("no images served: {failure}"))
            }
        };
        tell(host, &Served { index: served, failure })?;
        Ok(Some(said))
    }

    /// Stops, and says so.
    pub(super) fn stop(&mut self, host: &dyn Host) -> Result<(), DaemonError> {
        self.serving = None;
        self.told = None;
        Ok(host.remove(SERVED_PATH)?)
    }

    fn open(&self, index: &Digest) -> Result<Background, NotServed> {
        let shelf = self.store.shelf(index)?.with_images_of(facts::platform());
        let limits = Limits { content_bytes: CONTENT_BYTES, ..Limits::default() };
        let source = WithOthers::new(shelf, self.others.clone()).map_err(NotServed::Thread)?;
        let registry = Registry::counting(source, limits, self.pulls.clone())?;
        let at = self.address;
        let listen = |source| NotServed::Listen { at, source };
        let listener = TcpListener::bind(at).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        serve_in_background(registry, listener).map_err(NotServed::Thread)
    }
}

fn tell(host: &dyn Host, served: &Served) -> Result<(), DaemonError> {
    let directory = crate::host::parent(SERVED_PATH);
    if host.stat(directory)?.is_none() {
        host.make_directory(directory, Attributes::root(0o700))?;
    }
    let text = serde_json::to_vec(served).expect("plain text");
    Ok(host.write(SERVED_PATH, &text, Attributes::root(0o600))?)
}

fn serve_in_background(registry: Registry, listener: TcpListener) -> io::Result<Background> {
    Background::start("registry", background::runtime()?, move || async move {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => {
                let wrap = |stream| async { Ok(stream) };
                registry.serve(listener, wrap, std::future::pending()).await;
            }
            Err(error) => tracing::error!(%error, "the registry can't listen"),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        io::{Read as _, Write as _},
        net::TcpStream,
    };

    use kdc_bundles::{
        index::{Artifact, ArtifactKind, Blob, INDEX_VERSION, Index},
        signing::SigningKey,
    };

    use super::*;
    use crate::host::fake::FakeHost;

    const PIECE: u64 = 64 * 1024;

    /// A store with an image for this platform and one, under the same name, for another.
    fn store(folder: &std::path::Path) -> (Store, Digest) {
        let manifests = ["here", "elsewhere"].map(|of| format!("{{\"of\":\"{of}\"}}"));
        let image = |platform: &str, manifest: &String| {
            let digest = Digest::of(manifest.as_bytes());
            Artifact {
                name: "a.io/x:1".to_owned(),
                kind: ArtifactKind::Image,
                platform: Some(platform.to_owned()),
                version: None,
                media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
                blobs: vec![digest.clone()],
                digest,
                roles: Vec::new(),
                unpack_to: None,
                licence: None,
                source: None,
            }
        };
        let artifacts =
            vec![image(facts::platform(), &manifests[0]), image("linux/other", &manifests[1])];
        let mut blobs: Vec<Blob> = (manifests.iter())
            .map(|text| {
                let digest = Digest::of(text.as_bytes());
                Blob { size: text.len() as u64, pieces: vec![digest.clone()], digest }
            })
            .collect();
        blobs.sort_by(|left, right| left.digest.cmp(&right.digest));
        let index = Index {
            version: INDEX_VERSION,
            name: "sample".to_owned(),
            bundle_version: "1".to_owned(),
            piece_size: PIECE,
            parameters: BTreeMap::new(),
            artifacts,
            blobs,
        };
        let text = String::from_utf8(index.to_bytes()).unwrap();
        let key = SigningKey::generate().unwrap();
        let signature = key.sign(&index);
        let store = Store::at(folder);
        store.keep_index(&text, &signature, &[key.public().to_text()]).unwrap();
        fs_err::write(
            folder.join("blobs/sha256").join(Digest::of(manifests[0].as_bytes()).hex()),
            &manifests[0],
        )
        .unwrap();
        (store, Digest::of(text.as_bytes()))
    }

    fn get(at: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(at).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Nothing was ever shared with this node.
    fn nobody() -> Folder {
        Folder::at(std::path::Path::new("/nonexistent/share"))
    }

    fn free_address() -> SocketAddr {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
    }

    #[test]
    fn the_images_for_this_platform_are_served_while_the_file_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let (store, index) = store(folder.path());
        let (host, at) = (FakeHost::debian(), free_address());
        let mut keeper = Keeper::new(store, nobody(), at);
        assert_eq!(keeper.settle(&host).unwrap(), None, "nothing is asked for");

        host.plant(REGISTRY_PATH, &RegistryFile { index: index.clone() }.to_text());
        assert_eq!(keeper.settle(&host).unwrap(), Some(format!("images served at {at}")));
        let served = Served { index: Some(index), failure: None };
        assert_eq!(Served::read(&host).unwrap(), Some(served));
        let answer = get(at, "/v2/x/manifests/1?ns=a.io");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with("{\"of\":\"here\"}"), "no list of platforms: {answer}");
        assert!(get(at, "/v2/y/manifests/1?ns=b.io").starts_with("HTTP/1.1 404 "));

        host.remove(REGISTRY_PATH).unwrap();
        assert_eq!(keeper.settle(&host).unwrap(), None);
        assert_eq!(Served::read(&host).unwrap(), None);
        assert!(TcpStream::connect(at).is_err(), "it still listens");
    }

    #[test]
    fn what_keeps_it_from_serving_is_told_and_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let (store, index) = store(folder.path());
        let host = FakeHost::debian();
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut keeper = Keeper::new(store, nobody(), taken.local_addr().unwrap());
        let unknown = Digest::of(b"never kept");
        for (text, words) in [
            ("{}".to_owned(), "missing field"),
            (RegistryFile { index: unknown }.to_text(), "index"),
            (RegistryFile { index: index.clone() }.to_text(), "can't be listened on: Address"),
        ] {
            host.plant(REGISTRY_PATH, &text);
            let said = keeper.settle(&host).unwrap().unwrap();
            assert!(said.starts_with("no images served: "), "{said}");
            let failure = Served::read(&host).unwrap().unwrap().failure.unwrap();
            assert!(failure.contains(words), "{failure}");
        }
        drop(taken);
        assert!(keeper.settle(&host).unwrap().unwrap().starts_with("images served at "));
        assert_eq!(Served::read(&host).unwrap().unwrap().failure, None);
        keeper.stop(&host).unwrap();
        assert_eq!(Served::read(&host).unwrap(), None);
    }
}
