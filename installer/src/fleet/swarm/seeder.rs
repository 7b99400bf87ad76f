//! What the installer sends, and to whom. Pure: no clock, no network.
//!
//! A piece that several nodes want goes to one of them, once, and they pass it on. The installer only
//! sees the nodes' stores (`Missing`), so it judges by them. A node that gets nothing from others for
//! longer than patience allows, while there is something to get:
//!
//! * and several nodes have what it lacks: it can't reach them, or they don't answer. It is *alone*,
//!   and gets everything straight, until something comes from others again;
//! * else the few that have it may be dead or out of reach: it is *lost*, and sent once more, to any.
//!
//! What only one node wants is sent last: what all want has to travel on.

use std::{collections::BTreeSet, time::Duration};

use kdc_agent::{store::peer::bits::Bits, wire::MissingPieces};
use kdc_bundles::index::{Digest, Index};

use crate::fleet::distribute::Lacking;

/// How long nothing may come from others, at least.
const PATIENCE: Duration = Duration::from_secs(5);

/// Patience on slow links: so many times as long as one piece takes the installer, on average.
const PATIENCE_PIECES: u32 = 60;

/// What a node gets in one go lasts about so long, as fast as it took the last.
const BATCH: Duration = Duration::from_secs(2);

/// Pieces in a node's first batch, and the most in any.
const BATCH_PIECES: (usize, usize) = (4, 32);

/// Pieces of a blob that somebody wants, side by side among all the slots.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// In the index.
    ordinal: usize,
    first: usize,
    pieces: usize,
}

/// When a piece was last given to a node, and to whom.
#[derive(Debug, Clone, Copy)]
struct Sent {
    to: usize,
    at: Duration,
}

#[derive(Debug, Clone)]
struct Member {
    lacks: Bits,
    has: Bits,
    /// On their way to it from the installer.
    batch: Vec<usize>,
    batch_at: Duration,
    /// Pieces in its next batch.
    pace: usize,
    /// It takes part; what it has counts.
    here: bool,
    /// Since when there is something to get and nothing comes from others.
    hungry_since: Option<Duration>,
    alone: bool,
}

/// What is known of the nodes' stores and of what was sent.
#[derive(Debug, Clone)]
pub(super) struct Seeder<'i> {
    index: &'i Index,
    /// Sorted by ordinal.
    runs: Vec<Run>,
    members: Vec<Member>,
    /// Nobody has it and it is on its way to nobody, or it is lost: to be sent to one that wants it.
    fresh: Bits,
    /// Wanted by several.
    shared: Bits,
    /// By slot: members that have it.
    holders: Vec<u16>,
    sent: Vec<Option<Sent>>,
    pieces_sent: u32,
    /// When the first batch was given away, and when the last one landed.
    span: Option<(Duration, Duration)>,
    /// Nodes that are sent to at once.
    lanes: usize,
}

impl<'i> Seeder<'i> {
    /// The nodes' stores as they are. `lanes` is how many nodes are sent to at once.
    #[must_use]
    pub(super) fn new(index: &'i Index, lacking: &[Lacking], lanes: usize) -> Self {
        let wanted: BTreeSet<&Digest> = lacking.iter().flat_map(|node| &node.blobs).collect();
        let mut slots = 0;
        let mut runs = Vec::new();
        for (ordinal, blob) in index.blobs.iter().enumerate() {
            if wanted.contains(&blob.digest) {
                runs.push(Run { ordinal, first: slots, pieces: blob.pieces.len() });
                slots += blob.pieces.len();
            }
        }
        let mut seeder = Self {
            index,
            runs,
            members: Vec::new(),
            fresh: Bits::new(slots),
            shared: Bits::new(slots),
            holders: vec![0; slots],
            sent: vec![None; slots],
            pieces_sent: 0,
            span: None,
            lanes: lanes.max(1),
        };
        seeder.members = lacking.iter().map(|node| seeder.member(node)).collect();
        seeder.count();
        seeder
    }

    fn member(&self, node: &Lacking) -> Member {
        let lacks = self.slots(&node.missing);
        let mut has = Bits::new(self.sent.len());
        let wanted: BTreeSet<&Digest> = node.blobs.iter().collect();
        for run in &self.runs {
            if wanted.contains(&self.index.blobs[run.ordinal].digest) {
                for slot in (run.first..run.first + run.pieces).filter(|slot| !lacks.get(*slot)) {
                    has.put(slot, true);
                }
            }
        }
        Member {
            lacks,
            has,
            batch: Vec::new(),
            batch_at: Duration::ZERO,
            pace: BATCH_PIECES.0,
            here: true,
            hungry_since: None,
            alone: false,
        }
    }

