//! What happened on this node, for those who ask: a bounded ring that `/v1/events` replays.
//!
//! A part of the daemon says what it did and why with [`Events::push`]; nobody has to listen. The
//! newest are kept; a client that comes back names the last it saw and gets what it missed, or is
//! told that some of it is gone. An id is `START-NUMBER`: numbers start anew with the process, and
//! `START` says which process it was.
//!
//! ```
//! use kdc_agent::daemon::events::Events;
//!
//! let events = Events::new(2);
//! events.push("unit-restarted", "it had failed", &[("unit", &"containerd.service")]);
//! let told = events.after(None);
//! assert_eq!(told.events[0].fields["unit"], "containerd.service");
//! assert!(events.after(Some(&told.events[0].id)).events.is_empty());
//! ```

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Display,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Events that are kept where nothing else is said.
pub const KEPT: usize = 512;

/// Longest reason or field, in bytes; what is longer is cut off.
const MAX_TEXT_BYTES: usize = 512;

/// Most fields of one event; more are left out.
const MAX_FIELDS: usize = 16;

/// Something that happened on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// `START-NUMBER`; what a client names as the last it saw.
    pub id: String,
    /// When, by the node's clock, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// What kind of thing, in words of a fixed list (`docs/agent.md`): `unit-restarted`.
    pub kind: String,
    /// Why, for people.
    pub reason: String,
    /// Details by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, String>,
}

/// What a client has not seen yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The events, oldest first.
    pub events: Vec<Arc<Event>>,
    /// Some that it has not seen are gone: it was away for too long, or the agent began anew.
    pub missed: bool,
}

/// The ring. Clones share it.
#[derive(Debug, Clone)]
pub struct Events {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    start: String,
    ring: Mutex<Ring>,
    newest: watch::Sender<u64>,
}

#[derive(Debug)]
struct Ring {
    /// Most events that are kept.
    most: usize,
    events: VecDeque<Arc<Event>>,
    /// Number of the event that comes next.
    next: u64,
    /// How many of each kind there were; kinds are `&'static`, so there are few.
    counts: BTreeMap<&'static str, u64>,
}

impl Default for Events {
    fn default() -> Self {
        Self::new(KEPT)
    }
}

