//! Asking another node. Whatever it answers is bounded, and none of it is believed.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use kdc_bundles::index::Digest;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};
use tokio_rustls::TlsConnector;

use super::{INDEX_HEADER, VERSION_HEADER, picker::Piece, pieces::Bitmap};
use crate::wire::Peer;

/// Largest head of an answer; one of ours has some 100 bytes. HTTP's own layer wants no less.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Most headers in one.
const MAX_HEADERS: usize = 16;

/// How long the other side may let us wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For a connection, and again for the handshake on it.
    pub(super) connect: Duration,
    /// For a bitmap, beyond the time it is kept waiting for news on purpose.
    pub(super) have: Duration,
    /// For the next bytes of a piece.
    pub(super) idle: Duration,
    /// For a piece, besides the time its bytes may take.
    pub(super) piece: Duration,
    /// Slowest rate that is waited for.
    pub(super) bytes_a_second: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            have: Duration::from_secs(8),
            idle: Duration::from_secs(15),
            piece: Duration::from_secs(20),
            bytes_a_second: 32 * 1024,
        }
    }
}

impl Patience {
    fn for_piece(&self, length: u64) -> Duration {
        self.piece + Duration::from_secs(length / self.bytes_a_second.max(1))
    }
}

/// Why a peer did not give what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// It can't be reached, went away, or was too slow.
    #[error("it can't be reached: {0}")]
    Gone(String),
    /// It has too much to do.
    #[error("it has too much to do")]
    Busy,
    /// It has not got that piece any more.
    #[error("it has not got the piece any more")]
    Absent,
    /// It shares another index.
    #[error("it shares another index")]
    OtherIndex,
    /// It sent what no honest node sends.
    #[error("it sent what no honest node sends: {0}")]
    Lied(String),
}

/// The innermost cause: what is around it says only that there is one.
fn gone(cause: impl std::error::Error) -> Fault {
    let mut innermost: &dyn std::error::Error = &cause;
    while let Some(inner) = innermost.source() {
        innermost = inner;
    }
    Fault::Gone(innermost.to_string())
}

fn gone_since(reason: &str) -> Fault {
    Fault::Gone(reason.to_owned())
}

/// A connection to a peer.
pub(super) struct Link {
    requests: SendRequest<Empty<Bytes>>,
    driver: JoinHandle<()>,
    index: Digest,
    patience: Patience,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Link {
    /// Connect, shake hands, and be sure that it is the peer that was meant.
    pub(super) async fn open(
        peer: &Peer,
        config: &Arc<ClientConfig>,
        index: &Digest,
        patience: Patience,
    ) -> Result<Self, Fault> {
        let late = |_| gone_since("it took too long");
        let calling = TcpStream::connect((peer.address, peer.port));
        let stream = timeout(patience.connect, calling).await.map_err(late)?.map_err(gone)?;
        stream.set_nodelay(true).map_err(gone)?;
        let name = ServerName::IpAddress(peer.address.into());
        let greeting = TlsConnector::from(Arc::clone(config)).connect(name, stream);
        let stream = timeout(patience.connect, greeting).await.map_err(late)?.map_err(gone)?;
        let (requests, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(gone)?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a peer ended");
            }
        });
        Ok(Self { requests, driver, index: index.clone(), patience })
    }

    /// The other side closed it.
    pub(super) fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// Which of `count` pieces it has, once that is newer than `after`; `None` when it is not.
    pub(super) async fn have(
        &mut self,
        after: u64,
        count: u32,
    ) -> Result<Option<(u64, Bitmap)>, Fault> {
        let patience = self.patience.have;
        let asking = async {
            let answer = self.ask(&format!("/v1/have?after={after}")).await?;
            if answer.status() == StatusCode::NO_CONTENT {
                return Ok(None);
            }
            let version = answer.headers().get(VERSION_HEADER).and_then(|text| text.to_str().ok());
            let version = version.and_then(|text| text.parse().ok());
            let version = version.ok_or_else(|| Fault::Lied("a bitmap without version".into()))?;
            let bytes = whole(answer, Bitmap::bytes_for(count), patience).await?;
            let bitmap = Bitmap::from_bytes(&bytes, count);
            let bitmap = bitmap.ok_or_else(|| Fault::Lied("a bitmap of other pieces".into()))?;
            Ok(Some((version, bitmap)))
        };
        timeout(patience, asking).await.unwrap_or_else(|_| Err(gone_since("it does not answer")))
    }

    /// The bytes of a piece: as many as it has, and not proved yet.
    pub(super) async fn piece(&mut self, piece: Piece, length: u64) -> Result<Vec<u8>, Fault> {
        let most = self.patience.for_piece(length);
        let idle = self.patience.idle;
        let asking = async {
            let path = format!("/v1/pieces/{}/{}", piece.blob, piece.piece);
            let answer = timeout(idle, self.ask(&path))
                .await
                .unwrap_or_else(|_| Err(gone_since("no answer")))?;
            whole(answer, usize::try_from(length).unwrap_or(usize::MAX), idle).await
        };
        timeout(most, asking).await.unwrap_or_else(|_| Err(gone_since("it is too slow")))
    }

    async fn ask(&mut self, path: &str) -> Result<Response<Incoming>, Fault> {
        let request = Request::get(path)
            .header(INDEX_HEADER, self.index.as_str())
            .body(Empty::new())
            .expect("paths are numbers, the header is a digest");
        self.requests.ready().await.map_err(gone)?;
        let answer = self.requests.send_request(request).await.map_err(|cause| {
            // A head that never ends, or is none at all.
            let lied = cause.is_parse() || cause.is_parse_too_large();
            if lied { Fault::Lied(cause.to_string()) } else { gone(cause) }
        })?;
        match answer.status() {
            StatusCode::OK | StatusCode::NO_CONTENT => Ok(answer),
            StatusCode::NOT_FOUND => Err(Fault::Absent),
            StatusCode::CONFLICT => Err(Fault::OtherIndex),
            StatusCode::SERVICE_UNAVAILABLE => Err(Fault::Busy),
            other => Err(gone_since(&format!("it answers {other}"))),
        }
    }
}

/// The body, which has exactly `length` bytes or is a lie.
async fn whole(
    answer: Response<Incoming>,
    length: usize,
    idle: Duration,
) -> Result<Vec<u8>, Fault> {
    let wrong =
        |found: &dyn std::fmt::Display| Fault::Lied(format!("{found} bytes instead of {length}"));
    let announced = answer.headers().get(header::CONTENT_LENGTH).and_then(|n| n.to_str().ok());
    match announced.map(str::parse::<usize>) {
        Some(Ok(announced)) if announced == length => {}
        Some(_) => return Err(wrong(&announced.unwrap_or_default())),
        None => return Err(Fault::Lied("a body of unknown length".into())),
    }
    let mut bytes = Vec::with_capacity(length);
    let mut body = answer.into_body();
    while let Some(frame) =
        timeout(idle, body.frame()).await.map_err(|_| gone_since("it stopped sending"))?
    {
        if let Ok(data) = frame.map_err(gone)?.into_data() {
            if bytes.len() + data.len() > length {
                return Err(wrong(&"more"));
            }
            bytes.extend_from_slice(&data);
        }
    }
    if bytes.len() == length { Ok(bytes) } else { Err(wrong(&bytes.len())) }
}
