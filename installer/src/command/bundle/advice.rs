//! What to do about an error of the `bundle` commands, and how the program ends with it.

use kdc_airgap::{CreateError, delta::DeltaError, export::ExportError};
use kdc_bundles::{
    parts::{PartsError, RepairError},
    signing::SigningError,
    write::WriteError,
};

use super::BundleCommandError;
use crate::show::Exit;

impl BundleCommandError {
    /// The one next thing to try, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused { source, .. } => source.hint(),
            Self::Find(error) => error.hint(),
            Self::PartsBad { repairable: true, .. } => {
                Some("`kdc-install bundle repair` rebuilds them".to_owned())
            }
            Self::PartsBad { bad, .. } => {
                let needed: Vec<_> = bad.iter().map(|part| part.number.to_string()).collect();
                Some(format!("copy them again from their source: {}", needed.join(", ")))
            }
            Self::Parts(error) => error.hint(),
            Self::Repair(error) => error.hint(),
            Self::Key(error) => error.hint().or_else(|| Some("check the path of the key".into())),
            Self::TrustFile(problems) => Some(format!("correct `{}`", problems.file())),
            Self::TrustOpen { path, .. } => Some(format!(
                "look what is in it; then `chown root` and `chmod go-w` for `{}` and its folder",
                path.display()
            )),
            Self::Signing(error) => error.hint(),
            Self::Definition(error) => error.hint(),
            Self::Create(error) => error.hint(),
            Self::Lock(error) => error.hint(),
            Self::Fetch(error) => error.hint(),
            Self::Cache(error) => error.hint(),
            Self::Catalog(error) => Some(error.hint().to_owned()),
            Self::Export(error) => error.hint(),
            Self::Delta(error) => error.hint(),
            Self::NoTerminal { instead } => Some((*instead).to_owned()),
            Self::PasswordOpen { path } => Some(format!("run `chmod 600 {}`", path.display())),
            _ => self.words().map(str::to_owned),
        }
    }

    /// Hints that are the same whatever the error holds.
    fn words(&self) -> Option<&'static str> {
        Some(match self {
            Self::TrustId { .. } => {
                "take the entry out and add the `.pub` file with `bundle trust add`"
            }
            Self::TrustChange { .. } => "`kdc-install bundle trust list` shows what is in it",
            Self::TrustWrite { .. } => {
                "the site's trust file is root's; name another with `--file`"
            }
            Self::Epoch { .. } => "unset it, or give seconds since 1970",
            Self::NoDocument { .. } => "build it again with `kdc-install bundle create`",
            Self::LockDigest { .. } => "make it anew with `kdc-install bundle lock`",
            Self::Listen { .. } => "name another address and port: `--listen 127.0.0.1:5001`",
            Self::Tls { .. } => "give PEM files: `--tls-cert CERT --tls-key KEY`",
            Self::DiffSides => "`bundle diff OLD NEW` or `bundle diff --inventory FILE NEW`",
            Self::PasswordsDiffer => "type the same password twice",
            Self::KeyFolder { .. } => "or name the key: `--key KEY.pub`",
            Self::Terminal(_) => "give `--password-file FILE`",
            Self::WriteLock { .. } => {
                "check the free space and the rights of the definition's folder"
            }

            Self::NoParts { .. } => "copy it again from its source",
            Self::Unopened { .. } => "check the path of the bundle",
            Self::PasswordFile(_) | Self::PasswordText { .. } => {
                "check the file that `--password-file` names"
            }
            _ => return None,
        })
    }

    /// The exit code it stands for.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Refused { .. }
            | Self::Export(ExportError::Bundle(_))
            | Self::PartsBad { .. }
            | Self::Repair(RepairError::TooMuch { .. } | RepairError::Forged { .. }) => {
                Exit::Refused
            }
            Self::Parts(PartsError::Split { .. }) | Self::Find(_) | Self::NoParts { .. } => {
                Exit::Usage
            }
            Self::Parts(_) | Self::Repair(RepairError::Parts(_)) => Exit::Internal,
            Self::Export(ExportError::Io(_)) => Exit::Internal,
            Self::Signing(SigningError::Generate) | Self::Terminal(_) => Exit::Internal,
            Self::Create(CreateError::Write { source: WriteError::Write { .. } }) => Exit::Internal,
            Self::Delta(DeltaError::File { .. }) => Exit::Usage,
            Self::Delta(DeltaError::Write { source: WriteError::Write { .. } }) => Exit::Internal,
            Self::Delta(_) => Exit::Refused,
            Self::Unopened { .. }
            | Self::Key(_)
            | Self::KeyFolder { .. }
            | Self::TrustFile(_)
            | Self::TrustOpen { .. }
            | Self::TrustId { .. }
            | Self::TrustChange { .. }
            | Self::TrustWrite { .. }
            | Self::DiffSides
            | Self::Signing(_)
            | Self::Definition(_)
            | Self::Epoch { .. }
            | Self::NoDocument { .. }
            | Self::Create(_)
            | Self::Lock(_)
            | Self::Fetch(_)
            | Self::Cache(_)
            | Self::WriteLock { .. }
            | Self::LockDigest { .. }
            | Self::Catalog(_)
            | Self::Listen { .. }
            | Self::Tls { .. }
            | Self::Export(_)
            | Self::NoTerminal { .. }
            | Self::PasswordFile(_)
            | Self::PasswordText { .. }
            | Self::PasswordOpen { .. }
            | Self::PasswordsDiffer => Exit::Usage,
        }
    }
}
