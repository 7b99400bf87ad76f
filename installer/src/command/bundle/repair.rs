//! `bundle repair`: rebuild parts that are missing or damaged.

use std::path::PathBuf;

use kdc_bundles::{
    medium::Medium,
    parts::{self, Checked},
};

use super::{BundleCommandError, load_keys, progress::Reach, refused};
use crate::{command::arguments::KeyArguments, show::Screen};

/// Rebuild parts that are missing or damaged
///
/// Needs as many good parity parts as others are bad, counted place by place: parts that are damaged
/// at different places help each other. What is rebuilt is proved before it replaces anything; a
/// damaged part is replaced where it lies, a missing one appears beside the others.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install bundle repair /mnt/stick\n  \
    kdc-install bundle repair /mnt/first /mnt/second -o /srv/parts --key site.key.pub")]
pub(super) struct Repair {
    /// A part, or folders and sticks with parts
    #[arg(value_name = "PATH", required = true)]
    bundle: Vec<PathBuf>,
    /// Write the rebuilt parts into this folder and replace nothing
    #[arg(short = 'o', long = "save", value_name = "FOLDER")]
    save: Option<PathBuf>,
    #[command(flatten)]
    keys: KeyArguments,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    rebuilt: Vec<Rebuilt>,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Rebuilt {
    number: u32,
    path: PathBuf,
}

impl Repair {
    pub(super) fn run(&self, screen: &Screen) -> Result<(), BundleCommandError> {
        let keys = load_keys(&self.keys)?;
        let medium = Medium::find(&self.bundle).map_err(refused(&self.bundle[0]))?;
        let path = medium.path().to_owned();
        let Medium::Parts(set) = medium else {
            return Err(BundleCommandError::NoParts { path });
        };
        let mut pass = Reach::start(screen, "verifying", super::verify::part_bytes(&set));
        let checked = parts::check(&set, &keys, &mut |done| pass.reach(done));
        let checked = checked.map_err(refused(&path))?;
        pass.finish();
        let mut pass = Reach::start(screen, "rebuilding", bad_bytes(&checked));
        let repaired =
            parts::repair(&set, &checked, self.save.as_deref(), &mut |done| pass.reach(done))?;
        pass.finish();
        let rebuilt = repaired.parts.into_iter().map(|(number, path)| Rebuilt { number, path });
        let document = Document { rebuilt: rebuilt.collect() };
        screen.document(&document, || document.render());
        Ok(())
    }
}

fn bad_bytes(checked: &Checked) -> u64 {
    let bad = checked.parts.iter().filter(|part| !part.is_good());
    bad.map(|part| checked.geometry.payload_bytes(part.number)).sum()
}

impl Document {
    fn render(&self) -> String {
        if self.rebuilt.is_empty() {
            return "every part is good: nothing to rebuild\n".to_owned();
        }
        let line = |part: &Rebuilt| {
            format!("part {} is rebuilt and proved: {}\n", part.number, part.path.display())
        };
        self.rebuilt.iter().map(line).collect()
    }
}
