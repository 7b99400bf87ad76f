//! From a lock to the content of a bundle: nothing is looked for, everything is stated.

use std::path::Path;

use kdc_bundles::index::Digest;
use kdc_profiles::lock::{BundleLock, LockedArtifact};

use crate::{
    cache::Cache,
    content::Content,
    folder,
    plan::{Layouts, Part, Planned, Statement, check_name, layout_part, parse_kind, relative},
    problem::{CreateError, Problem},
};

/// Finds the content of every artifact.
pub(crate) fn plan_locked(
    lock: &BundleLock,
    folder: &Path,
    cache: &Cache,
) -> Result<Vec<Planned>, CreateError> {
    let mut planner = Planner { folder, cache, layouts: Layouts::default() };
    let (mut planned, mut problems) = (Vec::<Planned>::new(), Vec::new());
    for artifact in &lock.artifacts {
        match planner.artifact(artifact) {
            Ok(one) => match planned.last_mut().filter(|last| is_same(last, &one)) {
                Some(last) => merge_roles(last, &one.roles),
                None => planned.push(one),
            },
            Err(what) => {
                let title = format!("{} `{}`", artifact.kind, artifact.name);
                problems.push(Problem { artifact: title, what });
            }
        }
    }
    if problems.is_empty() { Ok(planned) } else { Err(CreateError::Problems { problems }) }
}

/// A package that two sets need; that it is the same one has been checked when the lock was read.
fn is_same(left: &Planned, right: &Planned) -> bool {
    let id = |one: &Planned| (one.kind, one.name.clone(), one.platform.clone());
    id(left) == id(right) && left.parts[0].stated == right.parts[0].stated
}

/// Who needs either needs both; no roles are all.
fn merge_roles(one: &mut Planned, roles: &[String]) {
    if one.roles.is_empty() || roles.is_empty() {
        one.roles.clear();
        return;
    }
    for role in roles {
        if !one.roles.contains(role) {
            one.roles.push(role.clone());
        }
    }
    one.roles.sort();
}

struct Planner<'a> {
    folder: &'a Path,
    cache: &'a Cache,
    layouts: Layouts,
}

impl Planner<'_> {
    fn artifact(&mut self, locked: &LockedArtifact) -> Result<Planned, String> {
        let kind = parse_kind(&locked.kind).ok_or("its kind is unknown")?;
        check_name(&locked.name)?;
        let parts = self.parts(locked)?;
        Ok(Planned {
            kind,
            name: locked.name.clone(),
            platform: locked.platform.clone(),
            version: locked.version.clone(),
            roles: locked.roles.clone(),
            unpack_to: locked.unpack_to.clone(),
            licence: locked.licence.clone(),
            source: source(&locked.uri),
            uri: (!is_here(&locked.uri)).then(|| locked.uri.clone()),
            media_type: locked.media_type.clone(),
            parts,
        })
    }

    fn parts(&mut self, locked: &LockedArtifact) -> Result<Vec<Part>, String> {
        let digest = |text: &str| text.parse::<Digest>().map_err(|error| error.to_string());
        let root = digest(&locked.digest)?;
        if let Some(path) = locked.uri.strip_prefix("path:") {
            let path = self.folder.join(path);
            return Ok(vec![part(path, root, locked.size, Statement::Lock)?]);
        }
        if let Some(path) = locked.uri.strip_prefix("folder:") {
            let (found, size) = folder::pack(self.cache, &self.folder.join(path))?;
            if found != root {
                return Err(format!(
                    "the folder `{path}` has {found} ({size} bytes), the lock says {root}; if it \
                     was changed on purpose, run `kdc-install bundle lock`"
                ));
            }
        }
        let mut blobs = vec![(root, locked.size)];
        for blob in &locked.blobs {
            blobs.push((digest(&blob.digest)?, blob.size));
        }
        if let Some(place) = locked.uri.strip_prefix("layout:") {
            let path = place.split_once('#').map_or(place, |(path, _)| path);
            let layout = self.layouts.open(self.folder.join(path))?;
            let parts = blobs.into_iter().map(|(digest, size)| layout_part(layout, digest, size));
            return parts.collect();
        }
        let cached = |(digest, size)| {
            if !self.cache.has(&digest, Some(size)) {
                return Err(format!(
                    "the cache lacks {digest}; create without --offline fetches it"
                ));
            }
            part(self.cache.path(&digest), digest, size, Statement::Cache)
        };
        blobs.into_iter().map(cached).collect()
    }
}

fn part(
    path: std::path::PathBuf,
    digest: Digest,
    size: u64,
    by: Statement,
) -> Result<Part, String> {
    let content = Content::file(path)?;
    if content.size != size {
        let (path, found) = (content.path.display(), content.size);
        return Err(format!(
            "`{path}` has {found} bytes, the lock says {size}; if it was changed on purpose, run \
             `kdc-install bundle lock`"
        ));
    }
    Ok(Part { content, whole_file: true, stated: Some((digest, by)) })
}

/// What addresses on the builder's machine begin with.
const HERE: [&str; 4] = ["path:", "folder:", "layout:", "file:"];

fn is_here(uri: &str) -> bool {
    HERE.iter().any(|scheme| uri.starts_with(scheme))
}

/// Where it came from, for people; never a place on the builder's machine.
fn source(uri: &str) -> Option<String> {
    for scheme in HERE {
        if let Some(place) = uri.strip_prefix(scheme) {
            let (path, name) = place.split_once('#').map_or((place, None), |(p, n)| (p, Some(n)));
            let path = relative(Path::new(path))?;
            return Some(name.map_or(path.clone(), |name| format!("{path}#{name}")));
        }
    }
    Some(uri.strip_prefix("oci://").unwrap_or(uri).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_without_the_builders_places() {
        for (uri, told) in [
            ("path:bin/x", "bin/x"),
            ("path:/home/me/bin/x", "x"),
            ("layout:images#a:1", "images#a:1"),
            ("folder:/home/me/f", "f"),
            ("file:///home/me/x.deb", "x.deb"),
            ("oci://docker.io/a/b:1", "docker.io/a/b:1"),
            ("https://x/y", "https://x/y"),
        ] {
            assert_eq!(source(uri).as_deref(), Some(told));
        }
    }
}
