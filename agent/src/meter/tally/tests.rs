use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::meter::{
    record::Pod,
    sample::{Counter, Height},
};

/// 2026-01-01 00:00:00 UTC.
const NEW_YEAR: i64 = 1_767_225_600_000;
const EVERY: u64 = 15_000;

/// A node and its clock, as a test drives them.
struct World {
    tally: Tally,
    unix_ms: i64,
    boot_ms: u64,
    boot: u8,
    records: Vec<Record>,
}

impl World {
    fn new() -> Self {
        let tally = Tally::new(JournalId::from_bytes([7; 16]));
        Self { tally, unix_ms: NEW_YEAR, boot_ms: 1_000_000, boot: 1, records: Vec::new() }
    }

    fn later(&mut self, ms: u64) -> &mut Self {
        self.unix_ms += ms as i64;
        self.boot_ms += ms;
        self
    }

    fn look(&mut self, readings: Vec<Reading>) {
        self.look_at(readings, true);
    }

    fn look_at(&mut self, readings: Vec<Reading>, whole: bool) {
        let sample = Sample {
            unix_ms: self.unix_ms,
            boot_ms: self.boot_ms,
            boot: [self.boot; 16],
            every_ms: EVERY,
            node: "n".to_owned(),
            whole,
            readings,
        };
        self.records.extend(self.tally.take(&sample));
    }

    /// Go on until everything is in a record.
    fn finish(&mut self) -> BTreeMap<(Level, Resource), u128> {
        self.later(15_000).look(vec![]);
        self.later(2 * 86_400_000).look(vec![]);
        let mut sums = BTreeMap::new();
        for record in &self.records {
            for amount in &record.amounts {
                *sums.entry((record.level, amount.resource)).or_default() +=
                    u128::from(amount.value);
            }
        }
        sums
    }

    fn marks(&self, level: Level) -> super::super::record::Marks {
        let mut all = super::super::record::Marks::default();
        let of = self.records.iter().filter(|record| record.level == level);
        of.for_each(|record| all.merge(&record.marks));
        all
    }
}

fn pod(uid: &str, cpu: u64, memory: u64) -> Reading {
    let pod =
        Pod { uid: uid.to_owned(), namespace: "a".into(), name: "p".into(), ..Pod::default() };
    let counter =
        Counter { resource: Resource::CpuTime, device: None, source: String::new(), value: cpu };
    Reading {
        subject: Subject::Pod(pod),
        life: 1,
        begun_boot_ms: None,
        counters: vec![counter],
        levels: vec![Height { resource: Resource::Memory, device: None, value: memory }],
        missing: Vec::new(),
    }
}

#[test]
fn what_was_used_before_the_first_sample_is_not_counted_and_all_after_it_is() {
    let mut world = World::new();
    world.look(vec![pod("u", 5_000_000, 100)]);
    for turn in 1..=8 {
        world.later(15_000).look(vec![pod("u", 5_000_000 + turn * 700, 100)]);
    }
    let minutes: Vec<&Record> =
        world.records.iter().filter(|one| one.level == Level::Minute).collect();
    assert_eq!(minutes.len(), 2);
    for (place, minute) in minutes.iter().enumerate() {
        assert_eq!(minute.seq, place as u64 + 1);
        assert_eq!(minute.from, NEW_YEAR / 1000 + 60 * place as i64);
        assert_eq!(minute.amounts.of(Resource::CpuTime), 2_800);
        assert_eq!(minute.amounts.of(Resource::Memory), 6_000, "100 bytes for 60 seconds");
        assert_eq!(minute.marks.started, u64::from(place == 0));
        assert_eq!(minute.marks.gap_seconds, 0);
    }
    let sums = world.finish();
    for level in Level::ALL {
        assert_eq!(sums[&(level, Resource::CpuTime)], 5_600);
    }
}

