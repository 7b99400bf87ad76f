//! Everything a lock names, into the cache.

use std::{cell::RefCell, collections::BTreeMap};

use futures_util::{StreamExt as _, stream};
use kdc_bundles::index::Digest;
use kdc_profiles::lock::{BundleLock, LockedArtifact};

use crate::{
    Observer, Work,
    fetch::{Fetcher, Wanted, parse_address},
    problem::{LockError, Problem},
    registry::{Place, Reference},
};

/// Downloads that wait for a place.
const PARALLEL: usize = 32;

/// Brings everything into the cache that `lock` names and that is not on this machine.
///
/// # Errors
/// Everything that can't be had, at once.
pub async fn fetch(
    fetcher: &Fetcher,
    lock: &BundleLock,
    observer: &mut dyn Observer,
) -> Result<(), LockError> {
    let (missing, mut problems) = missing(fetcher, lock);
    let total = missing.values().filter_map(|(_, wanted)| wanted.size).sum();
    if !missing.is_empty() && problems.is_empty() {
        observer.started(Work::Fetching, total);
        let observer = RefCell::new(observer);
        let told = |bytes| observer.borrow_mut().bytes(bytes);
        let mut results = stream::iter(missing.into_values().map(|(title, wanted)| {
            let told = &told;
            async move { (title, fetcher.download(&wanted, told).await) }
        }))
        .buffer_unordered(PARALLEL);
        while let Some((artifact, result)) = results.next().await {
            if let Err(error) = result {
                problems.push(Problem { artifact, what: error.in_one_line() });
            }
        }
        drop(results);
        observer.borrow_mut().finished(Work::Fetching);
    }
    if problems.is_empty() {
        return Ok(());
    }
    problems.sort_by(|left, right| left.artifact.cmp(&right.artifact));
    Err(LockError::Problems { problems })
}

/// Every blob that the cache lacks, by digest, with who needs it.
fn missing(
    fetcher: &Fetcher,
    lock: &BundleLock,
) -> (BTreeMap<Digest, (String, Wanted)>, Vec<Problem>) {
    let (mut missing, mut problems) = (BTreeMap::new(), Vec::new());
    for artifact in lock.artifacts.iter().filter(|artifact| !artifact.is_local()) {
        let title = format!("{} `{}`", artifact.kind, artifact.name);
        match wanted(fetcher, artifact) {
            Ok(all) => {
                for wanted in all {
                    let digest = wanted.digest.clone().expect("a lock states every digest");
                    if !fetcher.cache().has(&digest, wanted.size) {
                        missing.entry(digest).or_insert_with(|| (title.clone(), wanted));
                    }
                }
            }
            Err(what) => problems.push(Problem { artifact: title, what }),
        }
    }
    (missing, problems)
}

/// What has to be fetched for an artifact, root first.
pub(super) fn wanted(fetcher: &Fetcher, artifact: &LockedArtifact) -> Result<Vec<Wanted>, String> {
    let digest: Digest = artifact.digest.parse().map_err(|error| format!("{error}"))?;
    let Some(name) = artifact.uri.strip_prefix("oci://") else {
        let mut wanted =
            Wanted::new(parse_address(&artifact.uri).map_err(|error| error.in_one_line())?);
        (wanted.digest, wanted.size) = (Some(digest), Some(artifact.size));
        return Ok(vec![wanted]);
    };
    let reference: Reference = name.parse().map_err(|error| format!("{error}"))?;
    let place = Place::of(fetcher, &reference).map_err(|error| error.in_one_line())?;
    let root = match artifact.kind.as_str() {
        "image" => place.manifest(&digest, artifact.size),
        _ => place.blob(&digest, artifact.size),
    };
    let mut all = vec![root];
    for blob in &artifact.blobs {
        let digest = blob.digest.parse().map_err(|error| format!("{error}"))?;
        all.push(place.blob(&digest, blob.size));
    }
    Ok(all)
}
