//! What the daemon does next, pure: events in, effects out.
//!
//! ```text
//!              Woke: every part has been tried once
//!  ┌──────────┐                                  ┌─────────┐  Reload   ┌───────────┐
//!  │ Starting │ ───────────────────────────────► │ Running │ ────────► │ Reloading │
//!  └────┬─────┘                                  └─┬─────▲─┘           └─┬───────┬─┘
//!       │ Stop                                Stop │     └───────────────┘       │ Stop
//!       ▼                                          ▼   Configured, Misconfigured ▼
//!  ┌────────────────────────────── Stopping (final) ──────────────────────────────┐
//!  └──────────────────────────────────────────────────────────────────────────────┘
//!
//!  each part:   due ──Settle──► working ──Settled──► rests for its period ──► due
//!                                  └─────Failed────► rests for its backoff ─► due
//! ```
//!
//! The daemon consists of parts; each is settled again and again, and one that fails is tried again
//! after 1, 2, 4 … 300 seconds while the others go on. There is no clock, no I/O and no panic here:
//! time is what the monotonic clock says since the start, so a step of the node's clock moves nothing;
//! chance comes in with the event. A pair that makes no sense changes nothing. The driver carries the
//! effects out.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// A part of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// This node's images, for its containerd.
    Images,
    /// Routes between the nodes' pods.
    Routes,
    /// Content for other nodes.
    Sharing,
    /// Metrics and the rest of the HTTP API.
    Api,
    /// Samples of what the kernel says.
    Samples,
    /// Labels for node-feature-discovery.
    Labels,
    /// What the store and the journals say.
    Records,
    /// What may go wrong with the node by and by: certificates, etcd, disks, clock, services.
    Watch,
    /// What `kdc-gpu.service` published.
    Gpus,
    /// What kdc put on the node, and what threatens it.
    Healing,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Images,
        Self::Routes,
        Self::Sharing,
        Self::Api,
        Self::Samples,
        Self::Labels,
        Self::Records,
        Self::Watch,
        Self::Gpus,
        Self::Healing,
    ];

    /// Its name in metrics, answers and events.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Routes => "routes",
            Self::Sharing => "sharing",
            Self::Api => "api",
            Self::Samples => "samples",
            Self::Labels => "labels",
            Self::Records => "records",
            Self::Watch => "watch",
            Self::Gpus => "gpus",
            Self::Healing => "healing",
        }
    }

    /// How long it rests when it is as wanted.
    #[must_use]
    pub fn period(self) -> Duration {
        match self {
            // The look of healing has a pace of its own.
            Self::Images | Self::Routes | Self::Sharing | Self::Gpus | Self::Healing => {
                Duration::from_secs(3)
            }
            Self::Api | Self::Samples => Duration::from_secs(5),
            Self::Labels | Self::Records | Self::Watch => Duration::from_secs(60),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The first pause after a failure; doubles with each one.
pub const LEAST_BACKOFF: Duration = Duration::from_secs(1);

/// The longest pause.
pub const MOST_BACKOFF: Duration = Duration::from_secs(300);

/// A part that works for longer than this is told to hang.
pub const MOST_WORK: Duration = Duration::from_secs(150);

/// How a part stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// When it is to be settled again.
    pub due: Duration,
    /// Since when it is being settled.
    pub working: Option<Duration>,
    /// It came out one way or the other at least once.
    pub tried: bool,
    /// Failures one after the other.
    pub failures: u32,
    /// Failures since the start.
    pub failures_in_all: u64,
    /// What it last said of itself.
    pub said: Option<String>,
    /// Why it last failed; nothing where it did not.
    pub failure: Option<String>,
}

/// Where the daemon is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Some part was not tried yet.
    Starting,
    /// All were.
    Running,
    /// The configuration is being read anew.
    Reloading,
    /// The end; nothing is begun any more.
    Stopping,
}

/// All that the daemon goes by when it decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Where it is in its life.
    pub phase: Phase,
    /// How each part stands.
    pub parts: BTreeMap<Part, Standing>,
    /// Why the newest configuration was not taken; nothing where it was.
    pub misconfigured: Option<String>,
    /// Configurations that were not taken, since the start.
    pub bad_configurations: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            phase: Phase::Starting,
            parts: Part::ALL.map(|part| (part, Standing::default())).into(),
            misconfigured: None,
            bad_configurations: 0,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The loop turned.
    Woke,
    /// A part is as wanted; what it says of itself.
    Settled(Part, Option<String>),
    /// A part is not as wanted: why, and a number drawn by lot.
    Failed(Part, String, u8),
    /// SIGHUP.
    Reload,
    /// A configuration was taken.
    Configured,
    /// It was not, and why.
    Misconfigured(String),
    /// SIGTERM.
    Stop,
}

