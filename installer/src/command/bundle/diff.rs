//! `bundle diff`: only what changed, for a site that has an older bundle.

use std::path::{Path, PathBuf};

use kdc_airgap::delta::{self, Diffed, Holdings, Inventory, OldSide};
use kdc_bundles::index::Digest;

use super::{BundleCommandError, fetching::Shown, load_keys, open_bundle};
use crate::{
    command::arguments::KeyArguments,
    show::{Screen, plain::render_bytes},
};

/// Make an update that holds only what changed between two bundles
///
/// Compares inside packages and image layers: what is compressed is compared decompressed, and comes
/// out again byte for byte where the update is applied (`bundle patch`). With --inventory the old
/// bundle need not be here: contents are taken by digest from --from and from the cache, and of
/// what is nowhere at hand the chunks that the inventory lists are used.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install bundle diff kdc-1.bundle kdc-2.bundle -o kdc-2.update\n  \
    kdc-install bundle diff --inventory site.json kdc-2.bundle -o kdc-2.update")]
pub(super) struct Diff {
    /// The old bundle (left out with --inventory), then the new one
    #[arg(value_name = "BUNDLE", required = true, num_args = 1..=2)]
    bundles: Vec<PathBuf>,
    /// What the site has, as `bundle inventory` wrote it
    #[arg(long, value_name = "FILE")]
    inventory: Option<PathBuf>,
    /// Old contents at hand: a bundle, or a folder with `blobs/sha256`; may be given several times
    #[arg(long, value_name = "PATH", requires = "inventory")]
    from: Vec<PathBuf>,
    /// Take old contents from this cache [default: ~/.cache/kdc, if there is one]
    #[arg(long, value_name = "FOLDER", requires = "inventory")]
    cache: Option<PathBuf>,
    /// Write the update here
    #[arg(short = 'o', long = "save", value_name = "FILE")]
    save: PathBuf,
    #[command(flatten)]
    keys: KeyArguments,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Made<'a> {
    update: &'a Path,
    blobs: usize,
    unchanged: usize,
    patched: usize,
    whole: usize,
    update_bytes: u64,
    bundle_bytes: u64,
    /// What each blob costs that the site has not, the dearest first.
    costs: Vec<Cost<'a>>,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Cost<'a> {
    digest: &'a Digest,
    label: &'a str,
    size: u64,
    unpacked: u64,
    update_bytes: u64,
    bases: usize,
}

impl Diff {
    pub(super) fn run(&self, screen: &Screen) -> Result<(), BundleCommandError> {
        let keys = load_keys(&self.keys)?;
        let (old, new) = match (self.bundles.as_slice(), &self.inventory) {
            ([old, new], None) => (OldSide::same(open_holdings([old], &keys)?)?, new),
            ([new], Some(inventory)) => {
                let inventory = Inventory::load(inventory)?;
                let mut at_hand = open_holdings(&self.from, &keys)?;
                if let Some(cache) = self.cache_folder() {
                    at_hand.add_folder(&cache, &keys)?;
                }
                (OldSide::listed(inventory, at_hand), new)
            }
            _ => return Err(BundleCommandError::DiffSides),
        };
        let new = open_bundle(new, &keys)?;
        let made = delta::diff(&old, &new, &self.save, &mut Shown::new(screen))?;
        show(screen, &self.save, &made);
        Ok(())
    }

    fn cache_folder(&self) -> Option<PathBuf> {
        if self.cache.is_some() {
            return self.cache.clone();
        }
        let set = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        // The specification says to ignore relative paths.
        let base = match set.filter(|path| path.is_absolute()) {
            Some(path) => path,
            None => std::env::home_dir()?.join(".cache"),
        };
        Some(base.join("kdc")).filter(|folder| folder.join("blobs/sha256").is_dir())
    }
}

fn show(screen: &Screen, update: &Path, made: &Diffed) {
    let document = Made {
        update,
        blobs: made.blobs,
        unchanged: made.unchanged,
        patched: made.patched,
        whole: made.whole,
        update_bytes: made.update_bytes,
        bundle_bytes: made.bundle_bytes,
        costs: made.costs.iter().map(cost).collect(),
    };
    screen.document(&document, || {
        format!(
            "`{}`: {} for a bundle of {} ({:.1} %); of {} blobs {} are at the site, {} are patched, \
             {} travel whole\n",
            update.display(),
            render_bytes(made.update_bytes),
            render_bytes(made.bundle_bytes),
            made.update_bytes as f64 * 100.0 / made.bundle_bytes as f64,
            made.blobs,
            made.unchanged,
            made.patched,
            made.whole
        )
    });
}

fn cost(of: &delta::Cost) -> Cost<'_> {
    Cost {
        digest: &of.digest,
        label: &of.label,
        size: of.size,
        unpacked: of.unpacked,
        update_bytes: of.update_bytes,
        bases: of.bases,
    }
}

/// Bundles, and folders with blobs.
pub(super) fn open_holdings<P: AsRef<Path>>(
    paths: impl IntoIterator<Item = P>,
    keys: &kdc_bundles::keys::TrustedKeys,
) -> Result<Holdings, BundleCommandError> {
    let mut holdings = Holdings::new();
    for path in paths {
        let path = path.as_ref();
        if path.join("blobs/sha256").is_dir() {
            holdings.add_folder(path, keys)?;
        } else {
            holdings.add_bundle(open_bundle(path, keys)?);
        }
    }
    Ok(holdings)
}
