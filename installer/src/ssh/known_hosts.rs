//! known_hosts files: who vouches for a host key.
//!
//! Reading is lenient where OpenSSH is (a line that isn't understood vouches for nobody) and strict
//! where it matters: a host that is on record with other keys is *changed*, never *unknown*.

use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use russh::keys::{Algorithm, Certificate, HashAlg, PublicKey, ssh_key::certificate::CertType};

/// Largest known_hosts file read.
pub(super) const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// What a line says about its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Host,
    Authority,
    Revoked,
}

/// One understood line.
#[derive(Debug, Clone)]
struct Line {
    mark: Mark,
    hosts: String,
    /// `kind base64`, parsed only when the line matters: files have thousands of lines.
    key: String,
    place: String,
}

impl Line {
    fn key(&self) -> Option<PublicKey> {
        PublicKey::from_openssh(&self.key).ok()
    }

    fn is(&self, key: &PublicKey) -> bool {
        self.key().is_some_and(|own| own.key_data() == key.key_data())
    }
}

/// All lines of all files that a target trusts.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownHosts {
    lines: Vec<Line>,
}

/// What the record says about a key that a server shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// On record.
    Trusted,
    /// No line names this host.
    Unknown,
    /// The host is on record with other keys.
    Changed {
        /// Fingerprints on record.
        expected: String,
        /// Where.
        record: String,
    },
    /// Marked as revoked.
    Revoked {
        /// Where.
        record: String,
    },
    /// A certificate that doesn't hold.
    BadCertificate {
        /// Why.
        problem: String,
    },
}

/// `host` as known_hosts spells it for `port`.
pub(super) fn host_name(host: &str, port: u16) -> String {
    if port == 22 { host.to_owned() } else { format!("[{host}]:{port}") }
}

/// `SHA256:…` of a key.
pub(super) fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

impl KnownHosts {
    /// Add the lines of one file.
    pub(super) fn parse(&mut self, text: &str, path: &Path) {
        for (number, text) in text.lines().enumerate() {
            if let Some(line) = parse_line(text, path, number + 1) {
                self.lines.push(line);
            }
        }
    }

    /// Read and add one file; a file that isn't there says nothing.
    pub(super) fn load(&mut self, path: &Path) -> std::io::Result<()> {
        use std::io::Read as _;
        let file = match fs_err::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        file.take(MAX_FILE_BYTES).read_to_end(&mut text)?;
        self.parse(&String::from_utf8_lossy(&text), path);
        Ok(())
    }

    /// Key algorithms on record for the host: the server is asked for these first.
    pub(super) fn algorithms(&self, host: &str) -> Vec<Algorithm> {
        self.of(Mark::Host, &[host]).filter_map(Line::key).map(|key| key.algorithm()).collect()
    }

    /// True when some CA vouches for hosts of this name.
    pub(super) fn has_authority(&self, names: &[&str]) -> bool {
        self.of(Mark::Authority, names).next().is_some()
    }

    /// Judge a plain key shown by `host` (as [`host_name`] spells it).
    pub(super) fn judge_key(&self, host: &str, key: &PublicKey) -> Verdict {
        if let Some(record) = self.revoking(key) {
            return Verdict::Revoked { record };
        }
        let names = [host];
        let recorded: Vec<(&Line, PublicKey)> =
            self.of(Mark::Host, &names).filter_map(|line| Some((line, line.key()?))).collect();
        if recorded.iter().any(|(_, own)| own.key_data() == key.key_data()) {
            return Verdict::Trusted;
        }
        if recorded.is_empty() {
            return Verdict::Unknown;
        }
        let join = |parts: Vec<String>| parts.join(" or ");
        Verdict::Changed {
            expected: join(recorded.iter().map(|(_, own)| fingerprint(own)).collect()),
            record: join(recorded.iter().map(|(line, _)| line.place.clone()).collect()),
        }
    }

