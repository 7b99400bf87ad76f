//! `bundle key new`: a key pair for signing bundles.

use std::path::PathBuf;

use kdc_bundles::signing;

use super::{BundleCommandError, password};
use crate::show::Screen;

const INSTEAD: &str = "give `--password-file FILE`, or `--unencrypted` if that is meant";

/// Make a key that signs bundles
#[derive(Debug, clap::Args)]
pub(super) struct KeyCommand {
    #[command(subcommand)]
    action: KeyAction,
}

#[derive(Debug, clap::Subcommand)]
enum KeyAction {
    New(New),
}

/// Make a new key pair: KEY signs bundles and stays with you, KEY.pub goes to the sites
///
/// Both files are in minisign's format. KEY is encrypted with a password, asked for twice. Neither
/// file is ever overwritten.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install bundle key new -o site.key\n  \
    kdc-install bundle key new -o site.key --password-file password.txt\n  \
    kdc-install bundle key new -o lab.key --unencrypted")]
struct New {
    /// Write the secret key here (mode 0600), and the public one beside it with `.pub` appended
    #[arg(short = 'o', long = "save", value_name = "KEY")]
    save: PathBuf,
    /// Take the password from this file: one line, readable only by you
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Write the key without a password: whoever reads the file can sign bundles
    #[arg(long, conflicts_with = "password_file")]
    unencrypted: bool,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct NewKey {
    id: String,
    secret_key: PathBuf,
    public_key: PathBuf,
    encrypted: bool,
}

impl KeyCommand {
    pub(super) fn run(&self, screen: &Screen) -> Result<(), BundleCommandError> {
        match &self.action {
            KeyAction::New(command) => command.run(screen),
        }
    }
}

impl New {
    fn run(&self, screen: &Screen) -> Result<(), BundleCommandError> {
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
        let public = signing::new_key_files(&self.save, password)?;
        let made = NewKey {
            id: public.id().to_string(),
            secret_key: self.save.clone(),
            public_key: public_path,
            encrypted: password.is_some(),
        };
        screen.document(&made, || {
            let (secret, public) = (made.secret_key.display(), made.public_key.display());
            let guard = if made.encrypted { "encrypted" } else { "NOT encrypted" };
            format!("key {}\n  {secret}  signs bundles ({guard}); keep it\n  {public}  proves them; give it to every site\n", made.id)
        });
        Ok(())
    }
}
