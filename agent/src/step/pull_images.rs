//! `PullImages`: containerd pulls each image by its name from this node's own registry.
//!
//! It pulls as it would for a pod: through CRI, by its `hosts.toml`, from the registry on loopback
//! that the agent serves out of the store. So the layers are unpacked once and their compressed form
//! is kept once, in the store: containerd lets its own copy go (`discard_unpacked_layers`), and this
//! step has it collected as it goes along, so that the peak stays low. What was pulled has to have
//! the manifest that was signed, and is pinned.

use std::collections::{BTreeMap, BTreeSet};

use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};

use super::{
    ImageSource,
    change::{Change, Context, StepError},
    containerd::{SOCKET, answers, ctr},
    systemd::systemctl,
};
use crate::{
    daemon::{self, registry::Served},
    host::{Host, Program},
    image_name::ImageName,
};

/// Keeps an image from the kubelet's garbage collection.
const PIN: &str = "io.cri-containerd.pinned=pinned";

/// A name that is there only to be removed: containerd collects what it does not need any more when
/// it is asked to remove an image and to wait.
const COLLECT: &str = "kdc.invalid/collect:now";

/// So much may wait in containerd to be collected.
const MOST_WAITING_BYTES: u64 = 32 * 1024 * 1024;

/// Images in containerd.
pub(crate) struct PullImages<'a> {
    /// Whose images the registry has to serve; plans of an older kdc did not say.
    pub(crate) index: Option<&'a Digest>,
    pub(crate) images: &'a [ImageSource],
}

/// An image as containerd lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Listed {
    digest: String,
    pinned: bool,
}

/// Every image by its name.
type List = BTreeMap<String, Listed>;

/// What stood there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    /// Every image that was there; `None` where containerd did not answer. Journals of an older kdc
    /// have only those of the wanted names.
    images: Option<List>,
}

/// What containerd has.
fn list(host: &dyn Host) -> Result<List, StepError> {
    Ok(parse_list(&host.run_checked(&ctr(["images", "list"]))?.text()))
}

/// Columns `REF TYPE DIGEST SIZE PLATFORMS LABELS`.
fn parse_list(text: &str) -> List {
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

/// An image under the name that containerd gives it.
struct Wanted<'a> {
    name: String,
    repository: String,
    source: &'a ImageSource,
}

impl Wanted<'_> {
    fn is_there(&self, listed: &List) -> bool {
        listed
            .get(&self.name)
            .is_some_and(|found| found.pinned && found.digest == self.source.manifest.as_str())
    }
}

impl PullImages<'_> {
    fn wanted(&self) -> impl Iterator<Item = Wanted<'_>> {
        self.images.iter().map(|source| match ImageName::parse(&source.name) {
            Some(name) => Wanted { name: name.to_string(), repository: name.repository(), source },
            // The registry has refused the index for it; under this name it is never there.
            None => Wanted { name: source.name.clone(), repository: String::new(), source },
        })
    }

    /// The registry serves our index, or has been started anew to do so.
    fn ensure_served(&self, context: &Context<'_>) -> Result<(), StepError> {
        let serves = |served: &Option<Served>| {
            served.as_ref().is_some_and(|served| {
                let ours = self.index.is_none_or(|index| served.index.as_ref() == Some(index));
                ours && served.failure.is_none()
            })
        };
        let host = context.host;
        let mut served = Served::read(host)?;
        if !serves(&served) {
            // An older daemon may run, or one that has yet to see its file.
            host.run_checked(&systemctl(["restart", "--", daemon::UNIT_NAME]))?;
            served = Served::read(host)?;
        }
        if serves(&served) {
            return Ok(());
        }
        let why = match served {
            None => "its daemon says nothing of a registry".to_owned(),
            Some(Served { failure: Some(failure), .. }) => failure,
            Some(Served { failure: None, .. }) => "it serves another bundle".to_owned(),
        };
        Err(StepError::Refused {
            what: format!("this node does not serve its own images: {why}"),
            hint: format!("see `journalctl -u {}`, then apply again", daemon::UNIT_NAME),
        })
    }

    fn pull(context: &Context<'_>, image: &Wanted<'_>) -> Result<(), StepError> {
        context.say(&format!("pulling {}", image.name));
        let endpoint = format!("unix://{SOCKET}");
        let program = Program::new("crictl")
            .args(["--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint])
            .args(["--timeout", "30m", "pull", &image.name])
            .within_secs(1860);
        context.host.run_checked(&program)?;
        context.host.run_checked(&ctr(["images", "label", &image.name, PIN]))?;
        Ok(())
    }

    /// Has containerd let go what it does not need any more, and waits for that.
    fn collect(&self, context: &Context<'_>) -> Result<(), StepError> {
        if let Some(any) = self.wanted().next() {
            context.host.run_checked(&ctr(["images", "tag", "--force", &any.name, COLLECT]))?;
            context.host.run_checked(&ctr(["images", "remove", "--sync", COLLECT]))?;
        }
        Ok(())
    }

    /// What CRI adds beside a name for the same content: by digest, and by the image's id. Not those
    /// that were there before.
    fn companions(&self, was: &List, listed: &List) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for image in self.wanted() {
            let mut digests = BTreeSet::from([image.source.manifest.as_str()]);
            if !was.contains_key(&image.name) {
                digests.extend(listed.get(&image.name).map(|found| found.digest.as_str()));
            }
            let ours = |(name, found): &(&String, &Listed)| {
                let by_digest = format!("{}@{}", image.repository, found.digest);
                digests.contains(found.digest.as_str())
                    && (name.starts_with("sha256:") || **name == by_digest)
                    && !was.contains_key(*name)
            };
            names.extend(listed.iter().filter(ours).map(|(name, _)| name.clone()));
        }
        names
    }
}

