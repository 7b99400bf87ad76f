//! The listener, and what a client may use up.
//!
//! On loopback plain HTTP is spoken; elsewhere only TLS 1.3 to clients with a certificate of a named
//! authority ([`crate::daemon::config`] refuses anything else). Bounded: connections, the head of a
//! request, how long a client may let us wait or take to read, how long a connection may last. A
//! request's body is never read.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
    version::TLS13,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{Shown, answer::Answering};
use crate::{
    background::{self, Background},
    daemon::config::TlsFiles,
    serve::registry::patience::Patient,
};

/// Connections at once; more of them wait in the kernel.
const MOST_CONNECTIONS: usize = 64;

/// Largest head of a request. (hyper takes nothing below 8 KiB.)
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// How long a handshake, the next request, or room in a client's window may be waited for.
const IDLE: Duration = Duration::from_secs(75);
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long a connection may last; who follows events comes back with the last it saw.
const TOTAL: Duration = Duration::from_secs(6 * 3600);

/// How long to wait when the system has no more file descriptors.
const BREATH: Duration = Duration::from_millis(200);

/// Why the API does not listen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    #[error("the API can't listen on {at}")]
    Listen { at: SocketAddr, source: io::Error },
    #[error("the API can't use `{path}`: {reason}")]
    Certificate { path: String, reason: String },
    #[error("the API can't speak TLS")]
    Tls(#[from] rustls::Error),
    #[error("no thread for the API")]
    Thread(#[source] io::Error),
}

impl ServerError {
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Listen { .. } | Self::Thread(_) => "AGENT-055",
            Self::Certificate { .. } | Self::Tls(_) => "AGENT-056",
        }
    }
}

/// Serves for as long as the answer lives.
pub(crate) fn start(
    shown: &Shown,
    agent: &str,
    at: SocketAddr,
    tls: Option<&TlsFiles>,
) -> Result<Background, ServerError> {
    let acceptor = tls.map(acceptor).transpose()?;
    let listen = |source| ServerError::Listen { at, source };
    let listener = TcpListener::bind(at).map_err(listen)?;
    listener.set_nonblocking(true).map_err(listen)?;
    let answering = Answering::new(shown.clone(), agent);
    let runtime = background::runtime().map_err(ServerError::Thread)?;
    let serve = move || serve(answering, listener, acceptor);
    Background::start("api", runtime, serve).map_err(ServerError::Thread)
}

/// TLS 1.3 with the files' certificate, for clients of the files' authorities.
fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, ServerError> {
    let bad = |path: &std::path::Path, reason: String| ServerError::Certificate {
        path: path.display().to_string(),
        reason,
    };
    let certificates = |path: &std::path::Path| {
        let read =
            CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match read {
            Ok(found) if found.is_empty() => Err(bad(path, "no certificate is in it".to_owned())),
            Ok(found) => Ok(found),
            Err(cause) => Err(bad(path, cause.to_string())),
        }
    };
    let mut authorities = RootCertStore::empty();
    for authority in certificates(&files.clients)? {
        authorities.add(authority)?;
    }
    let provider = Arc::new(ring::default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(authorities.into(), Arc::clone(&provider))
            .build()
            .map_err(|cause| bad(&files.clients, cause.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|cause| bad(&files.key, cause.to_string()))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(certificates(&files.certificate)?, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(answering: Answering, listener: TcpListener, tls: Option<TlsAcceptor>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the API can't listen"),
    };
    let connections = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut tasks = JoinSet::new();
    loop {
        let permit = Arc::clone(&connections).acquire_owned().await.expect("never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let (answering, tls) = (answering.clone(), tls.clone());
                tasks.spawn(async move {
                    // What is small leaves at once.
                    let _unneeded = stream.set_nodelay(true);
                    match tls {
                        None => converse(answering, stream).await,
                        Some(tls) => match timeout(HANDSHAKE, tls.accept(stream)).await {
                            Ok(Ok(stream)) => converse(answering, stream).await,
                            Ok(Err(error)) => tracing::debug!(%error, "no handshake"),
                            Err(_) => tracing::debug!("a handshake took too long"),
                        },
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(BREATH).await;
            }
        }
        while tasks.try_join_next().is_some() {}
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send>(answering: Answering, stream: S) {
    let service = service_fn(|request: Request<Incoming>| async {
        let (head, _body) = request.into_parts();
        Ok::<_, Infallible>(answering.answer(&head).await)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(Patient::new(stream, IDLE)), service);
    match timeout(TOTAL, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection ended"),
        Err(_) => tracing::debug!("a connection lasted too long"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::{api::collect::Sampler, daemon::events::Events};

    #[test]
    fn what_keeps_it_from_listening_is_told_apart() {
        let sampler = Sampler::start(Path::new("/nonexistent"), Duration::from_secs(60)).unwrap();
        let shown = Shown::new(
            sampler.samples(),
            Events::default(),
            Arc::default(),
            crate::api::gpus::Gpus::at("/nonexistent".into()),
        );
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = taken.local_addr().unwrap();
        let code = |tls: Option<&TlsFiles>| {
            let refused = start(&shown, "/bin/false", at, tls).err().expect("it can't listen");
            refused.code()
        };
        assert_eq!(code(None), "AGENT-055");
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| -> PathBuf { folder.path().join(name) };
        fs_err::write(file("empty"), "").unwrap();
        let files = |clients: &str| TlsFiles {
            certificate: file("gone"),
            key: file("gone"),
            clients: file(clients),
        };
        assert_eq!(code(Some(&files("gone"))), "AGENT-056");
        assert_eq!(code(Some(&files("empty"))), "AGENT-056", "nobody could be let in");
    }
}
