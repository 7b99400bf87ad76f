//! `bundle patch`: from an old bundle and an update to the new bundle.

use std::path::{Path, PathBuf};

use kdc_airgap::delta;

use super::{BundleCommandError, diff::open_holdings, fetching::Shown, load_keys};
use crate::{
    command::arguments::KeyArguments,
    show::{Screen, plain::render_bytes},
};

/// Make the new bundle from an old one and an update
///
/// What comes out is the builder's bundle, byte for byte, with the signature that came inside the
/// update. It is proved whole before it gets its name; a damaged update, a foreign old bundle or
/// another key leave nothing behind.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install bundle patch kdc-1.bundle kdc-2.update -o kdc-2.bundle\n  \
    kdc-install bundle patch /var/lib/kdc/store kdc-2.update -o kdc-2.bundle")]
pub(super) struct Patch {
    /// What the site has: bundles, or folders with `blobs/sha256`; the update comes last
    #[arg(value_name = "OLD", required = true)]
    old: Vec<PathBuf>,
    /// The update
    #[arg(value_name = "UPDATE", required = true)]
    update: PathBuf,
    /// Write the new bundle here
    #[arg(short = 'o', long = "save", value_name = "FILE")]
    save: PathBuf,
    #[command(flatten)]
    keys: KeyArguments,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Made<'a> {
    bundle: &'a Path,
    name: &'a str,
    version: &'a str,
    digest: String,
    key: &'a str,
    update_bytes: u64,
    file_bytes: u64,
}

impl Patch {
    pub(super) fn run(&self, screen: &Screen) -> Result<(), BundleCommandError> {
        let keys = load_keys(&self.keys)?;
        let old = open_holdings(&self.old, &keys)?;
        let made = delta::patch(&old, &self.update, &keys, &self.save, &mut Shown::new(screen))?;
        let document = Made {
            bundle: &self.save,
            name: &made.name,
            version: &made.version,
            digest: made.digest.to_string(),
            key: &made.signer,
            update_bytes: made.update_bytes,
            file_bytes: made.file_bytes,
        };
        screen.document(&document, || {
            format!(
                "{} {} in `{}`, made from an update of {} and proved: signed with key {}, {}\n",
                document.name,
                document.version,
                document.bundle.display(),
                render_bytes(document.update_bytes),
                document.key,
                render_bytes(document.file_bytes)
            )
        });
        Ok(())
    }
}
