//! Bring what a node's plan needs into its store: ask what is missing, send that, ask again.

use std::sync::atomic::{AtomicU64, Ordering};

use kdc_agent::wire::{MissingPieces, Reply, RequestBody};
use kdc_bundles::index::{Digest, Index};

use super::{Door, Hand, Load, link::Link, wrong_answer};
use crate::{
    show::{News, news::Stage},
    ssh::SshError,
};

/// Rounds that may pass without one more piece in the store before it counts as a failure.
const IDLE_ROUNDS: u32 = 3;

/// Bytes of the pieces in `missing`.
#[must_use]
pub fn missing_bytes(index: &Index, missing: &[MissingPieces]) -> u64 {
    let bytes_of = |part: &MissingPieces| {
        let Some(blob) = index.blob(&part.blob) else { return 0 };
        let offset = |piece: u32| u64::from(piece).saturating_mul(index.piece_size).min(blob.size);
        part.ranges.iter().map(|(from, to)| offset(*to).saturating_sub(offset(*from))).sum()
    };
    missing.iter().map(bytes_of).sum()
}

/// What a node's store lacks of `blobs`.
///
/// # Errors
/// As [`Link::ask`].
pub async fn ask_missing<D: Door>(
    link: &Link<'_, D>,
    blobs: &[Digest],
) -> Result<Vec<MissingPieces>, SshError> {
    match link.ask(RequestBody::Missing { blobs: blobs.to_vec() }).await? {
        Reply::Missing { blobs } => Ok(blobs),
        _ => Err(wrong_answer(link.node(), "missing")),
    }
}

/// Offer the index and send everything of `blobs` that the node lacks; over a cut link only what
/// did not arrive is sent again. Answers with the bytes handed to the network.
///
/// # Errors
/// The agent refused the index or a piece, a piece can't be read, or the node stayed away.
pub async fn distribute<D: Door>(
    link: &Link<'_, D>,
    load: Load<'_>,
    blobs: &[Digest],
) -> Result<u64, SshError> {
    let offer = RequestBody::OfferIndex {
        index: load.text.to_owned(),
        signature: load.signature.to_owned(),
        keys: load.keys.to_vec(),
    };
    link.tell(offer, "offerIndex").await?;
    let mut missing = ask_missing(link, blobs).await?;
    let total_bytes = missing_bytes(load.index, &missing);
    let sent = AtomicU64::new(0);
    let mut idle = 0;
    while !missing.is_empty() {
        link.stage(Stage::Sending);
        let lacking = missing_bytes(load.index, &missing);
        send_once(link, load, &missing, total_bytes, &sent).await?;
        missing = ask_missing(link, blobs).await?;
        idle = if missing_bytes(load.index, &missing) < lacking { 0 } else { idle + 1 };
        if idle == IDLE_ROUNDS {
            return Err(no_progress(link.node(), &missing));
        }
    }
    Ok(sent.load(Ordering::Relaxed))
}

/// One round: a cut link ends it without failing it.
async fn send_once<D: Door>(
    link: &Link<'_, D>,
    load: Load<'_>,
    missing: &[MissingPieces],
    total_bytes: u64,
    sent: &AtomicU64,
) -> Result<(), SshError> {
    let hand = link.hand().await?;
    let stored_before = total_bytes - missing_bytes(load.index, missing).min(total_bytes);
    let this_round = AtomicU64::new(0);
    let (node, observer) = (link.node().to_owned(), link.observer());
    let progress = move |bytes: u64| {
        sent.fetch_add(bytes, Ordering::Relaxed);
        let round = this_round.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let sent_bytes = (stored_before + round).min(total_bytes);
        observer.news(&News::Bytes { node: node.clone(), sent_bytes, total_bytes });
    };
    match hand.send(load, missing, &progress).await {
        Ok(received) => match received.failure {
            None => Ok(()),
            Some(failure) => {
                Err(SshError::Agent { node: link.node().to_owned(), failure: Box::new(failure) })
            }
        },
        Err(error) if error.is_link() => {
            link.drop_hand(&hand, &error).await;
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn no_progress(node: &str, missing: &[MissingPieces]) -> SshError {
    let blob = missing.first().map(|part| part.blob.to_string()).unwrap_or_default();
    SshError::Agent {
        node: node.to_owned(),
        failure: Box::new(kdc_agent::wire::Failure {
            code: "KDC-021".to_owned(),
            message: format!(
                "{IDLE_ROUNDS} rounds of sending brought no new piece to the store; \
                 {} blob(s) are incomplete, the first is {blob}",
                missing.len()
            ),
            hint: Some("look at the disk of that node (`df -h /var/lib`) and its log".to_owned()),
        }),
    }
}
