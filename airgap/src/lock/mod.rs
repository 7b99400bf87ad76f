//! From a definition to its lock, and from a lock to content in the cache.
//!
//! [`lock()`] resolves: images to the digests of one platform, files and charts to theirs (they are
//! fetched for it), package sets to packages. An entry of the definition that did not change keeps what
//! the last lock resolved it to, so that a lock changes where the definition did and nowhere else;
//! what lies on this machine is looked at every time. [`fetch()`] then brings what a lock names and the
//! cache lacks.

mod fetch;
mod images;
mod plan;
mod resolve;

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt as _, stream};
use kdc_bundles::index::Digest;
use kdc_profiles::{
    definition::{ArtifactDefinition, BundleDefinition, PackageSet},
    lock::{BundleLock, LockedArtifact},
    moment,
};
use serde::Serialize;

pub use self::fetch::fetch;
pub(crate) use self::{images::check_local, plan::plan_locked, resolve::TAR};
use crate::{
    Observer,
    fetch::Fetcher,
    problem::{LockError, Problem},
};

/// Entries resolved at a time.
const PARALLEL: usize = 8;

/// What to lock.
#[derive(Debug)]
pub struct LockRequest<'a> {
    /// The definition.
    pub definition: &'a BundleDefinition,
    /// Its folder.
    pub folder: &'a Path,
    /// The lock there is.
    pub old: Option<&'a BundleLock>,
    /// Names of artifacts and package sets to resolve anew.
    pub update: &'a [String],
    /// The time it is.
    pub now: SystemTime,
}

/// The digest by which a lock and a provenance know a definition. Comments and the order of fields
/// and artifacts don't count: they don't change the bundle either.
#[must_use]
pub fn definition_digest(definition: &BundleDefinition) -> Digest {
    let mut definition = definition.clone();
    let key = |one: &ArtifactDefinition| (one.kind.clone(), one.name.clone(), one.platform.clone());
    definition.artifacts.sort_by_key(key);
    digest_of(&definition)
}

fn digest_of(value: &impl Serialize) -> Digest {
    Digest::of(&serde_json::to_vec(value).expect("texts, lists and maps can be written"))
}

/// The digest of what decides how an artifact is resolved; what is only said about it is taken from
/// the definition every time.
fn artifact_entry(artifact: &ArtifactDefinition) -> String {
    let ArtifactDefinition { kind, name, platform, source, .. } = artifact;
    digest_of(&(kind, name, platform, source)).hex()[..16].to_owned()
}

fn set_entry(set: &PackageSet) -> String {
    digest_of(&PackageSet { roles: Vec::new(), ..set.clone() }).hex()[..16].to_owned()
}

/// Locks a definition. Where nothing changed the old lock is given back as it was.
///
/// # Errors
/// Every artifact and set that can't be resolved, at once.
pub async fn lock(
    fetcher: &Fetcher,
    request: &LockRequest<'_>,
    observer: &mut dyn Observer,
) -> Result<BundleLock, LockError> {
    let definition = request.definition;
    check_names(request)?;
    let old = OldLock::of(request);
    let mut tasks = Vec::new();
    for artifact in &definition.artifacts {
        let known = old.artifact(artifact);
        tasks.push(Task::Artifact(artifact, known));
    }
    for set in &definition.packages {
        tasks.push(Task::Set(set, old.set(set)));
    }
    let mut results = stream::iter(tasks.into_iter().enumerate().map(|(place, task)| async move {
        (place, task.title(), task.resolve(fetcher, request).await)
    }))
    .buffer_unordered(PARALLEL);
    let (mut resolved, mut problems) = (BTreeMap::new(), BTreeMap::new());
    while let Some((place, title, result)) = results.next().await {
        match result {
            Ok(artifacts) => {
                observer.note(&format!("{title} {}", told(&artifacts)));
                resolved.insert(place, artifacts);
            }
            Err(whats) => {
                let each = whats.into_iter().map(|what| Problem { artifact: title.clone(), what });
                problems.insert(place, each.collect::<Vec<_>>());
            }
        }
    }
    drop(results);
    if !problems.is_empty() {
        let problems = problems.into_values().flatten().collect();
        return Err(LockError::Problems { problems });
    }
    let mut artifacts: Vec<_> = resolved.into_values().flatten().collect();
    artifacts.sort_by(|left, right| key(left).cmp(&key(right)));
    check_same(&artifacts)?;
    images::check(fetcher, definition, request.folder, &artifacts).await?;
    Ok(finish(request, artifacts))
}

fn key(artifact: &LockedArtifact) -> impl Ord + '_ {
    let LockedArtifact { kind, name, platform, entry, .. } = artifact;
    (kind, name, platform, entry)
}

fn told(artifacts: &[LockedArtifact]) -> String {
    match artifacts {
        [only] => only.digest.clone(),
        several => format!("{} packages", several.len()),
    }
}