    /// Judge a host certificate. `names` are the spellings the host goes by in the files,
    /// `principals` the names a certificate may be made out to.
    pub(super) fn judge_certificate(
        &self,
        names: &[&str],
        principals: &[&str],
        certificate: &Certificate,
        now_unix: u64,
    ) -> Verdict {
        let bad = |problem: String| Verdict::BadCertificate { problem };
        let shown = PublicKey::new(certificate.public_key().clone(), "");
        let authority = PublicKey::new(certificate.signature_key().clone(), "");
        if let Some(record) = self.revoking(&shown).or_else(|| self.revoking(&authority)) {
            return Verdict::Revoked { record };
        }
        if certificate.cert_type() != CertType::Host {
            return bad("it is a user certificate".to_owned());
        }
        let trusted: Vec<_> = self
            .of(Mark::Authority, names)
            .filter_map(Line::key)
            .map(|key| key.fingerprint(HashAlg::Sha256))
            .collect();
        if !trusted.contains(&authority.fingerprint(HashAlg::Sha256)) {
            return bad(format!("it is signed by another CA, {}", fingerprint(&authority)));
        }
        let made_out = certificate.valid_principals();
        if !made_out.iter().any(|name| principals.contains(&name.as_str())) {
            return bad(format!("it is made out to {}", made_out.join(", ")));
        }
        if !certificate.critical_options().is_empty() {
            return bad("it has critical options that kdc does not know".to_owned());
        }
        if now_unix < certificate.valid_after() || now_unix >= certificate.valid_before() {
            return bad(
                "it is expired or not valid yet (or this machine's clock is wrong)".to_owned()
            );
        }
        match certificate.validate_at(now_unix, &trusted) {
            Ok(()) => Verdict::Trusted,
            Err(_) => bad("the CA's signature does not hold".to_owned()),
        }
    }

    fn of<'a>(&'a self, mark: Mark, names: &'a [&'a str]) -> impl Iterator<Item = &'a Line> {
        self.lines.iter().filter(move |line| {
            line.mark == mark && names.iter().any(|name| names_host(&line.hosts, name))
        })
    }

    /// A revoked key is refused wherever it shows up.
    fn revoking(&self, key: &PublicKey) -> Option<String> {
        self.lines
            .iter()
            .find(|line| line.mark == Mark::Revoked && line.is(key))
            .map(|line| line.place.clone())
    }
}

fn parse_line(text: &str, path: &Path, number: usize) -> Option<Line> {
    let mut words = text.split_whitespace();
    let first = words.next()?;
    let (mark, hosts) = match first {
        "@cert-authority" => (Mark::Authority, words.next()?),
        "@revoked" => (Mark::Revoked, words.next()?),
        comment_or_unknown if comment_or_unknown.starts_with(['#', '@']) => return None,
        hosts => (Mark::Host, hosts),
    };
    let (kind, blob) = (words.next()?, words.next()?);
    let place = format!("{}:{number}", path.display());
    Some(Line { mark, hosts: hosts.to_owned(), key: format!("{kind} {blob}"), place })
}

/// Does this hosts field (patterns, negations, or one hashed name) name `host`?
fn names_host(field: &str, host: &str) -> bool {
    if let Some(hashed) = field.strip_prefix("|1|") {
        return is_hash_of(hashed, host).unwrap_or(false);
    }
    let mut named = false;
    for pattern in field.split(',') {
        match pattern.strip_prefix('!') {
            Some(pattern) if fits(pattern.as_bytes(), host.as_bytes()) => return false,
            Some(_) => {}
            None => named |= fits(pattern.as_bytes(), host.as_bytes()),
        }
    }
    named
}

/// `salt|hash`, both base64: HMAC-SHA1 of the name under the salt, as OpenSSH writes it.
fn is_hash_of(hashed: &str, host: &str) -> Option<bool> {
    let (salt, hash) = hashed.split_once('|')?;
    let (salt, hash) = (STANDARD.decode(salt).ok()?, STANDARD.decode(hash).ok()?);
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
    Some(ring::hmac::verify(&key, host.to_ascii_lowercase().as_bytes(), &hash).is_ok())
}

/// `*` and `?` patterns, case-insensitive, in time bounded by the product of the lengths.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte.eq_ignore_ascii_case(&text[t]) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    p = at + 1;
                    t = from + 1;
                    star = Some((at, t));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// Append `lines` to the file, atomically, making it and its directory for this user only.
