//! Frames: a big-endian `u32` length, then that many bytes of JSON.
//!
//! The reader trusts nothing: a header beyond [`MAX_FRAME_BYTES`] is refused before a byte of the
//! body is read, and memory grows with the bytes that really came, never with what a header claims.
//!
//! ```
//! use kdc_agent::wire::{Request, RequestBody, frame::{Decoder, encode}};
//!
//! let asked = Request { id: 7, body: RequestBody::Facts };
//! let mut decoder = Decoder::default();
//! decoder.feed(&encode(&asked).unwrap());
//! assert_eq!(decoder.take::<Request>().unwrap(), Some(asked));
//! ```

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::MAX_FRAME_BYTES;

const HEADER_BYTES: usize = 4;

/// Read at once from the stream; also how much a decoder's buffer keeps between frames.
const READ_BYTES: usize = 64 * 1024;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side announced more than is allowed; most often it is not an agent that speaks.
    #[error(
        "the other side announced a frame of {announced} bytes; at most {MAX_FRAME_BYTES} are allowed"
    )]
    TooLarge {
        /// What the header said.
        announced: u64,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame: {have} of {want} bytes came")]
    Torn {
        /// Bytes that came, header included.
        have: u64,
        /// Bytes the frame needs, header included.
        want: u64,
    },
    /// The body is not the message that was expected.
    #[error("a frame of {bytes} bytes is not a message of this protocol")]
    NotAMessage {
        /// Length of the body.
        bytes: usize,
        /// What the parser said (never the content).
        source: serde_json::Error,
    },
    /// The stream failed.
    #[error("the stream to the other side failed")]
    Stream(#[from] std::io::Error),
}

impl FrameError {
    /// The one next thing to try, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::TooLarge { .. } | Self::NotAMessage { .. } => Some(
                "something else writes to the agent's output (a login banner, a shell profile that \
                 prints): try `ssh NODE true` and make sure that it prints nothing"
                    .to_owned(),
            ),
            Self::Torn { .. } | Self::Stream(_) => {
                Some("the link or the other side went away; run the same command again".to_owned())
            }
        }
    }
}

/// One frame holding `message`.
///
/// # Errors
/// When the message is larger than a frame may be, or does not serialise.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut bytes, message)
        .map_err(|source| FrameError::NotAMessage { bytes: 0, source })?;
    let length = (bytes.len() - HEADER_BYTES) as u64;
    match u32::try_from(length) {
        Ok(short) if short <= MAX_FRAME_BYTES => {
            bytes[..HEADER_BYTES].copy_from_slice(&short.to_be_bytes());
            Ok(bytes)
        }
        _ => Err(FrameError::TooLarge { announced: length }),
    }
}

/// Cuts frames out of bytes as they come, in whatever slices they come.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    taken: usize,
}

impl Decoder {
    /// Take in what the stream brought.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
            if self.buffer.is_empty() && self.buffer.capacity() > READ_BYTES {
                self.buffer = Vec::new();
            }
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if it is there. After an error the stream is of no more use.
    ///
    /// # Errors
    /// When the header is beyond the limit or the body is not a `T`.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some(length) = self.announced()? else { return Ok(None) };
        let start = self.taken + HEADER_BYTES;
        let Some(body) = self.buffer.get(start..start + length) else { return Ok(None) };
        let message = serde_json::from_slice(body)
            .map_err(|source| FrameError::NotAMessage { bytes: length, source })?;
        self.taken = start + length;
        Ok(Some(message))
    }

    /// To be called at the end of the stream.
    ///
    /// # Errors
    /// When the stream ended inside a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        let have = (self.buffer.len() - self.taken) as u64;
        if have == 0 {
            return Ok(());
        }
        let length = self.announced()?.unwrap_or(0);
        Err(FrameError::Torn { have, want: (HEADER_BYTES + length) as u64 })
    }

    fn announced(&self) -> Result<Option<usize>, FrameError> {
        let Some(header) = self.buffer[self.taken..].first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*header);
        if length > MAX_FRAME_BYTES {
            return Err(FrameError::TooLarge { announced: u64::from(length) });
        }
        Ok(Some(length as usize))
    }
}

/// Frames from a stream. [`FrameReader::next`] is cancel safe: dropped while it waits, it loses
/// nothing, so it can stand in a `select!`.
#[derive(Debug)]
pub struct FrameReader<R> {
    stream: R,
    decoder: Decoder,
    chunk: Vec<u8>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Read frames from `stream`.
    pub fn new(stream: R) -> Self {
        Self { stream, decoder: Decoder::default(), chunk: vec![0; READ_BYTES] }
    }

