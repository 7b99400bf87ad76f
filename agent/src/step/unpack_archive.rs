//! `UnpackArchive`: an archive from the bundle below a directory, journalled path by path.
//!
//! The archive is read to its end once, which proves it and tells what stands in the place of its
//! members, before anything is written. What it unpacks is then proved again file by file: a file is
//! in place whole and as first seen, or not at all. Nothing that somebody else put there is replaced:
//! undo has only to remove what is new.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
};

use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    archive::{self, MemberKind, refusal},
    change::{Change, Context, StepError},
    snapshot::{PathState, digest_of, make_parents, missing_parents, put_file, restore},
};
use crate::host::{Attributes, Host, HostError, Kind, parent};

/// An archive unpacked below a directory.
pub(crate) struct UnpackArchive<'a> {
    pub(crate) digest: &'a Digest,
    pub(crate) target: &'a str,
}

/// What a path gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum Wanted {
    Directory { mode: u32 },
    File { mode: u32, digest: Digest },
    Link { target: String },
}

/// What stood there, by path, in the archive's order.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    paths: Vec<(String, Wanted, PathState)>,
}

impl Wanted {
    /// Is that there already? A directory may have any mode and owner: it may not be ours alone.
    fn is(&self, state: &PathState) -> bool {
        match (self, state) {
            (Self::File { mode, digest }, state) => state.is_file(digest, *mode),
            (Self::Directory { .. }, PathState::Directory { .. }) => true,
            (Self::Link { target }, PathState::Link { target: found }) => target == found,
            _ => false,
        }
    }

    /// The kind and mode of a member, without the digest, which only reading it gives.
    fn fits(&self, kind: &MemberKind) -> bool {
        match (self, kind) {
            (Self::Directory { mode }, MemberKind::Directory { mode: found })
            | (Self::File { mode, .. }, MemberKind::File { mode: found }) => mode == found,
            (Self::Link { target }, MemberKind::Link { target: found }) => target == found,
            _ => false,
        }
    }
}

impl UnpackArchive<'_> {
    fn path_of(&self, member: &str) -> String {
        format!("{}/{member}", self.target.trim_end_matches('/'))
    }

    /// No parent of `path` below the target may be anything but a directory: a link could lead out.
    fn check_parents(&self, host: &dyn Host, path: &str) -> Result<(), StepError> {
        let target = self.target.trim_end_matches('/');
        let mut directory = parent(path);
        while directory.len() > target.len() && directory != "/" {
            if host.stat(directory)?.is_some_and(|stat| stat.kind != Kind::Directory) {
                return Err(in_the_way(directory, "is no folder on this node"));
            }
            directory = parent(directory);
        }
        Ok(())
    }
}

fn in_the_way(path: &str, what: &str) -> StepError {
    StepError::Refused {
        what: format!("{path} {what}; kdc does not replace what it did not put there"),
        hint: format!(
            "move {path} away, or take back the run that put it there (`kdc-install undo`); then \
             apply again"
        ),
    }
}

/// What lies at a path. Nothing need be kept for undo: what is there already is not replaced.
fn look(host: &dyn Host, path: &str) -> Result<PathState, StepError> {
    let Some(stat) = host.stat(path)? else {
        return Ok(PathState::Missing { parents: missing_parents(host, path)? });
    };
    match stat.kind {
        Kind::File => {
            let mut file: Box<dyn Read> = host.open(path)?.unwrap_or_else(|| Box::new(io::empty()));
            let digest = digest_of(&mut file).map_err(|source| HostError::File {
                action: "read",
                path: path.to_owned(),
                source,
            })?;
            Ok(PathState::File { attributes: stat.attributes, digest })
        }
        Kind::Link => Ok(PathState::Link { target: host.read_link(path)? }),
        Kind::Directory => {
            Ok(PathState::Directory { attributes: stat.attributes, names: Vec::new() })
        }
        Kind::Other => Err(in_the_way(path, "is a device, socket or pipe")),
    }
}

