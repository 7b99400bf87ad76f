//! Which public keys count. What stands on the command line counts alone; without it the site's trust
//! file; without that the keys in the operator's folder.

use std::{
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use kdc_bundles::keys::{KeyError, KeyId, RefusedKey, TrustedKey, TrustedKeys};
use kdc_profiles::{
    moment,
    trust::{self, Moment, TrustFile},
};

use super::BundleCommandError;
use crate::command::arguments::KeyArguments;

/// The site's trust file. Not below `/etc/kdc`, which is the agent's and goes with it.
pub(super) const SITE: &str = "/etc/kdc-install/trust.yaml";

/// Largest key or trust file read.
const MAX_BYTES: u64 = 256 * 1024;

/// The keys of the command line (public keys and trust files), else those of the site's trust file,
/// else every `*.pub` in `~/.config/kdc/trusted`.
pub(crate) fn load_keys(arguments: &KeyArguments) -> Result<TrustedKeys, BundleCommandError> {
    let home = std::env::home_dir();
    load_keys_of(&arguments.keys, Path::new(SITE), home.as_deref(), &now())
}

fn load_keys_of(
    given: &[PathBuf],
    site: &Path,
    home: Option<&Path>,
    now: &Moment,
) -> Result<TrustedKeys, BundleCommandError> {
    if !given.is_empty() {
        return load_all(given, now);
    }
    // A link to nowhere is there and can't be read: that is an error, and not "no trust file".
    if fs_err::symlink_metadata(site).is_ok() {
        return load_all(&[site.to_owned()], now);
    }
    let Some(home) = home else { return Err(KeyError::None.into()) };
    load_all(&list_folder(&home.join(".config/kdc/trusted"))?, now)
}

fn load_all(paths: &[PathBuf], now: &Moment) -> Result<TrustedKeys, BundleCommandError> {
    let (mut keys, mut refused) = (Vec::new(), Vec::new());
    for path in paths {
        let (text, file) = read(path)?;
        if !trust::is_trust_file(&text) {
            keys.push(TrustedKey::parse(&text, &path.display().to_string())?);
            continue;
        }
        ensure_guarded(path, &file)?;
        for (key, refusal) in judge(&parse_file(&text, path)?, path, now)? {
            match refusal {
                None => keys.push(key),
                Some(why) => refused.push(RefusedKey { id: key.id(), why }),
            }
        }
    }
    Ok(TrustedKeys::with_refused(keys, refused)?)
}

fn read(path: &Path) -> Result<(String, fs_err::File), BundleCommandError> {
    let wrong = |source| BundleCommandError::from(KeyError::Read { source });
    let mut file = fs_err::File::open(path).map_err(wrong)?;
    let mut text = String::new();
    (&mut file).take(MAX_BYTES + 1).read_to_string(&mut text).map_err(wrong)?;
    // Never read in part: the part left out may be the one that retires a key.
    if text.len() as u64 > MAX_BYTES {
        let origin = path.display().to_string();
        return Err(KeyError::Malformed { origin, what: "it is larger than 256 KiB" }.into());
    }
    Ok((text, file))
}

/// The trust file at `path`, which nobody but its owner may have written.
pub(super) fn load_trust_file(path: &Path) -> Result<TrustFile, BundleCommandError> {
    let (text, file) = read(path)?;
    ensure_guarded(path, &file)?;
    let trust = parse_file(&text, path)?;
    judge(&trust, path, &now())?;
    Ok(trust)
}

fn parse_file(text: &str, path: &Path) -> Result<TrustFile, BundleCommandError> {
    trust::parse(text, &path.display().to_string()).map_err(BundleCommandError::TrustFile)
}

/// Each key of a trust file, with the reason where it doesn't count.
pub(super) fn judge(
    file: &TrustFile,
    path: &Path,
    now: &Moment,
) -> Result<Vec<(TrustedKey, Option<String>)>, BundleCommandError> {
    let one = |entry: &trust::TrustEntry| {
        let origin = format!("key {} of {}", entry.id, path.display());
        let key = TrustedKey::parse(&entry.key, &origin)?;
        if KeyId::parse(&entry.id) != Some(key.id()) {
            let (path, stated, found) = (path.to_owned(), entry.id.clone(), key.id());
            return Err(BundleCommandError::TrustId { path, stated, found });
        }
        Ok((key, entry.refusal(now)))
    };
    file.keys.iter().map(one).collect()
}

/// Refuses a trust file that others than root and the operator could have written.
fn ensure_guarded(path: &Path, file: &fs_err::File) -> Result<(), BundleCommandError> {
    let wrong = |source| BundleCommandError::from(KeyError::Read { source });
    let refuse = |what| Err(BundleCommandError::TrustOpen { path: path.to_owned(), what });
    let of = file.metadata().map_err(wrong)?;
    if !of.is_file() {
        return refuse("is not a file");
    }
    if of.uid() != 0 && of.uid() != nix::unistd::geteuid().as_raw() {
        return refuse("belongs neither to root nor to you");
    }
    if of.mode() & 0o022 != 0 {
        return refuse("can be written by others than its owner");
    }
    let real = fs_err::canonicalize(path).map_err(wrong)?;
    let folder = real.parent().unwrap_or(Path::new("/"));
    let mode = fs_err::metadata(folder).map_err(wrong)?.mode();
    // With the sticky bit (`/tmp`) others can't replace what isn't theirs.
    if mode & 0o002 != 0 && mode & 0o1000 == 0 {
        return refuse("lies in a folder that everybody can write to");
    }
    Ok(())
}

/// This machine's clock.
pub(super) fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let text = moment::render(i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    text.parse().expect("the clock is before the year 10000")
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
    use std::os::unix::fs::PermissionsExt;

    use kdc_bundles::signing::SigningKey;

    use super::*;

    /// A site with a trust file, an operator's folder, and keys.
    struct Site(tempfile::TempDir);

    impl Site {
        fn new() -> Self {
            let site = Self(tempfile::tempdir().unwrap());
            fs_err::create_dir_all(site.at("home/.config/kdc/trusted")).unwrap();
            site
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        /// `lines` are added to the entries, each of one key.
        fn trust(&self, keys: &[(&TrustedKey, &str)]) -> PathBuf {
            let mut text = "apiVersion: kdc.dev/v1\nkind: Trust\nkeys:\n".to_owned();
            for (key, more) in keys {
                let (id, key) = (key.id(), line(key));
                text.push_str(&format!("- id: \"{id}\"\n  key: {key}\n{more}"));
            }
            let path = self.at("trust.yaml");
            fs_err::write(&path, text).unwrap();
            fs_err::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
            path
        }

        fn load(&self, given: &[PathBuf], now: &str) -> Result<Vec<KeyId>, BundleCommandError> {
            let home = self.at("home");
            let now = now.parse().unwrap();
            let keys = load_keys_of(given, &self.at("trust.yaml"), Some(&home), &now)?;
            Ok(keys.ids())
        }
    }

    fn key() -> TrustedKey {
        SigningKey::generate().unwrap().public()
    }

    fn line(key: &TrustedKey) -> String {
        key.to_text().lines().nth(1).unwrap().to_owned()
    }

    const NOW: &str = "2026-06-01T12:00:00Z";

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

    #[test]
    fn the_command_line_comes_before_the_site_and_the_site_before_the_folder() {
        let (site, [a, b, c]) = (Site::new(), [key(), key(), key()]);
        assert!(matches!(site.load(&[], NOW), Err(BundleCommandError::Key(KeyError::None))));
        fs_err::write(site.at("home/.config/kdc/trusted/a.pub"), a.to_text()).unwrap();
        assert_eq!(site.load(&[], NOW).unwrap(), [a.id()]);
        site.trust(&[(&b, "")]);
        assert_eq!(site.load(&[], NOW).unwrap(), [b.id()]);
        fs_err::write(site.at("c.pub"), c.to_text()).unwrap();
        assert_eq!(site.load(&[site.at("c.pub")], NOW).unwrap(), [c.id()]);
        let both = [site.at("c.pub"), site.at("trust.yaml")];
        assert_eq!(site.load(&both, NOW).unwrap(), [c.id(), b.id()]);
    }

    #[test]
    fn a_trust_file_that_can_not_be_read_is_never_passed_over() {
        let (site, a) = (Site::new(), key());
        fs_err::write(site.at("home/.config/kdc/trusted/a.pub"), a.to_text()).unwrap();
        std::os::unix::fs::symlink("nowhere", site.at("trust.yaml")).unwrap();
        let error = site.load(&[], NOW).unwrap_err();
        assert!(matches!(error, BundleCommandError::Key(KeyError::Read { .. })), "{error}");
    }

    #[test]
    fn a_trust_file_is_never_read_in_part() {
        let (site, a) = (Site::new(), key());
        let padding = format!("# {}\n", "x".repeat(MAX_BYTES as usize));
        site.trust(&[(&a, &format!("{padding}  retired: true\n"))]);
        let error = site.load(&[], NOW).unwrap_err();
        assert!(error.to_string().contains("larger than"), "{error}");
    }

    #[test]
    fn keys_that_are_retired_early_or_late_do_not_count() {
        let (site, [good, bad]) = (Site::new(), [key(), key()]);
        for more in ["  retired: true\n", "  notBefore: 2026-07-01\n", "  notAfter: 2026-05-31\n"] {
            site.trust(&[(&good, "  notAfter: 2026-12-31\n"), (&bad, more)]);
            assert_eq!(site.load(&[], NOW).unwrap(), [good.id()], "{more}");
            site.trust(&[(&bad, more)]);
            let error = site.load(&[], NOW).unwrap_err();
            assert!(matches!(error, BundleCommandError::Key(KeyError::NoneInForce { .. })));
            // Nor when the same command names its `.pub` file too.
            fs_err::write(site.at("bad.pub"), bad.to_text()).unwrap();
            site.load(&[site.at("bad.pub"), site.at("trust.yaml")], NOW).unwrap_err();
        }
    }

    #[test]
    fn an_id_that_is_not_the_key_s_and_an_id_that_stands_twice_are_refused() {
        let (site, [a, b]) = (Site::new(), [key(), key()]);
        let path = site.trust(&[(&a, ""), (&a, "  retired: true\n")]);
        let error = site.load(&[], NOW).unwrap_err();
        assert!(matches!(error, BundleCommandError::TrustFile(_)), "{error}");
        site.trust(&[(&a, "")]);
        let text = fs_err::read_to_string(&path).unwrap();
        fs_err::write(&path, text.replace(&line(&a), &line(&b))).unwrap();
        let error = site.load(&[], NOW).unwrap_err();
        assert!(matches!(error, BundleCommandError::TrustId { .. }), "{error}");
    }

    #[test]
    fn a_trust_file_that_others_could_have_written_is_refused() {
        let (site, a) = (Site::new(), key());
        let path = site.trust(&[(&a, "")]);
        for (mode, good) in [(0o644, true), (0o600, true), (0o664, false), (0o646, false)] {
            fs_err::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(site.load(&[], NOW).is_ok(), good, "{mode:o}");
        }
        fs_err::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        for (mode, good) in [(0o777, false), (0o1777, true), (0o755, true)] {
            fs_err::set_permissions(site.0.path(), PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(site.load(&[], NOW).is_ok(), good, "folder {mode:o}");
        }
    }
}
