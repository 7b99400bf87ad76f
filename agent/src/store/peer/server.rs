//! What other nodes may ask of this one: which pieces it has, and their bytes.
//!
//! Only who shows a certificate that the installer named gets beyond the handshake. What a guest can
//! use up is bounded all the same: connections, in all and for each guest; the head of a request; how
//! long it may let us wait; and the pieces in memory, which leave it when their last byte was sent.

use std::{
    collections::HashMap,
    convert::Infallible,
    hash::Hash,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use kdc_bundles::index::Digest;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{INDEX_HEADER, VERSION_HEADER, local::Local, picker::Piece};
use crate::serve::registry::patience::Patient;

/// Largest head of a request; one of ours has some 200 bytes.
const MAX_HEAD_BYTES: usize = 8 * 1024;

/// Bytes of pieces in memory on their way out.
const UPLOAD_BYTES: u64 = 4 * 1024 * 1024;

/// How long to wait when the system has no more file descriptors.
const BREATH: Duration = Duration::from_millis(200);

/// What guests may use up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Handshakes under way; more callers wait.
    pub(super) handshakes: usize,
    /// Handshakes under way with one address; more callers from there are closed, so that it keeps
    /// nobody else waiting.
    pub(super) handshakes_of_one: usize,
    /// Connections of all guests together; more are closed.
    pub(super) connections: usize,
    /// Connections of one guest; more are closed.
    pub(super) of_one: usize,
    /// How long a handshake may take.
    pub(super) handshake: Duration,
    /// How long a guest may let us wait: for the next request, or for room in its window.
    pub(super) idle: Duration,
    /// How long one answer may take to leave.
    pub(super) answer: Duration,
    /// Pieces that are sent at once.
    pub(super) uploads: usize,
    /// How long a request may wait for its turn to be sent.
    pub(super) turn: Duration,
    /// How long a question for news is kept waiting for them.
    pub(super) news: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes: 32,
            handshakes_of_one: 8,
            connections: 160,
            of_one: 8,
            handshake: Duration::from_secs(5),
            idle: Duration::from_secs(30),
            answer: Duration::from_secs(120),
            uploads: 4,
            turn: Duration::from_secs(8),
            news: Duration::from_secs(1),
        }
    }
}

/// When something happened last.
#[derive(Debug)]
pub(super) struct Activity(Mutex<Instant>);

impl Activity {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    pub(super) fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(super) fn quiet_for(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// Serves one index to the guests. Cloned cheaply; all clones serve within the same limits.
#[derive(Clone)]
pub(super) struct Server {
    local: Arc<Local>,
    activity: Arc<Activity>,
    limits: Limits,
    uploads: Arc<Semaphore>,
    callers: Seats<IpAddr>,
    guests: Seats<Digest>,
}

/// Who sits here, and on how many seats.
type Seats<K> = Arc<Mutex<HashMap<K, usize>>>;

/// One place of one caller or guest, given back when dropped.
struct Seat<K: Eq + Hash> {
    taken: Seats<K>,
    who: K,
}

impl<K: Eq + Hash + Clone> Seat<K> {
    /// A seat for `who`, unless all are taken, or it has as many as one may have.
    fn take(taken: &Seats<K>, who: K, all: usize, of_one: usize) -> Option<Self> {
        let mut seats = taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = seats.get(&who).copied().unwrap_or_default();
        if seats.values().sum::<usize>() >= all || count >= of_one {
            return None;
        }
        seats.insert(who.clone(), count + 1);
        Some(Self { taken: Arc::clone(taken), who })
    }
}

impl<K: Eq + Hash> Drop for Seat<K> {
    fn drop(&mut self) {
        let mut seats = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = seats.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                seats.remove(&self.who);
            }
        }
    }
}

/// A piece on its way out, and the right to have it in memory.
struct Leaving {
    bytes: Vec<u8>,
    _turn: OwnedSemaphorePermit,
    busy: Arc<AtomicU64>,
}

impl AsRef<[u8]> for Leaving {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.busy.store(0, Ordering::Relaxed);
    }
}

type Answer = Response<Full<Bytes>>;

impl Server {
    pub(super) fn new(local: Arc<Local>, activity: Arc<Activity>, limits: Limits) -> Self {
        let fit = UPLOAD_BYTES / local.index().piece_size.max(1);
        let fit = usize::try_from(fit).unwrap_or(usize::MAX);
        let uploads = Arc::new(Semaphore::new(limits.uploads.min(fit).max(1)));
        Self { local, activity, limits, uploads, callers: Arc::default(), guests: Arc::default() }
    }

