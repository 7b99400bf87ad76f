//! What there is to pull: the images of an index as repositories, tags and manifests.
//!
//! An image keeps its whole name, the upstream registry included: `registry.k8s.io/pause:3.10` is the
//! tag `3.10` of the repository `registry.k8s.io/pause`. Short names are what container tools take
//! them for (`busybox` is `docker.io/library/busybox:latest`). A `:` before a port can't stand in a
//! repository's name, so it becomes `_`.

use std::collections::{BTreeMap, BTreeSet};

use kdc_bundles::index::{Artifact, ArtifactKind, Digest, Index};
use serde_json::json;

use crate::image_name::ImageName;

/// Media type of the lists made here.
const IMAGE_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Longest name of a repository, as the OCI specification advises.
const MAX_NAME_BYTES: usize = 255;

/// An image that can't be served under its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// Registries allow no such name.
    #[error("the image `{name}` has no name that a registry can serve")]
    Name {
        /// As in the index.
        name: String,
    },
    /// Two spellings of one name, with different content.
    #[error("the images `{first}` and `{second}` would be served under one name")]
    Twice {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
}

impl CatalogError {
    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        "rename the image in the definition and build the bundle again"
    }
}

/// Where a manifest's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Manifest {
    /// A blob of the bundle.
    Stored { digest: Digest, media_type: String, size: u64 },
    /// A list of the same image for several platforms, made from the signed index.
    Made { digest: Digest, text: String },
}

impl Manifest {
    pub(super) fn digest(&self) -> &Digest {
        match self {
            Self::Stored { digest, .. } | Self::Made { digest, .. } => digest,
        }
    }

    pub(super) fn media_type(&self) -> &str {
        match self {
            Self::Stored { media_type, .. } => media_type,
            Self::Made { .. } => IMAGE_INDEX,
        }
    }

    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Stored { size, .. } => *size,
            Self::Made { text, .. } => text.len() as u64,
        }
    }
}

/// One repository.
#[derive(Debug, Default)]
pub(super) struct Repository {
    pub(super) tags: BTreeMap<String, Manifest>,
    pub(super) manifests: BTreeMap<Digest, Manifest>,
    pub(super) blobs: BTreeSet<Digest>,
}

/// Every repository by name.
#[derive(Debug)]
pub(super) struct Catalog(BTreeMap<String, Repository>);

impl Catalog {
    pub(super) fn of(index: &Index) -> Result<Self, CatalogError> {
        let mut repositories: BTreeMap<String, Repository> = BTreeMap::new();
        let mut tagged: BTreeMap<(String, String), Vec<&Artifact>> = BTreeMap::new();
        for image in index.artifacts.iter().filter(|one| one.kind == ArtifactKind::Image) {
            let wrong = || CatalogError::Name { name: image.name.clone() };
            let (name, tag) = repository_and_tag(&image.name).ok_or_else(wrong)?;
            let repository = repositories.entry(name.clone()).or_default();
            repository.blobs.extend(image.blobs.iter().cloned());
            let stored = stored(index, image);
            repository.manifests.insert(image.digest.clone(), stored);
            if let Some(tag) = tag {
                tagged.entry((name, tag)).or_default().push(image);
            }
        }
        for ((name, tag), images) in tagged {
            let manifest = manifest_of(index, &images)?;
            let repository = repositories.entry(name).or_default();
            repository.manifests.insert(manifest.digest().clone(), manifest.clone());
            repository.tags.insert(tag, manifest);
        }
        Ok(Self(repositories))
    }

    /// Names of all repositories, sorted.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The repository that a client means: by its whole name, or without its registry where `ns`
    /// names that (containerd's mirrors), or where it is Docker's own (Docker's mirrors).
    pub(super) fn find(&self, name: &str, ns: Option<&str>) -> Option<&Repository> {
        let Some(ns) = ns else {
            return self.0.get(name).or_else(|| self.0.get(&format!("docker.io/{name}")));
        };
        let ns = host_part(ns);
        let within = self.0.get(&format!("{ns}/{name}"));
        within.or_else(|| self.0.get(name).filter(|_| name.starts_with(&format!("{ns}/"))))
    }
}