#[test]
fn what_lies_across_the_end_of_a_minute_is_shared_by_time_and_nothing_is_dropped() {
    let mut world = World::new();
    world.later(50_000).look(vec![pod("u", 0, 1)]);
    world.later(15_000).look(vec![pod("u", 100, 1)]);
    world.later(60_000).look(vec![pod("u", 100, 1)]);
    let of = |place: usize| world.records[place].amounts.of(Resource::CpuTime);
    assert_eq!((of(0), of(1)), (66, 34), "10 of 15 seconds, and the rest");
    // A byte for 75 seconds, in 60 of which nobody looked, and half of the time in which it went.
    let sums = world.finish();
    assert_eq!(sums[&(Level::Minute, Resource::Memory)], 22);
}

#[test]
fn a_pod_that_comes_counts_from_its_begin_and_one_that_goes_is_marked() {
    for (begun, memory) in [(None, 750 + 750), (Some(4_000), 400 + 750)] {
        let mut world = World::new();
        world.look(vec![]);
        world.later(15_000);
        let mut new = pod("u", 9_000, 100);
        new.begun_boot_ms = begun.map(|ago| world.boot_ms - ago);
        world.look(vec![new]);
        world.later(15_000).look(vec![]);
        let sums = world.finish();
        assert_eq!(sums[&(Level::Minute, Resource::CpuTime)], 9_000);
        assert_eq!(sums[&(Level::Minute, Resource::Memory)], memory, "{begun:?}");
        let marks = world.marks(Level::Day);
        assert_eq!((marks.started, marks.ended), (1, 1));
    }
}

#[test]
fn a_look_at_one_pod_between_two_samples_counts_once_and_ends_nobody() {
    let mut world = World::new();
    world.look(vec![pod("u", 0, 0), pod("v", 0, 0)]);
    world.later(14_000).look_at(vec![pod("u", 900, 0)], false);
    world.later(1_000).look(vec![pod("v", 50, 0)]);
    let sums = world.finish();
    assert_eq!(sums[&(Level::Minute, Resource::CpuTime)], 950);
    assert_eq!(world.marks(Level::Minute).ended, 2);
}

#[test]
fn a_counter_that_falls_and_a_cgroup_that_is_made_again_count_from_zero_and_are_marked() {
    let mut world = World::new();
    world.look(vec![pod("u", 1_000, 0)]);
    world.later(15_000).look(vec![pod("u", 300, 0)]);
    assert_eq!(
        world.tally.under_way().map(|(_, amounts)| amounts.of(Resource::CpuTime)).sum::<u128>(),
        300
    );
    // Higher than before, and yet anew: another cgroup of the same pod.
    let mut again = pod("u", 400, 0);
    again.life = 2;
    world.later(15_000).look(vec![again]);
    let sums = world.finish();
    assert_eq!(sums[&(Level::Hour, Resource::CpuTime)], 700);
    assert_eq!(world.marks(Level::Hour).resets, 2);
}

#[test]
fn ten_minutes_without_a_look_count_counters_and_not_levels_and_are_marked() {
    let mut world = World::new();
    world.look(vec![pod("u", 0, 1_000)]);
    world.later(600_000).look(vec![pod("u", 6_000, 1_000)]);
    let minutes: Vec<u128> = world
        .records
        .iter()
        .filter(|one| one.level == Level::Minute)
        .map(|one| one.amounts.of(Resource::CpuTime))
        .collect();
    assert_eq!(minutes, [600; 10]);
    assert!(world.records.iter().all(|one| one.marks.gap_seconds == 60));
    assert_eq!(
        world.finish().get(&(Level::Day, Resource::Memory)),
        Some(&7_500),
        "half of the last look"
    );
}

#[test]
fn a_day_without_a_look_makes_one_record_and_not_thousands() {
    let mut world = World::new();
    world.look(vec![pod("u", 0, 1_000)]);
    world.later(86_400_000).look(vec![pod("u", 6_000, 1_000)]);
    world.later(60_000).look(vec![pod("u", 6_000, 1_000)]);
    let minutes = world.records.iter().filter(|one| one.level == Level::Minute).count();
    assert!(minutes <= 3, "{minutes}");
    assert_eq!(world.finish()[&(Level::Day, Resource::CpuTime)], 6_000);
    assert!(world.marks(Level::Day).gap_seconds >= 86_400);
}

