//! `license`: what a vendor does with licences, without a network and without a cluster; and what an operator does with
//! his cluster's.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use kdc_agent::license::{
    LicenseKeys, Timestamp,
    document::{License, Phase},
    envelope::MAX_FILE_BYTES,
    keys::LicenseKey,
};
use kdc_bundles::signing::{self, SigningKey};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{
    command::{bundle::password, site::unix_ms},
    show::{Complaint, Look, Screen},
};

mod error;
mod inspect;
mod issue;
mod keygen;
mod revoke;
mod site;
mod verify;

pub use self::error::LicenseCommandError;

/// Install, look at and remove a cluster's licence; for vendors: make, prove and look into licences
///
/// A licence is one signed line in a file. Whoever issues them makes a key once, has its public half built
/// into kdc (KDC_LICENSE_KEYS), and keeps the key itself where only he gets at it. None of the
/// vendor's commands needs a network.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install license install license.json\n  \
    kdc-install license status\n  \
    kdc-install license keygen -o vendor.key\n  \
    kdc-install license issue --key vendor.key --customer 'Example GmbH' --max-nodes 3 --days 365 \\\n    \
      -o license.json\n  \
    kdc-install license inspect license.json\n  \
    kdc-install license verify license.json --key vendor.key.pub\n  \
    kdc-install license revoke --key vendor.key --id lic-2026-001 -o revocations.json")]
pub(crate) struct LicenseCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Install(site::Install),
    Status(site::Status),
    Explain(site::Explain),
    Export(site::Export),
    Remove(site::Remove),
    Keygen(keygen::Keygen),
    Issue(Box<issue::Issue>),
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
    Revoke(revoke::Revoke),
}

impl LicenseCommand {
    pub(crate) async fn run(&self, look: Look) -> Result<(), Complaint> {
        let screen = Screen::new(look, 0, false);
        let result = match &self.action {
            Action::Install(command) => return command.run(look).await,
            Action::Status(command) => return command.run(look).await,
            Action::Explain(command) => return command.run(look).await,
            Action::Export(command) => return command.run(look).await,
            Action::Remove(command) => return command.run(look).await,
            Action::Keygen(command) => command.run(&screen),
            Action::Issue(command) => command.run(&screen),
            Action::Inspect(command) => command.run(&screen),
            Action::Verify(command) => command.run(&screen),
            Action::Revoke(command) => command.run(&screen),
        };
        Ok(result?)
    }
}

/// Which key signs.
#[derive(Debug, clap::Args)]
struct KeyArguments {
    /// The vendor's secret key
    #[arg(long, value_name = "KEY")]
    key: PathBuf,
    /// Take the key's password from this file: one line, readable only by you
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl KeyArguments {
    /// The key, opened.
    fn open(&self) -> Result<SigningKey, LicenseCommandError> {
        const INSTEAD: &str = "give `--password-file FILE`";
        let password: Option<Zeroizing<String>> = match &self.password_file {
            Some(path) => Some(password::read_file(path)?),
            None if signing::needs_password(&self.key)? => {
                let question = format!("Password of {}", self.key.display());
                Some(password::ask(&question, INSTEAD)?)
            }
            None => None,
        };
        Ok(SigningKey::load(&self.key, password.as_ref().map(|text| text.as_str()))?)
    }
}

/// The public keys of files, or those built into this program.
fn public_keys(paths: &[PathBuf]) -> Result<LicenseKeys, LicenseCommandError> {
    if paths.is_empty() {
        let keys = LicenseKeys::built_in()?;
        return if keys.is_empty() { Err(LicenseCommandError::NoKeys) } else { Ok(keys) };
    }
    let mut keys = Vec::new();
    for path in paths {
        let text = read(path)?;
        let text = String::from_utf8_lossy(&text);
        keys.push(LicenseKey::parse(&text, &path.display().to_string())?);
    }
    Ok(LicenseKeys::new(keys)?)
}

/// A small file's bytes: one more than is allowed at most, so that what is too large is told as that.
fn read(path: &Path) -> Result<Vec<u8>, LicenseCommandError> {
    let wrong = |source| LicenseCommandError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = fs_err::File::open(path).map_err(wrong)?;
    file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(wrong)?;
    Ok(bytes)
}

/// Write a new file; what is there already stays.
fn write_new(path: &Path, text: &str) -> Result<(), LicenseCommandError> {
    use std::io::Write;
    let wrong = |source| LicenseCommandError::Write { path: path.to_owned(), source };
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    let mut file = match fs_err::OpenOptions::from_options(options).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(LicenseCommandError::Exists { path: path.to_owned() });
        }
        Err(error) => return Err(wrong(error)),
    };
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(wrong)
}

