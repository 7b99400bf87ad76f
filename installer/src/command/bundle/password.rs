//! Passwords of secret keys: from a file only its owner can read, or typed without being seen.
//! Never from the command line or the environment, which other programs can read.

use std::{
    io::{IsTerminal, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use zeroize::Zeroizing;

use super::BundleCommandError;
use crate::show::read_hidden;

/// Longest password file read.
const MAX_PASSWORD: u64 = 1024;

/// The password in a file: one line, mode 0600.
pub(crate) fn read_file(path: &Path) -> Result<Zeroizing<String>, BundleCommandError> {
    let file = fs_err::File::open(path).map_err(BundleCommandError::PasswordFile)?;
    let metadata = file.metadata().map_err(BundleCommandError::PasswordFile)?;
    // A pipe (`--password-file <(…)`) has no mode that others could use.
    if metadata.is_file() && metadata.permissions().mode() & 0o077 != 0 {
        return Err(BundleCommandError::PasswordOpen { path: path.to_owned() });
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_PASSWORD + 1)
        .read_to_string(&mut text)
        .map_err(BundleCommandError::PasswordFile)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    if line.is_empty() || line.contains('\n') || text.len() as u64 > MAX_PASSWORD {
        return Err(BundleCommandError::PasswordText { path: path.to_owned() });
    }
    Ok(Zeroizing::new(line.to_owned()))
}

/// Asks on the terminal; `instead` is the hint where there is none.
pub(crate) fn ask(
    question: &str,
    instead: &'static str,
) -> Result<Zeroizing<String>, BundleCommandError> {
    if !std::io::stdin().is_terminal() {
        return Err(BundleCommandError::NoTerminal { instead });
    }
    read_hidden(&format!("{question}:")).map(Zeroizing::new).map_err(BundleCommandError::Terminal)
}

/// Asks for a new password, twice.
pub(crate) fn ask_new(instead: &'static str) -> Result<Zeroizing<String>, BundleCommandError> {
    let first = ask("Password for the new key", instead)?;
    let second = ask("The same password again", instead)?;
    if *first == *second { Ok(first) } else { Err(BundleCommandError::PasswordsDiffer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_file_is_one_line_that_only_its_owner_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        let read = |text: &str, mode| {
            fs_err::write(&path, text).unwrap();
            let mode = std::fs::Permissions::from_mode(mode);
            fs_err::set_permissions(&path, mode).unwrap();
            read_file(&path)
        };
        assert_eq!(read("open sesame\n", 0o600).unwrap().as_str(), "open sesame");
        assert_eq!(read("open sesame", 0o400).unwrap().as_str(), "open sesame");
        assert!(matches!(read("x\n", 0o640), Err(BundleCommandError::PasswordOpen { .. })));
        for text in ["", "\n", "a\nb\n", &"x".repeat(2000)] {
            let result = read(text, 0o600);
            assert!(matches!(result, Err(BundleCommandError::PasswordText { .. })), "{text:?}");
        }
    }
}