/// What the driver is to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Settle this part, and say how it came out.
    Settle(Part),
    /// Read the configuration, and say how it came out.
    LoadConfiguration,
    /// Tell the service manager.
    Tell(Notice),
    /// Feed its watchdog: the loop turns.
    Feed,
    /// Push an event: kind, reason, part.
    Note(&'static str, String, Option<Part>),
    /// End.
    End,
}

/// What the service manager is told beside the status text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Nothing but the status text.
    Status,
    /// Ready, for the first time or again.
    Ready,
    /// The configuration is being read.
    Reloading,
    /// The end.
    Stopping,
}

/// Decide. Pure: no clock, no I/O, no panic.
#[must_use]
pub fn next(mut state: State, event: &Event, now: Duration) -> (State, Vec<Effect>) {
    if state.phase == Phase::Stopping {
        return (state, Vec::new());
    }
    let effects = match event {
        Event::Woke => state.wake(now),
        Event::Settled(part, said) => state.settled(*part, said.clone(), now),
        Event::Failed(part, why, lot) => state.failed(*part, why, *lot, now),
        Event::Reload if state.phase == Phase::Running => {
            state.phase = Phase::Reloading;
            vec![Effect::Tell(Notice::Reloading), Effect::LoadConfiguration]
        }
        // It is being read, or will be: a second wish adds nothing.
        Event::Reload => Vec::new(),
        Event::Configured => state.configured(None, now),
        Event::Misconfigured(why) => state.configured(Some(why.clone()), now),
        Event::Stop => {
            state.phase = Phase::Stopping;
            vec![Effect::Tell(Notice::Stopping), Effect::End]
        }
    };
    (state, effects)
}

impl State {
    /// When the loop should turn next, if nothing else happens before.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        let resting = self.parts.values().filter(|standing| standing.working.is_none());
        resting.map(|standing| standing.due).min()
    }

    /// Nothing fails.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.misconfigured.is_none()
            && self.parts.values().all(|standing| standing.failure.is_none())
    }

    /// One line for `systemctl status`: what is wrong first, then what goes on.
    #[must_use]
    pub fn in_words(&self) -> String {
        let bad = self.misconfigured.iter().map(|why| {
            format!("the configuration was not taken and the one before stays in force: {why}")
        });
        let failed = self.parts.iter().filter_map(|(part, standing)| {
            standing.failure.as_ref().map(|why| format!("{part}: {why}"))
        });
        let said = self.parts.values().filter(|standing| standing.failure.is_none());
        let said = said.filter_map(|standing| standing.said.clone());
        let phase = (self.phase == Phase::Starting).then(|| "starting".to_owned());
        let all: Vec<String> = bad.chain(failed).chain(phase).chain(said).collect();
        all.join("; ").replace('\n', " | ")
    }

    fn wake(&mut self, now: Duration) -> Vec<Effect> {
        let mut effects = vec![Effect::Feed];
        for (part, standing) in &mut self.parts {
            match standing.working {
                None if standing.due <= now => {
                    standing.working = Some(now);
                    effects.push(Effect::Settle(*part));
                }
                Some(since)
                    if now.saturating_sub(since) > MOST_WORK && standing.failure.is_none() =>
                {
                    let why = format!("it hangs for more than {} seconds", MOST_WORK.as_secs());
                    effects.push(Effect::Note("part-failed", why.clone(), Some(*part)));
                    standing.failures_in_all += 1;
                    standing.failure = Some(why);
                    standing.tried = true;
                }
                _ => {}
            }
        }
        effects.extend(self.begin_running());
        effects
    }

    /// Ready once every part has been tried: who waits for the unit finds things as they are wanted,
    /// or is told why not.
    fn begin_running(&mut self) -> Option<Effect> {
        let all_tried = self.parts.values().all(|standing| standing.tried);
        (self.phase == Phase::Starting && all_tried).then(|| {
            self.phase = Phase::Running;
            Effect::Tell(Notice::Ready)
        })
    }

    fn settled(&mut self, part: Part, said: Option<String>, now: Duration) -> Vec<Effect> {
        let Some(standing) = self.parts.get_mut(&part).filter(|one| one.working.is_some()) else {
            return Vec::new();
        };
        let mut effects = Vec::new();
        let news = standing.said != said || standing.failure.is_some();
        if standing.failure.take().is_some() {
            let well = said.clone().unwrap_or_else(|| "it is as wanted again".to_owned());
            effects.push(Effect::Note("part-recovered", well, Some(part)));
        }
        standing.said = said;
        standing.failures = 0;
        standing.rest(now, part.period());
        effects.extend(self.begin_running().or(news.then_some(Effect::Tell(Notice::Status))));
        effects
    }

    fn failed(&mut self, part: Part, why: &str, lot: u8, now: Duration) -> Vec<Effect> {
        let Some(standing) = self.parts.get_mut(&part).filter(|one| one.working.is_some()) else {
            return Vec::new();
        };
        let mut effects = Vec::new();
        if standing.failure.as_deref() != Some(why) {
            effects.push(Effect::Note("part-failed", why.to_owned(), Some(part)));
        }
        standing.failure = Some(why.to_owned());
        standing.failures = standing.failures.saturating_add(1);
        standing.failures_in_all += 1;
        let pause = backoff(standing.failures, lot);
        standing.rest(now, pause);
        effects.push(self.begin_running().unwrap_or(Effect::Tell(Notice::Status)));
        effects
    }

    fn configured(&mut self, why_not: Option<String>, now: Duration) -> Vec<Effect> {
        let mut effects = Vec::new();
        match &why_not {
            Some(why) => {
                self.bad_configurations += 1;
                effects.push(Effect::Note("configuration-refused", why.clone(), None));
            }
            None => {
                let said = "the configuration was read and is in force".to_owned();
                effects.push(Effect::Note("configured", said, None));
            }
        }
        self.misconfigured = why_not;
        // What was told to reload is looked at at once, what failed too: that may be why.
        for standing in self.parts.values_mut() {
            standing.due = now;
        }
        if self.phase == Phase::Reloading {
            self.phase = Phase::Running;
            effects.push(Effect::Tell(Notice::Ready));
        }
        effects
    }
}

