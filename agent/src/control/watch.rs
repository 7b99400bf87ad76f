//! The cluster as it is now, kept from what the API server tells by itself, so that a change is seen at once and nothing is
//! listed again and again.
//!
//! One stream for nodes, one for the plugin's pods, one for each ConfigMap. Of each object only what matters is kept
//! ([`super::sight`]), so that a thousand nodes are a few MiB. A stream that fails begins anew with a list, later each
//! time; until then there is no sight, and whoever needs one lists for itself.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use kube_client::api::DynamicObject;
use kube_runtime::watcher::{self, Event};
use serde_json::Value;
use tokio::{sync::Notify, task::JoinSet};

use super::{
    api::{ApiServer, Kind},
    node::NodeSeen,
    sight::{MAPS, MapSeen, Placed, Sight, by_node},
};
use crate::gpu::hami::POD_SELECTOR;

/// First and longest pause before a stream that failed begins anew.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Objects of one stream.
#[derive(Debug)]
struct Shelf<T> {
    kept: BTreeMap<String, T>,
    /// The list that is coming.
    coming: BTreeMap<String, T>,
    /// `kept` is all there is.
    whole: bool,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self { kept: BTreeMap::new(), coming: BTreeMap::new(), whole: false }
    }
}

impl<T> Shelf<T> {
    /// Take what was told; `true` where it makes a difference.
    fn take(&mut self, told: Event<(String, T)>, same: impl Fn(&T, &T) -> bool) -> bool {
        match told {
            Event::Init => {
                self.coming.clear();
                false
            }
            Event::InitApply((name, one)) => {
                self.coming.insert(name, one);
                false
            }
            Event::InitDone => {
                let coming = std::mem::take(&mut self.coming);
                let equal = self.whole
                    && coming.len() == self.kept.len()
                    && coming.iter().all(|(name, one)| {
                        self.kept.get(name).is_some_and(|known| same(known, one))
                    });
                (self.kept, self.whole) = (coming, true);
                !equal
            }
            Event::Apply((name, one)) => {
                let equal = self.kept.get(&name).is_some_and(|known| same(known, &one));
                self.kept.insert(name, one);
                !equal
            }
            Event::Delete((name, _)) => self.kept.remove(&name).is_some(),
        }
    }
}

/// All streams' objects.
#[derive(Debug, Default)]
struct Shelves {
    nodes: Shelf<NodeSeen>,
    pods: Shelf<Placed>,
    maps: BTreeMap<&'static str, Shelf<MapSeen>>,
}

/// What a stream is about.
#[derive(Debug, Clone, Copy)]
enum About {
    Nodes,
    Pods,
    Map(&'static str, &'static str),
}

impl About {
    fn chosen(self) -> (Kind, watcher::Config) {
        let config = watcher::Config::default();
        match self {
            Self::Nodes => (Kind::Node, config),
            Self::Pods => (Kind::Pod, config.labels(POD_SELECTOR)),
            Self::Map(name, _) => {
                (Kind::ConfigMap, config.fields(&format!("metadata.name={name}")))
            }
        }
    }

    fn take(self, shelves: &mut Shelves, told: Event<(String, Value)>) -> bool {
        match self {
            Self::Nodes => {
                let same = |left: &NodeSeen, right: &NodeSeen| left.says_the_same_as(right);
                shelves.nodes.take(map(told, NodeSeen::of), same)
            }
            Self::Pods => shelves.pods.take(map(told, Placed::of), PartialEq::eq),
            Self::Map(name, key) => {
                let shelf = shelves.maps.entry(name).or_default();
                shelf.take(map(told, |object| MapSeen::of(object, key)), PartialEq::eq)
            }
        }
    }

    /// It is not known any more that what is kept is all there is.
    fn lose(self, shelves: &mut Shelves) {
        match self {
            Self::Nodes => shelves.nodes.whole = false,
            Self::Pods => shelves.pods.whole = false,
            Self::Map(name, _) => shelves.maps.entry(name).or_default().whole = false,
        }
    }
}

/// The same told of something made smaller.
fn map<T>(told: Event<(String, Value)>, small: impl Fn(&Value) -> T) -> Event<(String, T)> {
    let of = |(name, object): (String, Value)| {
        let made = small(&object);
        (name, made)
    };
    match told {
        Event::Apply(object) => Event::Apply(of(object)),
        Event::Delete(object) => Event::Delete(of(object)),
        Event::InitApply(object) => Event::InitApply(of(object)),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    }
}

fn plain(told: Event<DynamicObject>) -> Event<(String, Value)> {
    let of = |object: DynamicObject| {
        let name = object.metadata.name.clone().unwrap_or_default();
        (name, serde_json::to_value(object).unwrap_or_default())
    };
    match told {
        Event::Apply(object) => Event::Apply(of(object)),
        Event::Delete(object) => Event::Delete(of(object)),
        Event::InitApply(object) => Event::InitApply(of(object)),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    }
}

/// What is kept, and the streams that keep it; they end when this is dropped.
pub(super) struct View {
    shelves: Arc<Mutex<Shelves>>,
    changed: Arc<Notify>,
    since: Instant,
    _streams: JoinSet<()>,
}

