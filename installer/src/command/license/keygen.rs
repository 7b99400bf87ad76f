//! `license keygen`: the key that a vendor signs licences with.

use std::path::PathBuf;

use kdc_bundles::signing;
use serde::Serialize;

use super::{LicenseCommandError, password};
use crate::show::Screen;

const INSTEAD: &str = "give `--password-file FILE`, or `--unencrypted` if that is meant";

/// Make the key that signs licences: KEY stays with the vendor, KEY.pub is built into kdc
///
/// Both files are in minisign's format. KEY is encrypted with a password, asked for twice. Neither file is ever
/// overwritten. What is printed as `built in` goes into the environment variable KDC_LICENSE_KEYS when kdc is
/// built; for a new key beside the old one, both, with a comma between them.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install license keygen -o vendor.key\n  \
    kdc-install license keygen -o vendor.key --password-file password.txt")]
pub(super) struct Keygen {
    /// Write the secret key here (mode 0600), and the public one beside it with `.pub` appended
    #[arg(short = 'o', long = "save", value_name = "KEY")]
    save: PathBuf,
    /// Take the password from this file: one line, readable only by you
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Write the key without a password: whoever reads the file can issue licences
    #[arg(long, conflicts_with = "password_file")]
    unencrypted: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewKey {
    event: &'static str,
    id: String,
    secret_key: PathBuf,
    public_key: PathBuf,
    encrypted: bool,
    /// For KDC_LICENSE_KEYS.
    built_in: String,
}

impl Keygen {
    pub(super) fn run(&self, screen: &Screen) -> Result<(), LicenseCommandError> {
        let public_path = signing::public_path(&self.save);
        // Said before a password is asked for; the writing itself refuses too.
        for path in [&self.save, &public_path] {
            if path.exists() {
                return Err(signing::SigningError::Exists { path: path.clone() }.into());
            }
        }
        let password = match (&self.password_file, self.unencrypted) {
            (_, true) => None,
            (Some(path), false) => Some(password::read_file(path)?),
            (None, false) => Some(password::ask_new(INSTEAD)?),
        };
        let password = password.as_ref().map(|text| text.as_str());
        let public = signing::new_key_files_for("licence", &self.save, password)?;
        let text = public.to_text();
        let made = NewKey {
            event: "license-key",
            id: public.id().to_string(),
            secret_key: self.save.clone(),
            public_key: public_path,
            encrypted: password.is_some(),
            built_in: text.lines().nth(1).unwrap_or_default().to_owned(),
        };
        screen.document(&made, || {
            let guard = if made.encrypted { "encrypted" } else { "NOT encrypted" };
            format!(
                "key {}\n  {}  signs licences ({guard}); keep it\n  {}  proves them\n  built in: \
                 KDC_LICENSE_KEYS={}\n",
                made.id,
                made.secret_key.display(),
                made.public_key.display(),
                made.built_in
            )
        });
        Ok(())
    }
}
