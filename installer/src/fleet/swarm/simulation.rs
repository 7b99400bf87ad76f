//! Many nodes on one simple model of links, driven by the real seeder and the real picker.
//!
//! Every link, the installer's too, carries the same rate up and down; what is sent waits in line
//! there. A node tells its neighbours what it has a while after it got it; a dead one answers nobody,
//! and is given up after a while. Time is a number, so an hour takes seconds, and chance a seed, so
//! that each run is the same.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    time::Duration,
};

use kdc_agent::{
    store::peer::{
        bits::Bits,
        picker::{Picker, Piece, WantedBlob, neighbours},
    },
    wire::MissingPieces,
};
use kdc_bundles::index::{Blob, Digest, INDEX_VERSION, Index, PIECE_SIZE};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use super::{LANES, LOOKS, seeder::Seeder};
use crate::fleet::distribute::Lacking;

/// Microseconds.
type Time = u64;

const SECOND: Time = 1_000_000;

/// A piece on a link of 200 Mbit/s.
const PIECE_TIME: Time = PIECE_SIZE * 8 * SECOND / 200_000_000;

/// There or back.
const HALF_ROUND_TRIP: Time = 500;

/// To begin and to end a batch: a channel, a process, a last word.
const BATCH_OVERHEAD: Time = 50_000;

/// From having a piece to having told the neighbours.
const TELLING: Time = 300_000;

/// Until a neighbour that died is given up.
const NEIGHBOUR_LOST: Time = 10 * SECOND;

/// Until a lane to a node that died is given up.
const LANE_LOST: Time = 60 * SECOND;

/// Nobody needs longer than this, or it will never end.
const LONGEST: Time = 3_600 * SECOND;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The installer asks for the node's store.
    Look(usize),
    /// The next piece of the node's batch may go.
    Send(usize),
    /// A piece from the installer is there.
    Seeded(usize, usize),
    /// The batch is over, and the store was looked at.
    Landed(usize),
    /// A lane that hung is free again.
    LaneFree,
    /// One node's request is at another.
    Request {
        of: usize,
        by: usize,
        slot: usize,
    },
    /// And answered.
    Deliver {
        of: usize,
        to: usize,
        slot: usize,
    },
    /// What a node has new is known to its neighbours.
    Tell(usize),
    Die(usize),
    /// A neighbour is given up.
    GiveUp {
        of: usize,
        by: usize,
    },
}

struct Node {
    picker: Picker,
    has: Bits,
    neighbours: Vec<usize>,
    /// Not told yet.
    news: Vec<Piece>,
    up_free: Time,
    down_free: Time,
    batch: VecDeque<usize>,
    is_dead: bool,
    is_whole: bool,
}

struct World<'i> {
    now: Time,
    serial: u64,
    queue: BinaryHeap<Reverse<(Time, u64, Event)>>,
    index: &'i Index,
    seeder: Seeder<'i>,
    nodes: Vec<Node>,
    /// Who waits for a lane, and the lanes that are free.
    waiting: VecDeque<usize>,
    free_lanes: usize,
    up_free: Time,
    pieces_sent: usize,
    pieces: usize,
    look_pause: Time,
    /// Living nodes that are not whole.
    unfed: usize,
    can_reach: bool,
    piece_time: Time,
}

/// What came of it.
#[derive(Debug)]
struct Figures {
    /// Until the last living node was whole.
    took: Time,
    pieces_sent: usize,
}

fn index(pieces: usize) -> Index {
    let digest = Digest::of(b"a blob");
    let blob = Blob {
        digest: digest.clone(),
        size: PIECE_SIZE * pieces as u64,
        pieces: vec![digest; pieces],
    };
    Index {
        version: INDEX_VERSION,
        name: "simulated".to_owned(),
        bundle_version: "1".to_owned(),
        piece_size: PIECE_SIZE,
        parameters: BTreeMap::new(),
        artifacts: Vec::new(),
        blobs: vec![blob],
    }
}

fn piece(slot: usize) -> Piece {
    Piece { blob: 0, piece: u32::try_from(slot).unwrap() }
}

