//! The other passes: hash, sign, write.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use kdc_bundles::{
    index::{Artifact, Blob, Digest, INDEX_VERSION, Index, PIECE_SIZE},
    keys::KeyId,
    parts::{Split, Written},
    signing::Signer,
    write::{hash_blob, write_file, write_parts},
};
use kdc_profiles::{definition::BundleDefinition, lock::BundleLock};

use crate::{
    cache::Cache,
    content::Content,
    document::{self, Origin},
    lock::{check_local, definition_digest, plan_locked},
    plan::{Part, Planned, Statement, plan},
    problem::{CreateError, Problem, chain},
};

/// What takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Bringing what is elsewhere into the cache.
    Fetching,
    /// Reading and hashing the inputs.
    Hashing,
    /// Writing the bundle.
    Writing,
    /// Comparing new blobs with old ones.
    Comparing,
    /// Proving what was written.
    Verifying,
}

/// Told how far it is.
pub trait Observer {
    /// A pass over that many bytes begins.
    fn started(&mut self, work: Work, total_bytes: u64);
    /// That many more bytes are done.
    fn bytes(&mut self, done_bytes: u64);
    /// The pass is over.
    fn finished(&mut self, work: Work);
    /// Something worth a line happened.
    fn note(&mut self, _text: &str) {}
}

/// Tells nobody.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Observer for Silent {
    fn started(&mut self, _: Work, _: u64) {}
    fn bytes(&mut self, _: u64) {}
    fn finished(&mut self, _: Work) {}
}

/// Where the bundle goes: one file, or parts named after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output<'p> {
    /// The file, or what the names of the parts begin with.
    pub path: &'p Path,
    /// How to split it, if it is to be split.
    pub split: Option<Split>,
}

impl<'p> From<&'p Path> for Output<'p> {
    fn from(path: &'p Path) -> Self {
        Self { path, split: None }
    }
}

impl<'p> From<&'p PathBuf> for Output<'p> {
    fn from(path: &'p PathBuf) -> Self {
        path.as_path().into()
    }
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
    /// The parts, where it was split.
    pub parts: Option<Written>,
    /// Digest of the index: the bundle's identity.
    pub digest: Digest,
    /// The keys that signed.
    pub signers: Vec<KeyId>,
}

/// Builds the bundle that `definition` describes; its paths are relative to `folder`, and folders in
/// it are packed into `cache`. `created` is the time in the documents
/// ([`crate::document::created_from`]). The same definition, inputs, time and keys give the same bytes.
/// `output` appears whole, or not at all.
///
/// # Errors
/// Every problem with the definition and its inputs at once, or why nothing could be written.
pub fn create<'p>(
    definition: &BundleDefinition,
    folder: &Path,
    cache: Option<&Cache>,
    output: impl Into<Output<'p>>,
    key: &dyn Signer,
    created: &str,
    observer: &mut dyn Observer,
) -> Result<Summary, CreateError> {
    let planned = plan(definition, folder, cache)?;
    let problems = check_local(definition, folder);
    if !problems.is_empty() {
        return Err(CreateError::Problems { problems });
    }
    let head = Head {
        name: &definition.name,
        version: &definition.version,
        parameters: &definition.parameters,
        origin: Origin {
            created: created.to_owned(),
            definition: definition_digest(definition),
            lock: None,
        },
    };
    build(&head, &planned, cache, output.into(), key, observer)
}

/// Builds the bundle that `lock` names, from the cache and from files below `folder`. The same lock
/// and key give the same bytes, anywhere and any time. `output` appears whole, or not at all.
///
/// # Errors
/// Everything that is missing or not what the lock says, at once, or why nothing could be written.
pub fn create_locked<'p>(
    lock: &BundleLock,
    folder: &Path,
    cache: &Cache,
    output: impl Into<Output<'p>>,
    key: &dyn Signer,
    observer: &mut dyn Observer,
) -> Result<Summary, CreateError> {
    let planned = plan_locked(lock, folder, cache)?;
    let definition = lock.definition.parse().map_err(|error| CreateError::Problems {
        problems: vec![Problem { artifact: "the lock".to_owned(), what: format!("{error}") }],
    })?;
    let head = Head {
        name: &lock.name,
        version: &lock.version,
        parameters: &lock.parameters,
        origin: Origin {
            created: lock.created.clone(),
            definition,
            lock: Some(Digest::of(lock.to_text().as_bytes())),
        },
    };
    build(&head, &planned, Some(cache), output.into(), key, observer)
}

/// What the index says of the bundle itself.
struct Head<'a> {
    name: &'a str,
    version: &'a str,
    parameters: &'a BTreeMap<String, String>,
    origin: Origin,
}

