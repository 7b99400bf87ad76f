//! The way of one node, decision by decision.

use proptest::prelude::*;

use super::*;

const PATIENCE: Patience = Patience { ready_secs: 60, verify_secs: 90, repairs_an_hour: 2 };

fn pod(uid: &str, ready: bool) -> PodSeen {
    PodSeen {
        name: format!("pod-{uid}"),
        uid: uid.to_owned(),
        ready,
        leaving: false,
        image: String::new(),
    }
}

/// A node and a plugin that takes its settings when its pod starts, or never.
struct World {
    now: u64,
    progress: Option<Progress>,
    entries: Vec<String>,
    wanted: String,
    takes: bool,
    /// Entries that the plugin runs with.
    running: Vec<String>,
    pods: Vec<PodSeen>,
    restarts: usize,
    events: Vec<&'static str>,
}

impl World {
    fn new(takes: bool) -> Self {
        Self {
            now: 1000,
            progress: None,
            entries: vec!["old".to_owned()],
            wanted: "new".to_owned(),
            takes,
            running: vec!["old".to_owned()],
            pods: vec![pod("0", true)],
            restarts: 0,
            events: Vec::new(),
        }
    }

    fn round(&mut self) {
        let wanted = vec![self.wanted.clone()];
        let differences: Vec<String> = if self.takes && self.running == wanted {
            Vec::new()
        } else {
            vec!["it differs".to_owned()]
        };
        let seen = Seen {
            wanted: &self.wanted,
            entries: &self.entries,
            entry_differs: self.entries != wanted,
            differences: &differences,
            pods: &self.pods,
            turn: true,
            now: self.now,
        };
        let decision = decide(self.progress.as_ref(), &seen, &PATIENCE);
        match decision.entry {
            Entry::Wanted => self.entries = wanted,
            Entry::Kept => {}
            Entry::Before => {
                let before = decision.progress.as_ref().map(|known| known.before.clone());
                self.entries = before.expect("a record while it returns");
            }
        }
        if let Some((_, uid)) = &decision.delete {
            self.restarts += 1;
            self.pods.retain(|pod| pod.uid != *uid);
            self.pods.push(pod(&self.restarts.to_string(), true));
            self.running = self.entries.clone();
        }
        self.events.extend(decision.event.map(|(_, reason, _)| reason));
        self.progress = decision.progress;
        self.now += 5;
    }

    fn rounds(&mut self, number: usize) -> Phase {
        (0..number).for_each(|_| self.round());
        self.progress.as_ref().expect("a record").phase
    }
}

#[test]
fn a_plugin_that_takes_it_is_restarted_once_and_proved() {
    let mut world = World::new(true);
    assert_eq!(world.rounds(40), Phase::Applied);
    assert_eq!((world.restarts, world.events), (1, vec!["GpuSharingApplied"]));
}

#[test]
fn a_plugin_that_never_takes_it_gets_its_old_entry_back_and_is_left_alone() {
    let mut world = World::new(false);
    assert_eq!(world.rounds(100), Phase::RolledBack);
    assert_eq!(
        (world.entries.clone(), world.running.clone()),
        (vec!["old".to_owned()], vec!["old".to_owned()])
    );
    assert_eq!(world.restarts, 2, "one to try, one to go back");
    assert_eq!(world.events, ["GpuSharingNotTaken", "GpuSharingRolledBack"]);
    assert_eq!(world.progress.as_ref().expect("a record").reasons, ["it differs"]);
    // Something else is wanted, and the plugin listens now.
    (world.wanted, world.takes) = ("newer".to_owned(), true);
    assert_eq!(world.rounds(40), Phase::Applied);
    assert_eq!(world.restarts, 3);
}

#[test]
fn what_is_in_force_already_is_taken_over_without_a_restart() {
    let mut world = World::new(true);
    (world.entries, world.running) = (vec!["new".to_owned()], vec!["new".to_owned()]);
    assert_eq!(world.rounds(5), Phase::Applied);
    assert_eq!(world.restarts, 0);
}

