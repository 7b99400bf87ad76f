//! `license verify`: is a licence what the vendor signed?

use std::path::PathBuf;

use kdc_agent::license::{
    document::Phase,
    envelope::{Opened, open},
};

use super::{LicenseCommandError, Shown, now, public_keys, read};
use crate::show::Screen;

/// Prove a licence's signature and content; exit 3 where they aren't good
///
/// Without --key the keys built into this program count. Whether the licence is in force today is shown and
/// changes nothing: one that has ended is good still.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install license verify license.json --key vendor.key.pub\n  \
    kdc-install license verify license.json")]
pub(super) struct Verify {
    /// The licence
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The vendor's public key; may be given several times
    #[arg(long = "key", value_name = "KEY.pub")]
    keys: Vec<PathBuf>,
}

impl Verify {
    pub(super) fn run(&self, screen: &Screen) -> Result<(), LicenseCommandError> {
        let keys = public_keys(&self.keys)?;
        let refused = |source| LicenseCommandError::Refused { path: self.file.clone(), source };
        let Opened { kid, license } = open(&read(&self.file)?, &keys).map_err(refused)?;
        let id = kid.to_string();
        let shown = Shown::of(&self.file, true, &id, &license);
        screen.document(&shown, || shown.render());
        match license.phase(now()) {
            Phase::NotYet => {
                screen.say("it is good, and begins later than this machine's clock says")
            }
            Phase::Grace | Phase::Expired => screen.say("it is good, and has ended"),
            Phase::Valid | Phase::Soon => {}
        }
        Ok(())
    }
}
