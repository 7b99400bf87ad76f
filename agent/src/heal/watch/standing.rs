//! The daemon's side: has the looker look, asks systemd for its units, follows the disks, and judges
//! it all. What is found goes on the node's board ([`Board`]), figures to the metrics.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    Seen, Thresholds, When,
    board::Board,
    clock::{Reading, Steps, step_in_words},
    disk::{self, Eviction, FileSystem, Trends},
    judge, looker,
    service::{self, Service},
};
use crate::{
    api::{collect::Samples, page::Page},
    daemon::events::Events,
    facts::{Known, Look},
    heal::{Kind, Watched},
    host::{Host, SystemHost},
};

/// Between two looks of the looker: days and gigabytes don't change faster.
const SEE_EVERY: Duration = Duration::from_secs(600);

/// What is known, between two rounds.
#[derive(Debug, Default)]
struct Memory {
    /// What the looker saw, or why nothing; and when, with what it was asked for.
    seen: Option<Result<Seen, String>>,
    asked: Option<(Instant, Vec<String>)>,
    services: Option<Known<Vec<Service>>>,
    trends: Trends,
}

/// Watches, round after round.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    known: Mutex<Memory>,
    steps: Mutex<Steps>,
}

/// What a round goes by.
pub(crate) struct Round<'a> {
    pub(crate) agent: &'a str,
    pub(crate) samples: &'a Samples,
    pub(crate) thresholds: &'a Thresholds,
    pub(crate) events: &'a Events,
    pub(crate) board: &'a Board,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Hold the wall clock against the one since boot; a step is told as an event. Costs next to
    /// nothing, so every turn of the daemon's loop calls it.
    pub(crate) fn look_at_clock(&self, events: &Events) {
        let Some(now) = Reading::now() else { return };
        if let Some(step) = lock(&self.steps).look(now) {
            let seconds = format!("{step:.3}");
            events.push("clock-stepped", step_in_words(step), &[("seconds", &seconds)]);
        }
    }

    /// One round: look where it is time to, judge all, and post it. Blocks for as long as systemd
    /// takes, at most half a minute.
    pub(crate) fn round(&self, round: &Round<'_>) -> Result<Option<String>, String> {
        let Some(now) = Reading::now() else {
            return Err("the kernel has no clock that runs since boot".to_owned());
        };
        let host = SystemHost::new();
        self.have_looked(&host, round);
        let when = When { wall: now.wall, up: now.boot };
        let mut findings = Vec::new();
        let mut known = lock(&self.known);
        match &known.seen {
            Some(Ok(seen)) => findings.extend(judge(seen, when, round.thresholds)),
            Some(Err(reason)) => findings.extend(unseen(reason)),
            None => {}
        }
        match &known.services {
            Some(Known::Known(services)) => findings.extend(service::judge(services, when.up)),
            Some(Known::Unknown(reason)) => {
                findings.push(Watched::unknown(Kind::Service, "services", reason));
            }
            None => {}
        }
        findings.extend(look_at_disks(&mut known.trends, now.boot, round));
        drop(known);
        let wall_ms = u64::try_from(now.wall.as_millis()).unwrap_or(u64::MAX);
        round.board.post("watch", findings, round.events, wall_ms);
        Ok(None)
    }

    /// Look anew at what is due.
    fn have_looked(&self, host: &dyn Host, round: &Round<'_>) {
        let besides = &round.thresholds.certificates;
        let due = lock(&self.known)
            .asked
            .as_ref()
            .is_none_or(|(at, asked)| at.elapsed() >= SEE_EVERY || asked != besides);
        if due {
            // Nothing is held while systemd works: metrics go on with what was seen before.
            let seen = looker::have_seen(host, round.agent, besides);
            let mut known = lock(&self.known);
            known.seen = Some(seen);
            known.asked = Some((Instant::now(), besides.clone()));
        }
        let owned = match &lock(&self.known).seen {
            Some(Ok(seen)) => seen.owned.value().cloned().unwrap_or_default(),
            _ => BTreeSet::new(),
        };
        let services = match service::read(host, &owned) {
            Ok(services) => Known::Known(services),
            Err(error) => Known::Unknown(error.to_string()),
        };
        lock(&self.known).services = Some(services);
    }

    /// Look at everything in the next round, whether it is due or not.
    pub(crate) fn look_anew(&self) {
        lock(&self.known).asked = None;
    }

    /// Every family.
    pub(crate) fn tell(&self, page: &mut Page) {
        let known = lock(&self.known);
        let seen = known.seen.as_ref().and_then(|seen| seen.as_ref().ok());
        let services = known.services.as_ref().and_then(Known::value);
        super::tell::tell(page, seen, services.map(Vec::as_slice), lock(&self.steps).count);
    }
}

/// What nobody could look at is unknown, thing by thing.
fn unseen(reason: &str) -> [Watched; 3] {
    [(Kind::Certificate, "certificates"), (Kind::Etcd, "etcd"), (Kind::Clock, "clock")].map(
        |(kind, subject)| {
            let hint = format!("see `journalctl -u {}`", looker::UNIT_NAME);
            Watched::unknown(kind, subject, reason).with_hint(hint)
        },
    )
}

fn look_at_disks(trends: &mut Trends, at: Duration, round: &Round<'_>) -> Vec<Watched> {
    if !round.samples.has_rooms() {
        // Right after the start: the next round has them.
        return Vec::new();
    }
    let systems = file_systems(round.samples);
    disk::note(trends, &systems, at);
    let own = own_view(round.samples);
    match Eviction::read(&Look::machine(), |path| disk::is_own(&own, path)) {
        Ok(eviction) => disk::judge(&systems, eviction.as_ref(), trends, round.thresholds),
        Err(reason) => {
            // Its limits are not known; ours still count.
            let mut findings = disk::judge(&systems, None, trends, round.thresholds);
            findings.push(Watched::unknown(Kind::Disk, "kubelet's limits for disks", reason));
            findings
        }
    }
}

/// Every mount of the node with the room that was sampled; none is asked here.
fn file_systems(samples: &Samples) -> Vec<FileSystem> {
    // The daemon's own view is fenced in by its unit; that of PID 1 is the node's.
    let text = ["/proc/1/mounts", "/proc/self/mounts"];
    let text = text.iter().find_map(|path| fs_err::read_to_string(path).ok());
    disk::parse_mounts(&text.unwrap_or_default(), |point| samples.room(point))
}

/// The same as this process sees them, for what it may touch itself.
fn own_view(samples: &Samples) -> Vec<FileSystem> {
    let text = fs_err::read_to_string("/proc/self/mounts").unwrap_or_default();
    disk::parse_mounts(&text, |point| samples.room(point))
}