fn build(
    head: &Head<'_>,
    planned: &[Planned],
    cache: Option<&Cache>,
    output: Output<'_>,
    key: &dyn Signer,
    observer: &mut dyn Observer,
) -> Result<Summary, CreateError> {
    let mut hashed = hash(planned, cache, observer)?;
    let documents = write_documents(head, planned, &hashed)?;
    hashed.extend(hash(&documents.planned, None, &mut Silent)?);
    let all: Vec<&Planned> = planned.iter().chain(&documents.planned).collect();
    let index = build_index(head, &all, &hashed);
    index.check().map_err(|source| CreateError::Index { source })?;
    let contents: BTreeMap<&Digest, &Part> =
        hashed.iter().map(|(_, (blob, part))| (&blob.digest, *part)).collect();
    observer.started(Work::Writing, index.content_bytes());
    let open = |digest: &Digest| {
        let part = contents.get(digest).copied().ok_or(std::io::ErrorKind::NotFound)?;
        part.content.open(part.whole_file)
    };
    let Output { path, split } = output;
    let bytes = &mut |done| observer.bytes(done);
    let written = match split {
        None => write_file(path, &index, key, open, bytes).map(|length| (length, None)),
        Some(split) => write_parts(path, &index, key, split, open, bytes)
            .map(|parts| (parts.bundle_bytes, Some(parts))),
    };
    let (file_bytes, parts) = written.map_err(|source| CreateError::Write { source })?;
    observer.finished(Work::Writing);
    Ok(Summary {
        name: index.name.clone(),
        version: index.bundle_version.clone(),
        artifacts: index.artifacts.len(),
        blobs: index.blobs.len(),
        content_bytes: index.content_bytes(),
        file_bytes,
        parts,
        digest: Digest::of(&index.to_bytes()),
        signers: key.ids(),
    })
}

/// The documents about what was planned, in files that live as long as the value.
fn write_documents(
    head: &Head<'_>,
    planned: &[Planned],
    hashed: &Hashed<'_>,
) -> Result<document::Written, CreateError> {
    let Head { name, version, origin, .. } = head;
    let item = |one| document::Item::read(one, root(one, hashed));
    let mut items: Vec<_> = planned.iter().map(item).collect();
    document::write(document::Subject { name, version, origin }, &mut items)
        .map_err(|source| CreateError::Document { source })
}

/// Digest of the content itself, or of an image's manifest.
fn root<'h>(one: &Planned, hashed: &'h Hashed<'_>) -> &'h Digest {
    &hashed[&one.parts[0].content].0.digest
}

/// Every distinct content with its blob.
type Hashed<'p> = BTreeMap<&'p Content, (Blob, &'p Part)>;

fn hash<'p>(
    planned: &'p [Planned],
    cache: Option<&Cache>,
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
            Some((blob, _)) => check_stated(part, blob, cache),
            None => hash_part(part, observer).and_then(|blob| {
                let result = check_stated(part, &blob, cache);
                hashed.insert(&part.content, (blob, part));
                result
            }),
        };
        if let Err(what) = result {
            failed.insert(&part.content);
            problems.push(Problem { artifact: one.title(), what });
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

/// What a layout or a lock names by digest has to have it.
fn check_stated(part: &Part, blob: &Blob, cache: Option<&Cache>) -> Result<(), String> {
    let path = part.content.path.display();
    let Some((stated, by)) = part.stated.as_ref().filter(|(stated, _)| *stated != blob.digest)
    else {
        return Ok(());
    };
    let found = &blob.digest;
    match by {
        Statement::Layout => {
            Err(format!("`{path}` is damaged: it has {found}, its name says {stated}"))
        }
        Statement::Lock => Err(format!(
            "`{path}` has {found}, the lock says {stated}; if it was changed on purpose, run \
             `kdc-install bundle lock`"
        )),
        Statement::Cache => {
            // Thrown away, so that the next run brings it again.
            let removed = cache.map(|cache| cache.remove(stated));
            let then = match removed {
                Some(Err(error)) => format!("it can't be removed: {}", chain(&error)),
                _ => "it was removed; run the same command again".to_owned(),
            };
            Err(format!("`{path}` is damaged: it has {found}, the lock says {stated}; {then}"))
        }
    }
}

fn build_index(head: &Head<'_>, planned: &[&Planned], hashed: &Hashed<'_>) -> Index {
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
        name: head.name.to_owned(),
        bundle_version: head.version.to_owned(),
        piece_size: PIECE_SIZE,
        parameters: head.parameters.clone(),
        artifacts,
        blobs: blobs.into_values().cloned().collect(),
    }
}

fn build_artifact(one: &Planned, hashed: &Hashed<'_>) -> Artifact {
    let mut blobs: Vec<Digest> = Vec::new();
    for part in &one.parts {
        let digest = &hashed[&part.content].0.digest;
        if !blobs.contains(digest) {
            blobs.push(digest.clone());
        }
    }
    Artifact {
        name: one.name.clone(),
        kind: one.kind,
        platform: one.platform.clone(),
        version: one.version.clone(),
        media_type: one.media_type.clone(),
        digest: blobs[0].clone(),
        blobs,
        roles: one.roles.clone(),
        unpack_to: one.unpack_to.clone(),
        licence: one.licence.clone(),
        source: one.source.clone(),
    }
}