#[test]
fn a_node_that_was_off_counts_what_it_used_since_its_boot() {
    let mut world = World::new();
    world.look(vec![pod("u", 1_000_000, 50)]);
    world.later(3_600_000);
    (world.boot, world.boot_ms) = (2, 20_000);
    world.look(vec![pod("u", 700, 50)]);
    let sums = world.finish();
    assert_eq!(sums[&(Level::Day, Resource::CpuTime)], 700);
    let marks = world.marks(Level::Day);
    assert_eq!((marks.gap_seconds, marks.resets, marks.clock_steps), (3_600, 1, 0));
    // With a clock that fell back meanwhile.
    let mut world = World::new();
    world.look(vec![pod("u", 1_000_000, 50)]);
    (world.boot, world.boot_ms, world.unix_ms) = (2, 20_000, world.unix_ms - 5_000);
    world.look(vec![pod("u", 700, 50)]);
    assert_eq!(world.finish()[&(Level::Day, Resource::CpuTime)], 700);
    assert_eq!(world.marks(Level::Day).clock_steps, 1);
}

#[test]
fn a_clock_that_jumps_changes_neither_time_nor_amounts() {
    for step in [7_200_000, -7_200_000, 86_400_000 * 400] {
        let mut world = World::new();
        world.look(vec![pod("u", 0, 100)]);
        for turn in 1..=40 {
            if turn == 20 {
                world.unix_ms += step;
            }
            if turn == 30 {
                world.unix_ms -= step;
            }
            world.later(15_000).look(vec![pod("u", turn * 10, 100)]);
        }
        world.later(15_000).look(vec![]);
        let sums = world.finish();
        for level in Level::ALL {
            assert_eq!(sums[&(level, Resource::CpuTime)], 400, "{level:?} {step}");
            assert_eq!(sums[&(level, Resource::Memory)], 100 * 600 + 750, "{level:?} {step}");
            assert_eq!(world.marks(level).clock_steps, 2, "{level:?} {step}");
        }
    }
}

#[test]
fn what_can_t_be_read_is_marked_and_counted_when_it_can_be_read_again() {
    let mut world = World::new();
    world.look(vec![pod("u", 100, 10)]);
    let mut blind = pod("u", 0, 0);
    (blind.counters, blind.levels) = (Vec::new(), Vec::new());
    blind.missing = vec![Resource::CpuTime, Resource::Memory];
    for _ in 0..3 {
        world.later(15_000).look(vec![blind.clone()]);
    }
    world.later(15_000).look(vec![pod("u", 500, 10)]);
    let sums = world.finish();
    assert_eq!(sums[&(Level::Hour, Resource::CpuTime)], 400);
    assert_eq!(sums[&(Level::Hour, Resource::Memory)], 150 + 75);
    let missing = world.marks(Level::Hour).missing;
    assert!(missing.iter().all(|one| one.seconds == 45) && missing.len() == 2, "{missing:?}");
}

#[test]
fn remainders_are_carried_on() {
    let mut world = World::new();
    world.look(vec![pod("u", 0, 1)]);
    // A byte for 7 milliseconds, a thousand times.
    for _ in 0..1_000 {
        world.later(7).look(vec![pod("u", 0, 1)]);
    }
    let sum: u128 = world.tally.under_way().map(|(_, amounts)| amounts.of(Resource::Memory)).sum();
    assert_eq!(sum, 7);
}

#[test]
fn a_name_that_is_known_later_holds_for_the_whole_minute() {
    let mut world = World::new();
    let mut nameless = pod("u", 0, 1);
    nameless.subject = Subject::Pod(Pod { uid: "u".into(), ..Pod::default() });
    world.look(vec![nameless.clone()]);
    world.later(15_000).look(vec![pod("u", 1, 1)]);
    world.later(15_000).look(vec![nameless]);
    world.finish();
    let named = |record: &&Record| matches!(&record.subject, Subject::Pod(pod) if pod.name == "p");
    assert_eq!(world.records.iter().filter(named).count(), world.records.len());
}

