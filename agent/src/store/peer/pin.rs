//! TLS between nodes: 1.3 only, both sides show a certificate, and each is known by its digest.
//!
//! No authority signs anything, no name is compared and no date looked at: clocks of fresh servers
//! lie. What counts is that the other side has the key of a certificate that the installer named,
//! and that the handshake proves.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock},
};

use kdc_bundles::index::Digest;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};

use super::{PROTOCOL_NAME, PeerError, identity::Identity};

/// Certificates that are let in; shared, and may change while connections come and go.
#[derive(Debug, Clone, Default)]
pub(super) struct Guests {
    digests: Arc<RwLock<BTreeSet<Digest>>>,
}

impl Guests {
    /// From now on these and no others.
    pub(super) fn set(&self, digests: BTreeSet<Digest>) {
        *self.digests.write().unwrap_or_else(PoisonError::into_inner) = digests;
    }

    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.digests.read().unwrap_or_else(PoisonError::into_inner).contains(digest)
    }

    fn admit(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        if self.has(&Digest::of(certificate)) {
            return Ok(());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }
}

/// Lets exactly the guests in.
#[derive(Debug)]
struct Doorman {
    guests: Guests,
    provider: Arc<CryptoProvider>,
}

impl Doorman {
    fn signed(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }
}

/// Never called: both sides speak 1.3 only.
fn too_old() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("only TLS 1.3 is spoken here".to_owned()))
}

impl ServerCertVerifier for Doorman {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.guests.admit(certificate).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Doorman {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.guests.admit(certificate).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// What both sides offer: one fast cipher, and one for processors without AES.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![ring::kx_group::X25519],
        ..ring::default_provider()
    })
}

fn refused(cause: Error) -> PeerError {
    PeerError::Identity { reason: cause.to_string() }
}

/// How a node listens. Sessions are not resumed: who is no guest any more stays out.
pub(super) fn server_config(
    identity: &Identity,
    guests: &Guests,
) -> Result<Arc<ServerConfig>, PeerError> {
    let provider = provider();
    let doorman = Doorman { guests: guests.clone(), provider: Arc::clone(&provider) };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(refused)?
        .with_client_cert_verifier(Arc::new(doorman))
        .with_single_cert(vec![identity.certificate()], identity.key().into())
        .map_err(refused)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![PROTOCOL_NAME.to_vec()];
    Ok(Arc::new(config))
}

/// How a node calls the peer that has this certificate.
pub(super) fn client_config(
    identity: &Identity,
    peer: &Digest,
) -> Result<Arc<ClientConfig>, PeerError> {
    let provider = provider();
    let guests = Guests::default();
    guests.set([peer.clone()].into());
    let doorman = Doorman { guests, provider: Arc::clone(&provider) };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(refused)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(doorman))
        .with_client_auth_cert(vec![identity.certificate()], identity.key().into())
        .map_err(refused)?;
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.alpn_protocols = vec![PROTOCOL_NAME.to_vec()];
    Ok(Arc::new(config))
}
