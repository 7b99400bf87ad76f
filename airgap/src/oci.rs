//! OCI documents, as far as they are followed: index, manifest, descriptor, platform. The same rules
//! hold for a layout on disk and for a registry.

use std::collections::BTreeMap;

use kdc_bundles::index::Digest;
use serde::Deserialize;

/// Largest index, manifest or configuration read, 4 MiB, as registries limit them too.
pub(crate) const MAX_METADATA: u64 = 4 * 1024 * 1024;

/// Indexes inside indexes followed.
pub(crate) const MAX_DEPTH: usize = 4;

/// An image: what a manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Media type of the manifest.
    pub media_type: String,
    /// Manifest, configuration, layers, each once, in that order.
    pub blobs: Vec<(Digest, u64)>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct OciIndex {
    pub(crate) manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize, Clone)]
pub(crate) struct Platform {
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
    pub(crate) fn is_index(&self) -> bool {
        self.media_type.contains("image.index") || self.media_type.contains("manifest.list")
    }

    pub(crate) fn is_manifest(&self) -> bool {
        self.media_type.contains("image.manifest")
            || self.media_type.contains("distribution.manifest.v2")
    }
}

/// The one entry for `platform`; entries that are not images (attestations) don't count.
pub(crate) fn choose(
    entries: Vec<Descriptor>,
    platform: Option<&str>,
) -> Result<Descriptor, String> {
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

/// What an image says about itself counts, not what an index says about it.
pub(crate) fn check_platform(config: &[u8], digest: &Digest, wanted: &str) -> Result<(), String> {
    let found: Platform = parse(config, digest.as_str())?;
    // Configurations often leave the variant out.
    let stem: Vec<_> = wanted.splitn(3, '/').take(2).collect();
    let fits = found.fits(wanted) || (found.variant.is_none() && found.fits(&stem.join("/")));
    if fits { Ok(()) } else { Err(format!("the image is for {}", found.text())) }
}

/// The image that a manifest describes.
pub(crate) fn image(descriptor: &Descriptor, manifest: &Manifest) -> Result<Image, String> {
    let mut blobs: Vec<(Digest, u64)> = Vec::new();
    let all = [descriptor, &manifest.config].into_iter().chain(&manifest.layers);
    for part in all {
        if part.media_type.contains("foreign") || part.media_type.contains("nondistributable") {
            return Err(format!(
                "layer {} is a `{}`: its maker doesn't let registries pass it on",
                part.digest, part.media_type
            ));
        }
        match blobs.iter().find(|(known, _)| *known == part.digest) {
            None => blobs.push((part.digest.clone(), part.size)),
            Some((_, size)) if *size == part.size => {}
            Some(_) => return Err(format!("{} is listed with two sizes", part.digest)),
        }
    }
    Ok(Image { media_type: descriptor.media_type.clone(), blobs })
}

pub(crate) fn parse<T: for<'a> Deserialize<'a>>(bytes: &[u8], origin: &str) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("{origin} can't be read: {error}"))
}
