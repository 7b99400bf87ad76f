//! `ImportImages`: each image goes to containerd as a stream; no archive is written.
//!
//! The stream is a tar of an OCI layout, made on the fly from the blobs in this node's store:
//! `oci-layout`, `index.json` with the image's name, and its blobs. The bytes of each blob are proved
//! while they pass; a wrong one ends the stream before its end, and containerd takes nothing.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
};

use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};

use super::{
    ImageSource,
    change::{BlobSource, Change, Context, StepError},
    containerd::{answers, ctr},
};
use crate::host::Host;

/// Keeps an image from the kubelet's garbage collection.
const PIN: &str = "io.cri-containerd.pinned=pinned";

/// Largest manifest that is read.
const MAX_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;

/// Images in containerd.
pub(crate) struct ImportImages<'a> {
    pub(crate) images: &'a [ImageSource],
}

/// An image as containerd lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Listed {
    digest: String,
    pinned: bool,
}

/// What stood there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    /// Those of the wanted names that were there; `None` where containerd did not answer.
    images: Option<BTreeMap<String, Listed>>,
}

/// What containerd has, by name.
fn list(host: &dyn Host) -> Result<BTreeMap<String, Listed>, StepError> {
    Ok(parse_list(&host.run_checked(&ctr(["images", "list"]))?.text()))
}

/// Columns `REF TYPE DIGEST SIZE PLATFORMS LABELS`.
fn parse_list(text: &str) -> BTreeMap<String, Listed> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let digest = fields.iter().skip(1).find(|field| field.starts_with("sha256:"))?;
        let labels = fields.last()?;
        let pinned = labels.split(',').any(|label| label == PIN);
        Some(((*fields.first()?).to_owned(), Listed { digest: (*digest).to_owned(), pinned }))
    };
    text.lines().skip(1).filter_map(parse).collect()
}

/// Name under which an image that we replace is kept, so that its content is not collected.
fn kept_name(name: &str) -> String {
    format!("kdc.invalid/before/{}:kept", &Digest::of(name.as_bytes()).hex()[..16])
}

impl ImportImages<'_> {
    fn is_there(image: &ImageSource, listed: &BTreeMap<String, Listed>) -> bool {
        listed
            .get(&image.name)
            .is_some_and(|found| found.pinned && found.digest == image.manifest.as_str())
    }

    fn import(context: &Context<'_>, image: &ImageSource) -> Result<(), StepError> {
        let layout = Layout::of(image, context.blobs)?;
        let blobs = context.blobs;
        let program = ctr(["images", "import", "-"]).within_secs(1800);
        let mut feed = |pipe: &mut dyn Write| layout.write(pipe, blobs);
        context.host.stream(&program, &mut feed, &mut |_| ())?.checked(&program)?;
        context.host.run_checked(&ctr(["images", "label", &image.name, PIN]))?;
        Ok(())
    }
}

