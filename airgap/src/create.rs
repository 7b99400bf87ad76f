//! The other passes: hash, sign, write.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use kdc_bundles::{
    index::{Artifact, Blob, Digest, INDEX_VERSION, Index, PIECE_SIZE},
    keys::KeyId,
    signing::SigningKey,
    write::{hash_blob, write_file},
};
use kdc_profiles::definition::{BundleDefinition, Source};

use crate::{
    content::Content,
    plan::{Part, Planned, plan},
    problem::{CreateError, Problem},
};

/// What takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Reading and hashing the inputs.
    Hashing,
    /// Writing the bundle.
    Writing,
}

/// Told how far it is.
pub trait Observer {
    /// A pass over that many bytes begins.
    fn started(&mut self, work: Work, total_bytes: u64);
    /// That many more bytes are done.
    fn bytes(&mut self, done_bytes: u64);
    /// The pass is over.
    fn finished(&mut self, work: Work);
}

/// Tells nobody.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Observer for Silent {
    fn started(&mut self, _: Work, _: u64) {}
    fn bytes(&mut self, _: u64) {}
    fn finished(&mut self, _: Work) {}
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The bundle's name.
    pub name: String,
    /// The bundle's version.
    pub version: String,
    /// Number of artifacts.
    pub artifacts: usize,
    /// Number of distinct blobs.
    pub blobs: usize,
    /// Bytes of all blobs.
    pub content_bytes: u64,
    /// Length of the file.
    pub file_bytes: u64,
    /// Digest of the index: the bundle's identity.
    pub digest: Digest,
    /// The key that signed.
    pub signer: KeyId,
}

/// Builds the bundle that `definition` describes; its paths are relative to `folder`. The same
/// definition, inputs and key give the same bytes. `output` appears whole, or not at all.
///
/// # Errors
/// Every problem with the definition and its inputs at once, or why nothing could be written.
pub fn create(
    definition: &BundleDefinition,
    folder: &Path,
    output: &Path,
    key: &SigningKey,
    observer: &mut dyn Observer,
) -> Result<Summary, CreateError> {
    let planned = plan(definition, folder)?;
    let hashed = hash(&planned, observer)?;
    let index = build_index(definition, &planned, &hashed);
    index.check().map_err(|source| CreateError::Index { source })?;
    let contents: BTreeMap<&Digest, &Part> =
        hashed.iter().map(|(_, (blob, part))| (&blob.digest, *part)).collect();
    observer.started(Work::Writing, index.content_bytes());
    let open = |digest: &Digest| {
        let part = contents.get(digest).copied().ok_or(std::io::ErrorKind::NotFound)?;
        part.content.open(part.whole_file)
    };
    let file_bytes = write_file(output, &index, key, open, &mut |done| observer.bytes(done))
        .map_err(|source| CreateError::Write { source })?;
    observer.finished(Work::Writing);
    Ok(Summary {
        name: index.name.clone(),
        version: index.bundle_version.clone(),
        artifacts: index.artifacts.len(),
        blobs: index.blobs.len(),
        content_bytes: index.content_bytes(),
        file_bytes,
        digest: Digest::of(&index.to_bytes()),
        signer: key.public().id(),
    })
}

/// Every distinct content with its blob.
type Hashed<'p> = BTreeMap<&'p Content, (Blob, &'p Part)>;

fn hash<'p>(
    planned: &'p [Planned<'_>],
    observer: &mut dyn Observer,
) -> Result<Hashed<'p>, CreateError> {
    let parts = || planned.iter().flat_map(|one| one.parts.iter().map(move |part| (one, part)));
    let distinct: BTreeSet<&Content> = parts().map(|(_, part)| &part.content).collect();
    observer.started(Work::Hashing, distinct.iter().map(|content| content.size).sum());
    let (mut hashed, mut problems, mut failed) = (Hashed::new(), Vec::new(), BTreeSet::new());
    for (one, part) in parts() {
        if failed.contains(&part.content) {
            continue;
        }
        let result = match hashed.get(&part.content) {
            Some((blob, _)) => check_stated(part, blob),
            None => hash_part(part, observer).and_then(|blob| {
                let result = check_stated(part, &blob);
                hashed.insert(&part.content, (blob, part));
                result
            }),
        };
        if let Err(what) = result {
            failed.insert(&part.content);
            let artifact = format!("{} `{}`", one.definition.kind, one.definition.name);
            problems.push(Problem { artifact, what });
        }
    }
    observer.finished(Work::Hashing);
    if problems.is_empty() { Ok(hashed) } else { Err(CreateError::Problems { problems }) }
}

