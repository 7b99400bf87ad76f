//! What a node is to the others: a key that never leaves it, and a certificate it signed itself.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kdc_bundles::index::Digest;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use super::{Folder, PeerError};

/// Key and certificate in one file, so that they are there together or not at all.
const FILE: &str = "identity.json";

/// A node's key and certificate.
#[derive(Clone)]
pub(super) struct Identity {
    key: Vec<u8>,
    certificate: CertificateDer<'static>,
    digest: Digest,
}

/// Never shows the key.
impl std::fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Identity({})", self.digest)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    key: String,
    certificate: String,
}

impl Identity {
    /// A new one. Nothing in the certificate says who it is: it is known by its digest.
    pub(super) fn make() -> Result<Self, PeerError> {
        let refused = |cause: rcgen::Error| PeerError::Identity { reason: cause.to_string() };
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(refused)?;
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).map_err(refused)?;
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        let certificate = parameters.self_signed(&key).map_err(refused)?;
        Ok(Self::of(key.serialize_der(), certificate.der().clone()))
    }

    fn of(key: Vec<u8>, certificate: CertificateDer<'static>) -> Self {
        let digest = Digest::of(&certificate);
        Self { key, certificate, digest }
    }

    /// That of the folder; `None` when it has none.
    pub(super) fn load(folder: &Folder) -> Result<Option<Self>, PeerError> {
        let Some(kept) = folder.read::<Kept>(FILE)? else { return Ok(None) };
        let decode = |text: &str| {
            let refused = |cause: base64::DecodeError| PeerError::Identity {
                reason: format!("{FILE} is damaged: {cause}"),
            };
            STANDARD.decode(text).map_err(refused)
        };
        Ok(Some(Self::of(decode(&kept.key)?, decode(&kept.certificate)?.into())))
    }

    /// Keep it in the folder.
    pub(super) fn save(&self, folder: &Folder) -> Result<(), PeerError> {
        let (key, certificate) = (STANDARD.encode(&self.key), STANDARD.encode(&self.certificate));
        folder.write(FILE, &Kept { key, certificate })
    }

    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(super) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub(super) fn key(&self) -> PrivatePkcs8KeyDer<'static> {
        self.key.clone().into()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_kept_where_only_its_owner_reads_it_and_never_shows() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::at(&place.path().join("kdc/share"));
        folder.create().unwrap();
        assert!(Identity::load(&folder).unwrap().is_none());
        let made = Identity::make().unwrap();
        made.save(&folder).unwrap();
        let loaded = Identity::load(&folder).unwrap().unwrap();
        assert_eq!((loaded.digest(), &loaded.key), (made.digest(), &made.key));
        let mode = |path: &str| {
            let path = place.path().join(path);
            fs_err::metadata(path).unwrap().permissions().mode() & 0o777
        };
        assert_eq!((mode("kdc/share"), mode("kdc/share/identity.json")), (0o700, 0o600));
        let shown = format!("{made:?}");
        assert!(shown.contains(made.digest().hex()), "{shown}");
        assert!(!shown.contains(&STANDARD.encode(&made.key)) && shown.len() < 100, "{shown}");
        assert_ne!(Identity::make().unwrap().digest(), made.digest());
    }

    #[test]
    fn a_damaged_identity_is_refused_and_says_so() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::at(place.path());
        for (text, code) in [
            (r#"{"key":"!","certificate":""}"#, "AGENT-063"),
            (r#"{"key":""}"#, "AGENT-064"),
            ("", "AGENT-064"),
        ] {
            fs_err::write(place.path().join(FILE), text).unwrap();
            let error = Identity::load(&folder).unwrap_err();
            assert_eq!(error.code(), code, "{text}: {error}");
            assert!(error.hint().is_some());
        }
    }
}
