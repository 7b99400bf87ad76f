//! The first pass: from a definition to the content it needs, with every problem at once.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use kdc_bundles::index::{ArtifactKind, Digest, check::is_artifact_name};
use kdc_profiles::definition::{ArtifactDefinition, BundleDefinition, Source};

use crate::{
    content::Content,
    layout::Layout,
    problem::{CreateError, Problem},
};

/// One artifact and where its bytes are.
#[derive(Debug)]
pub(crate) struct Planned<'d> {
    pub(crate) definition: &'d ArtifactDefinition,
    pub(crate) kind: ArtifactKind,
    pub(crate) media_type: String,
    /// Root first.
    pub(crate) parts: Vec<Part>,
}

/// One blob to be.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) content: Content,
    /// Whether the content is a whole file, which could grow.
    pub(crate) whole_file: bool,
    /// What a layout says about it.
    pub(crate) stated: Option<Digest>,
}

/// Finds the content of every artifact.
pub(crate) fn plan<'d>(
    definition: &'d BundleDefinition,
    folder: &Path,
) -> Result<Vec<Planned<'d>>, CreateError> {
    let mut planner = Planner { folder, layouts: BTreeMap::new() };
    let (mut planned, mut problems, mut remote) = (Vec::new(), Vec::new(), Vec::new());
    let mut seen: BTreeMap<(&str, &str), Vec<Option<&str>>> = BTreeMap::new();
    for artifact in &definition.artifacts {
        let problem =
            |what| Problem { artifact: format!("{} `{}`", artifact.kind, artifact.name), what };
        let platforms = seen.entry((&artifact.kind, &artifact.name)).or_default();
        let platform = artifact.platform.as_deref();
        if platforms.contains(&platform) {
            problems.push(problem("it is defined twice".to_owned()));
        } else if !platforms.is_empty() && (platform.is_none() || platforms.contains(&None)) {
            problems.push(problem("it is defined for any platform and for one".to_owned()));
        }
        platforms.push(platform);
        if let Some(place) = remote_place(&artifact.source) {
            remote.push(problem(place));
            continue;
        }
        match planner.artifact(artifact) {
            Ok(one) => planned.push(one),
            Err(what) => problems.push(problem(what)),
        }
    }
    if !problems.is_empty() {
        return Err(CreateError::Problems { problems });
    }
    if !remote.is_empty() {
        return Err(CreateError::NotLocal { artifacts: remote });
    }
    Ok(planned)
}

fn remote_place(source: &Source) -> Option<String> {
    let resolved = |digest: &Option<String>| {
        if digest.is_some() { "" } else { ", unresolved: no digest is stated" }
    };
    match source {
        Source::Path(_) | Source::Oci { .. } => None,
        Source::Url { url, digest } => Some(format!("{url}{}", resolved(digest))),
        Source::Registry { image, digest } => {
            Some(format!("registry image {image}{}", resolved(digest)))
        }
    }
}

fn parse_kind(kind: &str) -> Option<ArtifactKind> {
    Some(match kind {
        "binary" => ArtifactKind::Binary,
        "image" => ArtifactKind::Image,
        "chart" => ArtifactKind::Chart,
        "package" => ArtifactKind::Package,
        "file" => ArtifactKind::File,
        "agent" => ArtifactKind::Agent,
        "archive" => ArtifactKind::Archive,
        _ => return None,
    })
}

/// Layouts stay open: a definition usually takes many images from one.
struct Planner<'a> {
    folder: &'a Path,
    layouts: BTreeMap<PathBuf, Result<Layout, String>>,
}

impl Planner<'_> {
    fn artifact<'d>(&mut self, definition: &'d ArtifactDefinition) -> Result<Planned<'d>, String> {
        let kind = parse_kind(&definition.kind).ok_or_else(|| {
            "its kind is unknown; kinds are binary, image, chart, package, file, agent, archive"
                .to_owned()
        })?;
        if !is_artifact_name(&definition.name) {
            return Err("the name has blanks, unprintable characters, or empty, `.` or `..` path \
                        parts"
                .to_owned());
        }
        let (media_type, parts) = match (&definition.source, kind) {
            (Source::Oci { layout, reference }, ArtifactKind::Image) => {
                self.image(layout, reference.as_deref(), definition.platform.as_deref())?
            }
            (Source::Path(path), kind) if kind != ArtifactKind::Image => {
                let content = Content::file(self.folder.join(path))?;
                (file_type(kind).to_owned(), vec![Part { content, whole_file: true, stated: None }])
            }
            (Source::Path(_), _) => {
                return Err("an image comes from an OCI layout: use `source.oci`".to_owned());
            }
            _ => return Err("only images come from OCI layouts: use `source.path`".to_owned()),
        };
        Ok(Planned { definition, kind, media_type, parts })
    }

    fn image(
        &mut self,
        layout: &Path,
        reference: Option<&str>,
        platform: Option<&str>,
    ) -> Result<(String, Vec<Part>), String> {
        let path = self.folder.join(layout);
        let layout = self.layouts.entry(path.clone()).or_insert_with(|| Layout::open(&path));
        let layout = layout.as_ref().map_err(Clone::clone)?;
        let image = layout.find(reference, platform)?;
        let parts = image.blobs.into_iter().map(|(digest, size)| {
            let content = layout.content(&digest)?;
            if content.size != size {
                let found = content.size;
                return Err(format!("{digest} has {found} bytes, its image says {size}"));
            }
            Ok(Part { content, whole_file: !layout.is_tar(), stated: Some(digest) })
        });
        Ok((image.media_type, parts.collect::<Result<_, _>>()?))
    }
}

/// Media type of a single file.
fn file_type(kind: ArtifactKind) -> &'static str {
    match kind {
        ArtifactKind::Package => "application/vnd.debian.binary-package",
        ArtifactKind::Chart => "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
        ArtifactKind::Binary
        | ArtifactKind::Image
        | ArtifactKind::File
        | ArtifactKind::Agent
        | ArtifactKind::Archive => "application/octet-stream",
    }
}