impl Change for PullImages<'_> {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        let there = answers(context.host)?;
        Ok(Before { images: if there { Some(list(context.host)?) } else { None } })
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        let Some(listed) = &before.images else { return false };
        self.wanted().all(|image| image.is_there(listed))
    }

    fn apply(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let host = context.host;
        let listed = list(host)?;
        let empty = List::new();
        let was = before.images.as_ref().unwrap_or(&empty);
        self.ensure_served(context)?;
        let mut waiting = 0;
        for image in self.wanted().filter(|image| !image.is_there(&listed)) {
            let kept = kept_name(&image.name);
            if was.get(&image.name).is_some_and(|old| old.digest != image.source.manifest.as_str())
                && !listed.contains_key(&kept)
            {
                host.run_checked(&ctr(["images", "tag", &image.name, &kept]))?;
            }
            Self::pull(context, &image)?;
            for blob in &image.source.blobs {
                waiting += context.blobs.size(blob)?;
            }
            if waiting > MOST_WAITING_BYTES {
                self.collect(context)?;
                waiting = 0;
            }
        }
        self.collect(context)?;
        let now = list(host)?;
        match self.wanted().find(|image| !image.is_there(&now)) {
            None => Ok(()),
            Some(Wanted { name, source, .. }) => Err(StepError::Refused {
                what: match now.get(&name) {
                    Some(found) if found.digest != source.manifest.as_str() => format!(
                        "{name} was pulled as {}, and signed as {}",
                        found.digest, source.manifest
                    ),
                    _ => format!("containerd does not list {name} as pinned"),
                },
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
        let mut surplus = self.companions(was, &listed);
        surplus.extend(listed.contains_key(COLLECT).then(|| COLLECT.to_owned()));
        for image in self.wanted() {
            let name = image.name.as_str();
            match (was.get(name), listed.get(name)) {
                (None, Some(_)) => {
                    surplus.insert(name.to_owned());
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
        if surplus.is_empty() {
            return Ok(());
        }
        let names = surplus.iter().map(String::as_str);
        host.run_checked(&ctr(["images", "remove", "--sync"].into_iter().chain(names)))?;
        Ok(())
    }

    fn summary(&self) -> String {
        format!("pull {} images from this node's store", self.images.len())
    }

    fn detail(&self, before: &Before) -> String {
        let empty = List::new();
        let listed = before.images.as_ref().unwrap_or(&empty);
        let missing = self.wanted().filter(|image| !image.is_there(listed));
        let names: Vec<String> = missing.map(|image| image.name).collect();
        format!("pulls {}", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(digest: &str, pinned: bool) -> Listed {
        Listed { digest: digest.to_owned(), pinned }
    }

    #[test]
    fn the_list_of_containerd_is_understood() {
        let text = "REF TYPE DIGEST SIZE PLATFORMS LABELS\n\
            k8s.gcr.io/pause:3.2 application/vnd.oci.image.manifest.v1+json sha256:aa 1.2 MiB \
            linux/amd64 io.cri-containerd.image=managed,io.cri-containerd.pinned=pinned\n\
            docker.io/lab/x:1 application/vnd.oci.image.manifest.v1+json sha256:bb 3 KiB \
            linux/amd64 -\n";
        let listed = parse_list(text);
        assert_eq!(listed.get("k8s.gcr.io/pause:3.2"), Some(&entry("sha256:aa", true)));
        assert_eq!(listed.get("docker.io/lab/x:1"), Some(&entry("sha256:bb", false)));
    }

    #[test]
    fn what_cri_adds_beside_a_name_is_ours_and_what_was_there_or_is_another_s_is_not() {
        let manifest = Digest::of(b"manifest");
        let images = [ImageSource {
            name: "pause:3.2".to_owned(),
            manifest: manifest.clone(),
            blobs: vec![manifest.clone()],
        }];
        let step = PullImages { index: None, images: &images };
        let name = "docker.io/library/pause:3.2";
        let ours = entry(manifest.as_str(), false);
        let (id, by_digest) =
            ("sha256:1d".to_owned(), format!("docker.io/library/pause@{manifest}"));
        let before = List::from([("reg.site/mine:1".to_owned(), ours.clone())]);
        let mut now = before.clone();
        for added in [name, &id, &by_digest] {
            now.insert(added.to_owned(), ours.clone());
        }
        now.insert("sha256:2e".to_owned(), entry("sha256:ff", false));
        assert_eq!(
            step.companions(&before, &now),
            BTreeSet::from([id.clone(), by_digest.clone()]),
            "neither another's tag of the same content nor other content"
        );
        let mut before = before;
        before.insert(id, ours);
        assert_eq!(step.companions(&before, &now), BTreeSet::from([by_digest]));
        // One that came with other content than was signed goes with its companions too.
        now.insert(name.to_owned(), entry("sha256:ff", false));
        assert!(step.companions(&before, &now).contains("sha256:2e"));
    }
}