impl Change for ImportImages<'_> {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        if !answers(context.host)? {
            return Ok(Before { images: None });
        }
        let mut listed = list(context.host)?;
        listed.retain(|name, _| self.images.iter().any(|image| image.name == *name));
        Ok(Before { images: Some(listed) })
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        let Some(listed) = &before.images else { return false };
        self.images.iter().all(|image| Self::is_there(image, listed))
    }

    fn apply(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let host = context.host;
        let listed = list(host)?;
        let empty = BTreeMap::new();
        let was = before.images.as_ref().unwrap_or(&empty);
        for image in self.images.iter().filter(|image| !Self::is_there(image, &listed)) {
            let kept = kept_name(&image.name);
            if was.get(&image.name).is_some_and(|found| found.digest != image.manifest.as_str())
                && !listed.contains_key(&kept)
            {
                host.run_checked(&ctr(["images", "tag", &image.name, &kept]))?;
            }
            context.say(&format!("importing {}", image.name));
            Self::import(context, image)?;
        }
        let now = list(host)?;
        match self.images.iter().find(|image| !Self::is_there(image, &now)) {
            None => Ok(()),
            Some(image) => Err(StepError::Refused {
                what: format!("containerd does not list {} as {}", image.name, image.manifest),
                hint: "see `ctr -n k8s.io images list` and `journalctl -u containerd`".to_owned(),
            }),
        }
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let host = context.host;
        let Some(was) = &before.images else { return Ok(()) };
        if !answers(host)? {
            // Its whole state goes with its package, or it was stopped by hand: then say so.
            context.say("containerd does not answer; its images stay as they are");
            return Ok(());
        }
        let listed = list(host)?;
        for image in self.images {
            let name = image.name.as_str();
            match (was.get(name), listed.get(name)) {
                (None, Some(_)) => {
                    host.run_checked(&ctr(["images", "remove", "--sync", name]))?;
                }
                (Some(old), Some(now)) if old.digest == now.digest && !old.pinned && now.pinned => {
                    host.run_checked(&ctr(["images", "label", name, "io.cri-containerd.pinned="]))?;
                }
                (Some(old), now) if now.is_none_or(|now| now.digest != old.digest) => {
                    let kept = kept_name(name);
                    host.run_checked(&ctr(["images", "tag", "--force", &kept, name]))?;
                    host.run_checked(&ctr(["images", "remove", &kept]))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn summary(&self) -> String {
        format!("import {} images", self.images.len())
    }

    fn detail(&self, before: &Before) -> String {
        let empty = BTreeMap::new();
        let listed = before.images.as_ref().unwrap_or(&empty);
        let missing: Vec<&str> = self
            .images
            .iter()
            .filter(|image| !Self::is_there(image, listed))
            .map(|image| image.name.as_str())
            .collect();
        format!("imports {}", missing.join(", "))
    }
}

/// One image as an OCI layout.
struct Layout {
    index: Vec<u8>,
    blobs: Vec<(Digest, u64)>,
}

impl Layout {
    fn of(image: &ImageSource, blobs: &dyn BlobSource) -> Result<Self, StepError> {
        let format = |reason: String| StepError::Format {
            what: format!("the manifest of {}", image.name),
            reason,
        };
        let size = blobs.size(&image.manifest)?;
        if size > MAX_MANIFEST_BYTES {
            return Err(format(format!("it has {size} bytes")));
        }
        let mut manifest = Vec::new();
        blobs
            .open(&image.manifest)?
            .read_to_end(&mut manifest)
            .map_err(|error| format(error.to_string()))?;
        let manifest: serde_json::Value =
            serde_json::from_slice(&manifest).map_err(|error| format(error.to_string()))?;
        let media_type = manifest
            .get("mediaType")
            .and_then(serde_json::Value::as_str)
            .unwrap_or("application/vnd.oci.image.manifest.v1+json");
        let index = serde_json::json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": media_type,
                "digest": image.manifest,
                "size": size,
                "annotations": {
                    "io.containerd.image.name": image.name,
                    "org.opencontainers.image.ref.name": image.name,
                },
            }],
        });
        let mut members = Vec::new();
        for digest in &image.blobs {
            if !members.iter().any(|(known, _)| known == digest) {
                members.push((digest.clone(), blobs.size(digest)?));
            }
        }
        Ok(Self { index: index.to_string().into_bytes(), blobs: members })
    }

    fn write(&self, pipe: &mut dyn Write, blobs: &dyn BlobSource) -> io::Result<()> {
        const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
        let mut archive = tar::Builder::new(io::BufWriter::with_capacity(256 * 1024, pipe));
        append(&mut archive, "oci-layout", LAYOUT.len() as u64, LAYOUT)?;
        append(&mut archive, "index.json", self.index.len() as u64, &self.index[..])?;
        for (digest, size) in &self.blobs {
            let content = blobs.open(digest).map_err(io::Error::other)?;
            append(&mut archive, &format!("blobs/sha256/{}", digest.hex()), *size, content)?;
        }
        archive.into_inner()?.flush()
    }
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    name: &str,
    size: u64,
    mut content: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    archive.append_data(&mut header, name, (&mut content).take(size))?;
    // One more read: the reader's own check comes at its end.
    match content.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::Error::other(format!("{name} is longer than the index says"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_containerd_is_understood() {
        let text = "REF TYPE DIGEST SIZE PLATFORMS LABELS\n\
            k8s.gcr.io/pause:3.2 application/vnd.oci.image.manifest.v1+json sha256:aa 1.2 MiB \
            linux/amd64 io.cri-containerd.image=managed,io.cri-containerd.pinned=pinned\n\
            docker.io/lab/x:1 application/vnd.oci.image.manifest.v1+json sha256:bb 3 KiB \
            linux/amd64 -\n";
        let listed = parse_list(text);
        let entry = |digest: &str, pinned| Listed { digest: digest.to_owned(), pinned };
        assert_eq!(listed.get("k8s.gcr.io/pause:3.2"), Some(&entry("sha256:aa", true)));
        assert_eq!(listed.get("docker.io/lab/x:1"), Some(&entry("sha256:bb", false)));
    }
}
