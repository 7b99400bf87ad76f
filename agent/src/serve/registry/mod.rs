//! A read-only OCI registry over the images of one signed index.
//!
//! It serves `GET` and `HEAD` of the distribution specification: `/v2/`, manifests by tag and digest,
//! blobs with ranges, tags, and the catalog. What lies behind it is a [`Source`]: a bundle's file for
//! a whole site (`kdc-install bundle serve`), or a node's store. Each byte is proved against the
//! signed index when it is read, so a damaged disk breaks a download off and never poisons one.
//!
//! Everything is bounded: connections, the head of a request, how long a client may let us wait, how
//! long a connection may last, and the memory of all answers together, which does not grow with the
//! bundle. A client that was cut off goes on with a range.
//!
//! ```no_run
//! # async fn example(bundle: kdc_bundles::open::BundleFile) -> anyhow::Result<()> {
//! use kdc_agent::serve::registry::{Limits, Registry};
//! let registry = Registry::new(bundle, Limits::default())?;
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:5000").await?;
//! registry.serve(listener, |stream| async { Ok(stream) }, std::future::pending()).await;
//! # Ok(()) }
//! ```

mod answer;
mod ask;
mod catalog;
mod content;
pub(crate) mod patience;
mod pulls;
mod refusal;
mod source;

use std::{io, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use self::{catalog::Catalog, content::Content, patience::Patient};
pub use self::{
    catalog::CatalogError,
    pulls::Pulls,
    source::{Source, SourceError},
};

/// Largest head of a request.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// How long to wait when the system has no more file descriptors.
const BREATH: Duration = Duration::from_millis(200);

/// What the outside may use up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; more of them wait.
    pub connections: usize,
    /// How long a client may let us wait: for the next request, or for room in its window.
    pub idle: Duration,
    /// How long a connection may last.
    pub total: Duration,
    /// Memory for content on its way out, all connections together.
    pub content_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            idle: Duration::from_secs(30),
            total: Duration::from_secs(6 * 3600),
            content_bytes: 64 * 1024 * 1024,
        }
    }
}

/// The registry. Cloned cheaply; all clones serve within the same limits.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    catalog: Catalog,
    content: Content,
    limits: Limits,
    connections: Arc<Semaphore>,
    pulls: Pulls,
}

impl Registry {
    /// A registry of the images of this source's index.
    ///
    /// # Errors
    /// When an image has a name that can't be served.
    pub fn new(source: impl Source, limits: Limits) -> Result<Self, CatalogError> {
        Self::counting(source, limits, Pulls::default())
    }

    /// The same, that counts what clients take.
    ///
    /// # Errors
    /// As [`Registry::new`].
    pub fn counting(
        source: impl Source,
        limits: Limits,
        pulls: Pulls,
    ) -> Result<Self, CatalogError> {
        let catalog = Catalog::of(source.index())?;
        let shared = Shared {
            catalog,
            content: Content::new(Arc::new(source), limits.content_bytes),
            limits,
            connections: Arc::new(Semaphore::new(limits.connections)),
            pulls,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Names of all repositories, sorted.
    pub fn repositories(&self) -> impl Iterator<Item = &str> {
        self.shared.catalog.names()
    }

    /// Serves until `stop` is done; downloads that go on then are cut off. `wrap` makes of a connection
    /// what HTTP is spoken over: itself, or TLS.
    pub async fn serve<S, W, F>(
        &self,
        listener: TcpListener,
        wrap: W,
        stop: impl Future<Output = ()>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        W: Fn(TcpStream) -> F,
        F: Future<Output = io::Result<S>> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        tokio::pin!(stop);
        loop {
            let next = async {
                let connections = Arc::clone(&self.shared.connections);
                let permit = connections.acquire_owned().await.map_err(io::Error::other)?;
                Ok::<_, io::Error>((permit, listener.accept().await?.0))
            };
            let accepted = tokio::select! {
                biased;
                () = &mut stop => return,
                accepted = next => accepted,
            };
            while tasks.try_join_next().is_some() {}
            match accepted {
                Ok((permit, stream)) => {
                    let (registry, wrapping) = (self.clone(), wrap(stream));
                    tasks.spawn(async move {
                        let idle = registry.shared.limits.idle;
                        match timeout(idle, wrapping).await {
                            Ok(Ok(stream)) => registry.converse(stream).await,
                            Ok(Err(error)) => tracing::debug!(%error, "no handshake"),
                            Err(_) => tracing::debug!("a handshake took too long"),
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }

    /// Answers the requests of one connection until it ends.
    pub async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send>(&self, stream: S) {
        let limits = self.shared.limits;
        let service = service_fn(|request: Request<Incoming>| async move {
            let (head, _body) = request.into_parts();
            let answer = self.shared.answer(&head.method, &head.uri, &head.headers).await;
            Ok::<_, std::convert::Infallible>(answer)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.idle)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(Patient::new(stream, limits.idle)), service);
        match timeout(limits.total, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a connection ended"),
            Err(_) => tracing::debug!("a connection lasted too long"),
        }
    }
}

#[cfg(test)]
mod tests;
