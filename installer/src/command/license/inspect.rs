//! `license inspect`: what a licence says.

use std::path::PathBuf;

use kdc_agent::license::envelope::inspect_unproved;

use super::{LicenseCommandError, Shown, read};
use crate::show::Screen;

/// Show what a licence's file says, whoever signed it
///
/// Nothing is proved by this, and it says so: `license verify` does that.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install license inspect license.json\n  \
    kdc-install license inspect license.json --output json | jq .license.maxNodes")]
pub(super) struct Inspect {
    /// The licence
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Inspect {
    pub(super) fn run(&self, screen: &Screen) -> Result<(), LicenseCommandError> {
        let refused = |source| LicenseCommandError::Refused { path: self.file.clone(), source };
        let (key, license) = inspect_unproved(&read(&self.file)?).map_err(refused)?;
        let shown = Shown::of(&self.file, false, &key, &license);
        screen.document(&shown, || shown.render());
        screen.say("nothing was proved: this is only what the file says of itself");
        Ok(())
    }
}
