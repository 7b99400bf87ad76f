//! OCI image layouts on this machine, folders and tars, and the way from a reference to blobs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use kdc_bundles::index::Digest;
use serde::Deserialize;

use crate::content::Content;

/// Largest index, manifest or configuration read, 4 MiB, as registries limit them too.
const MAX_METADATA: u64 = 4 * 1024 * 1024;

/// Indexes inside indexes followed.
const MAX_DEPTH: usize = 4;

/// Members of a layout's tar read.
const MAX_MEMBERS: usize = 100_000;

const REFERENCE: &str = "org.opencontainers.image.ref.name";

/// An image as a layout describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Media type of the manifest.
    pub media_type: String,
    /// Manifest, configuration, layers, each once, in that order.
    pub blobs: Vec<(Digest, u64)>,
}

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

#[derive(Deserialize)]
struct OciIndex {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize, Clone)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

impl Platform {
    fn text(&self) -> String {
        let variant = self.variant.as_ref().map(|variant| format!("/{variant}"));
        format!("{}/{}{}", self.os, self.architecture, variant.unwrap_or_default())
    }

    /// `linux/arm64` takes any variant; `linux/arm64/v8` only that one.
    fn fits(&self, wanted: &str) -> bool {
        wanted == self.text() || wanted == format!("{}/{}", self.os, self.architecture)
    }
}

impl Descriptor {
    fn is_index(&self) -> bool {
        self.media_type.contains("image.index") || self.media_type.contains("manifest.list")
    }

    fn is_manifest(&self) -> bool {
        self.media_type.contains("image.manifest")
            || self.media_type.contains("distribution.manifest.v2")
    }
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
            self.check_platform(&manifest.config, wanted)?;
        }
        let mut blobs: Vec<(Digest, u64)> = Vec::new();
        let all = [descriptor, &manifest.config].into_iter().chain(&manifest.layers);
        for part in all {
            match blobs.iter().find(|(known, _)| *known == part.digest) {
                None => blobs.push((part.digest.clone(), part.size)),
                Some((_, size)) if *size == part.size => {}
                Some(_) => return Err(format!("{} is listed with two sizes", part.digest)),
            }
        }
        Ok(Image { media_type: descriptor.media_type.clone(), blobs })
    }

    /// What an image says about itself counts, not what an index says about it.
    fn check_platform(&self, config: &Descriptor, wanted: &str) -> Result<(), String> {
        let found: Platform = parse(&self.metadata(config)?, config.digest.as_str())?;
        // Configurations often leave the variant out.
        let stem: Vec<_> = wanted.splitn(3, '/').take(2).collect();
        let fits = found.fits(wanted) || (found.variant.is_none() && found.fits(&stem.join("/")));
        if fits { Ok(()) } else { Err(format!("the image is for {}", found.text())) }
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

/// The one entry for `platform`; entries that are not images (attestations) don't count.
fn choose(entries: Vec<Descriptor>, platform: Option<&str>) -> Result<Descriptor, String> {
    let image = |entry: &Descriptor| entry.is_index() || entry.is_manifest();
    let fits = |entry: &Descriptor| match (&entry.platform, platform) {
        (Some(found), Some(wanted)) => found.fits(wanted),
        _ => true,
    };
    let has: Vec<_> = entries.iter().filter_map(|entry| entry.platform.as_ref()).collect();
    let has = has.iter().map(|platform| platform.text()).collect::<Vec<_>>().join(", ");
    let mut found: Vec<_> =
        entries.into_iter().filter(|entry| image(entry) && fits(entry)).collect();
    found.dedup_by(|left, right| left.digest == right.digest);
    let wanted = platform.unwrap_or("any platform");
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(_), false) => Err(format!(
            "there is more than one image for {wanted}; state `reference` and `platform` (there: \
             {has})"
        )),
        (None, _) => Err(format!("there is no image for {wanted} (there: {has})")),
    }
}

fn parse<T: for<'a> Deserialize<'a>>(bytes: &[u8], origin: &str) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("{origin} can't be read: {error}"))
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
