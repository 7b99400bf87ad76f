//! Images from OCI registries: from a name to the digests of one platform, and from digests to blobs.
//!
//! ```text
//! name:tag ── index? ── index? ── manifest ── configuration (is it for the platform?)
//!                                   └── layers: names and sizes now, bytes when a bundle is made
//! ```
//!
//! Nothing is taken at its word: every document is asked for by digest (the first one by tag, and its
//! digest is what gets locked), and has it. Registries on this machine are spoken to in the open, as
//! every runtime does; all others by TLS.

mod config;
pub(crate) mod login;
mod reference;

use kdc_bundles::index::Digest;
use reqwest::{Url, header::CONTENT_TYPE};
use serde::Deserialize;

use self::login::Repository;
pub use self::reference::{Reference, ReferenceError};
use crate::{
    fetch::{Ask, FetchError, Fetcher, Wanted, host, is_loopback},
    oci::{self, Descriptor, Image, MAX_DEPTH, MAX_METADATA, Manifest, OciIndex},
    problem::chain,
};

/// What is asked for by a name.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
                        application/vnd.oci.image.manifest.v1+json, \
                        application/vnd.docker.distribution.manifest.list.v2+json, \
                        application/vnd.docker.distribution.manifest.v2+json";

/// Whether an address may be used without TLS: only this machine's own.
pub(crate) fn is_open_line_fine(url: &Url) -> bool {
    is_loopback(url)
}

/// A repository and where it is had.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    base: Url,
    repository: Repository,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Kind {
    media_type: Option<String>,
    schema_version: Option<u32>,
}

impl Place {
    /// Where the repository of `reference` is had, its mirror considered.
    pub(crate) fn of(fetcher: &Fetcher, reference: &Reference) -> Result<Self, FetchError> {
        let Reference { registry, repository, .. } = reference;
        let nonsense = |why| FetchError::Address { url: format!("https://{registry}/"), why };
        let (base, registry, prefix) = match fetcher.mirror(registry) {
            Some(mirror) => {
                let prefix = mirror.path().trim_matches('/').to_owned();
                (mirror.clone(), host(mirror), prefix)
            }
            None => {
                let name = if registry == "docker.io" {
                    "registry-1.docker.io"
                } else {
                    registry.as_str()
                };
                let base = Url::parse(&format!("https://{name}/"));
                let mut base = base.map_err(|_| nonsense("the registry has no host"))?;
                if is_open_line_fine(&base) {
                    let open = Url::parse(&format!("http://{name}/"));
                    base = open.map_err(|_| nonsense("the registry has no host"))?;
                }
                (base, registry.clone(), String::new())
            }
        };
        if base.scheme() != "https" && !is_open_line_fine(&base) {
            return Err(nonsense("a registry elsewhere is spoken to by https only"));
        }
        let name =
            if prefix.is_empty() { repository.clone() } else { format!("{prefix}/{repository}") };
        Ok(Self { base, repository: Repository { registry, name } })
    }

    fn url(&self, kind: &str, reference: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{}/{kind}/{reference}", self.repository.name));
        url
    }

    /// The blob of that digest and size.
    pub(crate) fn blob(&self, digest: &Digest, size: u64) -> Wanted {
        Wanted {
            url: self.url("blobs", digest.as_str()),
            repository: Some(self.repository.clone()),
            accept: None,
            digest: Some(digest.clone()),
            size: Some(size),
        }
    }

    /// The manifest of that digest and size.
    pub(crate) fn manifest(&self, digest: &Digest, size: u64) -> Wanted {
        let url = self.url("manifests", digest.as_str());
        Wanted { url, accept: Some(ACCEPTED), ..self.blob(digest, size) }
    }
}

