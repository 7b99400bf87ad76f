//! `bundle create`: from a definition to a signed bundle.

use std::path::{Path, PathBuf};

use kdc_airgap::{Cache, Summary};
use kdc_bundles::signing::{self, SigningKey};
use kdc_profiles::definition::Source;

use super::{
    BundleCommandError, SignedBundle,
    fetching::{FetchArguments, Shown},
    lock::load_lock,
    password,
};
use crate::show::{Screen, plain::render_bytes};

/// Make a signed bundle from a definition and its lock
///
/// What the lock names (`bundle lock`) and the cache lacks is fetched, and proved by its digest. A
/// definition of local files, folders and OCI layouts needs no lock. Every problem is shown at once.
/// The bundle appears whole or not at all; the same lock and key give the same bytes.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install bundle create -f bundle.yaml -o kdc.bundle --key site.key\n  \
    kdc-install bundle create -f bundle.yaml -o kdc.bundle --key site.key \\\n    \
    --password-file password.txt")]
pub(super) struct Create {
    /// The definition (`kind: BundleDefinition`); its paths are relative to its folder
    #[arg(short, long, value_name = "DEFINITION")]
    file: PathBuf,
    /// Write the bundle here
    #[arg(short = 'o', long = "save", value_name = "FILE")]
    save: PathBuf,
    /// Sign with this secret key
    #[arg(long, value_name = "KEY")]
    key: PathBuf,
    /// Take the key's password from this file: one line, readable only by you
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    fetching: FetchArguments,
}

impl Create {
    pub(super) async fn run(&self, screen: &Screen) -> Result<(), BundleCommandError> {
        let definition = kdc_profiles::definition::load(&self.file)?;
        let lock = load_lock(&self.file, &definition)?;
        let key = self.load_key()?;
        let folder = self.file.parent().unwrap_or(Path::new(""));
        let (save, mut shown) = (&self.save, Shown::new(screen));
        let summary = match &lock {
            Some(lock) => {
                let fetcher = self.fetching.fetcher()?;
                kdc_airgap::lock::fetch(&fetcher, lock, &mut shown).await?;
                let cache = fetcher.cache();
                kdc_airgap::create_locked(lock, folder, cache, save, &key, &mut shown)?
            }
            None => {
                // Only folders need it, as a place to be packed in.
                let folders = definition.artifacts.iter();
                let mut folders = folders.filter(|one| matches!(one.source, Source::Folder(_)));
                let cache = folders.next().map(|_| Cache::open_default()).transpose()?;
                let cache = cache.as_ref();
                kdc_airgap::create(&definition, folder, cache, save, &key, &mut shown)?
            }
        };
        self.show(screen, &summary);
        Ok(())
    }

    fn load_key(&self) -> Result<SigningKey, BundleCommandError> {
        let password = if !signing::needs_password(&self.key)? {
            None
        } else if let Some(path) = &self.password_file {
            Some(password::read_file(path)?)
        } else {
            let question = format!("Password of `{}`", self.key.display());
            Some(password::ask(&question, "give `--password-file FILE`")?)
        };
        Ok(SigningKey::load(&self.key, password.as_ref().map(|text| text.as_str()))?)
    }

    fn show(&self, screen: &Screen, summary: &Summary) {
        let created = SignedBundle {
            bundle: &self.save,
            name: &summary.name,
            version: &summary.version,
            digest: summary.digest.to_string(),
            key: summary.signer.to_string(),
            artifacts: summary.artifacts,
            blobs: summary.blobs,
            content_bytes: summary.content_bytes,
            file_bytes: summary.file_bytes,
        };
        screen.document(&created, || {
            format!(
                "{} {} in `{}`: {} artifacts, {} blobs, {}, signed with key {}\n",
                created.name,
                created.version,
                created.bundle.display(),
                created.artifacts,
                created.blobs,
                render_bytes(created.file_bytes),
                created.key
            )
        });
    }
}
