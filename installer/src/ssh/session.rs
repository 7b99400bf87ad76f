//! One open connection to one agent.

use std::{io, path::Path};

use bytes::Bytes;
use kdc_agent::wire::{Event, Hello, MissingPieces, Outcome, Received, Reply, RequestBody};
use kdc_bundles::index::{Digest, Index};

use super::{SshError, Target};

/// The agent's executable as it goes to nodes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AgentBinary {
    digest: Digest,
    content: Bytes,
}

impl AgentBinary {
    /// The agent with this content.
    #[must_use]
    pub fn new(content: Vec<u8>) -> Self {
        Self { digest: Digest::of(&content), content: content.into() }
    }

    /// Load it from a file.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn load(path: &Path) -> io::Result<Self> {
        fs_err::read(path).map(Self::new)
    }

    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.content.len()
    }
}

/// Where pieces come from: a bundle file, its parts, a directory.
pub trait PieceSource: Send + Sync {
    /// Append exactly `length` bytes of `blob` from `offset` to `into`. May block on a local disk.
    ///
    /// # Errors
    /// The bytes can't be read.
    fn read_into(
        &self,
        blob: &Digest,
        offset: u64,
        length: usize,
        into: &mut Vec<u8>,
    ) -> io::Result<()>;
}

/// An open session: logged in, agent started, greeted. Requests may be made concurrently.
pub struct Session {
    node: String,
    hello: Hello,
}

impl Session {
    /// Connect, prove the host key, log in, stage and start the agent, and greet it.
    ///
    /// # Errors
    /// Each way it can fail has its own [`SshError`].
    pub async fn open(target: &Target, agent: &AgentBinary) -> Result<Self, SshError> {
        let _ = agent;
        Err(lost(target.node(), "opening"))
    }

    /// Like [`Session::open`], trying again with growing pauses while the node can't be reached
    /// (a cut link, a reboot), for at most `patience`.
    ///
    /// # Errors
    /// The last failure, or at once one that trying again does not help.
    pub async fn reconnect(
        target: &Target,
        agent: &AgentBinary,
        patience: std::time::Duration,
    ) -> Result<Self, SshError> {
        let _ = patience;
        Self::open(target, agent).await
    }

    /// Node name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The agent's greeting.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Ask the agent one thing. Has a deadline by kind of request.
    ///
    /// # Errors
    /// [`SshError::Agent`] with the agent's own words, or the connection was lost.
    pub async fn request(&self, body: RequestBody) -> Result<Reply, SshError> {
        self.request_watched(body, |_| {}).await
    }

    /// Ask, and see the events on the way to the answer (`Accept` and other long requests).
    ///
    /// # Errors
    /// As [`Session::request`].
    pub async fn request_watched(
        &self,
        body: RequestBody,
        on_event: impl FnMut(Event) + Send,
    ) -> Result<Reply, SshError> {
        let _ = (body, on_event);
        Err(lost(&self.node, "asking"))
    }

    /// Follow a run from the event after `after` until it ends.
    ///
    /// # Errors
    /// As [`Session::request`]; after [`SshError::Lost`] reconnect and attach again.
    pub async fn attach(
        &self,
        run: &str,
        after: u64,
        on_event: impl FnMut(Event) + Send,
    ) -> Result<Outcome, SshError> {
        let _ = (run, after, on_event);
        Err(lost(&self.node, "following the run"))
    }

    /// Send the `missing` pieces of `index` from `source`; `progress` hears of every chunk handed
    /// to the network, in bytes. The index must have been offered before.
    ///
    /// # Errors
    /// A piece can't be read, the agent refused one, the stream stalled, or the connection was lost:
    /// then reconnect and ask `Missing` again.
    pub async fn send_pieces(
        &self,
        index: &Index,
        index_digest: &Digest,
        missing: &[MissingPieces],
        source: &dyn PieceSource,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Received, SshError> {
        let _ = (index, index_digest, missing, source, progress);
        Err(lost(&self.node, "sending pieces"))
    }

    /// End the session: the agent ends, the connection closes.
    pub async fn close(self) {}
}

fn lost(node: &str, during: &str) -> SshError {
    SshError::Lost { node: node.to_owned(), during: during.to_owned(), detail: String::new() }
}
