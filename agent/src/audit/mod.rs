//! The audit log: what was done on this node, by whom, when, and how it came out, so that somebody who was not there can
//! check it later.
//!
//! ```text
//! /var/lib/kdc/audit/   key                         the node's Ed25519 key, made on first use (0600)
//!                       00000000000000000001.jsonl  lines; each carries the digest of the line before
//!                       head.json                   the last line's number and digest, signed
//! ```
//!
//! A line: `{"seq":7,"prev":"<hex>","at":<ms>,"boot":"<id>","kind":"run.ended","who":{…},"body":{…},"sum":"<hex>"}`. `sum`
//! is the sha256 over the line without it, `prev` the `sum` of the line before (64 zeros for the first). Every 64 lines, and
//! where a new file begins, a `log.checkpoint` signs what stands before it. The chain shows what was changed *inside*; a tail
//! that was cut off shows only where the head is known elsewhere, so nodes tell the cluster their heads ([`heads`]).
//!
//! | Told apart | How it is seen |
//! |---|---|
//! | changed line | its `sum` does not fit, or the next line's `prev` |
//! | missing lines | a number is left out |
//! | torn line | no line end; a power cut leaves that, it is cut off and the log says so (`log.recovered`) |
//! | cut tail | a signed head names a line that is not there any more |
//! | wrong key | another key signed |
//! | rotation | the oldest files went, and `log.dropped` says up to where |
//!
//! Durability: a line is on disk (`fsync`) before [`append`] returns. What is damaged stays as evidence: the log goes on in a
//! new file whose first line says what was wrong (`log.damaged`), since what takes back, repairs or removes must never wait
//! for a log. Nothing secret is in it: entries are typed, their texts are bounded, and digests stand for contents.

mod body;
pub mod chain;
mod entry;
mod error;
pub mod export;
pub mod heads;
pub mod key;
pub mod line;
mod log;
mod problem;
pub mod publish;
mod spool;
mod writer;

pub use self::{
    entry::{Entry, Who},
    error::AuditError,
    heads::Head,
    line::Line,
    log::{Log, Moment},
    spool::spool_on_stdout,
};

/// Where a node keeps it.
pub const AUDIT_DIR: &str = "/var/lib/kdc/audit";

/// Write one entry into this node's log; it is on disk when this returns. `kdc-control`, which may write no file, hands it to
/// its unit's spool instead, from where it gets into the log.
///
/// # Errors
/// If it can't be written down.
pub fn append(entry: &Entry, who: &Who) -> Result<(), AuditError> {
    if spool::is_on() {
        return spool::hand_over(entry, who);
    }
    Log::system().append(entry, who, &Moment::now())?;
    Ok(())
}

/// Write an entry of the control plane's part, where its unit leads its standard output into the spool; elsewhere (a test, a
/// withdrawal, which its run has on record) nothing happens.
pub fn note_from_control(entry: &Entry) {
    if spool::is_on() {
        note(entry, &Who::part("control"));
    }
}

/// As [`append`], for what must not wait for a log: taking back, repairing, removing. What fails is told to systemd's
/// journal, with code and hint.
pub fn note(entry: &Entry, who: &Who) {
    if let Err(error) = append(entry, who) {
        tell(&error, entry);
    }
}

/// Nobody waits for the answer, so systemd's journal gets it.
fn tell(error: &AuditError, entry: &Entry) {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    let (code, hint, kind) = (error.code(), error.hint().unwrap_or_default(), entry.kind());
    tracing::error!(code, hint, kind, "no line in the audit log: {error}: {cause}");
}

#[cfg(test)]
mod tests;
