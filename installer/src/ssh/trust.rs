//! Which host keys are trusted: a pinned one, those in known_hosts files, those a CA signed, or those
//! the operator confirmed. Everything else is refused.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use russh::keys::{Algorithm, PublicKey, PublicKeyOrCertificate};

use super::{
    SshError,
    error::At,
    known_hosts::{self, KnownHosts, Verdict, fingerprint},
};

/// Where a target's host key must be vouched for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trust {
    /// `SHA256:…` fingerprint or public key line from the cluster file; if set, nothing else counts.
    pub pinned: Option<String>,
    /// known_hosts files, first to last.
    pub known_hosts: Vec<PathBuf>,
    /// kdc's own known_hosts file, where confirmed keys go.
    pub own: Option<PathBuf>,
}

/// A host key nobody vouches for yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKey {
    /// Node name (or `jump for <node>`).
    pub node: String,
    /// Name as known_hosts spells it (`10.0.0.11`, `[10.0.0.11]:2222`).
    pub host: String,
    /// `SHA256:…`.
    pub fingerprint: String,
    /// Public key line (`ssh-ed25519 AAAA…`).
    pub key: String,
    /// File it is written to once confirmed.
    pub own: Option<PathBuf>,
}

/// Lets the operator look at unknown host keys, all at once.
pub trait HostKeyPrompt: Send + Sync {
    /// True to trust all of them from now on.
    fn confirm(&self, keys: &[UnknownKey]) -> bool;
}

/// Trusts no unknown key: the default.
#[derive(Debug, Clone, Copy, Default)]
pub struct RefuseUnknown;

impl HostKeyPrompt for RefuseUnknown {
    fn confirm(&self, _: &[UnknownKey]) -> bool {
        false
    }
}

/// Ask once for all `keys` and write the confirmed ones to kdc's own known_hosts file.
///
/// # Errors
/// [`SshError::UnknownHostKey`] of the first key when the answer is no; or the file can't be written.
pub fn confirm_unknown(prompt: &dyn HostKeyPrompt, keys: &[UnknownKey]) -> Result<(), SshError> {
    let Some(first) = keys.first() else { return Ok(()) };
    let mut distinct: Vec<UnknownKey> = Vec::new();
    for key in keys {
        if !distinct.iter().any(|seen| seen.host == key.host && seen.key == key.key) {
            distinct.push(key.clone());
        }
    }
    let nowhere = distinct.iter().any(|key| key.own.is_none());
    if nowhere || !prompt.confirm(&distinct) {
        return Err(SshError::UnknownHostKey { unknown: Box::new(first.clone()) });
    }
    let mut files: Vec<PathBuf> = distinct.iter().filter_map(|key| key.own.clone()).collect();
    files.sort();
    files.dedup();
    for path in files {
        let lines: Vec<String> = distinct
            .iter()
            .filter(|key| key.own.as_ref() == Some(&path))
            .map(|key| format!("{} {}", key.host, key.key))
            .collect();
        known_hosts::append(&path, &lines).map_err(|source| SshError::Store { path, source })?;
    }
    Ok(())
}

/// A target's trust with its files read: judges what a server shows.
#[derive(Debug, Clone)]
pub(super) struct Judge {
    at: At,
    host: String,
    port: u16,
    node: String,
    pinned: Option<Pin>,
    known: KnownHosts,
    own: Option<PathBuf>,
}

#[derive(Debug, Clone)]
enum Pin {
    Fingerprint(String),
    Key(Box<PublicKey>),
}

impl Judge {
    /// Read the files that `trust` names.
    pub(super) fn load(
        trust: &Trust,
        at: &At,
        node: &str,
        host: &str,
        port: u16,
    ) -> Result<Self, SshError> {
        let pinned = trust.pinned.as_deref().map(|text| parse_pin(text, node)).transpose()?;
        let mut known = KnownHosts::default();
        for path in trust.known_hosts.iter().chain(&trust.own) {
            known.load(path).map_err(|error| SshError::Config {
                path: path.clone(),
                problem: error.to_string(),
            })?;
        }
        Ok(Self {
            at: at.clone(),
            host: host.to_owned(),
            port,
            node: node.to_owned(),
            pinned,
            known,
            own: trust.own.clone(),
        })
    }

