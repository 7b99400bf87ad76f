//! The byte stream under SSH.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use russh::{ChannelStream, client::Msg};
use tokio::{
    io::{AsyncRead, AsyncWrite, BufReader, ReadBuf},
    net::TcpStream,
};

/// First bytes of the peer kept for an error message.
const HEARD_BYTES: usize = 96;

/// Read from a socket at once. A thousand connections have one each; what is larger passes it by.
const READ_BYTES: usize = 4096;

/// The byte stream under SSH: a socket, or a channel of the jump host's connection.
pub(super) enum Stream {
    /// The library reads a packet's length, then its rest: without a buffer each of a bulk transfer's
    /// many window adjustments would cost three system calls.
    Tcp(BufReader<TcpStream>),
    Tunnel(ChannelStream<Msg>),
}

impl Stream {
    /// Over that socket.
    pub(super) fn over(socket: TcpStream) -> Self {
        Self::Tcp(BufReader::with_capacity(READ_BYTES, socket))
    }
}

/// A stream whose first bytes are kept, to say what answered when it wasn't SSH.
pub(super) struct Recording {
    pub(super) stream: Stream,
    pub(super) heard: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Recording {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tunnel(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        // Only this handle is left once the greeting is over: then there is nothing to keep.
        if Arc::strong_count(&self.heard) > 1
            && let Ok(mut heard) = self.heard.lock()
        {
            let fresh = &buffer.filled()[before..];
            let room = HEARD_BYTES.saturating_sub(heard.len()).min(fresh.len());
            heard.extend_from_slice(&fresh[..room]);
        }
        polled
    }
}

impl AsyncWrite for Recording {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tunnel(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tunnel(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tunnel(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
