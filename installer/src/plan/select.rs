//! What of the bundle one node needs: by role, by platform.

use kdc_agent::facts::Facts;
use kdc_bundles::index::{Artifact, ArtifactKind, Digest, Index};
use kdc_profiles::cluster::{Node, Role};

use super::PlanError;
use crate::distribution::{
    containerd::is_containerd, kubeadm::required_images, parameters::Parameters,
};

/// Binaries without which nothing can be installed, and whether workers need them too.
const REQUIRED_BINARIES: &[(&str, bool)] =
    &[("kubelet", true), ("kubeadm", true), ("kubectl", false)];

/// The artifacts for one node, each list in the index's order.
pub(super) struct Selection<'i> {
    pub(super) agent: &'i Artifact,
    pub(super) packages: Vec<&'i Artifact>,
    archives: Vec<&'i Artifact>,
    pub(super) binaries: Vec<&'i Artifact>,
    pub(super) images: Vec<&'i Artifact>,
}

impl<'i> Selection<'i> {
    pub(super) fn of(
        index: &'i Index,
        parameters: &Parameters,
        facts: &Facts,
        node: &Node,
    ) -> Result<Self, PlanError> {
        let of_kind = |kind: ArtifactKind| -> Vec<&'i Artifact> {
            let fits = |artifact: &&Artifact| {
                artifact.kind == kind
                    && artifact.platform.as_ref().is_none_or(|of| *of == facts.platform)
                    && (artifact.roles.is_empty()
                        || artifact.roles.iter().any(|role| role == node.role.as_str()))
            };
            index.artifacts.iter().filter(fits).collect()
        };
        let missing = |kind: &'static str, name: &str| PlanError::MissingArtifact {
            node: node.name.clone(),
            kind,
            name: name.to_owned(),
            platform: facts.platform.clone(),
        };
        let agents = of_kind(ArtifactKind::Agent);
        let agent = agents.first().ok_or_else(|| missing("agent", "kdc-agent"))?;
        let binaries = of_kind(ArtifactKind::Binary);
        for (name, on_workers) in REQUIRED_BINARIES {
            let needed = *on_workers || node.role == Role::ControlPlane;
            if needed && !binaries.iter().any(|binary| binary.name == *name) {
                return Err(missing("binary", name));
            }
        }
        let packages = of_kind(ArtifactKind::Package);
        let archives = of_kind(ArtifactKind::Archive);
        if !packages.iter().chain(&archives).any(|artifact| is_containerd(artifact)) {
            return Err(missing("package or archive", "containerd"));
        }
        let images = of_kind(ArtifactKind::Image);
        for name in required_images(parameters, node.role) {
            if !images.iter().any(|image| image.name.starts_with(&name)) {
                return Err(missing("image", &name));
            }
        }
        Ok(Self { agent, packages, archives, binaries, images })
    }

    /// Each archive with the folder it is unpacked to, which a proved index has for every one.
    pub(super) fn archives(&self) -> impl Iterator<Item = (&'i Artifact, &'i str)> {
        self.archives.iter().filter_map(|archive| Some((*archive, archive.unpack_to.as_deref()?)))
    }

    /// Every blob once, sorted.
    pub(super) fn blobs(&self) -> Vec<Digest> {
        let lists = [&self.packages, &self.archives, &self.binaries, &self.images];
        let mut blobs: Vec<Digest> = lists
            .into_iter()
            .flatten()
            .copied()
            .chain([self.agent])
            .flat_map(|artifact| artifact.blobs.iter().cloned())
            .collect();
        blobs.sort();
        blobs.dedup();
        blobs
    }

    /// Blobs of one kind, each once.
    pub(super) fn blobs_of(artifacts: &[&Artifact]) -> Vec<Digest> {
        let mut blobs: Vec<Digest> =
            artifacts.iter().flat_map(|artifact| artifact.blobs.iter().cloned()).collect();
        blobs.sort();
        blobs.dedup();
        blobs
    }
}
