//! `bundle create`: from a definition to a signed bundle.

use std::path::{Path, PathBuf};

use kdc_airgap::{Cache, Output, Summary, document};
use kdc_bundles::signing::{self, SigningKey, SigningKeys};
use kdc_profiles::definition::Source;

use super::{
    BundleCommandError, SignedBundle,
    fetching::{FetchArguments, Shown},
    lock::load_lock,
    password,
    sizes::SplitArguments,
    split::Parts,
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
    --password-file password.txt\n  \
    kdc-install bundle create -f bundle.yaml -o kdc.bundle --key old.key --key new.key\n  \
    kdc-install bundle create -f bundle.yaml -o /mnt/stick/kdc.bundle --key site.key \\\n    \
    --split 4GiB --parity 10%")]
pub(super) struct Create {
    /// The definition (`kind: BundleDefinition`); its paths are relative to its folder
    #[arg(short, long, value_name = "DEFINITION")]
    file: PathBuf,
    /// Write the bundle here
    #[arg(short = 'o', long = "save", value_name = "FILE")]
    save: PathBuf,
    /// Sign with this secret key; several, while sites change from one to the next
    #[arg(long = "key", value_name = "KEY", required = true)]
    keys: Vec<PathBuf>,
    /// Take the keys' password from this file: one line, readable only by you
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    fetching: FetchArguments,
    #[command(flatten)]
    split: SplitArguments,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Created<'a> {
    #[serde(flatten)]
    signed: SignedBundle<'a>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    parts: Option<Parts<'a>>,
}

impl Create {
    pub(super) async fn run(&self, screen: &Screen) -> Result<(), BundleCommandError> {
        let definition = kdc_profiles::definition::load(&self.file)?;
        let lock = load_lock(&self.file, &definition)?;
        let keys = self.load_keys()?;
        let folder = self.file.parent().unwrap_or(Path::new(""));
        let output = Output { path: &self.save, split: self.split.chosen() };
        let mut shown = Shown::new(screen);
        let summary = match &lock {
            Some(lock) => {
                let fetcher = self.fetching.fetcher()?;
                kdc_airgap::lock::fetch(&fetcher, lock, &mut shown).await?;
                let cache = fetcher.cache();
                kdc_airgap::create_locked(lock, folder, cache, output, &keys, &mut shown)?
            }
            None => {
                // Only folders need it, as a place to be packed in.
                let folders = definition.artifacts.iter();
                let mut folders = folders.filter(|one| matches!(one.source, Source::Folder(_)));
                let cache = folders.next().map(|_| Cache::open_default()).transpose()?;
                let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
                let created = document::created_from(epoch.as_deref())
                    .map_err(|what| BundleCommandError::Epoch { what })?;
                let (cache, shown) = (cache.as_ref(), &mut shown);
                kdc_airgap::create(&definition, folder, cache, output, &keys, &created, shown)?
            }
        };
        self.show(screen, &summary);
        Ok(())
    }

    fn load_keys(&self) -> Result<SigningKeys, BundleCommandError> {
        let keys = self.keys.iter().map(|path| self.load_key(path));
        Ok(SigningKeys::new(keys.collect::<Result<_, _>>()?)?)
    }

    fn load_key(&self, path: &Path) -> Result<SigningKey, BundleCommandError> {
        let password = if !signing::needs_password(path)? {
            None
        } else if let Some(path) = &self.password_file {
            Some(password::read_file(path)?)
        } else {
            let question = format!("Password of `{}`", path.display());
            Some(password::ask(&question, "give `--password-file FILE`")?)
        };
        Ok(SigningKey::load(path, password.as_ref().map(|text| text.as_str()))?)
    }

    fn show(&self, screen: &Screen, summary: &Summary) {
        let signed = SignedBundle {
            bundle: &self.save,
            name: &summary.name,
            version: &summary.version,
            digest: summary.digest.to_string(),
            key: super::listed(&summary.signers),
            artifacts: summary.artifacts,
            blobs: summary.blobs,
            content_bytes: summary.content_bytes,
            file_bytes: summary.file_bytes,
        };
        let created = Created { signed, parts: summary.parts.as_ref().map(Parts::new) };
        screen.document(&created, || {
            let parts = created.parts.as_ref().map(|parts| parts.render(&self.save));
            let signed = &created.signed;
            let text = format!(
                "{} {} in `{}`: {} artifacts, {} blobs, {}, signed with key {}\n",
                signed.name,
                signed.version,
                signed.bundle.display(),
                signed.artifacts,
                signed.blobs,
                render_bytes(signed.file_bytes),
                signed.key
            );
            text + &parts.unwrap_or_default()
        });
    }
}
