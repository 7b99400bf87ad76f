//! Which piece to ask of whom. Pure: no clock, no sockets, and chance comes from a seed.
//!
//! A node asks for what is rarest among its neighbours, so that no piece dies out and every neighbour
//! soon has something that others want; among equals chance decides, so that neighbours don't all
//! fetch the same. How much is under way is bounded in all and by neighbour. A neighbour is slow when
//! the others delivered much since it was asked: it keeps one request and gets no more.
//!
//! ```
//! use kdc_agent::store::peer::picker::{Piece, Picker, WantedBlob};
//!
//! let mut picker = Picker::new(&[WantedBlob { ordinal: 4, size: 2_500_000 }], 1 << 20, 7);
//! picker.neighbour_has(0, [Piece { blob: 4, piece: 2 }]);
//! let piece = picker.next(0).expect("neighbour 0 has something for us");
//! assert_eq!((piece, picker.next(0)), (Piece { blob: 4, piece: 2 }, None));
//! picker.arrived(piece);
//! assert_eq!(picker.missing(), 2);
//! ```

use std::collections::BTreeSet;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use super::bits::Bits;

/// Up to so many peers a node talks to all of them.
pub const ALL_UP_TO: usize = 20;

/// Circles that many peers are put on: everybody talks to both of its sides in each.
const CIRCLES: usize = 8;

/// Bytes asked for at once, of all neighbours together.
pub const BYTES_UNDER_WAY: u64 = 16 * 1024 * 1024;

/// Fewest and most requests to one neighbour at once.
const REQUESTS: (usize, usize) = (2, 4);

/// Requests that the two to four a neighbour are shared out from.
const REQUESTS_IN_ALL: usize = 16;

/// A neighbour is slow when the others delivered so many pieces since it was asked for one.
const SLOW_AFTER: u64 = 48;

/// Who may be asked for the same piece at once, when nothing else is left to ask for.
const END_GAME_ASKS: usize = 2;

/// Whom of `peers` the node at place `own` talks to: all of them where they are few, else about
/// sixteen. Everybody must be given the same `seed` and order of peers: then who is talked to talks
/// back, nobody is left out, and no group of nodes is on its own.
#[must_use]
pub fn neighbours(own: usize, peers: usize, seed: u64) -> Vec<usize> {
    if peers <= ALL_UP_TO {
        return (0..peers).filter(|peer| *peer != own).collect();
    }
    // The same program on every node: the same circles.
    let mut chance = StdRng::seed_from_u64(seed);
    let mut chosen = BTreeSet::new();
    for _ in 0..CIRCLES {
        let mut circle: Vec<usize> = (0..peers).collect();
        circle.shuffle(&mut chance);
        let Some(at) = circle.iter().position(|peer| *peer == own) else { continue };
        chosen.extend([circle[(at + 1) % peers], circle[(at + peers - 1) % peers]]);
    }
    chosen.into_iter().collect()
}

/// One piece, as the index counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Piece {
    /// Ordinal of the blob in the index.
    pub blob: u32,
    /// Ordinal of the piece in the blob.
    pub piece: u32,
}

/// A blob that this node wants whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedBlob {
    /// Its ordinal in the index.
    pub ordinal: u32,
    /// Its size in bytes.
    pub size: u64,
}

/// A wanted blob's pieces stand side by side among all the slots.
#[derive(Debug, Clone, Copy)]
struct Run {
    blob: WantedBlob,
    first: usize,
    pieces: usize,
}

/// Asked, not answered.
#[derive(Debug, Clone, Copy)]
struct Flight {
    slot: usize,
    neighbour: usize,
    bytes: u64,
    /// Pieces that had been delivered by neighbours when this one was asked for.
    since: u64,
}

#[derive(Debug, Clone, Default)]
struct Neighbour {
    has: Bits,
    /// Of these, free ones.
    useful: usize,
    /// Requests under way.
    asked: usize,
}

