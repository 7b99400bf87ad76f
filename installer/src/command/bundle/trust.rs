//! `bundle trust`: the keys a site takes bundles from.

use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use kdc_bundles::keys::TrustedKey;
use kdc_profiles::trust::{MAX_KEYS, Moment, TrustEntry, TrustFile};

use super::{
    BundleCommandError,
    keys::{SITE, judge, load_trust_file, now},
};
use crate::show::{Screen, table};

/// Keep the list of keys that this site takes bundles from
///
/// The trust file counts wherever no `--key` is given. To change the builder's key: add the new one at
/// every site, sign with both for a while (`bundle create --key OLD --key NEW`), then retire the old
/// one. A retired key stays in the file and never counts again.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install bundle trust add new.key.pub --comment 'build team, 2027'\n  \
    kdc-install bundle trust list\n  \
    kdc-install bundle trust retire E7620F1842B4E81F")]
pub(super) struct Trust {
    #[command(subcommand)]
    action: TrustAction,
}

#[derive(Debug, clap::Subcommand)]
enum TrustAction {
    Add(Add),
    List(List),
    Retire(Retire),
}

#[derive(Debug, clap::Args)]
struct FileArgument {
    /// The trust file
    #[arg(short, long, value_name = "FILE", default_value = SITE)]
    file: PathBuf,
}

/// Take bundles from one more key
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install bundle trust add site.key.pub\n  \
    kdc-install bundle trust add site.key.pub --not-before 2027-01-01 --not-after 2028-01-31")]
struct Add {
    /// The public key
    #[arg(value_name = "KEY.pub")]
    key: PathBuf,
    /// Whose key it is
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    /// It counts from then on (UTC: `2027-01-01` or `2027-01-01T00:00:00Z`)
    #[arg(long, value_name = "TIME")]
    not_before: Option<Moment>,
    /// It counts until then
    #[arg(long, value_name = "TIME")]
    not_after: Option<Moment>,
    #[command(flatten)]
    file: FileArgument,
}

/// Show the keys, and which of them count today
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install bundle trust list\n  \
    kdc-install bundle trust list -f trust.yaml --output json")]
struct List {
    #[command(flatten)]
    file: FileArgument,
}

/// Never again take a bundle that only this key signed
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kdc-install bundle trust retire E7620F1842B4E81F")]
struct Retire {
    /// The key's id
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    file: FileArgument,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Listing<'a> {
    file: &'a Path,
    keys: Vec<Listed<'a>>,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed<'a> {
    #[serde(flatten)]
    entry: &'a TrustEntry,
    in_force: bool,
    /// Why it doesn't count.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<String>,
}

impl Trust {
    pub(super) fn run(&self, screen: &Screen) -> Result<(), BundleCommandError> {
        match &self.action {
            TrustAction::Add(command) => command.run(screen),
            TrustAction::List(command) => {
                let path = &command.file.file;
                show(screen, path, &load_trust_file(path)?)
            }
            TrustAction::Retire(command) => command.run(screen),
        }
    }
}

impl Add {
    fn run(&self, screen: &Screen) -> Result<(), BundleCommandError> {
        let path = &self.file.file;
        let key = TrustedKey::load(&self.key)?;
        let mut file = match fs_err::symlink_metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => TrustFile::default(),
            _ => load_trust_file(path)?,
        };
        let id = key.id().to_string();
        let refuse = |what| {
            Err(BundleCommandError::TrustChange { path: path.clone(), id: id.clone(), what })
        };
        if let Some(known) = file.keys.iter().find(|entry| entry.id == id) {
            return refuse(if known.retired { "was retired" } else { "is there already" });
        }
        if file.keys.len() >= MAX_KEYS {
            return refuse("is one too many: the file holds 100 keys");
        }
        if self.not_before.is_some()
            && self.not_after.is_some()
            && self.not_before >= self.not_after
        {
            return refuse("would never count: `--not-after` is not after `--not-before`");
        }
        file.keys.push(TrustEntry {
            id: id.clone(),
            key: key.to_text().lines().nth(1).unwrap_or_default().to_owned(),
            comment: self.comment.clone(),
            not_before: self.not_before.clone(),
            not_after: self.not_after.clone(),
            retired: false,
        });
        write(path, &file)?;
        show(screen, path, &file)
    }
}

impl Retire {
    fn run(&self, screen: &Screen) -> Result<(), BundleCommandError> {
        let path = &self.file.file;
        let mut file = load_trust_file(path)?;
        let Some(entry) = file.keys.iter_mut().find(|entry| entry.id == self.id) else {
            let (path, id) = (path.clone(), self.id.clone());
            return Err(BundleCommandError::TrustChange { path, id, what: "is not in it" });
        };
        entry.retired = true;
        write(path, &file)?;
        show(screen, path, &file)
    }
}

fn show(screen: &Screen, path: &Path, file: &TrustFile) -> Result<(), BundleCommandError> {
    let judged = judge(file, path, &now())?;
    let keys = file.keys.iter().zip(judged).map(|(entry, (_, refusal))| Listed {
        entry,
        in_force: refusal.is_none(),
        refusal,
    });
    let listing = Listing { file: path, keys: keys.collect() };
    if !listing.keys.iter().any(|key| key.in_force) {
        screen.say(&format!("no key in `{}` is in force: every bundle is refused", path.display()));
    }
    screen.document(&listing, || listing.render());
    Ok(())
}

impl Listing<'_> {
    fn render(&self) -> String {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let row = |key: &Listed<'_>| {
            let entry = key.entry;
            vec![
                entry.id.clone(),
                key.refusal.clone().unwrap_or_else(|| "in force".to_owned()),
                or_dash(entry.not_before.as_ref().map(ToString::to_string)),
                or_dash(entry.not_after.as_ref().map(ToString::to_string)),
                or_dash(entry.comment.clone()),
            ]
        };
        let rows: Vec<_> = self.keys.iter().map(row).collect();
        table::render(&["KEY", "STATE", "NOT BEFORE", "NOT AFTER", "COMMENT"], &rows)
    }
}

/// Puts the file in place whole, or not at all.
fn write(path: &Path, file: &TrustFile) -> Result<(), BundleCommandError> {
    let wrong = |source| BundleCommandError::TrustWrite { path: path.to_owned(), source };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs_err::create_dir_all(folder).map_err(wrong)?;
    let mut builder = tempfile::Builder::new();
    let mode = std::fs::Permissions::from_mode(0o644);
    let mut new = builder.permissions(mode).tempfile_in(folder).map_err(wrong)?;
    new.write_all(file.to_text().as_bytes()).map_err(wrong)?;
    new.as_file().sync_all().map_err(wrong)?;
    new.persist(path).map_err(|error| wrong(error.error))?;
    fs_err::File::open(folder).and_then(|folder| folder.sync_all()).map_err(wrong)
}