    /// The next message; `None` when the stream ended between frames.
    ///
    /// # Errors
    /// When the stream fails, ends inside a frame, or brings something that is not a `T`.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        loop {
            if let Some(message) = self.decoder.take()? {
                return Ok(Some(message));
            }
            let count = self.stream.read(&mut self.chunk).await?;
            if count == 0 {
                self.decoder.finish()?;
                return Ok(None);
            }
            self.decoder.feed(&self.chunk[..count]);
        }
    }
}

/// Write one message as a frame and flush it. Not cancel safe: a half-written frame ends the stream.
///
/// # Errors
/// When the message is too large or the stream fails.
pub async fn write<T: Serialize, W: AsyncWrite + Unpin>(
    stream: &mut W,
    message: &T,
) -> Result<(), FrameError> {
    let bytes = encode(message)?;
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{Request, RequestBody, SecretText};

    fn any_request() -> impl Strategy<Value = Request> {
        let body = prop_oneof![
            Just(RequestBody::Facts),
            (".*", ".*").prop_map(|(holder, cluster)| RequestBody::Hold { holder, cluster }),
            ".*".prop_map(|file| RequestBody::InstallLicense { file }),
            proptest::option::of(".*").prop_map(|license| RequestBody::RemoveLicense { license }),
            (".*", any::<u64>()).prop_map(|(run, after)| RequestBody::Attach { run, after }),
            (".*", ".*", ".*").prop_map(|(run, name, value)| RequestBody::Provide {
                run,
                name,
                value: SecretText::new(value)
            }),
            (".*", proptest::collection::vec(".*", 0..3)).prop_map(|(index, keys)| {
                RequestBody::OfferIndex { index, signature: String::new(), keys }
            }),
        ];
        (any::<u64>(), body).prop_map(|(id, body)| Request { id, body })
    }

    proptest! {
        /// However the stream is sliced, the same messages come out, and nothing is left over.
        #[test]
        fn messages_survive_any_slicing(
            requests in proptest::collection::vec(any_request(), 0..8),
            slice in 1_usize..97,
        ) {
            let mut bytes = Vec::new();
            for request in &requests {
                bytes.extend(encode(request).unwrap());
            }
            let (mut decoder, mut seen) = (Decoder::default(), Vec::new());
            for part in bytes.chunks(slice) {
                decoder.feed(part);
                while let Some(request) = decoder.take::<Request>().unwrap() {
                    seen.push(request);
                }
            }
            prop_assert_eq!(seen, requests);
            prop_assert!(decoder.finish().is_ok());
        }

        /// No bytes from outside make the decoder panic or ask for more memory than came.
        #[test]
        fn garbage_is_an_error_or_a_wait(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::default();
            decoder.feed(&bytes);
            let _ = decoder.take::<Request>();
            prop_assert!(decoder.buffer.capacity() <= 512);
        }
    }

    #[test]
    fn a_header_beyond_the_limit_is_refused_before_the_body() {
        let mut decoder = Decoder::default();
        decoder.feed(&(MAX_FRAME_BYTES + 1).to_be_bytes());
        assert!(matches!(
            decoder.take::<Request>(),
            Err(FrameError::TooLarge { announced }) if announced == u64::from(MAX_FRAME_BYTES) + 1
        ));
        // A shell's "bash: …" read as a header is refused the same way.
        let mut shell = Decoder::default();
        shell.feed(b"bash: kdc-agent: command not found\n");
        assert!(shell.take::<Request>().unwrap_err().hint().is_some());
    }

    #[test]
    fn a_message_beyond_the_limit_is_not_sent() {
        let huge = "x".repeat(MAX_FRAME_BYTES as usize);
        assert!(matches!(encode(&huge), Err(FrameError::TooLarge { .. })));
    }

    #[tokio::test]
    async fn a_stream_that_ends_at_any_byte_is_torn_unless_between_frames() {
        let frame = encode(&Request { id: 1, body: RequestBody::Runs }).unwrap();
        for cut in 0..=frame.len() {
            let mut reader = FrameReader::new(&frame[..cut]);
            let first = reader.next::<Request>().await;
            match cut {
                0 => assert!(matches!(first, Ok(None))),
                n if n == frame.len() => {
                    assert!(matches!(first, Ok(Some(_))));
                    assert!(matches!(reader.next::<Request>().await, Ok(None)));
                }
                _ => assert!(matches!(first, Err(FrameError::Torn { .. })), "cut at {cut}"),
            }
        }
    }

    #[tokio::test]
    async fn what_one_side_writes_the_other_reads() {
        let (mut ours, theirs) = tokio::io::duplex(16);
        let sent = Request { id: 9, body: RequestBody::Missing { blobs: Vec::new() } };
        let copy = sent.clone();
        let writer = tokio::spawn(async move { write(&mut ours, &copy).await });
        let mut reader = FrameReader::new(theirs);
        assert_eq!(reader.next::<Request>().await.unwrap(), Some(sent));
        writer.await.unwrap().unwrap();
        assert!(reader.next::<Request>().await.unwrap().is_none());
    }
}