fn hash_part(part: &Part, observer: &mut dyn Observer) -> Result<Blob, String> {
    let content = part.content.open(part.whole_file).map_err(|error| error.to_string())?;
    let blob = hash_blob(content, PIECE_SIZE, &mut |done| observer.bytes(done))
        .map_err(|error| error.to_string())?;
    if blob.size == part.content.size {
        return Ok(blob);
    }
    Err(format!("`{}` changed its size while it was read", part.content.path.display()))
}

/// A layout names its blobs by digest; what it names so has to have it.
fn check_stated(part: &Part, blob: &Blob) -> Result<(), String> {
    let path = part.content.path.display();
    match &part.stated {
        Some(stated) if *stated != blob.digest => {
            Err(format!("`{path}` is damaged: it has {}, its name says {stated}", blob.digest))
        }
        _ => Ok(()),
    }
}

fn build_index(
    definition: &BundleDefinition,
    planned: &[Planned<'_>],
    hashed: &Hashed<'_>,
) -> Index {
    let mut artifacts: Vec<_> = planned.iter().map(|one| build_artifact(one, hashed)).collect();
    artifacts.sort_by(|left, right| {
        let key =
            |artifact: &Artifact| (artifact.kind, artifact.name.clone(), artifact.platform.clone());
        key(left).cmp(&key(right))
    });
    let blobs: BTreeMap<&Digest, &Blob> =
        hashed.values().map(|(blob, _)| (&blob.digest, blob)).collect();
    Index {
        version: INDEX_VERSION,
        name: definition.name.clone(),
        bundle_version: definition.version.clone(),
        piece_size: PIECE_SIZE,
        parameters: definition.parameters.clone(),
        artifacts,
        blobs: blobs.into_values().cloned().collect(),
    }
}

fn build_artifact(one: &Planned<'_>, hashed: &Hashed<'_>) -> Artifact {
    let mut blobs: Vec<Digest> = Vec::new();
    for part in &one.parts {
        let digest = &hashed[&part.content].0.digest;
        if !blobs.contains(digest) {
            blobs.push(digest.clone());
        }
    }
    let definition = one.definition;
    Artifact {
        name: definition.name.clone(),
        kind: one.kind,
        platform: definition.platform.clone(),
        version: definition.version.clone(),
        media_type: one.media_type.clone(),
        digest: blobs[0].clone(),
        blobs,
        roles: definition.roles.clone(),
        unpack_to: definition.unpack_to.clone(),
        licence: definition.licence.clone(),
        source: shown_source(&definition.source),
    }
}

/// The source as the definition says it, but never a place on the builder's machine.
fn shown_source(source: &Source) -> Option<String> {
    let relative = |path: &Path| {
        let name = || path.file_name().map(|name| name.to_string_lossy().into_owned());
        if path.is_absolute() { name() } else { Some(path.display().to_string()) }
    };
    match source {
        Source::Path(path) => relative(path),
        Source::Oci { layout, reference } => {
            let layout = relative(layout)?;
            Some(reference.as_ref().map_or(layout.clone(), |name| format!("{layout}#{name}")))
        }
        Source::Url { url, .. } => Some(url.clone()),
        Source::Registry { image, .. } => Some(image.clone()),
    }
}
