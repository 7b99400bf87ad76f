//! The first pass: from a definition to the content it needs, with every problem at once.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use kdc_bundles::index::{ArtifactKind, Digest, check::is_artifact_name};
use kdc_profiles::definition::{ArtifactDefinition, BundleDefinition, Source};

use crate::{
    cache::Cache,
    content::Content,
    folder,
    layout::Layout,
    lock::TAR,
    problem::{CreateError, Problem},
};

/// One artifact and where its bytes are.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) kind: ArtifactKind,
    pub(crate) name: String,
    pub(crate) platform: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) roles: Vec<String>,
    pub(crate) unpack_to: Option<String>,
    pub(crate) licence: Option<String>,
    /// Where it came from, for people.
    pub(crate) source: Option<String>,
    /// Where it was fetched from, for documents; nothing for what was on the builder's machine.
    pub(crate) uri: Option<String>,
    pub(crate) media_type: String,
    /// Root first.
    pub(crate) parts: Vec<Part>,
}

impl Planned {
    /// How problems name it.
    pub(crate) fn title(&self) -> String {
        format!("{} `{}`", self.kind, self.name)
    }
}

/// One blob to be.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) content: Content,
    /// Whether the content is a whole file, which could grow.
    pub(crate) whole_file: bool,
    /// What is said about it, and by whom.
    pub(crate) stated: Option<(Digest, Statement)>,
}

/// Who says what a content has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Statement {
    /// An OCI layout, by the blob's name.
    Layout,
    /// The lock, about a file of the builder's.
    Lock,
    /// The lock, about a blob in the cache.
    Cache,
}

/// Finds the content of every artifact.
pub(crate) fn plan(
    definition: &BundleDefinition,
    folder: &Path,
    cache: Option<&Cache>,
) -> Result<Vec<Planned>, CreateError> {
    let mut planner = Planner { folder, cache, layouts: Layouts::default() };
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
    for set in &definition.packages {
        remote.push(Problem {
            artifact: format!("packages `{}`", set.name),
            what: "unresolved".to_owned(),
        });
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
        Source::Path(_) | Source::Folder(_) | Source::Oci { .. } => None,
        Source::Helm { repository, chart, version } => {
            Some(format!("chart {chart} {version} of {repository}"))
        }
        Source::Url { url, digest } => Some(format!("{url}{}", resolved(digest))),
        Source::Registry { image, digest } => {
            Some(format!("registry image {image}{}", resolved(digest)))
        }
    }
}

pub(crate) fn parse_kind(kind: &str) -> Option<ArtifactKind> {
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
#[derive(Default)]
pub(crate) struct Layouts(BTreeMap<PathBuf, Result<Layout, String>>);

impl Layouts {
    pub(crate) fn open(&mut self, path: PathBuf) -> Result<&Layout, String> {
        let layout = self.0.entry(path.clone()).or_insert_with(|| Layout::open(&path));
        layout.as_ref().map_err(|what| what.clone())
    }
}

struct Planner<'a> {
    folder: &'a Path,
    cache: Option<&'a Cache>,
    layouts: Layouts,
}

impl Planner<'_> {
    fn artifact(&mut self, definition: &ArtifactDefinition) -> Result<Planned, String> {
        let kind = parse_kind(&definition.kind).ok_or_else(|| {
            "its kind is unknown; kinds are binary, image, chart, package, file, agent, archive"
                .to_owned()
        })?;
        check_name(&definition.name)?;
        let (media_type, parts) = match (&definition.source, kind) {
            (Source::Oci { layout, reference }, ArtifactKind::Image) => {
                self.image(layout, reference.as_deref(), definition.platform.as_deref())?
            }
            (Source::Folder(path), ArtifactKind::File | ArtifactKind::Archive) => {
                let cache =
                    self.cache.ok_or("a folder is packed into the cache, and there is none")?;
                let (digest, _) = folder::pack(cache, &self.folder.join(path))?;
                let content = Content::file(cache.path(&digest))?;
                let stated = Some((digest, Statement::Cache));
                (TAR.to_owned(), vec![Part { content, whole_file: true, stated }])
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
        Ok(Planned {
            kind,
            name: definition.name.clone(),
            platform: definition.platform.clone(),
            version: definition.version.clone(),
            roles: definition.roles.clone(),
            unpack_to: definition.unpack_to.clone(),
            licence: definition.licence.clone(),
            source: shown_source(&definition.source),
            uri: None,
            media_type,
            parts,
        })
    }

    fn image(
        &mut self,
        layout: &Path,
        reference: Option<&str>,
        platform: Option<&str>,
    ) -> Result<(String, Vec<Part>), String> {
        let layout = self.layouts.open(self.folder.join(layout))?;
        let image = layout.find(reference, platform)?;
        let parts = image.blobs.into_iter().map(|(digest, size)| layout_part(layout, digest, size));
        Ok((image.media_type, parts.collect::<Result<_, _>>()?))
    }
}

/// Refuses a name that no index takes.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if is_artifact_name(name) {
        return Ok(());
    }
    Err("the name has blanks, unprintable characters, or empty, `.` or `..` path parts".to_owned())
}

/// A blob of a layout.
pub(crate) fn layout_part(layout: &Layout, digest: Digest, size: u64) -> Result<Part, String> {
    let content = layout.content(&digest)?;
    if content.size != size {
        let found = content.size;
        return Err(format!("{digest} has {found} bytes, its image says {size}"));
    }
    let stated = Some((digest, Statement::Layout));
    Ok(Part { content, whole_file: !layout.is_tar(), stated })
}

/// The source as the definition says it, but never a place on the builder's machine.
fn shown_source(source: &Source) -> Option<String> {
    match source {
        Source::Path(path) | Source::Folder(path) => relative(path),
        Source::Oci { layout, reference } => {
            let layout = relative(layout)?;
            Some(reference.as_ref().map_or(layout.clone(), |name| format!("{layout}#{name}")))
        }
        Source::Url { url, .. } => Some(url.clone()),
        Source::Registry { image, .. } => Some(image.clone()),
        Source::Helm { repository, chart, version } => {
            Some(format!("{repository} {chart} {version}"))
        }
    }
}

/// A path below the definition; of one elsewhere only the name.
pub(crate) fn relative(path: &Path) -> Option<String> {
    let name = || path.file_name().map(|name| name.to_string_lossy().into_owned());
    if path.is_absolute() { name() } else { Some(path.display().to_string()) }
}

/// Media type of a single file.
pub(crate) fn file_type(kind: ArtifactKind) -> &'static str {
    match kind {
        ArtifactKind::Package => "application/vnd.debian.binary-package",
        ArtifactKind::Chart => "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
        ArtifactKind::Binary
        | ArtifactKind::Image
        | ArtifactKind::File
        | ArtifactKind::Agent
        | ArtifactKind::Archive
        | ArtifactKind::Document => "application/octet-stream",
    }
}