impl<'i> World<'i> {
    fn new(nodes: usize, index: &'i Index, seed: u64) -> Self {
        let pieces = index.blobs[0].pieces.len();
        let wanted = WantedBlob { ordinal: 0, size: index.blobs[0].size };
        let blobs = vec![index.blobs[0].digest.clone()];
        let everything = u32::try_from(pieces).unwrap();
        let missing = MissingPieces { blob: blobs[0].clone(), ranges: vec![(0, everything)] };
        let lacking = vec![Lacking { blobs, missing: vec![missing] }; nodes];
        let lanes = LANES.min(nodes);
        let node = |own: usize| Node {
            picker: Picker::new(&[wanted], PIECE_SIZE, seed ^ own as u64),
            has: Bits::new(pieces),
            neighbours: neighbours(own, nodes, seed),
            news: Vec::new(),
            up_free: 0,
            down_free: 0,
            batch: VecDeque::new(),
            is_dead: false,
            is_whole: false,
        };
        let pause = LOOKS.0.max(LOOKS.1 * u32::try_from(nodes).unwrap());
        let mut world = Self {
            now: 0,
            serial: 0,
            queue: BinaryHeap::new(),
            index,
            seeder: Seeder::new(index, &lacking, lanes),
            nodes: (0..nodes).map(node).collect(),
            waiting: VecDeque::new(),
            free_lanes: lanes,
            up_free: 0,
            pieces_sent: 0,
            pieces,
            look_pause: u64::try_from(pause.as_micros()).unwrap(),
            unfed: nodes,
            can_reach: true,
            piece_time: PIECE_TIME,
        };
        for node in 0..nodes {
            world.at(world.look_pause * node as u64 / nodes as u64, Event::Look(node));
        }
        world
    }

    fn at(&mut self, time: Time, event: Event) {
        self.serial += 1;
        self.queue.push(Reverse((time, self.serial, event)));
    }

    /// Kill a tenth of the nodes, each at a random moment before `until`.
    fn kill_a_tenth(&mut self, until: Time, chance: &mut StdRng) {
        let mut victims: Vec<usize> = (0..self.nodes.len()).collect();
        victims.shuffle(chance);
        for victim in &victims[..self.nodes.len() / 10] {
            self.at(chance.random_range(0..until), Event::Die(*victim));
        }
    }

    fn run(mut self) -> Figures {
        while let Some(Reverse((time, _, event))) = self.queue.pop() {
            self.now = time;
            assert!(time < LONGEST, "it does not end: {event:?}");
            self.happen(event);
            if self.unfed == 0 {
                return Figures { took: self.now, pieces_sent: self.pieces_sent };
            }
        }
        panic!("nothing happens any more, and somebody is not whole");
    }

    fn clock(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    fn missing(&self, node: usize) -> Vec<MissingPieces> {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for slot in (0..self.pieces).filter(|slot| !self.nodes[node].has.get(*slot)) {
            let slot = u32::try_from(slot).unwrap();
            match ranges.last_mut().filter(|range| range.1 == slot) {
                Some(range) => range.1 += 1,
                None => ranges.push((slot, slot + 1)),
            }
        }
        let blob = self.index.blobs[0].digest.clone();
        if ranges.is_empty() { Vec::new() } else { vec![MissingPieces { blob, ranges }] }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Look(node) => self.look(node),
            Event::Send(node) => self.send(node),
            Event::Seeded(node, slot) if !self.nodes[node].is_dead => self.arrive(node, slot, None),
            Event::Landed(node) if self.nodes[node].is_dead => {
                self.at(self.now + LANE_LOST, Event::LaneFree);
            }
            Event::Landed(node) => {
                let missing = self.missing(node);
                assert!(self.seeder.landed(node, &missing, self.clock()));
                self.waiting.push_back(node);
                self.free_lanes += 1;
                self.use_lanes();
            }
            Event::LaneFree => {
                self.free_lanes += 1;
                self.use_lanes();
            }
            Event::Request { of, by, slot } if !self.nodes[of].is_dead && self.can_reach => {
                assert!(self.nodes[of].has.get(slot), "asked for what it has not");
                self.deliver(of, by, slot);
            }
            Event::Deliver { of, to, slot }
                if !self.nodes[to].is_dead && !self.nodes[of].is_dead =>
            {
                self.arrive(to, slot, Some(of));
            }
            Event::Tell(node) if !self.nodes[node].is_dead => self.tell(node),
            Event::Die(node) => {
                self.nodes[node].is_dead = true;
                self.unfed -= usize::from(!self.nodes[node].is_whole);
                for by in self.nodes[node].neighbours.clone() {
                    self.at(self.now + NEIGHBOUR_LOST, Event::GiveUp { of: node, by });
                }
            }
            Event::GiveUp { of, by } => {
                self.nodes[by].picker.neighbour_lost(of);
                self.ask(by, 0);
            }
            // To or of the dead.
            Event::Seeded(..) | Event::Request { .. } | Event::Deliver { .. } | Event::Tell(_) => {}
        }
    }

