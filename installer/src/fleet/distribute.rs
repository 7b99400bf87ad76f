//! Bring what a node's run will use into its store: offer the index, ask what is missing, send that,
//! ask again.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
};

use kdc_agent::{
    step::NodePlan,
    wire::{MissingPieces, Reply, RequestBody, Surveyed},
};
use kdc_bundles::index::{Digest, Index};

use super::{Door, Hand, Load, link::Link, wrong_answer};
use crate::{
    show::{News, news::Stage},
    ssh::SshError,
};

/// Rounds that may pass without one more piece in the store before it counts as a failure.
pub(super) const IDLE_ROUNDS: u32 = 3;

/// The agent's answer to `Missing` in a session in which no index was offered.
const NO_INDEX: &str = "AGENT-019";

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

/// What a node's store lacks of the blobs that its run will use.
#[derive(Debug, Clone)]
pub struct Lacking {
    /// The blobs.
    pub blobs: Vec<Digest>,
    /// Pieces of them that are not in the store.
    pub missing: Vec<MissingPieces>,
}

/// The blobs that a run will use: those of the steps that are not as wanted, sorted. A step that is
/// as wanted needs none, and the store may have given its content up (images, once containerd has
/// them).
#[must_use]
pub fn blobs_to_use(plan: &NodePlan, surveyed: &[Surveyed]) -> Vec<Digest> {
    let wanting = plan.steps.iter().zip(surveyed).filter(|(_, seen)| !seen.satisfied);
    let blobs = wanting.flat_map(|(planned, _)| planned.step.blobs().into_iter().cloned());
    blobs.collect::<BTreeSet<Digest>>().into_iter().collect()
}

/// Offer the index, which the node proves before it keeps it, and ask what it lacks of `blobs`.
///
/// # Errors
/// The agent refused the index, or the node stayed away.
pub async fn offer<D: Door>(
    link: &Link<'_, D>,
    load: Load<'_>,
    blobs: Vec<Digest>,
) -> Result<Lacking, SshError> {
    offer_index(link, load).await?;
    let missing = ask_missing(link, load, &blobs).await?;
    Ok(Lacking { blobs, missing })
}

async fn offer_index<D: Door>(link: &Link<'_, D>, load: Load<'_>) -> Result<(), SshError> {
    let offer = RequestBody::OfferIndex {
        index: load.text.to_owned(),
        signature: load.signature.to_owned(),
        keys: load.keys.to_vec(),
    };
    link.tell(offer, "offerIndex").await
}

/// Pieces that the node's store lacks of `blobs`.
pub(super) async fn ask_missing<D: Door>(
    link: &Link<'_, D>,
    load: Load<'_>,
    blobs: &[Digest],
) -> Result<Vec<MissingPieces>, SshError> {
    match ask_of_index(link, load, RequestBody::Missing { blobs: blobs.to_vec() }).await? {
        Reply::Missing { blobs } => Ok(blobs),
        _ => Err(wrong_answer(link.node(), "missing")),
    }
}

/// Ask what needs the index. An agent knows the one that was offered in its own session: after a
/// cut it is offered again.
pub(super) async fn ask_of_index<D: Door>(
    link: &Link<'_, D>,
    load: Load<'_>,
    body: RequestBody,
) -> Result<Reply, SshError> {
    loop {
        match link.ask(body.clone()).await {
            Err(error) if error.code() == NO_INDEX => offer_index(link, load).await?,
            answer => return answer,
        }
    }
}

/// Send everything that the node lacks; over a cut link only what did not arrive is sent again. The
/// bytes handed to the network are added to `sent`.
///
/// # Errors
/// The agent refused a piece, a piece can't be read, or the node stayed away.
pub(super) async fn feed<D: Door>(
    link: &Link<'_, D>,
    load: Load<'_>,
    lacking: &Lacking,
    sent: &AtomicU64,
) -> Result<(), SshError> {
    let mut missing = lacking.missing.clone();
    let total_bytes = missing_bytes(load.index, &missing);
    let mut idle = 0;
    while !missing.is_empty() {
        link.stage(Stage::Sending);
        let before = missing_bytes(load.index, &missing);
        send_once(link, load, &missing, total_bytes, sent).await?;
        missing = ask_missing(link, load, &lacking.blobs).await?;
        idle = if missing_bytes(load.index, &missing) < before { 0 } else { idle + 1 };
        if idle == IDLE_ROUNDS {
            return Err(no_progress(link.node(), &missing));
        }
    }
    Ok(())
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

pub(super) fn no_progress(node: &str, missing: &[MissingPieces]) -> SshError {
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