fn stored(index: &Index, image: &Artifact) -> Manifest {
    Manifest::Stored {
        digest: image.digest.clone(),
        media_type: image.media_type.clone(),
        size: index.blob(&image.digest).map_or(0, |blob| blob.size),
    }
}

/// What a tag leads to: the one manifest, or a list of one a platform.
fn manifest_of(index: &Index, images: &[&Artifact]) -> Result<Manifest, CatalogError> {
    let [first, rest @ ..] = images else { unreachable!("a tag is there for an image") };
    for (place, second) in rest.iter().enumerate() {
        let same = |one: &&&Artifact| one.platform == second.platform;
        if let Some(first) = images[..=place].iter().find(same) {
            let (first, second) = (first.name.clone(), second.name.clone());
            return Err(CatalogError::Twice { first, second });
        }
    }
    if rest.is_empty() {
        return Ok(stored(index, first));
    }
    let manifests = images.iter().map(|image| {
        let mut descriptor = json!({
            "mediaType": image.media_type,
            "digest": image.digest,
            "size": index.blob(&image.digest).map_or(0, |blob| blob.size),
        });
        if let Some(platform) = &image.platform {
            let words = ["os", "architecture", "variant"];
            descriptor["platform"] = words.into_iter().zip(platform.split('/')).collect();
        }
        descriptor
    });
    let list = json!({
        "schemaVersion": 2,
        "mediaType": IMAGE_INDEX,
        "manifests": manifests.collect::<Vec<_>>(),
    });
    let text = list.to_string();
    Ok(Manifest::Made { digest: Digest::of(text.as_bytes()), text })
}

/// The registry's part of a name as a repository's name can bear it.
fn host_part(host: &str) -> String {
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        other => other.replace(':', "_"),
    }
}

/// `registry.k8s.io/pause:3.10` → `registry.k8s.io/pause`, `3.10`. Without tag it is `latest`, with a
/// digest alone it has none.
fn repository_and_tag(image: &str) -> Option<(String, Option<String>)> {
    let ImageName { registry, path, tag, .. } = ImageName::parse(image)?;
    let name = format!("{}/{path}", host_part(&registry));
    let good = is_name(&name) && tag.as_deref().is_none_or(is_tag);
    good.then_some((name, tag))
}

/// Parts of lower-case letters and digits, with single separators between them.
fn is_name(name: &str) -> bool {
    let part = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let framed =
            part.bytes().next().is_some_and(plain) && part.bytes().last().is_some_and(plain);
        framed && part.bytes().all(|byte| plain(byte) || matches!(byte, b'.' | b'_' | b'-'))
    };
    name.len() <= MAX_NAME_BYTES && name.split('/').all(part)
}

/// As the OCI specification has it.
pub(super) fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_registry_and_short_ones_get_dockers() {
        for (image, expected) in [
            ("registry.k8s.io/pause:3.10", Some(("registry.k8s.io/pause", Some("3.10")))),
            ("busybox", Some(("docker.io/library/busybox", Some("latest")))),
            ("docker.io/busybox:1", Some(("docker.io/library/busybox", Some("1")))),
            ("grafana/loki:2", Some(("docker.io/grafana/loki", Some("2")))),
            ("localhost:5000/a/b:1", Some(("localhost_5000/a/b", Some("1")))),
            ("quay.io/x/y@sha256:ab", Some(("quay.io/x/y", None))),
            ("quay.io/x/y:v1@sha256:ab", Some(("quay.io/x/y", Some("v1")))),
            ("quay.io/Upper/y:1", None),
            ("quay.io/x//y:1", None),
            ("quay.io/x/y:-1", None),
        ] {
            let found = repository_and_tag(image);
            let found = found.as_ref().map(|(name, tag)| (name.as_str(), tag.as_deref()));
            assert_eq!(found, expected, "{image}");
        }
    }
}