fn check_names(request: &LockRequest<'_>) -> Result<(), LockError> {
    let artifacts = request.definition.artifacts.iter().map(|artifact| &artifact.name);
    let names: Vec<_> =
        artifacts.chain(request.definition.packages.iter().map(|set| &set.name)).collect();
    let unknown: Vec<_> =
        request.update.iter().filter(|name| !names.contains(name)).cloned().collect();
    if unknown.is_empty() { Ok(()) } else { Err(LockError::Unknown { names: unknown }) }
}

/// Two sets may bring the same package, but not two versions of it.
fn check_same(artifacts: &[LockedArtifact]) -> Result<(), LockError> {
    let mut problems = Vec::new();
    for pair in artifacts.windows(2) {
        let (left, right) = (&pair[0], &pair[1]);
        let id = |one: &LockedArtifact| (one.kind.clone(), one.name.clone(), one.platform.clone());
        if id(left) != id(right) || (left.kind == "package" && left.digest == right.digest) {
            continue;
        }
        let version = |one: &LockedArtifact| one.version.clone().unwrap_or_default();
        problems.push(Problem {
            artifact: format!("{} `{}`", left.kind, left.name),
            what: format!(
                "it comes twice and not the same: {} {} and {} {}",
                version(left),
                left.uri,
                version(right),
                right.uri
            ),
        });
    }
    if problems.is_empty() { Ok(()) } else { Err(LockError::Problems { problems }) }
}

fn finish(request: &LockRequest<'_>, artifacts: Vec<LockedArtifact>) -> BundleLock {
    let definition = request.definition;
    let mut lock = BundleLock {
        name: definition.name.clone(),
        version: definition.version.clone(),
        definition: definition_digest(definition).to_string(),
        created: render_time(request.now),
        parameters: definition.parameters.clone(),
        artifacts,
    };
    if let Some(old) = request.old {
        let created = std::mem::replace(&mut lock.created, old.created.clone());
        if lock != *old {
            lock.created = created;
        }
    }
    lock
}

/// RFC 3339 in UTC, to the second.
pub(crate) fn render_time(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    moment::render(i64::try_from(since).unwrap_or(i64::MAX))
}

/// What an earlier lock resolved, by entry.
struct OldLock<'a> {
    artifacts: BTreeMap<&'a str, Vec<&'a LockedArtifact>>,
    update: &'a [String],
}

impl<'a> OldLock<'a> {
    fn of(request: &LockRequest<'a>) -> Self {
        let mut artifacts: BTreeMap<&str, Vec<&LockedArtifact>> = BTreeMap::new();
        for artifact in request.old.into_iter().flat_map(|old| &old.artifacts) {
            artifacts.entry(&artifact.entry).or_default().push(artifact);
        }
        Self { artifacts, update: request.update }
    }

    fn artifact(&self, artifact: &ArtifactDefinition) -> Option<&'a LockedArtifact> {
        if artifact.source.is_local() || self.update.contains(&artifact.name) {
            return None;
        }
        let entry = self.artifacts.get(artifact_entry(artifact).as_str())?;
        entry.iter().copied().find(|known| {
            (&known.kind, &known.name, &known.platform)
                == (&artifact.kind, &artifact.name, &artifact.platform)
        })
    }

    fn set(&self, set: &PackageSet) -> Vec<&'a LockedArtifact> {
        if self.update.contains(&set.name) {
            return Vec::new();
        }
        self.artifacts.get(set_entry(set).as_str()).cloned().unwrap_or_default()
    }
}

/// Something to resolve, with what it was resolved to before.
enum Task<'a> {
    Artifact(&'a ArtifactDefinition, Option<&'a LockedArtifact>),
    Set(&'a PackageSet, Vec<&'a LockedArtifact>),
}

impl Task<'_> {
    fn title(&self) -> String {
        match self {
            Self::Artifact(artifact, _) => match &artifact.platform {
                Some(platform) => format!("{} `{}` {platform}", artifact.kind, artifact.name),
                None => format!("{} `{}`", artifact.kind, artifact.name),
            },
            Self::Set(set, _) => format!("packages `{}` {}", set.name, set.platform),
        }
    }

    async fn resolve(
        &self,
        fetcher: &Fetcher,
        request: &LockRequest<'_>,
    ) -> Result<Vec<LockedArtifact>, Vec<String>> {
        match self {
            Self::Artifact(artifact, Some(known)) => {
                Ok(vec![resolve::described(artifact, (*known).clone())])
            }
            Self::Artifact(artifact, None) => {
                let resolved = resolve::artifact(fetcher, request.folder, artifact).await;
                resolved.map(|one| vec![one]).map_err(|what| vec![what])
            }
            Self::Set(set, known) if !known.is_empty() => {
                let roles = &set.roles;
                let kept = known
                    .iter()
                    .map(|one| LockedArtifact { roles: roles.clone(), ..(*one).clone() });
                Ok(kept.collect())
            }
            Self::Set(set, _) => resolve::packages(fetcher, request.folder, set, request.now).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339_says() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(render_time(time), text);
        }
    }
}