    fn count(&mut self) {
        for slot in 0..self.sent.len() {
            let having = self.members.iter().filter(|member| member.has.get(slot)).count();
            let lacking = self.members.iter().filter(|member| member.lacks.get(slot)).count();
            self.holders[slot] = u16::try_from(having).unwrap_or(u16::MAX);
            self.fresh.put(slot, having == 0 && lacking > 0);
            self.shared.put(slot, having + lacking > 1);
        }
    }

    /// What the installer need not send when nodes feed each other.
    #[must_use]
    pub(super) fn saves_bytes(&self) -> u64 {
        let saves = |slot: usize| {
            let lacking = self.members.iter().filter(|member| member.lacks.get(slot)).count();
            let sent = usize::from(self.fresh.get(slot));
            self.length(slot).saturating_mul((lacking - sent) as u64)
        };
        (0..self.sent.len()).map(saves).sum()
    }

    fn length(&self, slot: usize) -> u64 {
        let run = self.runs[self.runs.partition_point(|run| run.first + run.pieces <= slot)];
        let before = self.index.piece_size.saturating_mul((slot - run.first) as u64);
        self.index.blobs[run.ordinal].size.saturating_sub(before).min(self.index.piece_size)
    }

    /// What to send to this node next; nothing while it has a batch under way, or where all it lacks
    /// is expected from others. After sending, [`Seeder::landed`] has to follow.
    pub(super) fn take(&mut self, node: usize, now: Duration) -> Vec<MissingPieces> {
        let member = &self.members[node];
        if !member.here || !member.batch.is_empty() {
            return Vec::new();
        }
        let slots: Vec<usize> = if member.alone {
            member.lacks.ones().take(member.pace).collect()
        } else {
            // Towards the end, smaller and smaller: so that all lanes end together.
            let left = self.fresh.ones_in_both(&self.shared).count();
            let share = (left / (2 * self.lanes)).clamp(1, member.pace);
            let wanted = || self.fresh.ones_in_both(&member.lacks);
            let shared: Vec<usize> =
                wanted().filter(|slot| self.shared.get(*slot)).take(share).collect();
            if shared.is_empty() { wanted().take(member.pace).collect() } else { shared }
        };
        for slot in &slots {
            self.fresh.put(*slot, false);
            self.sent[*slot] = Some(Sent { to: node, at: now });
        }
        if !slots.is_empty() {
            self.span.get_or_insert((now, now));
            self.pieces_sent += u32::try_from(slots.len()).unwrap_or(u32::MAX);
        }
        let pieces = self.pieces(&slots);
        let member = &mut self.members[node];
        (member.batch, member.batch_at) = (slots, now);
        pieces
    }

    /// The batch was sent, whole or cut short, and this is what the node lacked after that. What did
    /// not arrive is to be sent again. Answers whether any of the batch arrived.
    pub(super) fn landed(&mut self, node: usize, missing: &[MissingPieces], now: Duration) -> bool {
        self.looked(node, missing, now);
        if let Some((_, last)) = &mut self.span {
            *last = now;
        }
        let member = &mut self.members[node];
        let batch = std::mem::take(&mut member.batch);
        let took = now.saturating_sub(member.batch_at).max(Duration::from_millis(1));
        let arrived = batch.iter().filter(|slot| !member.lacks.get(**slot)).count();
        let pace = BATCH.as_millis() * arrived as u128 / took.as_millis();
        let pace = usize::try_from(pace).unwrap_or(usize::MAX);
        // No faster growth than twice: the first ones only filled buffers.
        member.pace = pace.clamp(1, BATCH_PIECES.1.min(member.pace * 2));
        for slot in &batch {
            if self.members[node].lacks.get(*slot) && self.holders[*slot] == 0 {
                self.fresh.put(*slot, true);
            }
        }
        arrived > 0
    }

    /// The node lacks this now.
    pub(super) fn looked(&mut self, node: usize, missing: &[MissingPieces], now: Duration) {
        let lacks = self.slots(missing);
        self.come(node);
        let member = &mut self.members[node];
        let mut from_others = false;
        for slot in member.lacks.differences(&lacks) {
            let holders = &mut self.holders[slot];
            if lacks.get(slot) {
                member.has.put(slot, false);
                *holders = holders.saturating_sub(1);
                continue;
            }
            member.has.put(slot, true);
            *holders = holders.saturating_add(1);
            self.fresh.put(slot, false);
            from_others |= self.sent[slot].is_none_or(|sent| sent.to != node);
        }
        member.lacks = lacks;
        if from_others {
            (member.alone, member.hungry_since) = (false, None);
        }
        self.judge_hunger(node, now);
    }