#[test]
fn an_entry_somebody_changed_is_put_back_at_most_so_often_an_hour_and_without_a_restart() {
    let mut world = World::new(true);
    world.rounds(40);
    for _ in 0..5 {
        world.entries = vec!["by hand".to_owned()];
        world.rounds(2);
    }
    assert_eq!((world.restarts, world.entries.clone()), (1, vec!["by hand".to_owned()]));
    assert_eq!(
        world.events[1..],
        ["GpuSharingRepaired", "GpuSharingRepaired", "GpuSharingDrifted"]
    );
    world.now += 3600;
    assert_eq!(world.rounds(3), Phase::Applied);
    assert_eq!(world.entries, ["new"]);
}

#[test]
fn a_plugin_that_forgot_is_restarted_and_what_was_proved_is_never_rolled_back() {
    let mut world = World::new(true);
    world.rounds(40);
    world.running = vec!["forgot".to_owned()];
    assert_eq!(world.rounds(40), Phase::Applied);
    assert_eq!(world.restarts, 2);
    world.takes = false;
    assert_eq!(world.rounds(200), Phase::Drifted);
    assert_eq!((world.restarts, world.entries.clone()), (3, vec!["new".to_owned()]));
}

#[test]
fn nobody_begins_out_of_turn_and_a_node_without_a_pod_needs_no_restart() {
    let seen = |turn, pods| Seen {
        wanted: "new",
        entries: &[],
        entry_differs: true,
        differences: &[],
        pods,
        turn,
        now: 5,
    };
    let waiting = decide(None, &seen(false, &[]), &PATIENCE);
    assert_eq!(waiting, Decision::quiet(None, Entry::Kept));
    let begun = decide(None, &seen(true, &[]), &PATIENCE).progress.expect("a record");
    assert_eq!((begun.phase, begun.pod.clone()), (Phase::Restarting, None));
    let pods = [pod("first", true)];
    let after = Seen { entry_differs: false, ..seen(true, &pods) };
    let next = decide(Some(&begun), &after, &PATIENCE);
    assert_eq!((next.delete, next.progress.expect("a record").phase), (None, Phase::Verifying));
}

proptest! {
    /// Whatever the record says and the node shows, there is a decision, no pod but the recorded one is deleted, and
    /// never while the config says something else than it should.
    #[test]
    fn only_the_recorded_pod_is_ever_deleted(
        phase in prop_oneof![
            Just(Phase::Restarting), Just(Phase::Verifying), Just(Phase::Applied),
            Just(Phase::Drifted), Just(Phase::Returning), Just(Phase::RolledBack),
        ],
        same in any::<bool>(), entry_differs in any::<bool>(), differs in any::<bool>(), turn in any::<bool>(),
        repair in any::<bool>(), since in 0_u64..5000, now in 0_u64..5000, recorded in 0_usize..3,
        pods in proptest::collection::vec((0_usize..3, any::<bool>(), any::<bool>()), 0..3),
    ) {
        let pods: Vec<PodSeen> = pods
            .into_iter()
            .map(|(uid, ready, leaving)| PodSeen { leaving, ..pod(&uid.to_string(), ready) })
            .collect();
        let mut progress = Progress::new(if same { "new" } else { "old" }, phase, since);
        (progress.repair, progress.pod) = (repair, Some(recorded.to_string()));
        let differences = if differs { vec!["it differs".to_owned()] } else { Vec::new() };
        let entries = vec!["e".to_owned()];
        let seen = Seen {
            wanted: "new", entries: &entries, entry_differs, differences: &differences, pods: &pods, turn, now,
        };
        let decision = decide(Some(&progress), &seen, &PATIENCE);
        if let Some((_, uid)) = decision.delete {
            prop_assert_eq!(uid, recorded.to_string());
            prop_assert!(matches!(phase, Phase::Restarting | Phase::Returning));
        }
        let record = decision.progress.expect("a record stays");
        prop_assert_eq!(Progress::parse(&record.to_text()), Some(record));
    }
}
