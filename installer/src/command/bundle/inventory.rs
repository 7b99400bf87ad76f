//! `bundle inventory`: what a site has, for the builder of its next update.

use std::path::{Path, PathBuf};

use kdc_airgap::delta::Inventory;

use super::{BundleCommandError, diff::open_holdings, fetching::Shown, load_keys};
use crate::{
    command::arguments::KeyArguments,
    show::{Screen, plain::render_bytes},
};

/// List what a site has, so that a builder far away can make an update for it
///
/// Reads and proves every blob. The file names them by digest and lists the content-defined chunks
/// inside; it holds no content and no secret. The builder gives it to `bundle diff --inventory`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install bundle inventory kdc-1.bundle -o site.json\n  \
    kdc-install bundle inventory --store /var/lib/kdc/store -o site.json")]
pub(super) struct TakeInventory {
    /// Bundles at the site
    #[arg(value_name = "BUNDLE", required_unless_present = "store")]
    bundles: Vec<PathBuf>,
    /// A folder with `blobs/sha256`, such as a node's store; may be given several times
    #[arg(long, value_name = "FOLDER")]
    store: Vec<PathBuf>,
    /// Write the inventory here
    #[arg(short = 'o', long = "save", value_name = "FILE")]
    save: PathBuf,
    #[command(flatten)]
    keys: KeyArguments,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Taken<'a> {
    inventory: &'a Path,
    bundles: &'a [String],
    blobs: usize,
    file_bytes: u64,
}

impl TakeInventory {
    pub(super) fn run(&self, screen: &Screen) -> Result<(), BundleCommandError> {
        let keys = load_keys(&self.keys)?;
        let holdings = open_holdings(self.bundles.iter().chain(&self.store), &keys)?;
        let folder = match self.save.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let inventory = Inventory::take(&holdings, folder, &mut Shown::new(screen))?;
        let file_bytes = inventory.save(&self.save)?;
        let document = Taken {
            inventory: &self.save,
            bundles: &inventory.bundles,
            blobs: inventory.blob_count(),
            file_bytes,
        };
        screen.document(&document, || {
            format!(
                "`{}`: {} blobs, listed in {}\n",
                self.save.display(),
                document.blobs,
                render_bytes(file_bytes)
            )
        });
        Ok(())
    }
}