    /// Host key algorithms to ask for, the recorded ones first.
    pub(super) fn algorithms(&self) -> Vec<Algorithm> {
        let mut wanted = match &self.pinned {
            Some(Pin::Key(key)) => return vec![key.algorithm()],
            Some(Pin::Fingerprint(_)) => Vec::new(),
            None => self.known.algorithms(&self.name()),
        };
        wanted.extend(host_key_algorithms());
        let supported = host_key_algorithms();
        let mut seen = Vec::new();
        wanted.retain(|algorithm| {
            let fresh = supported.contains(algorithm) && !seen.contains(algorithm);
            seen.push(algorithm.clone());
            fresh
        });
        wanted
    }

    /// True when host certificates should be asked for.
    pub(super) fn wants_certificate(&self) -> bool {
        self.pinned.is_none() && self.known.has_authority(&self.names())
    }

    /// True when the pin doesn't say which algorithm its key has, so that others are worth a look.
    pub(super) fn is_fingerprint(&self) -> bool {
        matches!(self.pinned, Some(Pin::Fingerprint(_)))
    }

    /// Judge what the server shows. Fails closed.
    pub(super) fn judge(&self, shown: &PublicKeyOrCertificate) -> Result<(), SshError> {
        let key = shown.public_key();
        if let Some(pin) = &self.pinned {
            return self.judge_pinned(pin, &key);
        }
        let verdict = match shown {
            PublicKeyOrCertificate::PublicKey { .. } => self.known.judge_key(&self.name(), &key),
            PublicKeyOrCertificate::Certificate(certificate) => self.known.judge_certificate(
                &self.names(),
                &[&self.host, &self.node],
                certificate,
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            ),
        };
        let (at, found) = (self.at.clone(), fingerprint(&key));
        match verdict {
            Verdict::Trusted => Ok(()),
            Verdict::Unknown => {
                Err(SshError::UnknownHostKey { unknown: Box::new(self.unknown(&key)) })
            }
            Verdict::Changed { expected, record } => {
                Err(SshError::ChangedHostKey { at, expected, found, record })
            }
            Verdict::Revoked { record } => Err(SshError::RevokedHostKey { at, found, record }),
            Verdict::BadCertificate { problem } => {
                Err(SshError::BadHostCertificate { at, problem })
            }
        }
    }

    fn judge_pinned(&self, pin: &Pin, key: &PublicKey) -> Result<(), SshError> {
        let found = fingerprint(key);
        let (fits, expected) = match pin {
            Pin::Fingerprint(expected) => (*expected == found, expected.clone()),
            Pin::Key(pinned) => (pinned.key_data() == key.key_data(), fingerprint(pinned)),
        };
        if fits {
            return Ok(());
        }
        let record = "`ssh.hostKey` in the cluster file".to_owned();
        Err(SshError::ChangedHostKey { at: self.at.clone(), expected, found, record })
    }

    fn unknown(&self, key: &PublicKey) -> UnknownKey {
        UnknownKey {
            node: self.at.node.clone(),
            host: self.name(),
            fingerprint: fingerprint(key),
            key: key.to_openssh().unwrap_or_default(),
            own: self.own.clone(),
        }
    }

    fn name(&self) -> String {
        known_hosts::host_name(&self.host, self.port)
    }

    /// Spellings under which a CA may be trusted for this host.
    fn names(&self) -> [&str; 2] {
        [&self.host, &self.node]
    }
}

fn parse_pin(text: &str, node: &str) -> Result<Pin, SshError> {
    let text = text.trim();
    if let Some(body) = text.strip_prefix("SHA256:") {
        let body = body.trim_end_matches('=');
        if body.len() == 43 && body.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/".contains(&b))
        {
            return Ok(Pin::Fingerprint(format!("SHA256:{body}")));
        }
    } else if let Ok(key) = PublicKey::from_openssh(text) {
        return Ok(Pin::Key(Box::new(key)));
    }
    Err(SshError::Settings {
        node: node.to_owned(),
        problem: format!(
            "host key `{text}` is neither a `SHA256:` fingerprint nor a public key line (`ssh-ed25519 AAAA…`)"
        ),
    })
}

