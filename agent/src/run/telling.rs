//! Who hears of a run: systemd's journal and whoever is attached.

use super::{NoteWriter, Observer};
use crate::wire::Event;

/// The observer of a run on a real node. Nothing it passes on is a secret; the run's own journal is
/// the record.
#[derive(Debug)]
pub struct Telling<'a> {
    /// For whoever is attached.
    pub notes: &'a NoteWriter,
}

impl Observer for Telling<'_> {
    fn recorded(&self, seq: u64) {
        self.notes.recorded(seq);
    }

    fn event(&self, event: &Event) {
        self.notes.event(event);
        match serde_json::to_string(event) {
            Ok(line) => tracing::info!("{line}"),
            Err(cause) => tracing::warn!(%cause, "an event that can't be shown"),
        }
    }
}
