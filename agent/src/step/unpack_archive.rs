//! `UnpackArchive`: a tar from the bundle under a directory, every name checked.
//!
//! The tar is read to its end once, to check it and to learn what stands in the place of its members,
//! before anything is written. Compressed archives are refused.

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};

use super::{
    change::{Change, Context, StepError},
    snapshot::{PathState, digest_of, look, make_parents, put_file, restore},
};
use crate::host::{Attributes, Kind};

/// Most members of an archive.
const MAX_MEMBERS: usize = 20_000;

/// Most bytes of an archive, unpacked.
const MAX_BYTES: u64 = 8 * 1024 * 1024 * 1024;

/// An archive unpacked under a directory.
pub(crate) struct UnpackArchive<'a> {
    pub(crate) digest: &'a Digest,
    pub(crate) target: &'a str,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum Member {
    Directory { mode: u32 },
    File { mode: u32, digest: Digest },
    Link { target: String },
}

/// What stood there, by path, in the archive's order.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    paths: Vec<(String, Member, PathState)>,
}

/// Takes one checked member: its place, its header, its content.
type Each<'a> = &'a mut dyn FnMut(&str, &Header, &mut dyn Read) -> Result<(), StepError>;

impl UnpackArchive<'_> {
    fn refused(&self, what: impl std::fmt::Display) -> StepError {
        StepError::Refused {
            what: format!("archive {}: {what}", self.digest),
            hint: "build the bundle again from a well-formed archive".to_owned(),
        }
    }

    /// Hand every member to `each`, checked.
    fn walk(&self, context: &Context<'_>, each: Each<'_>) -> Result<(), StepError> {
        let read = |error: io::Error| self.refused(format_args!("cannot be read: {error}"));
        let mut content = context.blobs.open(self.digest)?;
        let mut magic = [0; 4];
        let mut filled = 0;
        while filled < 4 {
            match content.read(&mut magic[filled..]).map_err(read)? {
                0 => break,
                count => filled += count,
            }
        }
        if magic.starts_with(&[0x1f, 0x8b]) || magic == [0x28, 0xb5, 0x2f, 0xfd] {
            return Err(self.refused("is compressed; this build unpacks plain tar"));
        }
        let whole = (&magic[..filled]).chain(content).take(MAX_BYTES);
        let mut archive = tar::Archive::new(whole);
        for (count, entry) in archive.entries().map_err(read)?.enumerate() {
            let mut entry = entry.map_err(read)?;
            if count >= MAX_MEMBERS {
                return Err(self.refused(format_args!("has more than {MAX_MEMBERS} members")));
            }
            let header = self.header_of(&entry)?;
            let Some(path) = self.place(&header.name)? else { continue };
            each(&path, &header, &mut entry)?;
        }
        // Read on to the end: that is where the blob's digest is checked.
        io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop).map_err(read)
    }

    fn header_of<R: Read>(&self, entry: &tar::Entry<'_, R>) -> Result<Header, StepError> {
        let utf8 = |bytes: &[u8]| {
            String::from_utf8(bytes.to_vec())
                .map_err(|_| self.refused("has a name that is no UTF-8"))
        };
        let name = utf8(&entry.path_bytes())?;
        let mode = entry.header().mode().unwrap_or(0o644) & 0o755;
        let kind = match entry.header().entry_type() {
            tar::EntryType::Regular => Kind::File,
            tar::EntryType::Directory => Kind::Directory,
            tar::EntryType::Symlink => Kind::Link,
            other => {
                return Err(
                    self.refused(format_args!("`{name}` is a {other:?}, which is not taken"))
                );
            }
        };
        let target = entry.link_name_bytes().map(|bytes| utf8(&bytes)).transpose()?;
        let target = target.unwrap_or_default();
        let climbs = target.starts_with('/') || target.split('/').any(|part| part == "..");
        if kind == Kind::Link && (climbs || target.is_empty()) {
            return Err(self.refused(format_args!("link `{name}` points to `{target}`, outside")));
        }
        Ok(Header { name, mode, kind, target })
    }

    /// Where a member goes; `None` for the archive's own root.
    fn place(&self, name: &str) -> Result<Option<String>, StepError> {
        let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        let bad = name.starts_with('/') || name.contains('\0') || name.len() > 4096;
        if bad || parts.contains(&"..") {
            return Err(self.refused(format_args!("`{name}` would lie outside")));
        }
        let target = self.target.trim_end_matches('/');
        Ok((!parts.is_empty()).then(|| format!("{target}/{}", parts.join("/"))))
    }

    /// No parent of `path` below the target may be a link.
    fn check_parents(&self, context: &Context<'_>, path: &str) -> Result<(), StepError> {
        let mut directory = crate::host::parent(path);
        while directory.len() > self.target.trim_end_matches('/').len() {
            if context.host.stat(directory)?.is_some_and(|stat| stat.kind == Kind::Link) {
                return Err(self.refused(format_args!("{directory} is a link on this node")));
            }
            directory = crate::host::parent(directory);
        }
        Ok(())
    }
}

/// A member's checked header.
struct Header {
    name: String,
    mode: u32,
    kind: Kind,
    target: String,
}

impl Change for UnpackArchive<'_> {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        let mut paths: BTreeMap<String, usize> = BTreeMap::new();
        let mut list = Vec::new();
        self.walk(context, &mut |path, header, content| {
            let member = match header.kind {
                Kind::Directory => Member::Directory { mode: header.mode },
                Kind::Link => Member::Link { target: header.target.clone() },
                Kind::File | Kind::Other => Member::File {
                    mode: header.mode,
                    digest: digest_of(content).map_err(|error| self.refused(error))?,
                },
            };
            if paths.insert(path.to_owned(), list.len()).is_some() {
                return Err(self.refused(format_args!("`{}` is in it twice", header.name)));
            }
            self.check_parents(context, path)?;
            list.push((path.to_owned(), member, look(context, path)?));
            Ok(())
        })?;
        Ok(Before { paths: list })
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        before.paths.iter().all(|(_, member, state)| match (member, state) {
            (Member::File { mode, digest }, state) => state.is_file(digest, *mode),
            (Member::Directory { .. }, PathState::Directory { .. }) => true,
            (Member::Link { target }, PathState::Link { target: found }) => target == found,
            _ => false,
        })
    }

    fn apply(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let host = context.host;
        self.walk(context, &mut |path, header, content| {
            self.check_parents(context, path)?;
            let was = before.paths.iter().find(|(known, ..)| known == path).map(|(_, _, was)| was);
            match header.kind {
                Kind::Directory if matches!(was, Some(PathState::Directory { .. })) => Ok(()),
                Kind::Directory => {
                    make_parents(host, path)?;
                    Ok(host.make_directory(path, Attributes::root(header.mode))?)
                }
                Kind::Link => {
                    make_parents(host, path)?;
                    Ok(host.make_link(path, &header.target)?)
                }
                Kind::File | Kind::Other => put_file(host, path, content, header.mode),
            }
        })
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        for (path, _, state) in before.paths.iter().rev() {
            restore(context, path, state)?;
        }
        Ok(())
    }

    fn summary(&self) -> String {
        format!("unpack {} under {}", &self.digest.hex()[..12], self.target)
    }

    fn detail(&self, before: &Before) -> String {
        format!("writes up to {} paths under {}", before.paths.len(), self.target)
    }
}
