//! `bundle prune cache`: what no lock and no bundle names leaves the builder's cache.

use std::{collections::BTreeSet, path::PathBuf};

use kdc_airgap::Cache;
use kdc_bundles::{index::Digest, medium::Medium, open::read_unproved};
use kdc_profiles::lock;

use crate::command::bundle::{BundleCommandError, refused};
use crate::show::{Screen, plain::render_bytes};

/// Remove from the builder's cache what no given lock or bundle names
///
/// The cache is ${XDG_CACHE_HOME:-~/.cache}/kdc. What is removed is fetched again when a lock asks
/// for it. Don't run it beside `bundle lock` or `bundle create`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("keep").required(true).multiple(true)))]
pub(super) struct PruneCache {
    /// Keep what this lock names; may be given several times
    #[arg(long = "lock", value_name = "LOCK", group = "keep")]
    locks: Vec<PathBuf>,
    /// Keep what is in this bundle; may be given several times
    #[arg(long = "bundle", value_name = "FILE", group = "keep")]
    bundles: Vec<PathBuf>,
    /// Keep nothing
    #[arg(long, group = "keep", conflicts_with_all = ["locks", "bundles"])]
    all: bool,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Pruned<'a> {
    cache: &'a std::path::Path,
    dry_run: bool,
    blobs: usize,
    partials: usize,
    bytes: u64,
    kept_blobs: usize,
    kept_bytes: u64,
}

impl PruneCache {
    pub(super) fn run(&self, screen: &Screen) -> Result<(), BundleCommandError> {
        let keep = self.keep()?;
        let cache = Cache::open_default()?;
        let surplus = cache.surplus(&keep)?;
        let kept = cache.list()?.into_iter().filter(|blob| keep.contains(&blob.digest));
        let kept: Vec<u64> = kept.map(|blob| blob.size).collect();
        if !self.dry_run {
            cache.prune(&surplus)?;
        }
        let pruned = Pruned {
            cache: cache.folder(),
            dry_run: self.dry_run,
            blobs: surplus.blobs.len(),
            partials: surplus.partials.len(),
            bytes: surplus.bytes,
            kept_blobs: kept.len(),
            kept_bytes: kept.iter().sum(),
        };
        screen.document(&pruned, || pruned.render());
        Ok(())
    }

    /// What the locks and the bundles name. One that can't be read ends it: nothing is pruned.
    fn keep(&self) -> Result<BTreeSet<Digest>, BundleCommandError> {
        let mut keep = BTreeSet::new();
        for path in &self.locks {
            for artifact in lock::load(path)?.artifacts {
                let blobs = artifact.blobs.iter().map(|blob| blob.digest.clone());
                for text in blobs.chain([artifact.digest.clone()]) {
                    let bad = |error| BundleCommandError::LockDigest { path: path.clone(), error };
                    keep.insert(text.parse::<Digest>().map_err(bad)?);
                }
            }
        }
        for path in &self.bundles {
            // Whatever it says of itself: keeping too much is no harm.
            let medium = Medium::find(&[path]).map_err(refused(path))?;
            let found = read_unproved(&medium).map_err(refused(path))?;
            keep.extend(found.index.blobs.into_iter().map(|blob| blob.digest));
        }
        Ok(keep)
    }
}

impl Pruned<'_> {
    fn render(&self) -> String {
        let (verb, bytes) = (if self.dry_run { "would free" } else { "freed" }, self.bytes);
        format!(
            "`{}`: {verb} {} ({bytes} bytes): {} blobs, {} cut downloads; kept {} blobs, {}\n",
            self.cache.display(),
            render_bytes(bytes),
            self.blobs,
            self.partials,
            self.kept_blobs,
            render_bytes(self.kept_bytes)
        )
    }
}
