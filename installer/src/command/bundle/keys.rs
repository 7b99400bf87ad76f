//! Which public keys count: those on the command line, else those in the trusted folder.

use std::path::{Path, PathBuf};

use kdc_bundles::keys::{KeyError, TrustedKeys};

use super::BundleCommandError;
use crate::command::arguments::KeyArguments;

/// The keys of the command line; without any, every `*.pub` in `~/.config/kdc/trusted`.
pub(crate) fn load_keys(arguments: &KeyArguments) -> Result<TrustedKeys, BundleCommandError> {
    if !arguments.keys.is_empty() {
        return Ok(TrustedKeys::load(&arguments.keys)?);
    }
    let Some(home) = std::env::home_dir() else { return Err(KeyError::None.into()) };
    let folder = home.join(".config/kdc/trusted");
    Ok(TrustedKeys::load(list_folder(&folder)?)?)
}

/// The `*.pub` files of a folder, sorted; none where there is no such folder.
fn list_folder(folder: &Path) -> Result<Vec<PathBuf>, BundleCommandError> {
    let wrong = |source| BundleCommandError::KeyFolder { path: folder.to_owned(), source };
    let entries = match fs_err::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(wrong(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(wrong)?.path();
        if path.extension().is_some_and(|extension| extension == "pub") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_gives_its_public_keys_in_order_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.pub", "a.pub", "c.key", "d.pub.old"] {
            fs_err::write(folder.path().join(name), "").unwrap();
        }
        let found = list_folder(folder.path()).unwrap();
        assert_eq!(found, [folder.path().join("a.pub"), folder.path().join("b.pub")]);
        assert!(list_folder(&folder.path().join("none")).unwrap().is_empty());
    }
}
