//! What lay at a path before, and how to put it back exactly.

use std::io::Read;

use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::change::{Context, StepError};
use crate::host::{Attributes, Host, HostError, Kind, parent};

/// What lay at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "was", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum PathState {
    /// Nothing, and these of its parents were missing too, outermost first.
    Missing { parents: Vec<String> },
    /// A file; its content is kept beside the journal.
    File { attributes: Attributes, digest: Digest },
    /// A link.
    Link { target: String },
    /// A directory with these names in it.
    Directory { attributes: Attributes, names: Vec<String> },
}

impl PathState {
    /// A file with exactly this content and mode, owned by root.
    pub(crate) fn is_file(&self, wanted: &Digest, mode: u32) -> bool {
        matches!(self, Self::File { attributes, digest }
            if digest == wanted && *attributes == Attributes::root(mode))
    }

    /// Nothing is there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }

    /// What writing a file there would do, in words.
    pub(crate) fn write_detail(&self, path: &str) -> String {
        match self {
            Self::Missing { .. } => format!("creates {path}"),
            Self::File { .. } => format!("replaces {path}"),
            Self::Link { target } => format!("replaces the link {path} to {target}"),
            Self::Directory { .. } => format!("{path} is a directory and in the way"),
        }
    }
}

/// Digest of all that `content` yields.
pub(crate) fn digest_of(content: &mut dyn Read) -> std::io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match content.read(&mut buffer)? {
            0 => return Ok(Digest::from_bytes(&hasher.finalize().into())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// Parents of `path` that are missing, outermost first.
pub(crate) fn missing_parents(host: &dyn Host, path: &str) -> Result<Vec<String>, HostError> {
    let mut missing = Vec::new();
    let mut directory = parent(path);
    while directory != "/" && host.stat(directory)?.is_none() {
        missing.push(directory.to_owned());
        directory = parent(directory);
    }
    missing.reverse();
    Ok(missing)
}

/// Look at a path, and have a file's content kept.
pub(crate) fn look(context: &Context<'_>, path: &str) -> Result<PathState, StepError> {
    let host = context.host;
    let Some(stat) = host.stat(path)? else {
        return Ok(PathState::Missing { parents: missing_parents(host, path)? });
    };
    match stat.kind {
        Kind::File => {
            let Some(mut file) = host.open(path)? else {
                return Ok(PathState::Missing { parents: Vec::new() });
            };
            let digest = digest_of(&mut file).map_err(|source| HostError::File {
                action: "read",
                path: path.to_owned(),
                source,
            })?;
            context.keep_file(path, &digest);
            Ok(PathState::File { attributes: stat.attributes, digest })
        }
        Kind::Link => Ok(PathState::Link { target: host.read_link(path)? }),
        Kind::Directory => {
            let names = host.list(path)?.unwrap_or_default();
            Ok(PathState::Directory { attributes: stat.attributes, names })
        }
        Kind::Other => Err(StepError::Refused {
            what: format!("{path} is a device, socket or pipe"),
            hint: format!("move {path} away, then resume"),
        }),
    }
}

/// Make the missing parents of `path`, mode 0755, as root.
pub(crate) fn make_parents(host: &dyn Host, path: &str) -> Result<(), HostError> {
    for directory in missing_parents(host, path)? {
        host.make_directory(&directory, Attributes::root(0o755))?;
    }
    Ok(())
}

/// Write a file, with its parents.
pub(crate) fn put_file(
    host: &dyn Host,
    path: &str,
    content: &mut dyn Read,
    mode: u32,
) -> Result<(), StepError> {
    if matches!(host.stat(path)?, Some(stat) if stat.kind == Kind::Directory) {
        return Err(StepError::Refused {
            what: format!("{path} should be a file and is a directory"),
            hint: format!("move {path} away, then resume"),
        });
    }
    make_parents(host, path)?;
    Ok(host.write_from(path, content, Attributes::root(mode))?)
}

/// Put a path back to what it was. Parents that were missing go if they are empty.
pub(crate) fn restore(
    context: &Context<'_>,
    path: &str,
    state: &PathState,
) -> Result<(), StepError> {
    let host = context.host;
    host.remove_scratch(path)?;
    match state {
        PathState::Missing { parents } => {
            match host.stat(path)? {
                Some(stat) if stat.kind == Kind::Directory => {
                    if !host.remove_directory(path)? {
                        context.say(&format!("{path} is not empty; it stays"));
                    }
                }
                _ => host.remove(path)?,
            }
            remove_parents(context, parents)
        }
        PathState::File { attributes, digest } => {
            if !is_same_file(host, path, *attributes, digest)? {
                make_parents(host, path)?;
                host.write_from(path, &mut context.keep.kept(digest)?, *attributes)?;
            }
            Ok(())
        }
        PathState::Link { target } => {
            make_parents(host, path)?;
            Ok(host.make_link(path, target)?)
        }
        PathState::Directory { attributes, .. } => {
            make_parents(host, path)?;
            Ok(host.make_directory(path, *attributes)?)
        }
    }
}

/// Remove directories that were missing, innermost first, as far as they are empty.
pub(crate) fn remove_parents(context: &Context<'_>, parents: &[String]) -> Result<(), StepError> {
    for directory in parents.iter().rev() {
        if !context.host.remove_directory(directory)? {
            context.say(&format!("{directory} is not empty; it stays"));
            break;
        }
    }
    Ok(())
}

/// A directory that only we fill: put it back to missing, or to the names that were in it.
/// Whatever carries one of those names is not touched.
pub(crate) fn restore_owned_directory(
    context: &Context<'_>,
    path: &str,
    state: &PathState,
) -> Result<(), StepError> {
    let host = context.host;
    match state {
        PathState::Missing { parents } => {
            host.remove_tree(path)?;
            remove_parents(context, parents)
        }
        PathState::Directory { attributes, names } => {
            for name in host.list(path)?.unwrap_or_default() {
                if !names.contains(&name) {
                    host.remove_tree(&format!("{path}/{name}"))?;
                }
            }
            make_parents(host, path)?;
            Ok(host.make_directory(path, *attributes)?)
        }
        PathState::File { .. } | PathState::Link { .. } => restore(context, path, state),
    }
}

fn is_same_file(
    host: &dyn Host,
    path: &str,
    attributes: Attributes,
    digest: &Digest,
) -> Result<bool, StepError> {
    let same = matches!(host.stat(path)?,
        Some(stat) if stat.kind == Kind::File && stat.attributes == attributes);
    if !same {
        return Ok(false);
    }
    let Some(mut file) = host.open(path)? else { return Ok(false) };
    Ok(digest_of(&mut file).is_ok_and(|found| found == *digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        host::SystemHost,
        step::change::{BlobError, BlobSource, Keep, Values},
        wire::SecretText,
    };

    /// Nothing sent, nothing provided, nothing kept.
    struct Nothing;

    impl BlobSource for Nothing {
        fn open(&self, _: &Digest) -> Result<Box<dyn Read + Send>, BlobError> {
            panic!("no blob is needed")
        }

        fn size(&self, _: &Digest) -> Result<u64, BlobError> {
            panic!("no blob is needed")
        }
    }

    impl Values for Nothing {
        fn get(&self, _: &str) -> Result<Option<SecretText>, HostError> {
            Ok(None)
        }
    }

    impl Keep for Nothing {
        fn keep(&self, _: &Digest, _: &mut dyn Read) -> Result<(), StepError> {
            Ok(())
        }

        fn kept(&self, _: &Digest) -> Result<Box<dyn Read + '_>, StepError> {
            panic!("what is as before is not written again")
        }
    }

    /// A power cut between the half of the new content and its name, then `undo` without a resume.
    #[test]
    fn undo_of_a_file_that_was_only_half_written_leaves_nothing_beside_it() {
        for before in [None, Some("old")] {
            let root = tempfile::tempdir().unwrap();
            let host = SystemHost::at(root.path());
            if let Some(content) = before {
                fs_err::write(root.path().join("tool"), content).unwrap();
            }
            let context = Context::new(&host, &Nothing, &Nothing, &Nothing, &|_| ());
            let state = look(&context, "/tool").unwrap();
            fs_err::write(root.path().join(".kdc-tool"), "ne").unwrap();
            restore(&context, "/tool", &state).unwrap();
            let left = host.list("/").unwrap().unwrap();
            assert_eq!(left, before.map(|_| "tool").into_iter().collect::<Vec<_>>());
        }
    }
}
