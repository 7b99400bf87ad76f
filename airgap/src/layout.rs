//! OCI image layouts on this machine, folders and tars, and the way from a reference to blobs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use kdc_bundles::index::Digest;
use serde::Deserialize;

use crate::{
    content::Content,
    oci::{
        Descriptor, MAX_DEPTH, MAX_METADATA, Manifest, OciIndex, check_platform, choose, image,
        parse,
    },
};

/// Members of a layout's tar read.
const MAX_MEMBERS: usize = 100_000;

const REFERENCE: &str = "org.opencontainers.image.ref.name";

pub use crate::oci::Image;

/// A layout that is open for reading.
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
    /// Of a tar: where each member lies. Of a folder: nothing, the file system knows.
    members: Option<BTreeMap<String, Content>>,
}

#[derive(Deserialize)]
struct LayoutFile {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

impl Layout {
    /// Opens a layout, folder or tar.
    ///
    /// # Errors
    /// In words, when there is none of a version that is understood.
    pub fn open(path: &Path) -> Result<Self, String> {
        let metadata = fs_err::metadata(path).map_err(|error| error.to_string())?;
        let members = if metadata.is_dir() { None } else { Some(list_tar(path)?) };
        let layout = Self { path: path.to_owned(), members };
        let marker: LayoutFile = layout.json("oci-layout")?;
        if marker.version != "1.0.0" {
            let (path, version) = (path.display(), marker.version);
            return Err(format!("the OCI layout `{path}` has version {version:?}, not 1.0.0"));
        }
        Ok(layout)
    }

    /// The image called `reference` (or the only one) for `platform`.
    ///
    /// # Errors
    /// In words, when it is not there, not unique, for another platform, or damaged.
    pub fn find(&self, reference: Option<&str>, platform: Option<&str>) -> Result<Image, String> {
        let index: OciIndex = self.json("index.json")?;
        let fits = |descriptor: &&Descriptor| {
            reference.is_none_or(|name| {
                descriptor.annotations.get(REFERENCE).is_some_and(|found| found == name)
            })
        };
        let found: Vec<_> = index.manifests.iter().filter(fits).cloned().collect();
        if found.is_empty() {
            return Err(self.not_there(reference, &index.manifests));
        }
        let descriptor = choose(found, platform)?;
        self.follow(&descriptor, platform, MAX_DEPTH)
    }

    fn not_there(&self, reference: Option<&str>, all: &[Descriptor]) -> String {
        let mut names: Vec<_> =
            all.iter().filter_map(|entry| entry.annotations.get(REFERENCE)).collect();
        names.dedup();
        let more = names.len().saturating_sub(5);
        names.truncate(5);
        let mut listed: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
        if more > 0 {
            listed.push(format!("{more} more"));
        }
        let path = self.path.display();
        let wanted = reference.map_or("image".to_owned(), |name| format!("image `{name}`"));
        format!("the OCI layout `{path}` has no {wanted}; it has: {}", listed.join(", "))
    }

    fn follow(
        &self,
        descriptor: &Descriptor,
        platform: Option<&str>,
        depth: usize,
    ) -> Result<Image, String> {
        let digest = &descriptor.digest;
        let bytes = self.metadata(descriptor)?;
        if descriptor.is_index() {
            if depth == 0 {
                return Err(format!("indexes are nested more than {MAX_DEPTH} deep at {digest}"));
            }
            let index: OciIndex = parse(&bytes, digest.as_str())?;
            let chosen = choose(index.manifests, platform)?;
            return self.follow(&chosen, platform, depth - 1);
        }
        if !descriptor.is_manifest() {
            return Err(format!("{digest} is a `{}`, not an image", descriptor.media_type));
        }
        let manifest: Manifest = parse(&bytes, digest.as_str())?;
        if let Some(wanted) = platform {
            let config = &manifest.config;
            check_platform(&self.metadata(config)?, &config.digest, wanted)?;
        }
        image(descriptor, &manifest)
    }

    /// The small document that a descriptor points at, proved against it.
    fn metadata(&self, descriptor: &Descriptor) -> Result<Vec<u8>, String> {
        let Descriptor { digest, size, .. } = descriptor;
        let bytes = self.content(digest)?.read_small(MAX_METADATA)?;
        let found = Digest::of(&bytes);
        if found != *digest || bytes.len() as u64 != *size {
            let path = self.path.display();
            return Err(format!(
                "the OCI layout `{path}` is damaged: {digest} ({size} bytes) has digest {found} \
                 and {} bytes",
                bytes.len()
            ));
        }
        Ok(bytes)
    }

    fn json<T: for<'a> Deserialize<'a>>(&self, name: &str) -> Result<T, String> {
        let bytes = self.member(name)?.read_small(MAX_METADATA)?;
        parse(&bytes, &format!("`{name}` in `{}`", self.path.display()))
    }

    /// Where a blob lies; that it is the blob is for the reader to check.
    pub(crate) fn content(&self, digest: &Digest) -> Result<Content, String> {
        self.member(&format!("blobs/sha256/{}", digest.hex()))
    }

    fn member(&self, name: &str) -> Result<Content, String> {
        let missing = || format!("the OCI layout `{}` has no `{name}`", self.path.display());
        match &self.members {
            Some(members) => members.get(name).cloned().ok_or_else(missing),
            None => {
                let path = self.path.join(name);
                if !path.exists() {
                    return Err(missing());
                }
                Content::file(path)
            }
        }
    }

    /// Whether the layout is one file, of which blobs are stretches.
    pub(crate) fn is_tar(&self) -> bool {
        self.members.is_some()
    }
}

fn list_tar(path: &Path) -> Result<BTreeMap<String, Content>, String> {
    let wrong = |error: std::io::Error| {
        format!(
            "`{}` is neither a folder nor a plain tar of an OCI layout: {error}",
            path.display()
        )
    };
    let file = fs_err::File::open(path).map_err(|error| error.to_string())?;
    let mut archive = tar::Archive::new(file);
    let mut members = BTreeMap::new();
    for entry in archive.entries_with_seek().map_err(wrong)? {
        let entry = entry.map_err(wrong)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path().map_err(wrong)?.to_string_lossy().into_owned();
        let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
        let (start, size) = (entry.raw_file_position(), entry.size());
        if members.len() == MAX_MEMBERS {
            return Err(format!("`{}` has more than {MAX_MEMBERS} members", path.display()));
        }
        members.insert(name, Content { path: path.to_owned(), start, size });
    }
    Ok(members)
}