    fn look(&mut self, node: usize) {
        if self.nodes[node].is_dead {
            self.seeder.away(node);
            return;
        }
        let missing = self.missing(node);
        self.seeder.looked(node, &missing, self.clock());
        if missing.is_empty() {
            return;
        }
        self.at(self.now + self.look_pause, Event::Look(node));
        if self.nodes[node].batch.is_empty() && !self.waiting.contains(&node) {
            self.waiting.push_back(node);
            self.use_lanes();
        }
    }

    fn use_lanes(&mut self) {
        while self.free_lanes > 0 {
            let Some(node) = self.waiting.pop_front() else { return };
            let batch = self.seeder.take(node, self.clock());
            let ranges = batch.iter().flat_map(|part| part.ranges.iter().copied());
            self.nodes[node].batch =
                ranges.flat_map(|(from, to)| from as usize..to as usize).collect();
            if !batch.is_empty() {
                self.free_lanes -= 1;
                self.at(self.now + BATCH_OVERHEAD / 2, Event::Send(node));
            }
        }
    }

    fn send(&mut self, node: usize) {
        let Some(slot) = self.nodes[node].batch.front().copied() else { return };
        let begins = self.now.max(self.up_free);
        self.up_free = begins + self.piece_time;
        let there = self.through(begins, node);
        self.pieces_sent += 1;
        self.at(there, Event::Seeded(node, slot));
        self.nodes[node].batch.pop_front();
        if self.nodes[node].batch.is_empty() {
            // Kept until it landed, so that nobody takes the lane for idle.
            self.nodes[node].batch.push_back(usize::MAX);
            self.at(there + BATCH_OVERHEAD / 2, Event::Landed(node));
        } else {
            self.at(self.up_free, Event::Send(node));
        }
    }

    /// When what leaves another link from `begins` on has come in whole here.
    fn through(&mut self, begins: Time, to: usize) -> Time {
        let node = &mut self.nodes[to];
        let comes = (begins + HALF_ROUND_TRIP).max(node.down_free);
        node.down_free = comes + self.piece_time;
        node.down_free
    }

    fn deliver(&mut self, of: usize, to: usize, slot: usize) {
        let begins = self.now.max(self.nodes[of].up_free);
        self.nodes[of].up_free = begins + self.piece_time;
        let there = self.through(begins, to);
        self.at(there, Event::Deliver { of, to, slot });
    }

    fn arrive(&mut self, node: usize, slot: usize, from: Option<usize>) {
        let here = &mut self.nodes[node];
        here.picker.arrived(piece(slot));
        if here.has.put(slot, true) {
            here.news.push(piece(slot));
            if here.news.len() == 1 {
                self.at(self.now + TELLING, Event::Tell(node));
            }
            let here = &mut self.nodes[node];
            if here.picker.missing() == 0 {
                here.is_whole = true;
                self.unfed -= 1;
            }
        }
        if let Some(from) = from {
            let first = self.nodes[node].neighbours.iter().position(|n| *n == from);
            self.ask(node, first.unwrap_or(0));
        }
    }

