//! The certificate and the key of a server, from files.

use std::{
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::BundleCommandError;

/// Larger files are no certificates.
const MAX_PEM_BYTES: u64 = 1024 * 1024;

/// What speaks TLS with this certificate (and its chain) and key, both PEM.
pub(super) fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, BundleCommandError> {
    let wrong = |path: &Path, reason: String| BundleCommandError::Tls { path: path.into(), reason };
    let text = read(certificate).map_err(|error| wrong(certificate, error.to_string()))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|error| wrong(certificate, error.to_string()))?;
    let text = read_private(key).map_err(|error| wrong(key, error.to_string()))?;
    let secret = PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
        // What the parser says may quote the file.
        wrong(key, "there is no private key in it".to_owned())
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(certificate, error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|error| wrong(certificate, error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    fs_err::File::open(path)?.take(MAX_PEM_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read_private(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mode = fs_err::metadata(path)?.permissions().mode();
    if mode & 0o007 != 0 {
        let what = "everybody on this machine can get at it; run `chmod o= FILE`";
        return Err(io::Error::other(what));
    }
    read(path)
}
