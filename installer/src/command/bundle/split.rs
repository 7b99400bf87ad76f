//! `bundle split`: parts that fit a stick, with parity if wanted.

use std::path::{Path, PathBuf};

use kdc_bundles::{
    medium::Medium,
    parts::{self, Phase, Split, Written},
};

use super::{
    BundleCommandError, load_keys,
    progress::Reach,
    refused,
    sizes::{parse_percent, parse_size},
};
use crate::{
    command::arguments::KeyArguments,
    show::{Screen, plain::render_bytes},
};

/// Split a bundle into parts that fit FAT32, with parity if wanted
///
/// Every byte is proved on the way. Each part says which bundle it belongs to and can be proved
/// alone. With --parity any such share of the parts may be lost: `bundle repair` rebuilds it. The
/// parts appear whole or not at all.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install bundle split kdc.bundle --parity 10%\n  \
    kdc-install bundle split kdc.bundle -o /mnt/stick/kdc.bundle --split 2GiB")]
pub(super) struct SplitCommand {
    /// The bundle, or parts that are to be cut in another way
    #[arg(value_name = "PATH", required = true)]
    bundle: Vec<PathBuf>,
    /// Name the parts after this path (`.part-1-of-7` is appended) [default: the bundle's]
    #[arg(short = 'o', long = "save", value_name = "PATH")]
    save: Option<PathBuf>,
    /// Parts are smaller than SIZE: `4GiB` fits FAT32, `700MiB` a CD
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "4GiB")]
    split: u64,
    /// Add parts that rebuild any SHARE of all parts that is lost: `10%`
    #[arg(long, value_name = "SHARE", value_parser = parse_percent)]
    parity: Option<u8>,
    #[command(flatten)]
    keys: KeyArguments,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Parts<'a> {
    parts: &'a [PathBuf],
    data_parts: usize,
    parity_parts: usize,
    bundle_bytes: u64,
    part_bytes: u64,
}

impl SplitCommand {
    pub(super) fn run(&self, screen: &Screen) -> Result<(), BundleCommandError> {
        let keys = load_keys(&self.keys)?;
        let medium = Medium::find(&self.bundle).map_err(refused(&self.bundle[0]))?;
        let save = self.save.clone().unwrap_or_else(|| medium.path().to_owned());
        let how = Split { size: self.split, parity_percent: self.parity.unwrap_or(0) };
        let length = medium.length();
        let mut pass = Reach::start(screen, "splitting", length);
        let mut parity: Option<Reach<'_>> = None;
        let path = medium.path().to_owned();
        let written = parts::split(medium, &keys, &save, how, &mut |phase, done| match phase {
            Phase::Copying => pass.reach(done),
            Phase::Parity => {
                parity
                    .get_or_insert_with(|| Reach::start(screen, "computing parity of", length))
                    .reach(done);
            }
        });
        let written = written.map_err(BundleCommandError::parts(&path))?;
        pass.finish();
        if let Some(parity) = parity {
            parity.finish();
        }
        let document = Parts::new(&written);
        screen.document(&document, || document.render(&save));
        Ok(())
    }
}

impl<'a> Parts<'a> {
    pub(super) fn new(written: &'a Written) -> Self {
        Self {
            parts: &written.paths,
            data_parts: written.data_parts,
            parity_parts: written.paths.len() - written.data_parts,
            bundle_bytes: written.bundle_bytes,
            part_bytes: written.file_bytes,
        }
    }

    pub(super) fn render(&self, save: &Path) -> String {
        let mut text = format!(
            "{} parts ({} of them parity) of `{}`, {}; the bundle has {}\n",
            self.parts.len(),
            self.parity_parts,
            save.display(),
            render_bytes(self.part_bytes),
            render_bytes(self.bundle_bytes)
        );
        for path in self.parts {
            text.push_str(&format!("  {}\n", path.display()));
        }
        text
    }
}