impl Events {
    /// An empty ring for that many events, at least one.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let ring =
            Ring { most: most.max(1), events: VecDeque::new(), next: 1, counts: BTreeMap::new() };
        let shared = Shared {
            start: format!("{:x}", unix_ms()),
            ring: Mutex::new(ring),
            newest: watch::Sender::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Note that something happened, and tell those who listen. Secrets have no place in it.
    pub fn push(
        &self,
        kind: &'static str,
        reason: impl Into<String>,
        fields: &[(&'static str, &dyn Display)],
    ) {
        let (reason, fields) = (cut(reason.into()), fields.iter().take(MAX_FIELDS));
        let fields = fields.map(|(name, value)| ((*name).to_owned(), cut(value.to_string())));
        let mut ring = self.ring();
        let number = ring.next;
        let event = Event {
            id: format!("{}-{number}", self.shared.start),
            at_unix_ms: unix_ms(),
            kind: kind.to_owned(),
            reason,
            fields: fields.collect(),
        };
        tracing::info!(kind, reason = event.reason, fields = ?event.fields, "event");
        ring.next += 1;
        *ring.counts.entry(kind).or_default() += 1;
        while ring.events.len() >= ring.most {
            ring.events.pop_front();
        }
        ring.events.push_back(Arc::new(event));
        drop(ring);
        self.shared.newest.send_replace(number);
    }

    /// What came after the event with this id; everything that is kept where no id is given, or one
    /// that this process never gave out.
    #[must_use]
    pub fn after(&self, last: Option<&str>) -> Told {
        let ring = self.ring();
        let number = last.map(|id| self.number_of(id));
        let oldest = ring.next - ring.events.len() as u64;
        let (from, missed) = match number {
            None => (oldest, false),
            Some(None) => (oldest, true),
            Some(Some(seen)) => ((seen + 1).max(oldest), seen + 1 < oldest),
        };
        let skip = usize::try_from(from - oldest).unwrap_or(usize::MAX);
        Told { events: ring.events.iter().skip(skip).cloned().collect(), missed }
    }

    /// Number of the newest event; changes with each push.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.shared.newest.subscribe()
    }

    /// How many of each kind there were since the process began.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.ring().counts.clone()
    }

    /// Id of the newest event, also where there was none yet: what comes after it is all new.
    #[must_use]
    pub fn newest_id(&self) -> String {
        format!("{}-{}", self.shared.start, *self.shared.newest.borrow())
    }

    /// Keep that many from now on.
    pub fn keep(&self, most: usize) {
        let mut ring = self.ring();
        ring.most = most.max(1);
        let over = ring.events.len().saturating_sub(ring.most);
        ring.events.drain(..over);
    }

    /// The number in an id of this process that was given out.
    fn number_of(&self, id: &str) -> Option<u64> {
        let number = id.strip_prefix(&self.shared.start)?.strip_prefix('-')?.parse().ok()?;
        (number <= *self.shared.newest.borrow()).then_some(number)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.shared.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reasons(told: &Told) -> Vec<&str> {
        told.events.iter().map(|event| event.reason.as_str()).collect()
    }

    #[test]
    fn a_client_that_comes_back_gets_what_it_missed_and_is_told_of_what_is_gone() {
        let events = Events::new(3);
        for reason in ["a", "b", "c"] {
            events.push("test", reason, &[]);
        }
        let all = events.after(None);
        assert_eq!((reasons(&all), all.missed), (vec!["a", "b", "c"], false));
        let b = all.events[1].id.clone();
        assert_eq!(reasons(&events.after(Some(&b))), ["c"]);
        events.push("test", "d", &[]);
        let told = events.after(Some(&b));
        assert_eq!((reasons(&told), told.missed), (vec!["c", "d"], false));
        events.push("other", "e", &[]);
        events.push("other", "f", &[]);
        let told = events.after(Some(&b));
        assert_eq!((reasons(&told), told.missed), (vec!["d", "e", "f"], true));
        assert_eq!(events.counts(), BTreeMap::from([("other", 2), ("test", 4)]));
        assert_eq!(*events.watch().borrow(), 6);
        events.keep(1);
        assert_eq!(reasons(&events.after(None)), ["f"]);
    }

    #[test]
    fn an_id_of_another_process_or_of_nobody_replays_all_and_says_so() {
        let events = Events::new(3);
        events.push("test", "a", &[]);
        let future = format!("{}-99", events.shared.start);
        for id in ["", "1", "abc-1", "nonsense", future.as_str(), "\u{1F600}"] {
            let told = events.after(Some(id));
            assert_eq!((reasons(&told), told.missed), (vec!["a"], true), "{id}");
        }
    }

    #[test]
    fn what_is_long_is_cut_where_a_character_ends() {
        let events = Events::new(1);
        let long = "é".repeat(10_000);
        let many: Vec<(&'static str, &dyn Display)> = vec![("x", &long); 100];
        events.push("test", long.clone(), &many);
        let told = events.after(None);
        let text = serde_json::to_string(&*told.events[0]).unwrap();
        assert!(told.events[0].reason.ends_with("é…"), "{text}");
        assert!(text.len() < MAX_TEXT_BYTES * 3, "{}", text.len());
    }

    proptest! {
        /// However many are pushed, and whatever a client saw last, it gets each later one once, in
        /// order, unless it is told that some are gone.
        #[test]
        fn nothing_is_lost_unsaid(most in 1_usize..8, pushed in 0_u64..20, seen in 0_u64..20) {
            let events = Events::new(most);
            for number in 1..=pushed {
                events.push("test", number.to_string(), &[]);
            }
            let id = format!("{}-{seen}", events.shared.start);
            let told = events.after(Some(&id));
            let got: Vec<u64> = told.events.iter().map(|event| event.reason.parse().unwrap()).collect();
            prop_assert!(got.len() <= most);
            prop_assert!(got.windows(2).all(|pair| pair[1] == pair[0] + 1));
            if told.missed {
                prop_assert!(got.last().copied().unwrap_or(0) == pushed);
            } else {
                prop_assert_eq!(got, (seen + 1..=pushed).collect::<Vec<_>>());
            }
        }
    }
}