impl Standing {
    fn rest(&mut self, now: Duration, pause: Duration) {
        self.due = now.saturating_add(pause);
        self.working = None;
        self.tried = true;
    }
}

/// 1, 2, 4 … 300 seconds, up to a quarter of it less by lot, so that nodes don't march in step.
fn backoff(failures: u32, lot: u8) -> Duration {
    let doubled = LEAST_BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let whole = doubled.min(MOST_BACKOFF);
    whole - whole * u32::from(lot) / (4 * u32::from(u8::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn step(state: &mut State, event: &Event, now: Duration) -> Vec<Effect> {
        let (after, effects) = next(std::mem::take(state), event, now);
        *state = after;
        effects
    }

    /// Begins what is due, and settles all of it but the routes.
    fn turn(state: &mut State, now: Duration) -> Vec<Effect> {
        let effects = step(state, &Event::Woke, now);
        for part in Part::ALL.iter().filter(|part| **part != Part::Routes) {
            step(state, &Event::Settled(*part, None), now);
        }
        effects
    }

    /// A state in which all parts were settled at time zero.
    fn running() -> State {
        let mut state = State::default();
        step(&mut state, &Event::Woke, Duration::ZERO);
        for part in Part::ALL {
            step(&mut state, &Event::Settled(part, None), Duration::ZERO);
        }
        assert_eq!(state.phase, Phase::Running);
        state
    }

    #[test]
    fn it_is_ready_once_each_part_was_tried_and_not_before() {
        let mut state = State::default();
        let effects = step(&mut state, &Event::Woke, Duration::ZERO);
        assert_eq!(
            effects.iter().filter(|effect| matches!(effect, Effect::Settle(_))).count(),
            Part::ALL.len()
        );
        for part in &Part::ALL[1..] {
            let effects = step(&mut state, &Event::Settled(*part, None), SECOND);
            assert!(!effects.contains(&Effect::Tell(Notice::Ready)), "{part}");
        }
        assert_eq!(state.in_words(), "starting");
        let failed = Event::Failed(Part::ALL[0], "no disk".to_owned(), 0);
        assert!(step(&mut state, &failed, SECOND).contains(&Effect::Tell(Notice::Ready)));
        assert_eq!(state.in_words(), "images: no disk");
    }

    #[test]
    fn what_fails_is_tried_again_with_longer_pauses_and_told_once() {
        let mut state = running();
        let (mut now, mut pauses, mut notes) = (SECOND * 10, Vec::new(), 0);
        for _ in 0..12 {
            assert!(turn(&mut state, now).contains(&Effect::Settle(Part::Routes)));
            let effects = step(&mut state, &Event::Failed(Part::Routes, "no".to_owned(), 0), now);
            notes += effects.iter().filter(|one| matches!(one, Effect::Note(..))).count();
            let due = state.parts[&Part::Routes].due;
            pauses.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!((notes, state.parts[&Part::Routes].failures_in_all), (1, 12));
        turn(&mut state, now);
        let effects =
            step(&mut state, &Event::Settled(Part::Routes, Some("3 kept".to_owned())), now);
        assert_eq!(
            effects[0],
            Effect::Note("part-recovered", "3 kept".to_owned(), Some(Part::Routes))
        );
        assert_eq!((state.in_words().as_str(), state.is_well()), ("3 kept", true));
    }

    #[test]
    fn a_bad_configuration_leaves_all_as_it_is_and_says_so_until_a_good_one_comes() {
        let mut state = running();
        let effects = step(&mut state, &Event::Reload, SECOND);
        assert_eq!(effects, [Effect::Tell(Notice::Reloading), Effect::LoadConfiguration]);
        assert_eq!(step(&mut state, &Event::Reload, SECOND), [], "it is being read already");
        let effects = step(&mut state, &Event::Misconfigured("a.yaml:1: x".to_owned()), SECOND);
        assert!(effects.contains(&Effect::Tell(Notice::Ready)), "{effects:?}");
        assert!(state.in_words().contains("stays in force: a.yaml:1: x"), "{}", state.in_words());
        assert_eq!((state.bad_configurations, state.is_well()), (1, false));
        step(&mut state, &Event::Reload, SECOND);
        step(&mut state, &Event::Configured, SECOND);
        assert_eq!((state.in_words().as_str(), state.is_well()), ("", true));
    }

    #[test]
    fn a_part_that_hangs_is_told_and_the_loop_goes_on() {
        let mut state = running();
        step(&mut state, &Event::Woke, SECOND * 10);
        let later = SECOND * 10 + MOST_WORK + SECOND;
        let effects = step(&mut state, &Event::Woke, later);
        assert!(effects.contains(&Effect::Feed) && !effects.contains(&Effect::Settle(Part::Api)));
        assert!(state.in_words().contains("routes: it hangs"), "{}", state.in_words());
        assert_eq!(state.parts[&Part::Routes].failures_in_all, 1);
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let part = || (0..Part::ALL.len()).prop_map(|place| Part::ALL[place]);
        prop_oneof![
            4 => Just(Event::Woke),
            4 => part().prop_map(|part| Event::Settled(part, None)),
            2 => (part(), any::<u8>()).prop_map(|(part, lot)| Event::Failed(part, "x".to_owned(), lot)),
            1 => Just(Event::Reload),
            1 => Just(Event::Configured),
            1 => Just(Event::Misconfigured("y".to_owned())),
            1 => Just(Event::Stop),
        ]
    }

    proptest! {
        /// Whatever happens: no part is begun twice at once; what rests is due within the longest
        /// pause; the watchdog is fed by turns of the loop alone; nothing follows a stop; ready is
        /// said first when all were tried; and a bad configuration is never forgotten before a good one.
        #[test]
        fn it_keeps_its_promises(events in prop::collection::vec((any_event(), 0_u64..400), 0..80)) {
            let (mut state, mut now) = (State::default(), Duration::ZERO);
            let (mut busy, mut tried, mut bad) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new(), false);
            for (event, seconds) in events {
                now += Duration::from_secs(seconds);
                let stopped = state.phase == Phase::Stopping;
                let before = state.clone();
                let effects = step(&mut state, &event, now);
                if stopped {
                    prop_assert!(effects.is_empty() && state == before);
                    continue;
                }
                prop_assert_eq!(effects.contains(&Effect::Feed), event == Event::Woke);
                match &event {
                    Event::Settled(part, _) | Event::Failed(part, ..) if busy.remove(part) => {
                        tried.insert(*part);
                    }
                    Event::Misconfigured(_) => bad = true,
                    Event::Configured => bad = false,
                    _ => {}
                }
                for effect in &effects {
                    match effect {
                        Effect::Settle(part) => prop_assert!(busy.insert(*part), "{} is begun twice", part),
                        Effect::Note("part-failed", why, Some(part)) if why.contains("hangs") => {
                            tried.insert(*part);
                        }
                        Effect::Tell(Notice::Ready) if before.phase == Phase::Starting => {
                            prop_assert_eq!(tried.len(), Part::ALL.len());
                        }
                        _ => {}
                    }
                }
                for (part, standing) in &state.parts {
                    prop_assert_eq!(standing.working.is_some(), busy.contains(part));
                    prop_assert!(standing.working.is_some() || standing.due <= now + MOST_BACKOFF);
                }
                prop_assert_eq!(state.misconfigured.is_some(), bad);
            }
        }

        /// A pause is never longer than the longest, never shorter than three quarters of its step.
        #[test]
        fn pauses_are_bounded(failures: u32, lot: u8) {
            let pause = backoff(failures, lot);
            prop_assert!(pause <= MOST_BACKOFF && pause >= LEAST_BACKOFF * 3 / 4);
        }
    }
}
