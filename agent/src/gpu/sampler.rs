//! GPUs sampled again and again by one child process that stays.
//!
//! It has the guarantees of a survey: a GPU over which the child hangs or dies is left out for a while and said to break,
//! the child is started again after a pause that grows, and none is started beside one that can't be ended.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    asked::{Asked, Ended, Heard, Sleeping, Start},
    child::{Line, Question},
    report::{GpuState, Library, Live, RowRemaps},
    sample::{GpuSample, NvmlXid},
    survey::Settings,
};
use crate::inventory::Found;

/// Pause before a child that failed is started again, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How long a GPU that breaks its reader is left out.
const LEFT_OUT: Duration = Duration::from_secs(600);

/// What a sampler saw.
#[derive(Debug)]
pub enum Seen {
    /// Every GPU at one moment.
    Round(Vec<GpuSample>),
    /// An error of a GPU.
    Xid(NvmlXid),
    /// NVML can't be asked; it is tried again after this time.
    Down {
        /// Why.
        library: Library,
        /// When it is tried again.
        again: Duration,
    },
}

/// Asks NVML at an interval, for as long as it lives.
#[derive(Debug)]
pub struct Sampler {
    settings: Settings,
    every: Duration,
    child: Option<Asked>,
    asking: Option<u32>,
    round: Vec<GpuSample>,
    sleeping: Option<Sleeping>,
    failures: u32,
    not_before: Instant,
    /// GPUs that are left out, until when, and why.
    left_out: BTreeMap<u32, (Instant, String)>,
    /// Address and name of each GPU that ever answered.
    names: BTreeMap<u32, (Option<String>, Option<String>)>,
}

impl Sampler {
    /// One that has not asked yet.
    #[must_use]
    pub fn new(settings: Settings, every: Duration) -> Self {
        Self {
            settings,
            every,
            child: None,
            asking: None,
            round: Vec::new(),
            sleeping: None,
            failures: 0,
            not_before: Instant::now(),
            left_out: BTreeMap::new(),
            names: BTreeMap::new(),
        }
    }

    /// Wait for what comes next. Returns at the latest after the interval and the patience, or after the pause that was
    /// told: a thread of its own is the place for it.
    pub fn wait(&mut self) -> Seen {
        loop {
            let Some(mut child) = self.child.take() else {
                if let Some(seen) = self.begin() {
                    return seen;
                }
                continue;
            };
            let until = Instant::now() + self.every + self.settings.patience;
            let failure = match child.hear(until) {
                Heard::Line(line) => {
                    if let Line::Refused { library } = *line {
                        return self.failed(child, true, Some(library));
                    }
                    self.child = Some(child);
                    if let Some(seen) = self.take(*line) {
                        return seen;
                    }
                    continue;
                }
                Heard::Late => {
                    let seconds = (self.every + self.settings.patience).as_secs();
                    Some(Library::Hung { during: self.during(), seconds })
                }
                Heard::Nonsense(reason) => Some(Library::Failed { reason }),
                Heard::Closed => None,
            };
            return self.failed(child, failure.is_none(), failure);
        }
    }

    /// Start a child when its time has come.
    fn begin(&mut self) -> Option<Seen> {
        std::thread::sleep(self.not_before.saturating_duration_since(Instant::now()));
        if let Some(pid) = self.sleeping.as_mut().and_then(Sleeping::still) {
            return Some(self.down(Library::Stuck { pid }));
        }
        self.sleeping = None;
        let now = Instant::now();
        self.left_out.retain(|_, (until, _)| *until > now);
        let Settings { program, library, .. } = &self.settings;
        let skip = self.left_out.keys().copied().collect();
        let question = Question { library: library.clone(), skip, every: Some(self.every) };
        match Asked::start(&Start { program: program.clone() }, &question) {
            Ok(child) => {
                (self.child, self.asking) = (Some(child), None);
                self.round.clear();
                None
            }
            Err(error) => {
                let reason = format!("cannot start `{}`: {error}", program.display());
                Some(self.down(Library::Failed { reason }))
            }
        }
    }

    fn take(&mut self, line: Line) -> Option<Seen> {
        match line {
            Line::Asking { index } => self.asking = Some(index),
            Line::Sample { sample } => {
                self.asking = None;
                if self.round.len() < super::nvml::MOST_GPUS as usize {
                    self.names.insert(sample.index, (sample.pci.clone(), sample.uuid.clone()));
                    self.round.push(*sample);
                }
            }
            Line::Xid { xid } => return Some(Seen::Xid(xid)),
            Line::Round => {
                self.failures = 0;
                let mut round = std::mem::take(&mut self.round);
                round.extend(
                    self.left_out.iter().map(|(index, (_, why))| self.missing(*index, why)),
                );
                round.sort_by_key(|sample| sample.index);
                return Some(Seen::Round(round));
            }
            Line::Refused { .. } | Line::Driver { .. } | Line::Gpu { .. } => {}
        }
        None
    }

    fn failed(&mut self, child: Asked, closed: bool, why: Option<Library>) -> Seen {
        let ended = child.end(closed);
        let words = ended.in_words().unwrap_or_else(|| "it ended".to_owned());
        if let Ended::Sleeps(sleeping) = ended {
            self.sleeping = Some(sleeping);
        }
        let library =
            why.unwrap_or_else(|| Library::Crashed { during: self.during(), ended: words });
        if let Some(index) = self.asking.take() {
            self.left_out.insert(index, (Instant::now() + LEFT_OUT, library.in_words()));
        }
        self.down(library)
    }

    fn down(&mut self, library: Library) -> Seen {
        let again = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Instant::now() + again;
        Seen::Down { library, again }
    }

    fn during(&self) -> String {
        self.asking.map_or_else(|| "waiting".to_owned(), |index| format!("asking GPU {index}"))
    }

    /// A GPU that is left out, in a round without it.
    fn missing(&self, index: u32, why: &str) -> GpuSample {
        let (pci, uuid) = self.names.get(&index).cloned().unwrap_or_default();
        GpuSample {
            index,
            pci,
            uuid,
            state: GpuState::Breaks { reason: why.to_owned() },
            recovery_action: Found::unknown("NVML", why),
            row_remaps: RowRemaps::unasked("NVML", why),
            live: Live::unasked("NVML", why),
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            child.end(false);
        }
    }
}
