//! `bundle verify`: prove every byte of a bundle.

use std::path::PathBuf;

use kdc_bundles::verify;

use super::{BundleCommandError, SignedBundle, load_keys, open, progress::Progress, refused};
use crate::{
    command::arguments::KeyArguments,
    show::{Screen, plain::render_bytes},
};

/// Prove every byte of a bundle against a public key
///
/// Reads the whole file once. Anything that is not exactly as it was signed is refused with exit
/// code 3, naming the member: a missing signature, another key, a flipped byte, a missing, extra or
/// moved member, a cut or extended file.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install bundle verify kdc.bundle --key site.key.pub\n  \
    kdc-install bundle verify kdc.bundle --key old.pub --key new.pub")]
pub(super) struct Verify {
    /// The bundle
    #[arg(value_name = "FILE")]
    bundle: PathBuf,
    #[command(flatten)]
    keys: KeyArguments,
}

impl Verify {
    pub(super) fn run(&self, screen: &Screen) -> Result<(), BundleCommandError> {
        let keys = load_keys(&self.keys)?;
        let file = open(&self.bundle)?;
        let length = file.metadata().map(|metadata| metadata.len());
        let length = length
            .map_err(|source| BundleCommandError::Unopened { path: self.bundle.clone(), source })?;
        let mut progress = Progress::start(screen, "verifying", length);
        let mut before = 0;
        let proved = verify::verify_with(file, &keys, &mut |read| {
            progress.add(read - before);
            before = read;
        });
        let proved = proved.map_err(refused(&self.bundle))?;
        progress.finish();
        let document = SignedBundle {
            bundle: &self.bundle,
            name: &proved.index.name,
            version: &proved.index.bundle_version,
            digest: proved.digest.to_string(),
            key: proved.signer.to_string(),
            artifacts: proved.index.artifacts.len(),
            blobs: proved.index.blobs.len(),
            content_bytes: proved.index.content_bytes(),
            file_bytes: proved.file_bytes,
        };
        screen.document(&document, || render(&document));
        Ok(())
    }
}

fn render(proved: &SignedBundle<'_>) -> String {
    format!(
        "{} {} is proved: signed with key {}, {} artifacts, {} blobs, every one of {} ({} bytes)\n",
        proved.name,
        proved.version,
        proved.key,
        proved.artifacts,
        proved.blobs,
        render_bytes(proved.file_bytes),
        proved.file_bytes
    )
}