    /// The node does not answer, for now: what it has does not count, until it is looked at again.
    pub(super) fn away(&mut self, node: usize) {
        let member = &mut self.members[node];
        if std::mem::take(&mut member.here) {
            for slot in member.has.ones() {
                self.holders[slot] = self.holders[slot].saturating_sub(1);
            }
        }
    }

    /// The node takes no more part: what was on its way to it is for others.
    pub(super) fn gone(&mut self, node: usize) {
        self.away(node);
        let member = &mut self.members[node];
        let length = self.sent.len();
        (member.lacks, member.has) = (Bits::new(length), Bits::new(length));
        for slot in std::mem::take(&mut member.batch) {
            if self.holders[slot] == 0 {
                self.fresh.put(slot, true);
            }
        }
    }

    /// The node gets everything from the installer.
    #[must_use]
    pub(super) fn is_alone(&self, node: usize) -> bool {
        self.members[node].alone
    }

    fn come(&mut self, node: usize) {
        let member = &mut self.members[node];
        if !std::mem::replace(&mut member.here, true) {
            for slot in member.has.ones() {
                self.holders[slot] = self.holders[slot].saturating_add(1);
            }
        }
    }

    /// What the node lacks and is to get from others, since the installer does not mean to send it.
    fn due_from_others<'s>(&'s self, node: &'s Member) -> impl Iterator<Item = usize> + 's {
        node.lacks.ones().filter(|slot| !self.fresh.get(*slot) && !node.batch.contains(slot))
    }

    fn judge_hunger(&mut self, node: usize, now: Duration) {
        let patience = self.patience();
        let member = &self.members[node];
        if member.alone || self.due_from_others(member).next().is_none() {
            self.members[node].hungry_since = None;
            return;
        }
        let since = *self.members[node].hungry_since.get_or_insert(now);
        if now.saturating_sub(since) < patience {
            return;
        }
        self.members[node].hungry_since = Some(now);
        let member = &self.members[node];
        if self.due_from_others(member).any(|slot| self.holders[slot] > 1) {
            self.members[node].alone = true;
            return;
        }
        let waited = |slot: &usize| {
            self.sent[*slot].is_none_or(|sent| now.saturating_sub(sent.at) >= patience)
        };
        let lost: Vec<usize> = self.due_from_others(member).filter(waited).collect();
        for slot in lost {
            self.fresh.put(slot, true);
        }
    }

    fn patience(&self) -> Duration {
        let (first, last) = self.span.unwrap_or_default();
        let a_piece = (last - first).checked_div(self.pieces_sent).unwrap_or_default();
        PATIENCE.max(a_piece * PATIENCE_PIECES)
    }

    fn slots(&self, missing: &[MissingPieces]) -> Bits {
        let mut bits = Bits::new(self.sent.len());
        let blobs = &self.index.blobs;
        for part in missing {
            let found = self.runs.binary_search_by(|run| blobs[run.ordinal].digest.cmp(&part.blob));
            let Ok(at) = found else { continue };
            let run = self.runs[at];
            for (from, to) in &part.ranges {
                for piece in (*from as usize)..(*to as usize).min(run.pieces) {
                    bits.put(run.first + piece, true);
                }
            }
        }
        bits
    }

    /// Sorted slots as the wire has them.
    fn pieces(&self, slots: &[usize]) -> Vec<MissingPieces> {
        let mut pieces: Vec<MissingPieces> = Vec::new();
        for slot in slots {
            let run = self.runs[self.runs.partition_point(|run| run.first + run.pieces <= *slot)];
            let blob = &self.index.blobs[run.ordinal].digest;
            let Ok(piece) = u32::try_from(slot - run.first) else { continue };
            match pieces.last_mut().filter(|part| part.blob == *blob) {
                None => {
                    let ranges = vec![(piece, piece + 1)];
                    pieces.push(MissingPieces { blob: blob.clone(), ranges });
                }
                Some(part) => match part.ranges.last_mut().filter(|range| range.1 == piece) {
                    Some(range) => range.1 += 1,
                    None => part.ranges.push((piece, piece + 1)),
                },
            }
        }
        pieces
    }
}