pub(super) fn append(path: &Path, lines: &[String]) -> std::io::Result<()> {
    use std::io::Write as _;
    let parent: PathBuf = path.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
    fs_err::create_dir_all(&parent)?;
    let mut text = match fs_err::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    if text.last().is_some_and(|&byte| byte != b'\n') {
        text.push(b'\n');
    }
    for line in lines {
        text.extend_from_slice(line.as_bytes());
        text.push(b'\n');
    }
    let mut file = tempfile::NamedTempFile::new_in(&parent)?;
    file.write_all(&text)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    fs_err::File::open(&parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const TWO: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    fn key(line: &str) -> PublicKey {
        PublicKey::from_openssh(line).unwrap()
    }

    fn known(text: &str) -> KnownHosts {
        let mut known = KnownHosts::default();
        known.parse(text, Path::new("/k"));
        known
    }

    #[test]
    fn a_key_is_judged_by_the_lines_that_name_its_host() {
        let host = "10.0.0.1";
        for (text, want) in [
            (format!("{host} {ONE} comment here"), "trusted"),
            (format!("10.0.0.*,!10.0.0.9 {ONE}"), "trusted"),
            (format!("10.0.0.?,!10.0.0.1 {ONE}"), "unknown"),
            (format!("[{host}]:2222 {ONE}"), "unknown"),
            (format!("{host} {TWO}"), "changed"),
            (format!("{host} {TWO}\n{host} {ONE}"), "trusted"),
            (format!("# {host} {ONE}"), "unknown"),
            (format!("@cert-authority {host} {ONE}"), "unknown"),
            (format!("{host} {ONE}\n@revoked * {ONE}"), "revoked"),
            (format!("@strange {host} {ONE}"), "unknown"),
            (format!("{host} ssh-ed25519 not-base64"), "unknown"),
            (String::new(), "unknown"),
        ] {
            let verdict = known(&text).judge_key(host, &key(ONE));
            let got = match verdict {
                Verdict::Trusted => "trusted",
                Verdict::Unknown => "unknown",
                Verdict::Changed { .. } => "changed",
                Verdict::Revoked { .. } => "revoked",
                Verdict::BadCertificate { .. } => "bad",
            };
            assert_eq!(got, want, "{text}");
        }
    }

    #[test]
    fn a_hashed_name_is_found_and_only_that_one() {
        // `ssh-keygen -H` of `example.com`.
        let salt = b"saltsaltsaltsaltsalt";
        let mac = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt);
        let hash = STANDARD.encode(ring::hmac::sign(&mac, b"[example.com]:2222"));
        let known = known(&format!("|1|{}|{hash} {ONE}", STANDARD.encode(salt)));
        assert_eq!(known.judge_key("[example.com]:2222", &key(ONE)), Verdict::Trusted);
        assert_eq!(known.judge_key("example.com", &key(ONE)), Verdict::Unknown);
    }

    #[test]
    fn a_changed_key_names_the_fingerprint_and_the_line() {
        let Verdict::Changed { expected, record } =
            known(&format!("\n# c\nh {TWO}")).judge_key("h", &key(ONE))
        else {
            panic!("not changed");
        };
        assert_eq!(expected, fingerprint(&key(TWO)));
        assert_eq!(record, "/k:3");
    }

    #[test]
    fn patterns_fit_as_in_openssh() {
        for (pattern, text, want) in [
            ("*", "", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbbd", false),
            ("A?c", "abC", true),
            ("*.lan", "node.lan", true),
            ("*.lan", "node.lan.evil", false),
            ("", "x", false),
            ("a**b", "ab", true),
        ] {
            assert_eq!(fits(pattern.as_bytes(), text.as_bytes()), want, "{pattern} {text}");
        }
    }

    #[test]
    fn appending_keeps_what_was_there_and_is_for_this_user_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/known_hosts");
        append(&path, &["a".to_owned()]).unwrap();
        append(&path, &["b".to_owned(), "c".to_owned()]).unwrap();
        assert_eq!(fs_err::read_to_string(&path).unwrap(), "a\nb\nc\n");
        assert_eq!(fs_err::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
