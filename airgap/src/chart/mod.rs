//! Helm charts: from a repository's index or a registry to the archive, and into the archive.

mod archive;
pub(crate) mod images;

use std::collections::BTreeMap;

use kdc_bundles::index::Digest;
use serde::Deserialize;

pub(crate) use self::archive::read;
use crate::{
    fetch::{Ask, Fetched, Fetcher, Wanted, is_loopback, parse_address},
    oci::Manifest,
    registry::{Place, Reference},
};

/// Media type of a chart's archive.
pub(crate) const CHART: &str = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";

/// Largest index of a repository read; the largest public ones have 20 MiB.
const MAX_INDEX: u64 = 64 * 1024 * 1024;

#[derive(Deserialize)]
struct RepositoryIndex {
    entries: BTreeMap<String, Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    version: String,
    #[serde(default)]
    urls: Vec<String>,
    #[serde(default)]
    digest: Option<String>,
}

/// Brings a chart into the cache. Gives where it is, for the lock.
pub(crate) async fn fetch(
    fetcher: &Fetcher,
    repository: &str,
    name: &str,
    version: &str,
) -> Result<(String, Fetched), String> {
    if let Some(place) = repository.strip_prefix("oci://") {
        return fetch_oci(fetcher, place, name, version).await;
    }
    let base = format!("{}/", repository.trim_end_matches('/'));
    let base = parse_address(&base).map_err(|error| error.to_string())?;
    // Nothing signs a repository's index: the line to it is all there is to trust.
    if base.scheme() == "http" && !is_loopback(&base) {
        return Err(format!("{repository} is not asked: charts are fetched by https only"));
    }
    let url = base.join("index.yaml").map_err(|error| error.to_string())?;
    let fetched = fetcher.small(&Ask::new(&url), MAX_INDEX).await;
    let (bytes, _) = fetched.map_err(|error| error.in_one_line())?;
    let index: RepositoryIndex = serde_yaml::from_slice(&bytes)
        .map_err(|error| format!("{url} is no index of charts: {error}"))?;
    let entry = find(&index, name, version).map_err(|what| format!("{url}: {what}"))?;
    let place =
        entry.urls.first().ok_or_else(|| format!("{url}: {name} {version} has no address"))?;
    let place = base.join(place).map_err(|error| error.to_string())?;
    if base.scheme() == "https" && place.scheme() != "https" {
        return Err(format!("{url} leads to {place}, which is not protected by TLS"));
    }
    let mut wanted = Wanted::new(parse_address(place.as_str()).map_err(|e| e.to_string())?);
    wanted.digest = entry.digest.as_deref().and_then(parse_digest);
    let fetched = fetcher.download(&wanted, &|_| {}).await.map_err(|error| error.in_one_line())?;
    Ok((place.to_string(), fetched))
}

/// Repositories write it with or without the algorithm.
fn parse_digest(text: &str) -> Option<Digest> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    format!("sha256:{hex}").parse().ok()
}

fn find<'i>(index: &'i RepositoryIndex, name: &str, version: &str) -> Result<&'i Entry, String> {
    let entries = index.entries.get(name).ok_or_else(|| format!("it has no chart `{name}`"))?;
    let mut fitting = entries.iter().filter(|entry| entry.version == version);
    let entry = fitting.next().ok_or_else(|| {
        let found: Vec<_> = entries.iter().take(5).map(|entry| entry.version.as_str()).collect();
        format!("it has no version {version} of `{name}` (there is {})", found.join(", "))
    })?;
    if fitting.next().is_some() {
        return Err(format!("version {version} of `{name}` stands there twice"));
    }
    Ok(entry)
}

async fn fetch_oci(
    fetcher: &Fetcher,
    place: &str,
    name: &str,
    version: &str,
) -> Result<(String, Fetched), String> {
    // Tags have no `+`; Helm writes `_` instead.
    let tag = version.replace('+', "_");
    let text = format!("{}/{name}:{tag}", place.trim_end_matches('/'));
    let reference: Reference = text.parse().map_err(|error| format!("{error}"))?;
    let at = Place::of(fetcher, &reference).map_err(|error| error.in_one_line())?;
    let root = fetcher.root(&at, &reference).await?;
    let (_, manifest) = fetcher.manifest(&at, root, None).await?;
    let Manifest { layers, .. } = manifest;
    let mut charts = layers.iter().filter(|layer| layer.media_type == CHART);
    let (Some(layer), None) = (charts.next(), charts.next()) else {
        return Err(format!("{reference} is not (only) a chart"));
    };
    let wanted = at.blob(&layer.digest, layer.size);
    let fetched = fetcher.download(&wanted, &|_| {}).await.map_err(|error| error.in_one_line())?;
    Ok((format!("oci://{reference}"), fetched))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_once_or_not_at_all() {
        let text = "entries:\n  app:\n  - {version: 1.0.0, urls: [a.tgz]}\n  - {version: 2.0.0}\n  \
                    - {version: 2.0.0}\n";
        let index: RepositoryIndex = serde_yaml::from_str(text).unwrap();
        assert_eq!(find(&index, "app", "1.0.0").unwrap().urls, ["a.tgz"]);
        for (name, version, part) in [
            ("other", "1.0.0", "no chart"),
            ("app", "3.0.0", "there is 1.0.0, 2.0.0"),
            ("app", "2.0.0", "twice"),
        ] {
            let error = find(&index, name, version).map(|_| ()).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