    /// Serves for ever; what goes on when this is dropped is cut off.
    pub(super) async fn serve(&self, listener: TcpListener, tls: TlsAcceptor) -> Infallible {
        let handshakes = Arc::new(Semaphore::new(self.limits.handshakes));
        let mut tasks = JoinSet::new();
        loop {
            let permit = Arc::clone(&handshakes).acquire_owned().await.expect("never closed");
            match listener.accept().await {
                Ok((stream, address)) => {
                    let caller = address.ip().to_canonical();
                    let of_one = self.limits.handshakes_of_one;
                    let Some(seat) = Seat::take(&self.callers, caller, usize::MAX, of_one) else {
                        tracing::debug!(%address, "it calls faster than it speaks");
                        continue;
                    };
                    let (server, tls) = (self.clone(), tls.clone());
                    tasks.spawn(async move {
                        if let Err(reason) = server.greet(stream, tls, (seat, permit)).await {
                            tracing::debug!(%address, reason, "a caller was not let in");
                        }
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

    async fn greet(
        &self,
        stream: TcpStream,
        tls: TlsAcceptor,
        turn: (Seat<IpAddr>, OwnedSemaphorePermit),
    ) -> Result<(), String> {
        stream.set_nodelay(true).map_err(|cause| cause.to_string())?;
        let stream = timeout(self.limits.handshake, tls.accept(stream))
            .await
            .map_err(|_| "the handshake took too long".to_owned())?
            .map_err(|cause| cause.to_string())?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let guest = Digest::of(certificate.ok_or("no certificate")?);
        let Limits { connections, of_one, .. } = self.limits;
        let _seat = Seat::take(&self.guests, guest, connections, of_one)
            .ok_or("it has too many connections, or all have")?;
        drop(turn);
        self.converse(stream).await;
        Ok(())
    }

    async fn converse(&self, stream: tokio_rustls::server::TlsStream<TcpStream>) {
        let begun = Instant::now();
        let busy = Arc::new(AtomicU64::new(0));
        let service = service_fn(|request: Request<Incoming>| {
            let busy = Arc::clone(&busy);
            async move { Ok::<_, Infallible>(self.answer(&request, begun, busy).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.idle)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(Patient::new(stream, self.limits.idle)), service);
        // A guest that takes a byte now and then makes progress for ever.
        let watch = async {
            loop {
                tokio::time::sleep(self.limits.answer.min(Duration::from_secs(1))).await;
                let since = busy.load(Ordering::Relaxed);
                if since != 0 && millis(begun) > since + self.limits.answer.as_millis() as u64 {
                    return;
                }
            }
        };
        tokio::select! {
            ended = connection => if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended");
            },
            () = watch => tracing::debug!("an answer took too long to leave"),
        }
    }

    async fn answer(
        &self,
        request: &Request<Incoming>,
        begun: Instant,
        busy: Arc<AtomicU64>,
    ) -> Answer {
        self.activity.note();
        if request.method() != Method::GET {
            return refuse(StatusCode::METHOD_NOT_ALLOWED);
        }
        let index = request.headers().get(INDEX_HEADER).map(hyper::header::HeaderValue::as_bytes);
        if index != Some(self.local.shelf().digest().as_str().as_bytes()) {
            return refuse(StatusCode::CONFLICT);
        }
        let path: Vec<&str> = request.uri().path().split('/').collect();
        match path[..] {
            ["", "v1", "have"] => self.have(request.uri().query()).await,
            ["", "v1", "pieces", blob, piece] => match (blob.parse(), piece.parse()) {
                (Ok(blob), Ok(piece)) => self.piece(Piece { blob, piece }, begun, busy).await,
                _ => refuse(StatusCode::NOT_FOUND),
            },
            _ => refuse(StatusCode::NOT_FOUND),
        }
    }

    /// The bitmap, once it is newer than what the guest has; 204 when it is not.
    async fn have(&self, query: Option<&str>) -> Answer {
        let after = query.and_then(|query| query.strip_prefix("after="));
        let after = after.and_then(|after| after.parse::<u64>().ok());
        let mut news = self.local.news();
        if Some(*news.borrow_and_update()) == after {
            // The sender lives as long as the server.
            let _ = timeout(self.limits.news, news.changed()).await;
        }
        let (version, bitmap) = self.local.bitmap();
        if Some(version) == after {
            return refuse(StatusCode::NO_CONTENT);
        }
        Response::builder()
            .header(VERSION_HEADER, version)
            .body(Full::new(bitmap.into()))
            .expect("a number is a good header")
    }

    async fn piece(&self, piece: Piece, begun: Instant, busy: Arc<AtomicU64>) -> Answer {
        if !self.local.has(piece) {
            return refuse(StatusCode::NOT_FOUND);
        }
        let Ok(turn) = timeout(self.limits.turn, Arc::clone(&self.uploads).acquire_owned()).await
        else {
            return refuse(StatusCode::SERVICE_UNAVAILABLE);
        };
        let turn = turn.expect("never closed");
        let local = Arc::clone(&self.local);
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            local.read(piece, &mut bytes).map(|()| bytes)
        });
        match read.await {
            Ok(Ok(bytes)) => {
                busy.store(millis(begun).max(1), Ordering::Relaxed);
                let body = Bytes::from_owner(Leaving { bytes, _turn: turn, busy });
                Response::new(Full::new(body))
            }
            // Why is in this node's own log; to others it is not here.
            Ok(Err(_)) => refuse(StatusCode::NOT_FOUND),
            Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

fn millis(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn refuse(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}
