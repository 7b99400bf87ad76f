//! `license revoke`: a signed list of licences that count no more.

use std::path::PathBuf;

use kdc_agent::license::{
    LicenseKeys,
    envelope::{self, Purpose},
    keys::LicenseKey,
    revocation::Revocations,
};
use serde::Serialize;

use super::{KeyArguments, LicenseCommandError, now, read, write_new};
use crate::show::Screen;

/// Sign a list of licences that count no more
///
/// Sites take it as they take licences, and the list with the higher serial counts. A new list says all of
/// it: start from the last one with --from, or what that took back counts again.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install license revoke --key vendor.key --id lic-2026-001 -o revocations-1.json\n  \
    kdc-install license revoke --key vendor.key --from revocations-1.json --id lic-2026-007 \\\n    \
      -o revocations-2.json")]
pub(super) struct Revoke {
    #[command(flatten)]
    key: KeyArguments,
    /// The licence that counts no more; repeat it for more
    #[arg(long = "id", value_name = "ID", required = true)]
    ids: Vec<String>,
    /// The last list, signed with the same key
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Write the list here
    #[arg(short = 'o', long = "save", value_name = "FILE")]
    save: PathBuf,
}

#[derive(Serialize)]
struct Shown<'a> {
    event: &'static str,
    file: &'a std::path::Path,
    key: String,
    #[serde(flatten)]
    list: &'a Revocations,
}

impl Revoke {
    pub(super) fn run(&self, screen: &Screen) -> Result<(), LicenseCommandError> {
        let key = self.key.open()?;
        let last = match &self.from {
            Some(path) => {
                let public = LicenseKey::parse(&key.public().to_text(), "the key")?;
                let keys = LicenseKeys::new(vec![public])?;
                let refused = |source| LicenseCommandError::Refused { path: path.clone(), source };
                Revocations::open(&read(path)?, &keys).map_err(refused)?.1
            }
            None => Revocations::default(),
        };
        let at = now();
        let moment = u64::try_from(at.unix()).unwrap_or(0);
        let mut revoked = last.revoked;
        for id in &self.ids {
            if !revoked.contains(id) {
                revoked.push(id.clone());
            }
        }
        let serial = moment.max(last.serial.saturating_add(1));
        let list = Revocations { serial, issued_at: at, revoked };
        list.check().map_err(LicenseCommandError::Terms)?;
        let payload = serde_json::to_vec(&list).expect("a list serialises");
        let signature = key.sign_bytes(&Purpose::Revocations.signed_bytes(&payload));
        write_new(&self.save, &envelope::render(key.id(), &payload, &signature))?;
        let event = "license-revocations";
        let shown = Shown { event, file: &self.save, key: key.id().to_string(), list: &list };
        screen.document(&shown, || {
            let ids = list.revoked.join(", ");
            format!("list {} revokes {}: {ids}\n", list.serial, list.revoked.len())
        });
        Ok(())
    }
}
