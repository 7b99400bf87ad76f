use super::*;

const HOUR: i64 = 3600;

/// Where these tests begin.
fn start() -> Timestamp {
    Timestamp::from_unix(1_790_000_000)
}

/// A machine with a clock that can be set.
struct Machine {
    wall: i64,
    boottime: i64,
    boot: u32,
    anchors: Vec<(Anchor, Timestamp)>,
    record: ClockRecord,
}

impl Machine {
    fn new() -> Self {
        let record = ClockRecord::default();
        let mut machine = Self { wall: 0, boottime: 100, boot: 1, anchors: Vec::new(), record };
        assert_eq!(machine.look(), Reading::sure(start()));
        machine
    }

    /// Time goes by, for the clocks too.
    fn run(&mut self, seconds: i64) -> &mut Self {
        self.wall += seconds;
        self.boottime += seconds;
        self
    }

    /// The wall clock is set.
    fn set(&mut self, by: i64) -> &mut Self {
        self.wall += by;
        self
    }

    fn reboot(&mut self) -> &mut Self {
        self.boot += 1;
        self.boottime = 5;
        self
    }

    fn look(&mut self) -> Reading {
        let look = Look {
            wall: start().plus_seconds(self.wall),
            boottime: self.boottime,
            boot_id: format!("boot-{}", self.boot),
            anchors: self.anchors.clone(),
        };
        let (reading, record) = judge(&self.record, &look);
        assert!(record.floor >= self.record.floor, "the floor never falls");
        // What is kept survives being written down.
        let text = serde_json::to_string(&record).unwrap();
        self.record = serde_json::from_str(&text).unwrap();
        assert_eq!(self.record, record);
        reading
    }
}

fn at(seconds: i64) -> Timestamp {
    start().plus_seconds(seconds)
}

#[test]
fn a_clock_set_back_by_23_hours_is_let_be_and_by_25_hours_is_doubted() {
    let mut machine = Machine::new();
    machine.run(10 * HOUR).look();
    let reading = machine.set(-23 * HOUR).look();
    assert_eq!(reading, Reading::sure(at(-13 * HOUR)));
    let reading = machine.set(-2 * HOUR).look();
    assert_eq!(reading.now, at(10 * HOUR), "the floor is now");
    let doubt = reading.doubt.unwrap();
    assert!(matches!(doubt, Doubt::Behind { .. }), "{doubt:?}");
    assert!(doubt.in_words().contains("set the clock"), "{}", doubt.in_words());
    // The floor goes on with the time since boot, so standing still gives nothing.
    let reading = machine.run(5 * HOUR).look();
    assert_eq!(reading.now, at(15 * HOUR));
    // Set right, it is believed at once.
    assert_eq!(machine.set(25 * HOUR).look(), Reading::sure(at(15 * HOUR)));
}

#[test]
fn a_clock_set_back_over_a_reboot_is_doubted_too() {
    let mut machine = Machine::new();
    machine.run(100 * HOUR).look();
    let reading = machine.set(-90 * HOUR).reboot().look();
    assert_eq!(reading.now, at(100 * HOUR));
    assert!(reading.doubt.is_some());
}

#[test]
fn a_jump_ahead_and_back_burns_nothing() {
    let mut machine = Machine::new();
    machine.run(HOUR).look();
    let reading = machine.set(3650 * DAY).look();
    assert_eq!(reading.now, at(HOUR), "what is known counts");
    assert!(matches!(reading.doubt, Some(Doubt::Ahead { .. })));
    let reading = machine.run(HOUR).look();
    assert_eq!(reading.now, at(2 * HOUR));
    let reading = machine.set(-3650 * DAY).look();
    assert_eq!(reading, Reading::sure(at(2 * HOUR)));
}

#[test]
fn one_bad_boot_burns_nothing() {
    let mut machine = Machine::new();
    machine.run(HOUR).look();
    machine.set(3650 * DAY).reboot().look();
    machine.run(23 * HOUR).look();
    let reading = machine.set(-3650 * DAY).reboot().look();
    assert_eq!(reading, Reading::sure(at(24 * HOUR)));
}

#[test]
fn a_machine_that_was_off_for_months_is_believed_after_a_day_or_when_somebody_confirms_it() {
    let mut machine = Machine::new();
    machine.run(HOUR).look();
    machine.set(90 * DAY).reboot();
    assert!(machine.look().doubt.is_some());
    for _ in 0..23 {
        assert!(machine.run(HOUR).look().doubt.is_some());
    }
    let reading = machine.run(HOUR).look();
    assert_eq!(reading, Reading::sure(at(90 * DAY + 25 * HOUR)));
    for anchor in [Anchor::TimeServers, Anchor::ApiServer] {
        let mut machine = Machine::new();
        machine.set(90 * DAY).reboot();
        machine.anchors = vec![(anchor, at(90 * DAY + 30))];
        assert_eq!(machine.look(), Reading::sure(at(90 * DAY)), "{anchor:?}");
    }
}

#[test]
fn a_clock_that_keeps_jumping_has_not_held() {
    let mut machine = Machine::new();
    machine.run(HOUR).look();
    machine.set(900 * DAY).look();
    for _ in 0..100 {
        machine.set(10 * DAY);
        assert!(machine.run(HOUR).look().doubt.is_some());
    }
}

#[test]
fn a_licence_issued_later_than_the_clock_says_makes_the_clock_doubtful() {
    let mut machine = Machine::new();
    machine.anchors = vec![(Anchor::LicenseIssued, at(23 * HOUR))];
    assert_eq!(machine.look(), Reading::sure(at(0)));
    machine.anchors = vec![(Anchor::LicenseIssued, at(30 * DAY))];
    let reading = machine.look();
    assert_eq!(reading.now, at(30 * DAY));
    assert!(reading.doubt.unwrap().in_words().contains("the licence was issued"));
}

#[test]
fn files_of_the_future_raise_no_floor() {
    let mut machine = Machine::new();
    machine.anchors = vec![(Anchor::Files, at(3650 * DAY)), (Anchor::Audit, at(3650 * DAY))];
    assert_eq!(machine.run(HOUR).look(), Reading::sure(at(HOUR)));
}

#[test]
fn of_two_records_the_later_wins_and_without_any_it_begins_anew() {
    let mut machine = Machine::new();
    machine.run(50 * HOUR).look();
    let kept = machine.record.clone();
    // One of both places was lost, or brought back from a backup.
    let old = ClockRecord { floor: at(0), ..ClockRecord::default() };
    assert_eq!(old.clone().merge(kept.clone()), kept);
    assert_eq!(kept.clone().merge(old), kept);
    assert_eq!(ClockRecord::default().merge(kept.clone()), kept);
    // Both were.
    machine.record = ClockRecord::default();
    assert_eq!(machine.look(), Reading::sure(at(50 * HOUR)));
}
