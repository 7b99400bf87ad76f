//! One entry of a definition, resolved.

use std::{path::Path, time::SystemTime};

use kdc_bundles::index::Digest;
use kdc_profiles::{
    definition::{ArtifactDefinition, PackageSet, Source},
    lock::{LockedArtifact, LockedBlob},
};

use super::{artifact_entry, set_entry};
use crate::{
    chart, debian,
    fetch::{Fetcher, Wanted, is_loopback, parse_address},
    folder,
    layout::Layout,
    oci::Image,
    plan::{file_type, parse_kind},
    problem::chain,
    registry::Reference,
};

/// Media type of a folder.
pub(crate) const TAR: &str = "application/x-tar";

/// What an artifact was resolved to.
struct Found {
    uri: String,
    media_type: String,
    digest: Digest,
    size: u64,
    blobs: Vec<(Digest, u64)>,
}

pub(super) async fn artifact(
    fetcher: &Fetcher,
    folder: &Path,
    artifact: &ArtifactDefinition,
) -> Result<LockedArtifact, String> {
    let found = match &artifact.source {
        Source::Path(path) => local_file(artifact, folder, path)?,
        Source::Folder(path) => {
            let (digest, size) = folder::pack(fetcher.cache(), &folder.join(path))?;
            let uri = format!("folder:{}", path.display());
            Found { uri, media_type: TAR.to_owned(), digest, size, blobs: Vec::new() }
        }
        Source::Oci { layout, reference } => {
            let image = Layout::open(&folder.join(layout))?
                .find(reference.as_deref(), artifact.platform.as_deref())?;
            let layout = layout.display();
            let uri = match reference {
                Some(name) => format!("layout:{layout}#{name}"),
                None => format!("layout:{layout}"),
            };
            from_image(uri, image)?
        }
        Source::Url { url, digest } => from_url(fetcher, artifact, url, digest.as_deref()).await?,
        Source::Registry { image, digest } => {
            from_registry(fetcher, artifact, image, digest.as_deref()).await?
        }
        Source::Helm { repository, chart, version } => {
            let (uri, fetched) = chart::fetch(fetcher, repository, chart, version).await?;
            let (digest, size) = (fetched.digest, fetched.size);
            let content = fetcher.cache().open_blob(&digest).map_err(|error| chain(&error))?;
            let inside = chart::read(content)?;
            if (&inside.name, &inside.version) != (chart, version) {
                let (name, found) = (inside.name, inside.version);
                return Err(format!("what is had there is the chart {name} {found}"));
            }
            Found { uri, media_type: chart::CHART.to_owned(), digest, size, blobs: Vec::new() }
        }
    };
    let locked = LockedArtifact {
        kind: artifact.kind.clone(),
        name: artifact.name.clone(),
        platform: artifact.platform.clone(),
        version: None,
        licence: None,
        roles: Vec::new(),
        unpack_to: None,
        entry: artifact_entry(artifact),
        uri: found.uri,
        media_type: found.media_type,
        digest: found.digest.to_string(),
        size: found.size,
        blobs: blobs(found.blobs),
    };
    Ok(described(artifact, locked))
}

/// With what the definition says about it.
pub(super) fn described(artifact: &ArtifactDefinition, locked: LockedArtifact) -> LockedArtifact {
    let chart_version = match &artifact.source {
        Source::Helm { version, .. } => Some(version.clone()),
        _ => None,
    };
    LockedArtifact {
        version: artifact.version.clone().or(chart_version),
        licence: artifact.licence.clone(),
        roles: artifact.roles.clone(),
        unpack_to: artifact.unpack_to.clone(),
        ..locked
    }
}

fn blobs(blobs: Vec<(Digest, u64)>) -> Vec<LockedBlob> {
    let each = blobs.into_iter();
    each.map(|(digest, size)| LockedBlob { digest: digest.to_string(), size }).collect()
}

fn media_type(artifact: &ArtifactDefinition) -> Result<String, String> {
    let kind = parse_kind(&artifact.kind).ok_or("its kind is unknown")?;
    Ok(file_type(kind).to_owned())
}

fn local_file(artifact: &ArtifactDefinition, folder: &Path, path: &Path) -> Result<Found, String> {
    let file = fs_err::File::open(folder.join(path)).map_err(|error| error.to_string())?;
    let (digest, size) = crate::cache::digest_of(file).map_err(|error| error.to_string())?;
    let (uri, media_type) = (format!("path:{}", path.display()), media_type(artifact)?);
    Ok(Found { uri, media_type, digest, size, blobs: Vec::new() })
}

async fn from_url(
    fetcher: &Fetcher,
    artifact: &ArtifactDefinition,
    url: &str,
    digest: Option<&str>,
) -> Result<Found, String> {
    let address = parse_address(url).map_err(|error| error.to_string())?;
    // Without a digest the line is all there is to trust.
    if address.scheme() == "http" && digest.is_none() && !is_loopback(&address) {
        return Err(format!("{url} is not fetched: over http only with a `digest`"));
    }
    let mut wanted = Wanted::new(address);
    wanted.digest = digest.map(str::parse).transpose().map_err(|error| format!("{error}"))?;
    let fetched = fetcher.download(&wanted, &|_| {}).await.map_err(|error| error.in_one_line())?;
    let (digest, size) = (fetched.digest, fetched.size);
    let media_type = media_type(artifact)?;
    Ok(Found { uri: wanted.url.to_string(), media_type, digest, size, blobs: Vec::new() })
}

async fn from_registry(
    fetcher: &Fetcher,
    artifact: &ArtifactDefinition,
    image: &str,
    digest: Option<&str>,
) -> Result<Found, String> {
    let mut reference: Reference = image.parse().map_err(|error| format!("{error}"))?;
    let named = reference.clone();
    if let Some(digest) = digest {
        let digest: Digest = digest.parse().map_err(|error| format!("{error}"))?;
        if reference.digest.as_ref().is_some_and(|other| *other != digest) {
            return Err("its `image` and its `digest` state two digests".to_owned());
        }
        reference.digest = Some(digest);
    }
    let image = fetcher.image(&reference, artifact.platform.as_deref()).await?;
    from_image(format!("oci://{named}"), image)
}

fn from_image(uri: String, image: Image) -> Result<Found, String> {
    let mut blobs = image.blobs;
    if blobs.is_empty() {
        return Err("it has no manifest".to_owned());
    }
    let (digest, size) = blobs.remove(0);
    Ok(Found { uri, media_type: image.media_type, digest, size, blobs })
}

pub(super) async fn packages(
    fetcher: &Fetcher,
    folder: &Path,
    set: &PackageSet,
    now: SystemTime,
) -> Result<Vec<LockedArtifact>, Vec<String>> {
    let entry = set_entry(set);
    let resolved = debian::resolve(fetcher, folder, set, now).await?;
    let locked = resolved.into_iter().map(|package| LockedArtifact {
        kind: "package".to_owned(),
        name: package.name,
        platform: Some(set.platform.clone()),
        version: Some(package.version),
        licence: None,
        roles: set.roles.clone(),
        unpack_to: None,
        entry: entry.clone(),
        uri: package.url,
        media_type: file_type(kdc_bundles::index::ArtifactKind::Package).to_owned(),
        digest: package.digest.to_string(),
        size: package.size,
        blobs: Vec::new(),
    });
    Ok(locked.collect())
}
