//! `bundle lock`: from a definition to its lock.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use kdc_airgap::{LockError, LockRequest};
use kdc_profiles::{
    definition::{self, BundleDefinition},
    lock::{self, BundleLock},
};

use super::{
    BundleCommandError,
    fetching::{FetchArguments, Shown},
};
use crate::show::Screen;

/// Resolve everything a definition names to digests, and write them to its lock
///
/// The lock lies beside the definition (`site.yaml`, `site.lock.yaml`): check it in. `bundle create`
/// uses it and nothing else, so the same lock gives the same bundle. What did not change in the
/// definition keeps what it was locked to; --update resolves it anew. Images that charts and manifests
/// name and that the definition lacks are an error that lists them.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install bundle lock -f bundle.yaml\n  \
    kdc-install bundle lock -f bundle.yaml --update docker.io/library/busybox:1.37\n  \
    kdc-install bundle lock -f bundle.yaml --ca site-ca.pem --mirror docker.io=https://hub.site")]
pub(super) struct Lock {
    /// The definition (`kind: BundleDefinition`); its paths are relative to its folder
    #[arg(short, long, value_name = "DEFINITION")]
    file: PathBuf,
    /// Resolve this artifact or set of packages anew; may be given several times
    #[arg(long, value_name = "NAME")]
    update: Vec<String>,
    #[command(flatten)]
    fetching: FetchArguments,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Locked<'a> {
    lock: &'a Path,
    definition: &'a str,
    created: &'a str,
    artifacts: usize,
    changed: bool,
}

impl Lock {
    pub(super) async fn run(&self, screen: &Screen) -> Result<(), BundleCommandError> {
        let definition = definition::load(&self.file)?;
        let path = lock::path_of(&self.file);
        let old = if path.exists() { Some(lock::load(&path)?) } else { None };
        let fetcher = self.fetching.fetcher()?;
        let request = LockRequest {
            definition: &definition,
            folder: self.file.parent().unwrap_or(Path::new("")),
            old: old.as_ref(),
            update: &self.update,
            now: SystemTime::now(),
        };
        let new = kdc_airgap::lock(&fetcher, &request, &mut Shown::new(screen)).await?;
        let changed = old.as_ref() != Some(&new);
        if changed {
            write(&path, &new.to_text())?;
        }
        let locked = Locked {
            lock: &path,
            definition: &new.definition,
            created: &new.created,
            artifacts: new.artifacts.len(),
            changed,
        };
        screen.document(&locked, || {
            let state = if changed { "written" } else { "unchanged" };
            format!("`{}` {state}: {} artifacts\n", path.display(), locked.artifacts)
        });
        Ok(())
    }
}

/// Whole, or not at all.
fn write(path: &Path, text: &str) -> Result<(), BundleCommandError> {
    use std::io::Write as _;
    let failed = |source| BundleCommandError::WriteLock { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let mut file = tempfile::Builder::new()
        .prefix(".kdc-lock-")
        .permissions(mode)
        .tempfile_in(folder.unwrap_or(Path::new(".")))
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// The lock of a definition, if there is one; it has to be of this very definition.
pub(super) fn load_lock(
    definition_path: &Path,
    definition: &BundleDefinition,
) -> Result<Option<BundleLock>, BundleCommandError> {
    let path = lock::path_of(definition_path);
    if !path.exists() {
        return Ok(None);
    }
    let found = lock::load(&path)?;
    let expected = kdc_airgap::definition_digest(definition);
    if found.definition != expected.as_str() {
        return Err(LockError::Stale { path }.into());
    }
    Ok(Some(found))
}
