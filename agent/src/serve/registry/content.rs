//! Bytes on their way out: a piece at a time, within one budget of memory for all connections.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, stream};
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    ask::Stretch,
    source::{Source, SourceError},
};

/// A source, and how much of it may be in memory at once.
#[derive(Clone)]
pub(super) struct Content {
    source: Arc<dyn Source>,
    /// One permit a piece; a piece gives it back when its last byte has left.
    budget: Arc<Semaphore>,
}

/// Pieces in memory, and the right to have them there.
struct Held {
    bytes: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Content {
    pub(super) fn new(source: Arc<dyn Source>, most_bytes: u64) -> Self {
        let pieces = most_bytes / source.index().piece_size.max(1);
        let permits = usize::try_from(pieces).unwrap_or(1).clamp(1, Semaphore::MAX_PERMITS);
        Self { source, budget: Arc::new(Semaphore::new(permits)) }
    }

    pub(super) fn source(&self) -> &dyn Source {
        self.source.as_ref()
    }

    /// Some pieces of a blob, one after the other.
    async fn pieces(
        &self,
        ordinal: usize,
        from: usize,
        count: usize,
    ) -> Result<Bytes, SourceError> {
        let broken = |error: tokio::sync::AcquireError| SourceError::Unreadable(error.into());
        let permits = u32::try_from(count.max(1)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.budget).acquire_many_owned(permits).await.map_err(broken)?;
        let source = Arc::clone(&self.source);
        let reading = tokio::task::spawn_blocking(move || {
            let (mut bytes, mut piece) = (Vec::new(), Vec::new());
            for number in from..from + count {
                source.read_piece_into(ordinal, number, &mut piece)?;
                if count == 1 {
                    bytes = std::mem::take(&mut piece);
                } else {
                    bytes.extend_from_slice(&piece);
                }
            }
            Ok(Bytes::from_owner(Held { bytes, _permit: permit }))
        });
        reading.await.map_err(|error| SourceError::Unreadable(error.into()))?
    }

    /// All of a small blob.
    pub(super) async fn whole(&self, ordinal: usize) -> Result<Bytes, SourceError> {
        let count = self.source.index().blobs.get(ordinal).map_or(0, |blob| blob.pieces.len());
        self.pieces(ordinal, 0, count).await
    }

    /// A stretch of a blob. Its first piece is read before this returns, so that a source that can't
    /// serve says so in the answer's head.
    pub(super) async fn stretch(
        &self,
        ordinal: usize,
        (first, length): Stretch,
    ) -> Result<impl Stream<Item = io::Result<Frame<Bytes>>> + Send + use<>, SourceError> {
        let mut cursor = Cursor { content: self.clone(), ordinal, at: first, end: first + length };
        let head = cursor.next().await?;
        let rest = stream::unfold(Some(cursor), |cursor| async {
            let mut cursor = cursor?;
            match cursor.next().await {
                Ok(None) => None,
                Ok(Some(bytes)) => Some((Ok(Frame::data(bytes)), Some(cursor))),
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "a blob breaks off");
                    Some((Err(io::Error::other(error)), None))
                }
            }
        });
        let head = stream::iter(head.map(|bytes| Ok(Frame::data(bytes))));
        Ok(futures_util::StreamExt::chain(head, rest))
    }
}

/// A place in a blob.
struct Cursor {
    content: Content,
    ordinal: usize,
    at: u64,
    end: u64,
}

impl Cursor {
    /// What is left of the piece at this place.
    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        if self.at >= self.end {
            return Ok(None);
        }
        let size = self.content.source().index().piece_size;
        let number = usize::try_from(self.at / size).unwrap_or(usize::MAX);
        let piece = self.content.pieces(self.ordinal, number, 1).await?;
        let start = self.at % size;
        let end = (start + self.end - self.at).min(piece.len() as u64);
        self.at += end.saturating_sub(start);
        if end <= start {
            return Err(SourceError::Unreadable("a piece is shorter than the index says".into()));
        }
        // Both are at most the length of a piece, which is in memory.
        Ok(Some(piece.slice(start as usize..end as usize)))
    }
}
