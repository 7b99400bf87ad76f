//! Whether every image that charts and manifests name is in the definition.

use std::path::Path;

use kdc_profiles::{
    definition::{ArtifactDefinition, BundleDefinition, Source},
    lock::LockedArtifact,
};

use super::fetch::wanted;
use crate::{
    chart::{
        self,
        images::{Defined, Mention},
    },
    fetch::Fetcher,
    problem::{LockError, Problem},
};

/// Largest manifest looked into.
const MAX_MANIFEST: u64 = 32 * 1024 * 1024;

/// Refuses a definition that lacks an image which something in it will ask for.
pub(super) async fn check(
    fetcher: &Fetcher,
    definition: &BundleDefinition,
    folder: &Path,
    artifacts: &[LockedArtifact],
) -> Result<(), LockError> {
    let mut search = Search::of(definition);
    for locked in artifacts.iter().filter(|locked| locked.kind == "image") {
        search.digests(locked);
    }
    for artifact in definition.artifacts.iter().filter(|artifact| is_telling(artifact)) {
        let same = |locked: &&LockedArtifact| {
            (&locked.kind, &locked.name, &locked.platform)
                == (&artifact.kind, &artifact.name, &artifact.platform)
        };
        let found = match (&artifact.source, artifacts.iter().find(same)) {
            (Source::Path(path), _) => mentions(artifact, &folder.join(path)),
            (_, Some(locked)) => match fetched(fetcher, locked).await {
                Ok(path) => mentions(artifact, &path),
                Err(what) => Err(what),
            },
            (_, None) => continue,
        };
        search.take(artifact, found);
    }
    if !search.problems.is_empty() {
        return Err(LockError::Problems { problems: search.problems });
    }
    if search.missing.is_empty() {
        return Ok(());
    }
    Err(LockError::Images { missing: search.missing })
}

/// The same for a definition of local files, which needs no lock.
pub(crate) fn check_local(definition: &BundleDefinition, folder: &Path) -> Vec<Problem> {
    let mut search = Search::of(definition);
    for artifact in definition.artifacts.iter().filter(|artifact| is_telling(artifact)) {
        if let Source::Path(path) = &artifact.source {
            search.take(artifact, mentions(artifact, &folder.join(path)));
        }
    }
    let lacks = |missing: Problem| Problem {
        what: format!("{}, and the definition has no such image", missing.what),
        ..missing
    };
    search.problems.into_iter().chain(search.missing.into_iter().map(lacks)).collect()
}

struct Search<'a> {
    definition: &'a BundleDefinition,
    defined: Vec<Defined>,
    problems: Vec<Problem>,
    missing: Vec<Problem>,
}

impl<'a> Search<'a> {
    fn of(definition: &'a BundleDefinition) -> Self {
        let images = definition.artifacts.iter().filter(|artifact| artifact.kind == "image");
        // A name that is no reference meets nothing that anybody asks for.
        let defined = images.filter_map(|artifact| artifact.name.parse().ok());
        let defined = defined.map(|image| Defined { image, digest: None }).collect();
        Self { definition, defined, problems: Vec::new(), missing: Vec::new() }
    }

    /// Images may be asked for by what they are locked to.
    fn digests(&mut self, locked: &LockedArtifact) {
        if let (Ok(image), Ok(digest)) = (locked.name.parse(), locked.digest.parse()) {
            self.defined.push(Defined { image, digest: Some(digest) });
        }
    }

    fn take(&mut self, artifact: &ArtifactDefinition, found: Result<Vec<Mention>, String>) {
        let title = format!("{} `{}`", artifact.kind, artifact.name);
        match found {
            Ok(mentions) => {
                let lacking = mentions.into_iter().filter(|mention| self.lacks(mention));
                let missing: Vec<_> = lacking
                    .map(|mention| Problem {
                        artifact: title.clone(),
                        what: format!("names {} ({})", mention.shown(), mention.place),
                    })
                    .collect();
                self.missing.extend(missing);
            }
            Err(what) => self.problems.push(Problem { artifact: title, what }),
        }
    }

    fn lacks(&self, mention: &Mention) -> bool {
        let mut ignored = self.definition.ignore_images.iter();
        !self.defined.iter().any(|image| mention.is_met_by(image))
            && !ignored.any(|pattern| mention.is_ignored_by(pattern))
    }
}

/// Charts, and files that are manifests by their name.
fn is_telling(artifact: &ArtifactDefinition) -> bool {
    let yaml = |text: &str| text.ends_with(".yaml") || text.ends_with(".yml");
    let by_source = match &artifact.source {
        Source::Path(path) => yaml(&path.to_string_lossy()),
        Source::Url { url, .. } => yaml(url),
        _ => false,
    };
    artifact.kind == "chart" || (artifact.kind == "file" && (yaml(&artifact.name) || by_source))
}

/// Where its content lies; what an old lock resolved may not be in the cache any more.
async fn fetched(fetcher: &Fetcher, locked: &LockedArtifact) -> Result<std::path::PathBuf, String> {
    for wanted in wanted(fetcher, locked)? {
        fetcher.download(&wanted, &|_| {}).await.map_err(|error| error.in_one_line())?;
    }
    let digest = locked.digest.parse().map_err(|error| format!("{error}"))?;
    Ok(fetcher.cache().path(&digest))
}

fn mentions(artifact: &ArtifactDefinition, path: &Path) -> Result<Vec<Mention>, String> {
    use std::io::Read as _;
    let file = fs_err::File::open(path).map_err(|error| error.to_string())?;
    if artifact.kind == "chart" {
        return chart::images::of_chart(&chart::read(file)?);
    }
    let mut bytes = Vec::new();
    file.take(MAX_MANIFEST + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_MANIFEST {
        return Err(format!("a manifest of more than {MAX_MANIFEST} bytes is not looked into"));
    }
    let text = String::from_utf8(bytes).map_err(|_| "a manifest has to be UTF-8".to_owned())?;
    let name = match &artifact.source {
        Source::Path(path) => path.display().to_string(),
        _ => artifact.name.clone(),
    };
    Ok(chart::images::of_manifest(&text, &name))
}