/// Host key algorithms that can be verified. RSA is left out on purpose (see `docs/ssh.md`).
pub(super) fn host_key_algorithms() -> Vec<Algorithm> {
    use russh::keys::EcdsaCurve::{NistP256, NistP384, NistP521};
    let mut all = vec![Algorithm::Ed25519];
    all.extend([NistP256, NistP384, NistP521].map(|curve| Algorithm::Ecdsa { curve }));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const TWO: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    fn judge(trust: &Trust) -> Result<Judge, SshError> {
        let at = At { node: "w1".to_owned(), address: "root@h:2222".to_owned() };
        Judge::load(trust, &at, "w1", "h", 2222)
    }

    fn shown(line: &str) -> PublicKeyOrCertificate {
        PublicKey::from_openssh(line).unwrap().into()
    }

    #[test]
    fn a_pin_is_a_fingerprint_or_a_key_and_nothing_else_counts() {
        let print = fingerprint(&PublicKey::from_openssh(ONE).unwrap());
        for pinned in [print, ONE.to_owned(), format!("{ONE} a comment")] {
            let trust = Trust { pinned: Some(pinned.clone()), ..Trust::default() };
            let judge = judge(&trust).unwrap();
            assert!(judge.judge(&shown(ONE)).is_ok(), "{pinned}");
            assert!(
                matches!(judge.judge(&shown(TWO)), Err(SshError::ChangedHostKey { .. })),
                "{pinned}"
            );
        }
        for wrong in ["", "SHA256:", "SHA256:abc", "MD5:aa:bb", "ssh-ed25519 x"] {
            let trust = Trust { pinned: Some(wrong.to_owned()), ..Trust::default() };
            assert!(matches!(judge(&trust), Err(SshError::Settings { .. })), "{wrong}");
        }
    }

    #[test]
    fn confirmed_keys_are_trusted_from_then_on_and_refused_ones_are_not() {
        struct Yes;
        impl HostKeyPrompt for Yes {
            fn confirm(&self, keys: &[UnknownKey]) -> bool {
                assert_eq!(keys.len(), 1, "the same key of two nodes is shown once");
                true
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let trust = Trust { own: Some(folder.path().join("known_hosts")), ..Trust::default() };
        let Err(SshError::UnknownHostKey { unknown }) = judge(&trust).unwrap().judge(&shown(ONE))
        else {
            panic!("the key was known");
        };
        assert_eq!(unknown.host, "[h]:2222");
        let keys = [(*unknown).clone(), *unknown];
        assert!(confirm_unknown(&RefuseUnknown, &keys).is_err());
        assert!(judge(&trust).unwrap().judge(&shown(ONE)).is_err());
        confirm_unknown(&Yes, &keys).unwrap();
        assert!(judge(&trust).unwrap().judge(&shown(ONE)).is_ok());
        assert!(matches!(
            judge(&trust).unwrap().judge(&shown(TWO)),
            Err(SshError::ChangedHostKey { .. })
        ));
    }

    #[test]
    fn the_recorded_algorithm_is_asked_for_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k");
        let ecdsa = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBHwf2HMM5TRXvo2SQJjsNkiDD5KqiiNjrGVv3UUh+mMT5RHxiRtOnlqvjhQtBq0VpmpCV/PwUdhOig4vkbqAcEc=";
        fs_err::write(&path, format!("[h]:2222 {ecdsa}\n")).unwrap();
        let trust = Trust { known_hosts: vec![path], ..Trust::default() };
        let first = judge(&trust).unwrap().algorithms().remove(0);
        assert_eq!(first.as_str(), "ecdsa-sha2-nistp256");
        assert_eq!(judge(&Trust::default()).unwrap().algorithms().remove(0), Algorithm::Ed25519);
    }
}