/// What a node wants, what its neighbours have, and what is under way.
#[derive(Debug, Clone)]
pub struct Picker {
    /// Sorted by ordinal.
    runs: Vec<Run>,
    piece_size: u64,
    /// Wanted, not here, asked of nobody.
    free: Bits,
    free_slots: usize,
    /// Wanted and not here.
    lacks: Bits,
    missing: usize,
    /// By slot: neighbours that have it.
    holders: Vec<u16>,
    neighbours: Vec<Option<Neighbour>>,
    flights: Vec<Flight>,
    bytes_under_way: u64,
    /// Pieces that neighbours delivered.
    delivered: u64,
    chance: StdRng,
}

impl Picker {
    /// Everything is missing, nobody is known. What is here already is told with [`Picker::arrived`].
    /// The seed should be another one on each node.
    #[must_use]
    pub fn new(wanted: &[WantedBlob], piece_size: u64, seed: u64) -> Self {
        let mut wanted = wanted.to_vec();
        wanted.sort_by_key(|blob| blob.ordinal);
        wanted.dedup_by_key(|blob| blob.ordinal);
        let mut slots = 0;
        let piece_size = piece_size.max(1);
        let run = |blob: WantedBlob| {
            let pieces = usize::try_from(blob.size.div_ceil(piece_size)).unwrap_or(usize::MAX);
            let run = Run { blob, first: slots, pieces };
            slots += pieces;
            run
        };
        let runs: Vec<Run> = wanted.into_iter().map(run).collect();
        let lacks = Bits::full(slots);
        Self {
            runs,
            piece_size,
            free: lacks.clone(),
            free_slots: slots,
            lacks,
            missing: slots,
            holders: vec![0; slots],
            neighbours: Vec::new(),
            flights: Vec::new(),
            bytes_under_way: 0,
            delivered: 0,
            chance: StdRng::seed_from_u64(seed),
        }
    }

    /// Pieces that are not here yet.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// This piece is wanted and not here yet.
    #[must_use]
    pub fn lacks(&self, piece: Piece) -> bool {
        self.slot(piece).is_some_and(|slot| self.lacks.get(slot))
    }

    /// The neighbour has these pieces, besides those it was said to have. Pieces that nobody wants
    /// here may be among them.
    pub fn neighbour_has(&mut self, neighbour: usize, pieces: impl IntoIterator<Item = Piece>) {
        if self.neighbours.len() <= neighbour {
            self.neighbours.resize(neighbour + 1, None);
        }
        let slots = self.holders.len();
        for piece in pieces {
            let Some(slot) = self.slot(piece) else { continue };
            let known = self.neighbours[neighbour].get_or_insert_with(|| Neighbour {
                has: Bits::new(slots),
                useful: 0,
                asked: 0,
            });
            if known.has.put(slot, true) {
                known.useful += usize::from(self.free.get(slot));
                self.holders[slot] = self.holders[slot].saturating_add(1);
            }
        }
    }

    /// The neighbour is gone, with all that was asked of it. It may come back with
    /// [`Picker::neighbour_has`].
    pub fn neighbour_lost(&mut self, neighbour: usize) {
        let Some(lost) = self.neighbours.get_mut(neighbour).and_then(Option::take) else { return };
        for slot in lost.has.ones() {
            self.holders[slot] = self.holders[slot].saturating_sub(1);
        }
        for flight in self.take_flights(|flight| flight.neighbour == neighbour) {
            self.land(flight.slot);
        }
    }