impl Fetcher {
    /// The image of that name for `platform`; manifest and configuration are in the cache then.
    ///
    /// # Errors
    /// In words, when it can't be had or is not what it has to be.
    pub(crate) async fn image(
        &self,
        reference: &Reference,
        platform: Option<&str>,
    ) -> Result<Image, String> {
        let place = Place::of(self, reference).map_err(|error| error.in_one_line())?;
        let descriptor = self.root(&place, reference).await?;
        let (descriptor, manifest) = self.manifest(&place, descriptor, platform).await?;
        if let Some(wanted) = platform {
            let config = &manifest.config;
            let bytes = self.document(place.blob(&config.digest, config.size)).await?;
            oci::check_platform(&bytes, &config.digest, wanted)?;
        }
        oci::image(&descriptor, &manifest)
    }

    /// The manifest behind a descriptor: the platform's, where there are several.
    pub(crate) async fn manifest(
        &self,
        place: &Place,
        mut descriptor: Descriptor,
        platform: Option<&str>,
    ) -> Result<(Descriptor, Manifest), String> {
        for _ in 0..=MAX_DEPTH {
            let Descriptor { digest, size, media_type, .. } = &descriptor;
            if !descriptor.is_index() && !descriptor.is_manifest() {
                return Err(format!("{digest} is a `{media_type}`, not an image"));
            }
            let bytes = self.document(place.manifest(digest, *size)).await?;
            if descriptor.is_manifest() {
                let manifest = oci::parse(&bytes, digest.as_str())?;
                return Ok((descriptor, manifest));
            }
            let index: OciIndex = oci::parse(&bytes, digest.as_str())?;
            descriptor = oci::choose(index.manifests, platform)?;
        }
        Err(format!("indexes are nested more than {MAX_DEPTH} deep at {}", descriptor.digest))
    }

    /// What stands behind a name: an index or a manifest.
    pub(crate) async fn root(
        &self,
        place: &Place,
        reference: &Reference,
    ) -> Result<Descriptor, String> {
        let stated = reference.digest.as_ref().map(Digest::as_str);
        let name = stated.or(reference.tag.as_deref()).unwrap_or("latest");
        let url = place.url("manifests", name);
        let ask =
            Ask { repository: Some(&place.repository), accept: Some(ACCEPTED), ..Ask::new(&url) };
        let (bytes, headers) =
            self.small(&ask, MAX_METADATA).await.map_err(|error| error.in_one_line())?;
        let digest = Digest::of(&bytes);
        let says = headers.get("docker-content-digest").and_then(|text| text.to_str().ok());
        for expected in [stated, says].into_iter().flatten() {
            // A registry may say it in another algorithm; sha256 is what we compare.
            if expected.starts_with("sha256:") && expected != digest.as_str() {
                return Err(format!("{reference} has {digest}, not {expected} as stated"));
            }
        }
        self.cache().insert_verified(&digest, bytes.as_slice()).map_err(|error| chain(&error))?;
        let kind: Kind = oci::parse(&bytes, &reference.to_string())?;
        if kind.schema_version == Some(1) {
            return Err(format!(
                "{reference} is in the format of 2015 (schema 1), not an OCI image"
            ));
        }
        let header = headers.get(CONTENT_TYPE).and_then(|text| text.to_str().ok());
        let media_type = kind.media_type.or(header.map(str::to_owned)).unwrap_or_default();
        let size = bytes.len() as u64;
        Ok(Descriptor { media_type, digest, size, platform: None, annotations: [].into() })
    }

    /// A small document of a registry, proved: from the cache, or into it.
    async fn document(&self, wanted: Wanted) -> Result<Vec<u8>, String> {
        let digest = wanted.digest.clone().ok_or("a document without digest")?;
        if wanted.size.is_some_and(|size| size > MAX_METADATA) {
            return Err(format!("{digest} is too large for metadata: over {MAX_METADATA} bytes"));
        }
        for _ in 0..2 {
            self.download(&wanted, &|_| {}).await.map_err(|error| error.in_one_line())?;
            let found = self.cache().read_small(&digest, MAX_METADATA);
            // What has rotted in the cache is fetched again.
            if let Some(bytes) = found.map_err(|error| chain(&error))? {
                return Ok(bytes);
            }
        }
        Err(format!("{digest} does not stay in the cache"))
    }
}
