//! `bundle export`: a bundle's content for other tools.

use std::path::PathBuf;

use kdc_airgap::export::{self, Choice, Exported};
use kdc_bundles::index::Digest;

use super::{BundleCommandError, load_keys, open_bundle, progress::Progress};
use crate::{
    command::arguments::KeyArguments,
    show::{Screen, plain::render_bytes},
};

/// Write what is in a bundle as an OCI image layout
///
/// skopeo, podman and other OCI tools read the folder: images under their whole names, everything
/// else by its title. Every byte is proved on its way; the folder appears whole or not at all.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install bundle export kdc.bundle --key site.key.pub --oci layout\n  \
    kdc-install bundle export kdc.bundle --oci layout --only image/registry.k8s.io/pause:3.10\n  \
    skopeo copy oci:layout:registry.k8s.io/pause:3.10 docker://registry.site/pause:3.10")]
pub(super) struct Export {
    /// The bundle
    #[arg(value_name = "FILE")]
    bundle: PathBuf,
    #[command(flatten)]
    keys: KeyArguments,
    /// Make this folder; there must be nothing in it
    #[arg(long, value_name = "DIR")]
    oci: PathBuf,
    /// Only artifacts of this kind, or this one; may be given several times
    #[arg(long, value_name = "KIND[/NAME]")]
    only: Vec<Choice>,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    layout: &'a std::path::Path,
    digest: &'a Digest,
    #[serde(flatten)]
    exported: &'a Exported,
}

impl Export {
    pub(super) fn run(&self, screen: &Screen) -> Result<(), BundleCommandError> {
        let keys = load_keys(&self.keys)?;
        let bundle = open_bundle(&self.bundle, &keys)?;
        let selection = export::select(bundle.index(), &self.only)?;
        let mut progress = Progress::start(screen, "exporting", selection.content_bytes());
        let written =
            export::write_oci(&bundle, &selection, &self.oci, &mut |done| progress.add(done));
        let exported = written?;
        progress.finish();
        let shown = Shown { layout: &self.oci, digest: bundle.digest(), exported: &exported };
        screen.document(&shown, || {
            format!(
                "`{}`: {} artifacts, {} blobs, {}\n",
                self.oci.display(),
                exported.artifacts,
                exported.blobs,
                render_bytes(exported.content_bytes)
            )
        });
        Ok(())
    }
}