    fn tell(&mut self, node: usize) {
        let news = std::mem::take(&mut self.nodes[node].news);
        for at in 0..self.nodes[node].neighbours.len() {
            let other = self.nodes[node].neighbours[at];
            if self.nodes[other].is_dead || self.nodes[other].is_whole {
                continue;
            }
            self.nodes[other].picker.neighbour_has(node, news.iter().copied());
            if self.nodes[other].picker.has_room() {
                let first = self.nodes[other].neighbours.iter().position(|n| *n == node);
                self.ask(other, first.unwrap_or(0));
            }
        }
    }

    /// Ask neighbours for as much as may be asked for, beginning with one of them.
    fn ask(&mut self, by: usize, first: usize) {
        let count = self.nodes[by].neighbours.len();
        for offset in 0..count {
            let of = self.nodes[by].neighbours[(first + offset) % count];
            while self.nodes[by].picker.has_room()
                && let Some(piece) = self.nodes[by].picker.next(of)
            {
                let slot = piece.piece as usize;
                self.at(self.now + HALF_ROUND_TRIP, Event::Request { of, by, slot });
            }
        }
    }
}

/// Time to one and what the installer sends to it: every piece, once.
fn to_one(pieces: usize) -> Figures {
    let index = index(pieces);
    let figures = World::new(1, &index, 1).run();
    assert_eq!(figures.pieces_sent, pieces);
    figures
}

fn ratio(of: Time, to: Time) -> f64 {
    of as f64 / to as f64
}

/// `nodes` of them, `pieces` each; the time against the time to one, and what the installer sends
/// against the bundle.
fn ratios(nodes: usize, pieces: usize, seed: u64, kill: bool) -> (f64, f64) {
    let (index, one) = (index(pieces), to_one(pieces));
    let mut world = World::new(nodes, &index, seed);
    if kill {
        world.kill_a_tenth(one.took, &mut StdRng::seed_from_u64(seed));
    }
    let all = world.run();
    let (time, sent) = (ratio(all.took, one.took), all.pieces_sent as f64 / pieces as f64);
    let what = if kill { ", a tenth of them killed" } else { "" };
    println!(
        "model: {nodes} nodes, {pieces} MiB{what}: {:.1} s, {time:.2} x the time to one; the \
         installer sends {sent:.2} x the bundle",
        all.took as f64 / SECOND as f64
    );
    (time, sent)
}

#[test]
fn ten_nodes_take_at_most_half_as_long_again_as_one() {
    for seed in 1..3 {
        let (time, sent) = ratios(10, 1024, seed, false);
        assert!(time <= 1.5 && sent <= 1.3, "{time} {sent}");
        let (_, sent) = ratios(10, 1024, seed, true);
        assert!(sent <= 2.0, "{sent}");
    }
}

#[test]
fn a_hundred_nodes_take_at_most_twice_as_long_as_one() {
    let (time, sent) = ratios(100, 256, 1, false);
    assert!(time <= 2.0 && sent <= 1.3, "{time} {sent}");
    let (_, sent) = ratios(100, 256, 2, true);
    assert!(sent <= 1.6, "{sent}");
}

/// Fewer pieces than the others, for the sake of time: that makes it harder, since what a piece
/// takes to get around weighs more.
#[test]
fn a_thousand_nodes_take_at_most_three_times_as_long_as_one() {
    let (time, sent) = ratios(1000, 128, 1, false);
    assert!(time <= 3.0 && sent <= 1.3, "{time} {sent}");
    ratios(1000, 128, 2, true);
}

#[test]
fn where_nobody_reaches_anybody_it_is_a_star_and_ends() {
    let index = index(64);
    let mut world = World::new(8, &index, 1);
    world.can_reach = false;
    let all = world.run();
    assert_eq!(all.pieces_sent, 8 * 64);
}

#[test]
fn on_slow_links_nobody_is_taken_for_dead() {
    let index = index(256);
    let mut world = World::new(20, &index, 1);
    // 10 Mbit/s.
    world.piece_time = 20 * PIECE_TIME;
    let all = world.run();
    assert!(all.pieces_sent <= 256 + 26, "{}", all.pieces_sent);
}
