//! The daemon's own families: what it is, how its parts stand, what it served, what it costs.
//!
//! These counters begin anew with the process; `process_start_time_seconds` says when that was.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    Shown,
    page::{Kind, Page},
};
use crate::{
    heal::watch::{Watch, board::Board},
    serve::registry::Pulls,
};

/// Numbers that the daemon's parts write.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Content and indexes in the store, in bytes on the disk; known once it was looked at.
    pub(crate) store_bytes: Known,
    /// Runs whose changes are in force.
    pub(crate) runs_in_force: Known,
    /// Routes that are kept.
    pub(crate) routes: Known,
    /// What containerd took from the registry.
    pub(crate) pulls: Pulls,
    /// Answers of the API, by what they answered.
    pub(crate) answers: Answers,
    /// How what is watched stands.
    pub(crate) board: Board,
    /// What the watchers saw.
    pub(crate) watch: Watch,
}

/// A number that may not be known yet.
#[derive(Debug)]
pub(crate) struct Known(AtomicU64);

impl Default for Known {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl Known {
    pub(crate) fn set(&self, number: Option<u64>) {
        self.0.store(number.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|number| *number != u64::MAX)
    }
}

/// What an answer was about; few, so that a caller can't make series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    Metrics,
    Facts,
    Health,
    Events,
    Other,
}

const ABOUT: [(About, &str); 5] = [
    (About::Metrics, "/metrics"),
    (About::Facts, "/v1/facts"),
    (About::Health, "/v1/health"),
    (About::Events, "/v1/events"),
    (About::Other, "other"),
];

/// Good and refused answers.
#[derive(Debug, Default)]
pub(crate) struct Answers([[AtomicU64; 2]; ABOUT.len()]);

impl Answers {
    pub(crate) fn count(&self, about: About, good: bool) {
        self.0[about as usize][usize::from(good)].fetch_add(1, Ordering::Relaxed);
    }
}

/// Every family of the daemon's own.
pub(super) fn tell(page: &mut Page, shown: &Shown) {
    let build = [("version", env!("CARGO_PKG_VERSION")), ("arch", std::env::consts::ARCH)];
    page.family("kdc_agent_build_info", Kind::Info, "What this agent is.");
    page.sample(&build, 1_u64);
    parts(page, shown);
    shown.healing.tell(page);
    let figures = &shown.figures;
    for (name, help, known) in [
        ("kdc_store_bytes", "Content and indexes in the store, on the disk.", &figures.store_bytes),
        ("kdc_runs_in_force", "Runs whose changes are in force.", &figures.runs_in_force),
        ("kdc_routes_kept", "Routes to other nodes' pods that are kept.", &figures.routes),
    ] {
        if let Some(number) = known.get() {
            page.single(name, Kind::Gauge, help, number);
        }
    }
    page.family("kdc_registry_answers_total", Kind::Counter, "Answers of the node's registry.");
    for (what, number) in figures.pulls.answers() {
        page.sample(&[("what", what)], number);
    }
    let help = "Bytes of image layers that the node's registry served.";
    page.single("kdc_registry_bytes_total", Kind::Counter, help, figures.pulls.bytes());
    page.family("kdc_agent_events_total", Kind::Counter, "Events, by kind.");
    for (kind, number) in shown.events.counts() {
        page.sample(&[("kind", kind)], number);
    }
    page.family("kdc_api_answers_total", Kind::Counter, "Answers of the API.");
    for (about, path) in ABOUT {
        for (good, result) in [(1, "ok"), (0, "refused")] {
            let number = figures.answers.0[about as usize][good].load(Ordering::Relaxed);
            page.sample(&[("path", path), ("result", result)], number);
        }
    }
    figures.board.tell(page);
    figures.watch.tell(page);
    shown.license.tell(page);
    process(page, shown.samples.page_bytes());
    let started = shown.started_unix_ms as f64 / 1000.0;
    let help = "Start time of the process since unix epoch in seconds.";
    page.single("process_start_time_seconds", Kind::Gauge, help, started);
}

fn parts(page: &mut Page, shown: &Shown) {
    shown.with_state(|state| {
        page.family("kdc_agent_part_up", Kind::Gauge, "Whether a part of the daemon is as wanted.");
        for (part, standing) in state.parts.iter().filter(|(_, standing)| standing.tried) {
            page.sample(&[("part", part.name())], standing.failure.is_none());
        }
        let help = "Failures of a part of the daemon.";
        page.family("kdc_agent_part_failures_total", Kind::Counter, help);
        for (part, standing) in &state.parts {
            page.sample(&[("part", part.name())], standing.failures_in_all);
        }
        let help = "Whether the newest configuration is in force.";
        let taken = state.misconfigured.is_none();
        page.single("kdc_agent_config_in_force", Kind::Gauge, help, taken);
        let help = "Configurations that were refused.";
        page.single("kdc_agent_config_errors_total", Kind::Counter, help, state.bad_configurations);
    });
}

/// What the process costs, under the names that every Prometheus client uses.
fn process(page: &mut Page, page_bytes: u64) {
    let stat = fs_err::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in brackets may hold anything; what follows are numbers, the first of them field 4.
    let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
    let field = |number: usize| after.split(' ').nth(number - 3)?.parse::<u64>().ok();
    if let (Some(user), Some(system)) = (field(14), field(15)) {
        let help = "Total user and system CPU time spent in seconds.";
        let seconds = (user + system) as f64 / 100.0;
        page.single("process_cpu_seconds_total", Kind::Counter, help, seconds);
    }
    let mut gauge = |name, help, number: Option<u64>| {
        if let Some(number) = number {
            page.single(name, Kind::Gauge, help, number);
        }
    };
    let help = "Resident memory size in bytes.";
    gauge("process_resident_memory_bytes", help, field(24).map(|pages| pages * page_bytes));
    let help = "Virtual memory size in bytes.";
    gauge("process_virtual_memory_bytes", help, field(23));
    let open = fs_err::read_dir("/proc/self/fd").ok();
    // One of them is the folder's own.
    let open = open.map(|entries| entries.count().saturating_sub(1) as u64);
    gauge("process_open_fds", "Number of open file descriptors.", open);
    gauge("process_threads", "Number of threads.", field(20));
}