/// A member's content, which fails at its end if it is not what was seen the first time.
struct Proved<'c> {
    content: &'c mut dyn Read,
    hasher: Sha256,
    wanted: &'c Digest,
}

impl Read for Proved<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        let ended = count == 0 && !buffer.is_empty();
        if ended && Digest::from_bytes(&self.hasher.clone().finalize().into()) != *self.wanted {
            return Err(io::Error::other("the archive changed while it was unpacked"));
        }
        Ok(count)
    }
}

impl Change for UnpackArchive<'_> {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        let host = context.host;
        let mut paths = Vec::new();
        let content = context.blobs.open(self.digest)?;
        archive::walk(self.digest, content, &mut |member, content| {
            let wanted = match &member.kind {
                MemberKind::Directory { mode } => Wanted::Directory { mode: *mode },
                MemberKind::Link { target } => Wanted::Link { target: target.clone() },
                MemberKind::File { mode } => {
                    let digest = digest_of(content).map_err(|error| {
                        refusal(self.digest, &format!("cannot be read: {error}"))
                    })?;
                    Wanted::File { mode: *mode, digest }
                }
            };
            let path = self.path_of(&member.path);
            self.check_parents(host, &path)?;
            let state = look(host, &path)?;
            if !state.is_missing() && !wanted.is(&state) {
                return Err(in_the_way(&path, "is there already, and other than in the archive"));
            }
            paths.push((path, wanted, state));
            Ok(())
        })?;
        Ok(Before { paths })
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        before.paths.iter().all(|(_, wanted, state)| wanted.is(state))
    }

    fn apply(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let host = context.host;
        let known: BTreeMap<&str, (&Wanted, &PathState)> =
            before.paths.iter().map(|(path, want, was)| (path.as_str(), (want, was))).collect();
        let content = context.blobs.open(self.digest)?;
        archive::walk(self.digest, content, &mut |member, content| {
            let path = self.path_of(&member.path);
            let Some((wanted, was)) =
                known.get(path.as_str()).filter(|(w, _)| w.fits(&member.kind))
            else {
                return Err(refusal(self.digest, "changed since it was looked at"));
            };
            if !was.is_missing() {
                return Ok(());
            }
            self.check_parents(host, &path)?;
            match wanted {
                Wanted::Directory { mode } => {
                    make_parents(host, &path)?;
                    Ok(host.make_directory(&path, Attributes::root(*mode))?)
                }
                Wanted::Link { target } => {
                    make_parents(host, &path)?;
                    Ok(host.make_link(&path, target)?)
                }
                Wanted::File { mode, digest } => {
                    let mut proved = Proved { content, hasher: Sha256::new(), wanted: digest };
                    put_file(host, &path, &mut proved, *mode)
                }
            }
        })
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let mut directories = BTreeSet::new();
        for (path, wanted, was) in before.paths.iter().rev() {
            let PathState::Missing { parents } = was else { continue };
            directories.extend(parents.iter().map(String::as_str));
            if matches!(wanted, Wanted::Directory { .. }) {
                directories.insert(path);
            } else {
                restore(context, path, &PathState::Missing { parents: Vec::new() })?;
            }
        }
        // A folder sorts before what is in it.
        for directory in directories.into_iter().rev() {
            if !context.host.remove_directory(directory)? {
                context.say(&format!("{directory} is not empty; it stays"));
            }
        }
        Ok(())
    }

    fn summary(&self) -> String {
        format!("unpack {} below {}", &self.digest.hex()[..12], self.target)
    }

    fn detail(&self, before: &Before) -> String {
        let new = before.paths.iter().filter(|(.., was)| was.is_missing()).count();
        format!("creates {new} files, folders and links below {}", self.target)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::{
        host::fake::FakeHost,
        step::change::{BlobError, BlobSource, Keep, Values},
        wire::SecretText,
    };

    /// One blob; keeps nothing, since this step has nothing to keep.
    struct Only(Vec<u8>);

    impl BlobSource for Only {
        fn open(&self, _: &Digest) -> Result<Box<dyn Read + Send>, BlobError> {
            Ok(Box::new(Cursor::new(self.0.clone())))
        }

        fn size(&self, _: &Digest) -> Result<u64, BlobError> {
            Ok(self.0.len() as u64)
        }
    }

    impl Values for Only {
        fn get(&self, _: &str) -> Result<Option<SecretText>, HostError> {
            Ok(None)
        }
    }

    impl Keep for Only {
        fn keep(&self, _: &Digest, _: &mut dyn Read) -> Result<(), StepError> {
            panic!("nothing is replaced, so nothing is kept")
        }

        fn kept(&self, _: &Digest) -> Result<Box<dyn Read + '_>, StepError> {
            panic!("nothing was kept")
        }
    }

    fn archive(tool: &str) -> Only {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, content) in [("bin/tool", tool), ("share/doc/tool", "read me")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            archive.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        Only(archive.into_inner().unwrap())
    }

    fn with<T>(
        host: &FakeHost,
        blob: &Only,
        work: impl FnOnce(UnpackArchive<'_>, &Context<'_>) -> T,
    ) -> T {
        let digest = Digest::of(&blob.0);
        let step = UnpackArchive { digest: &digest, target: "/usr/local" };
        work(step, &Context::new(host, blob, blob, blob, &|_| ()))
    }

    #[test]
    fn what_somebody_else_put_there_is_neither_replaced_nor_written_through() {
        for (plant, expected) in [
            ("/usr/local/bin/tool", "is there already, and other"),
            ("/usr/local/bin/tool/x", "is there already, and other"),
            ("/usr/local/share", "is no folder on this node"),
        ] {
            let host = FakeHost::debian();
            host.plant(plant, "theirs");
            let tree = host.tree();
            let error = with(&host, &archive("ours"), |step, context| step.probe(context).err());
            let error = error.expect(plant);
            assert!(error.to_string().contains(expected), "{error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("move ")), "{error:?}");
            assert_eq!(host.tree(), tree);
        }
        let host = FakeHost::debian();
        host.make_link("/usr/local/share", "/etc").unwrap();
        let error = with(&host, &archive("ours"), |step, context| step.probe(context).err());
        assert!(error.unwrap().to_string().contains("is no folder on this node"));
    }

    #[test]
    fn undo_takes_what_is_new_and_leaves_what_was_found_or_came_later() {
        let host = FakeHost::debian();
        host.plant("/usr/local/bin/tool", "ours");
        host.set_attributes("/usr/local/bin/tool", Attributes::root(0o755)).unwrap();
        let tree = host.tree();
        with(&host, &archive("ours"), |step, context| {
            let before = step.probe(context).unwrap();
            assert!(!step.is_satisfied_by(&before));
            step.apply(context, &before).unwrap();
            assert!(step.is_satisfied_by(&step.probe(context).unwrap()));
            host.plant("/usr/local/share/doc/later", "");
            step.undo(context, &before).unwrap();
            assert!(host.stat("/usr/local/share/doc/later").unwrap().is_some());
            host.remove("/usr/local/share/doc/later").unwrap();
            step.undo(context, &before).unwrap();
        });
        assert_eq!(host.tree(), tree);
    }

    #[test]
    fn content_other_than_at_the_first_look_is_not_put_in_place() {
        let host = FakeHost::debian();
        let before = with(&host, &archive("good"), |step, context| step.probe(context)).unwrap();
        let tree = host.tree();
        let error = with(&host, &archive("evil"), |step, context| step.apply(context, &before));
        assert!(matches!(error, Err(StepError::Host(HostError::File { .. }))), "{error:?}");
        assert_eq!(host.tree(), tree);
    }
}
