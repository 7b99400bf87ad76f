//! Hands and doors for real: [`crate::ssh`] sessions.

use kdc_agent::wire::{MissingPieces, Outcome, Received, Reply, RequestBody};

use super::{Door, Hand, Load, OnEvent};
use crate::ssh::{AgentBinary, Session, SshError, Target};

/// Opens sessions to one target.
#[derive(Debug, Clone)]
pub struct SshDoor {
    /// Where the node is.
    pub target: Target,
    /// The agent to stage there.
    pub agent: AgentBinary,
}

impl Door for SshDoor {
    type Hand = Session;

    fn node(&self) -> &str {
        self.target.node()
    }

    async fn open(&self) -> Result<Session, SshError> {
        Session::open(&self.target, &self.agent).await
    }
}

impl Hand for Session {
    async fn request(&self, body: RequestBody, on_event: OnEvent<'_>) -> Result<Reply, SshError> {
        self.request_watched(body, on_event).await
    }

    async fn attach(
        &self,
        run: &str,
        after: u64,
        on_event: OnEvent<'_>,
    ) -> Result<Outcome, SshError> {
        Self::attach(self, run, after, on_event).await
    }

    async fn send(
        &self,
        load: Load<'_>,
        missing: &[MissingPieces],
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Received, SshError> {
        self.send_pieces(load.index, load.digest, missing, load.source, progress).await
    }

    async fn close(self) {
        Self::close(self).await;
    }
}