/// This machine's clock.
fn now() -> Timestamp {
    Timestamp::from_unix(unix_ms().div_euclid(1000))
}

/// A licence as `issue`, `inspect` and `verify` show it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    event: &'static str,
    file: &'a Path,
    /// The signature was found good.
    proved: bool,
    /// The key it is signed with, or says so.
    key: &'a str,
    /// Where in its life it is, by this machine's clock.
    phase: &'static str,
    license: &'a License,
}

impl<'a> Shown<'a> {
    fn of(file: &'a Path, proved: bool, key: &'a str, license: &'a License) -> Self {
        Self { event: "license", file, proved, key, phase: phase(license), license }
    }

    fn render(&self) -> String {
        let license = self.license;
        let or = |value: Option<String>, absent: &str| value.unwrap_or_else(|| absent.to_owned());
        let mut lines = vec![
            ("licence", format!("{} (serial {})", license.id, license.serial)),
            ("type", license.kind.as_str().to_owned()),
            ("customer", license.customer.clone()),
            ("issued", license.issued_at.to_string()),
            ("in force from", license.not_before.to_string()),
            ("until", or(license.expires_at.map(|end| end.to_string()), "no end")),
            ("days of grace", license.grace_days.to_string()),
            ("nodes", or(license.max_nodes.map(|nodes| nodes.to_string()), "any number")),
        ];
        lines.extend(self.rest());
        let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (name, value) in lines {
            text.push_str(&format!("{name:<width$}  {value}\n"));
        }
        let proof = if self.proved { "good" } else { "NOT checked" };
        text + &format!(
            "{:<width$}  {proof}, key {}\n{:<width$}  {}\n",
            "signature", self.key, "today", self.phase
        )
    }

    /// What most licences don't have.
    fn rest(&self) -> Vec<(&'static str, String)> {
        let license = self.license;
        let mut lines = Vec::new();
        if let Some(gpus) = license.max_gpus {
            lines.push(("GPUs", gpus.to_string()));
        }
        let overage = &license.overage;
        if overage.percent > 0 || overage.nodes > 0 {
            let days = overage.days.map_or(String::new(), |days| format!(", for {days} days"));
            let text = format!("{} % or {} nodes more{days}", overage.percent, overage.nodes);
            lines.push(("allowance", text));
        }
        if !license.count.roles.is_empty() {
            let roles: Vec<_> = license.count.roles.iter().map(|role| role.as_str()).collect();
            lines.push(("counts only", roles.join(", ")));
        }
        for (name, grant) in &license.features {
            lines.push(("feature", format!("{name}: {grant}")));
        }
        for cluster in &license.cluster_ids {
            lines.push(("only cluster", cluster.clone()));
        }
        for id in &license.supersedes {
            lines.push(("replaces", id.clone()));
        }
        lines
    }
}

fn phase(license: &License) -> &'static str {
    match license.phase(now()) {
        Phase::NotYet => "begins later",
        Phase::Valid => "in force",
        Phase::Soon => "in force, ends within 30 days",
        Phase::Grace => "ended, within its days of grace",
        Phase::Expired => "ended",
    }
}