#[test]
fn a_flood_of_short_pods_does_not_stay_in_memory() {
    let mut world = World::new();
    world.look(vec![]);
    for turn in 0..60 {
        let pods = (0..200).map(|one| pod(&format!("{turn}-{one}"), 1, 0)).collect();
        world.later(15_000).look(pods);
        let open = world.tally.days.iter().count();
        assert!(open <= 2_048 + 200, "{open} sheets");
    }
    let sums = world.finish();
    assert_eq!(sums[&(Level::Day, Resource::CpuTime)], 60 * 200);
    assert_eq!(sums[&(Level::Minute, Resource::CpuTime)], 60 * 200);
}

/// What may happen between two looks.
#[derive(Debug, Clone)]
enum Turn {
    Later(u64),
    Step(i64),
    Reboot(u64),
    Use(u8, u64),
    Gone(u8),
    Dies,
}

fn any_turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        4 => (1..200_000_u64).prop_map(Turn::Later),
        1 => (-90_000_000..90_000_000_i64).prop_map(Turn::Step),
        1 => (1..10_000_000_u64).prop_map(Turn::Reboot),
        4 => (0..4_u8, 0..u64::from(u32::MAX)).prop_map(|(who, much)| Turn::Use(who, much)),
        1 => (0..4_u8).prop_map(Turn::Gone),
        1 => Just(Turn::Dies),
    ]
}

proptest! {
    /// Whatever happens: all that was seen is counted once, at every level, and a tally that is written down and read back
    /// goes on as the one before.
    #[test]
    fn all_that_was_seen_counts_once_at_every_level(turns in prop::collection::vec(any_turn(), 0..60)) {
        let mut world = World::new();
        let mut counters: BTreeMap<u8, u64> = BTreeMap::new();
        let mut seen: BTreeMap<u8, u64> = BTreeMap::new();
        let (mut due, mut lives) = (0_u128, BTreeMap::<u8, u64>::new());
        world.look(vec![]);
        for turn in turns {
            match turn {
                Turn::Later(ms) => { world.later(ms); }
                Turn::Step(ms) => world.unix_ms += ms,
                Turn::Reboot(ms) => {
                    world.boot = world.boot.wrapping_add(1);
                    world.boot_ms = 5_000;
                    world.unix_ms += ms as i64;
                    counters.values_mut().for_each(|value| *value = 0);
                    seen.values_mut().for_each(|value| *value = 0);
                }
                Turn::Use(who, much) => *counters.entry(who).or_default() += much,
                Turn::Gone(who) => {
                    counters.remove(&who);
                    seen.remove(&who);
                    *lives.entry(who).or_default() += 1;
                }
                Turn::Dies => {
                    let text = serde_json::to_string(&world.tally).unwrap();
                    let again: Tally = serde_json::from_str(&text).unwrap();
                    prop_assert_eq!(&again, &world.tally);
                    world.tally = again;
                }
            }
            let readings = counters.iter().map(|(who, value)| {
                let mut reading = pod(&who.to_string(), *value, 0);
                reading.life = lives.get(who).copied().unwrap_or(0);
                reading
            });
            world.look(readings.collect());
            for (who, value) in &counters {
                due += u128::from(value - seen.get(who).copied().unwrap_or(0));
                seen.insert(*who, *value);
            }
        }
        let sums = world.finish();
        for level in Level::ALL {
            prop_assert_eq!(sums.get(&(level, Resource::CpuTime)).copied().unwrap_or(0), due);
            let seqs: Vec<u64> = world.records.iter().filter(|one| one.level == level).map(|one| one.seq).collect();
            prop_assert_eq!(seqs.clone(), (1..=seqs.len() as u64).collect::<Vec<_>>());
            prop_assert!(world.records.iter().all(|one| one.level.start_of(one.from) == one.from));
        }
    }
}
