//! `bundle join`: one file from parts.

use std::path::{Path, PathBuf};

use kdc_bundles::{medium::Medium, parts};

use super::{BundleCommandError, load_keys, progress::Reach, refused};
use crate::{
    command::arguments::KeyArguments,
    show::{Screen, plain::render_bytes},
};

/// Join parts into one file
///
/// Every byte is proved on the way, and the file appears whole or not at all. No command needs this:
/// all of them read parts as they read a file.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install bundle join /mnt/stick -o kdc.bundle\n  \
    kdc-install bundle join /mnt/first /mnt/second -o kdc.bundle --key site.key.pub")]
pub(super) struct Join {
    /// A part, or folders and sticks with parts
    #[arg(value_name = "PATH", required = true)]
    bundle: Vec<PathBuf>,
    /// Write the bundle here
    #[arg(short = 'o', long = "save", value_name = "FILE")]
    save: PathBuf,
    #[command(flatten)]
    keys: KeyArguments,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Whole<'a> {
    bundle: &'a Path,
    file_bytes: u64,
}

impl Join {
    pub(super) fn run(&self, screen: &Screen) -> Result<(), BundleCommandError> {
        let keys = load_keys(&self.keys)?;
        let medium = Medium::find(&self.bundle).map_err(refused(&self.bundle[0]))?;
        let path = medium.path().to_owned();
        let mut pass = Reach::start(screen, "joining", medium.length());
        let joined = parts::join(medium, &keys, &self.save, &mut |done| pass.reach(done));
        let file_bytes = joined.map_err(BundleCommandError::parts(&path))?;
        pass.finish();
        let whole = Whole { bundle: &self.save, file_bytes };
        screen.document(&whole, || {
            format!("`{}` is whole and proved, {}\n", self.save.display(), render_bytes(file_bytes))
        });
        Ok(())
    }
}