    /// Whether anything more may be under way just now, of whomever.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.flights.is_empty() || self.bytes_under_way + self.piece_size <= BYTES_UNDER_WAY
    }

    /// The piece to ask of this neighbour now, if any; it is under way until [`Picker::arrived`],
    /// [`Picker::failed`] or [`Picker::neighbour_lost`] says otherwise. Ask again after each of these
    /// and after [`Picker::neighbour_has`].
    #[must_use]
    pub fn next(&mut self, neighbour: usize) -> Option<Piece> {
        let known = self.neighbours.get(neighbour)?.as_ref()?;
        // What is asked most often comes first: it has nothing for us.
        if known.useful == 0 && self.free_slots > 0 {
            return None;
        }
        if !self.has_room() || known.asked >= self.requests_to(neighbour) {
            return None;
        }
        let slot = self.rarest(neighbour).or_else(|| self.end_game(neighbour))?;
        let piece = self.piece(slot)?;
        let bytes = self.length(piece);
        self.set_free(slot, false);
        self.bytes_under_way += bytes;
        self.flights.push(Flight { slot, neighbour, bytes, since: self.delivered });
        if let Some(Some(known)) = self.neighbours.get_mut(neighbour) {
            known.asked += 1;
        }
        Some(piece)
    }

    /// The piece is here, from wherever. Answers with the neighbours that were asked for it and need
    /// not answer any more; the one that delivered it is among them.
    pub fn arrived(&mut self, piece: Piece) -> Vec<usize> {
        let Some(slot) = self.slot(piece) else { return Vec::new() };
        if self.lacks.put(slot, false) {
            self.missing -= 1;
        }
        self.set_free(slot, false);
        let flights = self.take_flights(|flight| flight.slot == slot);
        let asked: Vec<usize> = flights.iter().map(|flight| flight.neighbour).collect();
        for neighbour in &asked {
            self.answered(*neighbour);
        }
        self.delivered += u64::from(!asked.is_empty());
        asked
    }

    /// The neighbour did not deliver this piece. It counts as not having it until
    /// [`Picker::neighbour_has`] says so again.
    pub fn failed(&mut self, piece: Piece, neighbour: usize) {
        let Some(slot) = self.slot(piece) else { return };
        let flying = |flight: &Flight| flight.slot == slot && flight.neighbour == neighbour;
        for _ in self.take_flights(flying) {
            self.answered(neighbour);
        }
        if let Some(Some(known)) = self.neighbours.get_mut(neighbour)
            && known.has.put(slot, false)
        {
            known.useful -= usize::from(self.free.get(slot));
            self.holders[slot] = self.holders[slot].saturating_sub(1);
        }
        self.land(slot);
    }

    fn set_free(&mut self, slot: usize, free: bool) {
        if !self.free.put(slot, free) {
            return;
        }
        self.free_slots = if free { self.free_slots + 1 } else { self.free_slots - 1 };
        for known in self.neighbours.iter_mut().flatten() {
            if known.has.get(slot) {
                known.useful = if free { known.useful + 1 } else { known.useful - 1 };
            }
        }
    }

    fn take_flights(&mut self, over: impl Fn(&Flight) -> bool) -> Vec<Flight> {
        let (taken, stay) = self.flights.drain(..).partition::<Vec<_>, _>(over);
        self.flights = stay;
        self.bytes_under_way -= taken.iter().map(|flight| flight.bytes).sum::<u64>();
        taken
    }

    fn answered(&mut self, neighbour: usize) {
        if let Some(Some(known)) = self.neighbours.get_mut(neighbour) {
            known.asked = known.asked.saturating_sub(1);
        }
    }

    /// A request for this slot is over: free again where nobody else is asked and it is not here.
    fn land(&mut self, slot: usize) {
        if self.lacks.get(slot) && !self.flights.iter().any(|flight| flight.slot == slot) {
            self.set_free(slot, true);
        }
    }

    /// How many requests this neighbour may have at once.
    fn requests_to(&self, neighbour: usize) -> usize {
        let late = |flight: &Flight| {
            flight.neighbour == neighbour && self.delivered - flight.since >= SLOW_AFTER
        };
        if self.flights.iter().any(late) {
            return 1;
        }
        let known = self.neighbours.iter().flatten().count().max(1);
        (REQUESTS_IN_ALL / known).clamp(REQUESTS.0, REQUESTS.1)
    }

    /// Of the free slots that the neighbour has, one that the fewest have.
    fn rarest(&mut self, neighbour: usize) -> Option<usize> {
        let known = self.neighbours.get(neighbour)?.as_ref()?;
        if known.useful == 0 {
            return None;
        }
        let (mut fewest, mut best, mut equals) = (u16::MAX, None, 0);
        self.free.for_each_in_both(&known.has, |slot| {
            let holders = self.holders[slot];
            if holders < fewest {
                (fewest, best, equals) = (holders, Some(slot), 1);
            } else if holders == fewest {
                equals += 1;
                if self.chance.random_range(0..equals) == 0 {
                    best = Some(slot);
                }
            }
        });
        best
    }

    /// When all that is missing is under way: a piece that is asked of another one only.
    fn end_game(&self, neighbour: usize) -> Option<usize> {
        let has = &self.neighbours.get(neighbour)?.as_ref()?.has;
        if self.free_slots > 0 {
            return None;
        }
        let asks = |slot: usize| self.flights.iter().filter(move |flight| flight.slot == slot);
        let good = |flight: &&Flight| {
            let slot = flight.slot;
            has.get(slot)
                && asks(slot).all(|flight| flight.neighbour != neighbour)
                && asks(slot).count() < END_GAME_ASKS
        };
        let flight = self.flights.iter().filter(good).min_by_key(|flight| flight.since)?;
        Some(flight.slot)
    }

    fn slot(&self, piece: Piece) -> Option<usize> {
        let at = self.runs.binary_search_by_key(&piece.blob, |run| run.blob.ordinal).ok()?;
        let (run, inside) = (self.runs[at], piece.piece as usize);
        (inside < run.pieces).then_some(run.first + inside)
    }

    fn piece(&self, slot: usize) -> Option<Piece> {
        let at = self.runs.partition_point(|run| run.first + run.pieces <= slot);
        let run = self.runs.get(at)?;
        let piece = u32::try_from(slot - run.first).ok()?;
        Some(Piece { blob: run.blob.ordinal, piece })
    }

    fn length(&self, piece: Piece) -> u64 {
        let at = self.runs.binary_search_by_key(&piece.blob, |run| run.blob.ordinal);
        let size = at.map_or(0, |at| self.runs[at].blob.size);
        let before = u64::from(piece.piece).saturating_mul(self.piece_size);
        size.saturating_sub(before).min(self.piece_size)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: u64 = 1024;

    fn picker(pieces: u64) -> Picker {
        Picker::new(&[WantedBlob { ordinal: 3, size: pieces * KIB }], KIB, 1)
    }

    fn at(piece: u32) -> Piece {
        Piece { blob: 3, piece }
    }

    #[test]
    fn few_peers_all_talk_and_of_many_everybody_talks_back_to_about_sixteen() {
        assert_eq!(neighbours(1, 4, 9), [0, 2, 3]);
        assert!(neighbours(0, 1, 9).is_empty() && neighbours(7, 0, 9).is_empty());
        let all: Vec<Vec<usize>> = (0..100).map(|own| neighbours(own, 100, 9)).collect();
        for (own, theirs) in all.iter().enumerate() {
            assert!((8..=16).contains(&theirs.len()), "{theirs:?}");
            assert!(theirs.iter().all(|other| *other != own && all[*other].contains(&own)));
        }
    }

    #[test]
    fn the_rarest_is_asked_for_first_and_only_of_who_has_it() {
        let mut picker = picker(3);
        picker.neighbour_has(0, [at(0), at(1)]);
        picker.neighbour_has(1, [at(0)]);
        assert_eq!(picker.next(0), Some(at(1)));
        assert_eq!(picker.next(1), Some(at(0)));
        assert_eq!((picker.next(0), picker.next(1), picker.next(2)), (None, None, None));
        // What another blob or index would have is nothing to us.
        picker.neighbour_has(1, [Piece { blob: 2, piece: 0 }, at(9)]);
        assert_eq!(picker.next(1), None);
    }

    #[test]
    fn equals_are_chosen_by_chance() {
        let first = |seed| {
            let mut picker = Picker::new(&[WantedBlob { ordinal: 3, size: 64 * KIB }], KIB, seed);
            picker.neighbour_has(0, (0..64).map(at));
            picker.next(0).expect("it has all")
        };
        let chosen: BTreeSet<Piece> = (0..50).map(first).collect();
        assert!(chosen.len() > 25, "{chosen:?}");
        assert_eq!(first(4), first(4));
    }

    #[test]
    fn a_slow_neighbour_keeps_one_request_and_gets_no_second() {
        let mut picker = picker(500);
        picker.neighbour_has(0, (0..500).map(at));
        picker.neighbour_has(1, (0..500).map(at));
        let slow = picker.next(0).expect("one");
        for _ in 0..SLOW_AFTER {
            let piece = picker.next(1).expect("more");
            assert_eq!(picker.arrived(piece), [1]);
        }
        assert_eq!(picker.next(0), None);
        picker.arrived(slow);
        assert!(picker.next(0).is_some());
    }

    #[test]
    fn what_is_under_way_is_bounded_in_bytes_and_by_neighbour() {
        let mib = 1024 * KIB;
        let mut picker = Picker::new(&[WantedBlob { ordinal: 0, size: 900 * mib }], 4 * mib, 1);
        for neighbour in 0..20 {
            picker.neighbour_has(neighbour, (0..225).map(|piece| Piece { blob: 0, piece }));
        }
        let asked: Vec<usize> =
            (0..20).map(|n| (0..9).filter_map(|_| picker.next(n)).count()).collect();
        assert_eq!(asked[0], 2);
        assert_eq!(asked.iter().sum::<usize>(), 4, "16 MiB: {asked:?}");
        // One piece may be larger than the bound.
        let mut huge = Picker::new(&[WantedBlob { ordinal: 0, size: 64 * mib }], 32 * mib, 1);
        huge.neighbour_has(0, [Piece { blob: 0, piece: 1 }]);
        assert!(huge.next(0).is_some());
    }

    #[test]
    fn the_last_pieces_are_asked_of_a_second_neighbour_and_the_loser_is_told() {
        let mut picker = picker(1);
        for neighbour in 0..3 {
            picker.neighbour_has(neighbour, [at(0)]);
        }
        assert_eq!((picker.next(0), picker.next(1)), (Some(at(0)), Some(at(0))));
        assert_eq!(picker.next(2), None, "two at once are enough");
        assert_eq!(picker.arrived(at(0)), [0, 1]);
        assert_eq!((picker.missing(), picker.next(2)), (0, None));
    }

    #[test]
    fn what_a_neighbour_failed_to_deliver_is_asked_of_another() {
        let mut picker = picker(2);
        picker.neighbour_has(0, [at(0), at(1)]);
        picker.neighbour_has(1, [at(0), at(1)]);
        let piece = picker.next(0).expect("one");
        picker.failed(piece, 0);
        let other = picker.next(0).expect("the other one");
        assert_ne!(piece, other);
        assert_eq!(picker.next(0), None);
        assert_eq!(picker.next(1), Some(piece));
        picker.neighbour_lost(1);
        assert_eq!(picker.next(1), None);
        picker.neighbour_has(0, [piece]);
        assert_eq!(picker.next(0), Some(piece));
    }

    proptest! {
        /// Whatever fails and whoever goes away: nothing is asked for that is here, nothing of one who
        /// has not got it, and in the end, with one good neighbour, everything arrives.
        #[test]
        fn everything_arrives_from_one_good_neighbour(
            pieces in 1_u64..40,
            deeds in prop::collection::vec((0_usize..4, 0_u8..5), 0..200),
        ) {
            let mut picker = picker(pieces);
            let pieces = u32::try_from(pieces).unwrap();
            let mut flying: Vec<(Piece, usize)> = Vec::new();
            for (neighbour, deed) in deeds {
                match deed {
                    0 => picker.neighbour_has(neighbour, (0..pieces).filter(|p| p % 4 == 0).map(at)),
                    1 => {
                        picker.neighbour_lost(neighbour);
                        flying.retain(|(_, of)| *of != neighbour);
                    }
                    2 => if let Some(piece) = picker.next(neighbour) {
                        prop_assert!(picker.lacks(piece) && piece.piece % 4 == 0);
                        prop_assert!(!flying.contains(&(piece, neighbour)));
                        flying.push((piece, neighbour));
                    },
                    3 => if let Some((piece, of)) = flying.pop() {
                        picker.failed(piece, of);
                    },
                    _ => if let Some((piece, _)) = flying.pop() {
                        picker.arrived(piece);
                        flying.retain(|(other, _)| *other != piece);
                        prop_assert!(!picker.lacks(piece));
                    },
                }
            }
            for (piece, of) in flying.drain(..) {
                picker.failed(piece, of);
            }
            picker.neighbour_has(9, (0..pieces).map(at));
            while let Some(piece) = picker.next(9) {
                picker.arrived(piece);
            }
            prop_assert_eq!(picker.missing(), 0);
        }
    }
}
