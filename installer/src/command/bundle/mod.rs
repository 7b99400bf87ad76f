//! `bundle`: make, prove and look into bundles, and make the keys that sign them.

use std::path::{Path, PathBuf};

use kdc_bundles::{
    error::VerifyError,
    keys::{KeyId, TrustedKeys},
    medium::Medium,
    open::BundleFile,
};

use crate::show::{Complaint, Look, Screen};

mod advice;
mod create;
mod diff;
mod documents;
mod error;
mod export;
mod fetching;
mod inspect;
mod inventory;
mod join;
mod key;
mod keys;
mod lock;
pub(crate) mod password;
mod patch;
mod progress;
mod prune;
mod repair;
mod serve;
mod sizes;
mod split;
mod tls;
mod trust;
mod verify;

pub use self::error::BundleCommandError;
pub(crate) use self::keys::load_keys;

/// Make a signed bundle, prove one, look into it, or carry it in parts
///
/// A bundle is one file with everything an install needs, and one signature over all of it. Make a
/// key once, give its public half (`KEY.pub`) to every site, keep KEY itself where only the builder
/// gets at it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install bundle key new -o site.key\n  \
    kdc-install bundle lock -f bundle.yaml\n  \
    kdc-install bundle create -f bundle.yaml -o kdc.bundle --key site.key\n  \
    kdc-install bundle verify kdc.bundle --key site.key.pub\n  \
    kdc-install bundle inspect kdc.bundle\n  \
    kdc-install bundle trust add site.key.pub\n  \
    kdc-install bundle serve kdc.bundle --key site.key.pub --listen 10.0.0.5:5000\n  \
    kdc-install bundle export kdc.bundle --key site.key.pub --oci layout")]
pub(crate) struct BundleCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Key(key::KeyCommand),
    Lock(lock::Lock),
    Create(create::Create),
    Verify(verify::Verify),
    Inspect(inspect::Inspect),
    Split(split::SplitCommand),
    Join(join::Join),
    Repair(repair::Repair),
    Trust(trust::Trust),
    Serve(serve::Serve),
    Export(export::Export),
    Prune(prune::Prune),
    Diff(diff::Diff),
    Inventory(inventory::TakeInventory),
    Patch(patch::Patch),
}

impl BundleCommand {
    pub(crate) async fn run(&self, look: Look) -> Result<(), Complaint> {
        let screen = Screen::new(look, 0, false);
        let result = match &self.action {
            Action::Key(command) => command.run(&screen),
            Action::Lock(command) => command.run(&screen).await,
            Action::Create(command) => command.run(&screen).await,
            Action::Verify(command) => command.run(&screen),
            Action::Inspect(command) => command.run(&screen),
            Action::Split(command) => command.run(&screen),
            Action::Join(command) => command.run(&screen),
            Action::Repair(command) => command.run(&screen),
            Action::Trust(command) => command.run(&screen),
            Action::Serve(command) => command.run(look).await,
            Action::Export(command) => command.run(&screen),
            // It works on nodes, whose refusals have codes of their own.
            Action::Prune(command) => return command.run(look).await,
            Action::Diff(command) => command.run(&screen),
            Action::Inventory(command) => command.run(&screen),
            Action::Patch(command) => command.run(&screen),
        };
        Ok(result?)
    }
}

/// A bundle that was signed or proved, as `bundle create` and `bundle verify` show it.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct SignedBundle<'a> {
    bundle: &'a Path,
    name: &'a str,
    version: &'a str,
    /// Of the signed index.
    digest: String,
    /// Id of the key that signed.
    key: String,
    artifacts: usize,
    blobs: usize,
    content_bytes: u64,
    file_bytes: u64,
}

/// Ids of keys in one line.
fn listed(ids: &[KeyId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The bundle at `path`: a file, one of its parts, or a folder that holds it.
fn open_bundle(path: &Path, keys: &TrustedKeys) -> Result<BundleFile, BundleCommandError> {
    let medium = Medium::find(&[path]).map_err(refused(path))?;
    BundleFile::open_medium(medium, keys).map_err(refused(path))
}

/// An error of the format, of that file; not finding it is another matter.
pub(crate) fn refused(path: &Path) -> impl Fn(VerifyError) -> BundleCommandError + use<> {
    let path: PathBuf = path.to_owned();
    move |source| BundleCommandError::refused(&path, source)
}