impl View {
    /// Begin to look.
    pub(super) fn open(api: &ApiServer) -> Self {
        let (shelves, changed) = (Arc::<Mutex<Shelves>>::default(), Arc::<Notify>::default());
        let mut streams = JoinSet::new();
        let maps = MAPS.iter().map(|(name, key)| About::Map(name, key));
        for about in [About::Nodes, About::Pods].into_iter().chain(maps) {
            streams.spawn(follow(api.clone(), about, Arc::clone(&shelves), Arc::clone(&changed)));
        }
        Self { shelves, changed, since: Instant::now(), _streams: streams }
    }

    /// How long it has been looked.
    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Comes back when something is another than it was.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What there is; nothing while a stream has not told all.
    pub(super) fn sight(&self) -> Option<Sight> {
        let shelves = lock(&self.shelves);
        let whole = shelves.nodes.whole
            && shelves.pods.whole
            && MAPS.iter().all(|(name, _)| shelves.maps.get(name).is_some_and(|map| map.whole));
        let maps = shelves.maps.values().flat_map(|shelf| shelf.kept.clone()).collect();
        whole.then(|| Sight {
            maps,
            nodes: shelves.nodes.kept.clone(),
            pods: by_node(shelves.pods.kept.values().cloned()),
        })
    }
}

fn lock(shelves: &Mutex<Shelves>) -> MutexGuard<'_, Shelves> {
    shelves.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn follow(api: ApiServer, about: About, shelves: Arc<Mutex<Shelves>>, changed: Arc<Notify>) {
    let mut pause = PAUSES.0;
    loop {
        let (kind, chosen) = about.chosen();
        let began = Instant::now();
        let mut stream = pin!(api.watch(kind, chosen));
        while let Some(told) = stream.next().await {
            match told {
                Ok(told) => {
                    if about.take(&mut lock(&shelves), plain(told)) {
                        changed.notify_one();
                    }
                }
                Err(error) => {
                    tracing::debug!(?about, %error, "the stream begins anew");
                    about.lose(&mut lock(&shelves));
                    break;
                }
            }
        }
        // Where listing is allowed and watching is not, a list is no sign that it goes well.
        if began.elapsed() > PAUSES.1 {
            pause = PAUSES.0;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(shelf: &mut Shelf<u32>, event: Event<(&str, u32)>) -> bool {
        let named = |(name, one): (&str, u32)| (name.to_owned(), one);
        let event = match event {
            Event::Apply(one) => Event::Apply(named(one)),
            Event::Delete(one) => Event::Delete(named(one)),
            Event::InitApply(one) => Event::InitApply(named(one)),
            Event::Init => Event::Init,
            Event::InitDone => Event::InitDone,
        };
        shelf.take(event, PartialEq::eq)
    }

    #[test]
    fn a_list_counts_when_it_is_whole_and_only_what_is_another_wakes_anybody() {
        /// What is told, does it wake, what is kept then.
        type Row<'a> = (Event<(&'a str, u32)>, bool, &'a [(&'a str, u32)]);
        let mut shelf = Shelf::default();
        let table: &[Row<'_>] = &[
            (Event::Init, false, &[]),
            (Event::InitApply(("a", 1)), false, &[]),
            (Event::InitApply(("b", 1)), false, &[]),
            (Event::InitDone, true, &[("a", 1), ("b", 1)]),
            (Event::Apply(("a", 1)), false, &[("a", 1), ("b", 1)]),
            (Event::Apply(("a", 2)), true, &[("a", 2), ("b", 1)]),
            (Event::Delete(("c", 1)), false, &[("a", 2), ("b", 1)]),
            (Event::Delete(("b", 1)), true, &[("a", 2)]),
            // The history was gone: a list again, in which nothing is another.
            (Event::Init, false, &[("a", 2)]),
            (Event::InitApply(("a", 2)), false, &[("a", 2)]),
            (Event::InitDone, false, &[("a", 2)]),
            // One went away meanwhile, one came.
            (Event::Init, false, &[("a", 2)]),
            (Event::InitApply(("d", 2)), false, &[("a", 2)]),
            (Event::InitDone, true, &[("d", 2)]),
        ];
        for (number, (event, wakes, kept)) in table.iter().enumerate() {
            assert_eq!(told(&mut shelf, event.clone()), *wakes, "row {number}");
            let now: Vec<(&str, u32)> =
                shelf.kept.iter().map(|(name, one)| (name.as_str(), *one)).collect();
            assert_eq!(now, *kept, "row {number}");
        }
    }

    #[test]
    fn there_is_no_sight_before_every_stream_has_told_all_and_none_after_one_was_lost() {
        let view = View {
            shelves: Arc::default(),
            changed: Arc::default(),
            since: Instant::now(),
            _streams: JoinSet::new(),
        };
        let maps = MAPS.iter().map(|(name, key)| About::Map(name, key));
        let all: Vec<About> = [About::Nodes, About::Pods].into_iter().chain(maps).collect();
        for about in &all {
            assert!(view.sight().is_none(), "{about:?} has told nothing");
            for event in [Event::Init, Event::InitDone] {
                about.take(&mut lock(&view.shelves), event);
            }
        }
        assert!(view.sight().is_some());
        for about in all {
            about.lose(&mut lock(&view.shelves));
            assert!(view.sight().is_none(), "{about:?}");
            about.take(&mut lock(&view.shelves), Event::InitDone);
        }
    }
}
