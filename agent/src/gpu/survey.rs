//! The GPUs of this node, asked through a child process, and joined with what the bus shows.
//!
//! A GPU over which the child hangs or dies is noted and left out, and another child asks the rest: one sick GPU hides
//! nothing. NVML absent, garbage or hung is an answer ([`Library`]), never an error.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{
    asked::{Asked, Ended, Heard, Sleeping, Start},
    child::{Line, Question},
    pci::{self, OnBus},
    report::{Gpu, GpuReport, GpuState, Library},
};
use crate::{facts::Look, inventory::Found};

/// How the GPUs of a node are asked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The program that asks NVML: this one, called as `gpu-survey`.
    pub program: PathBuf,
    /// NVML's path, where the loader doesn't find it (drivers in a container).
    pub library: Option<PathBuf>,
    /// How long one GPU may take to answer.
    pub patience: Duration,
    /// The machine, or a recorded one.
    pub look: Look,
}

impl Settings {
    /// This machine, asked by this program.
    #[must_use]
    pub fn machine() -> Self {
        Self {
            // The kernel's name for it stays right while an update replaces the file.
            program: PathBuf::from("/proc/self/exe"),
            library: None,
            patience: Duration::from_secs(10),
            look: Look::machine(),
        }
    }
}

/// Children that may hang or die in one survey before the rest is left unasked.
const MOST_FAILURES: usize = 4;
/// Longest a whole survey may take, in patiences.
const MOST_PATIENCES: u32 = 6;

/// Asks again and again, and remembers what must not be forgotten in between.
#[derive(Debug)]
pub struct Surveyor {
    settings: Settings,
    /// A child that can't be ended. While it is there no other is started.
    sleeping: Option<Sleeping>,
    /// Names of GPUs by address: a lost one can't tell its own.
    names: BTreeMap<String, Found<String>>,
}

/// What the driver says of itself.
#[derive(Debug)]
struct Driver {
    version: Found<String>,
    nvml: Found<String>,
    cuda: Found<String>,
    gpus: u32,
}

/// What the children told.
#[derive(Debug, Default)]
struct Told {
    driver: Option<Driver>,
    gpus: BTreeMap<u32, Gpu>,
    refused: Option<Library>,
}

impl Surveyor {
    /// One that has not asked yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, sleeping: None, names: BTreeMap::new() }
    }

    /// Everything about every GPU. Takes as long as the GPUs take to answer, but at most six times the patience: call it
    /// where waiting is fine.
    pub fn survey(&mut self) -> GpuReport {
        let on_bus = pci::gpus(&self.settings.look);
        let mut report = join(self.ask(), &on_bus);
        for gpu in &mut report.gpus {
            let Some(pci) = gpu.pci.value() else { continue };
            if gpu.uuid.value().is_some() {
                self.names.insert(pci.clone(), gpu.uuid.clone());
            } else if let Some(known) = self.names.get(pci) {
                gpu.uuid = known.clone();
            }
        }
        report
    }

    /// What the bus shows, without a question to NVML.
    #[must_use]
    pub fn only_bus(look: &Look, reason: &str) -> GpuReport {
        only(&pci::gpus(look), reason)
    }

    fn ask(&mut self) -> Told {
        let mut told = Told::default();
        let until = Instant::now() + self.settings.patience * MOST_PATIENCES;
        for _ in 0..MOST_FAILURES {
            if let Some(pid) = self.sleeping.as_mut().and_then(Sleeping::still) {
                told.refuse(Library::Stuck { pid });
                return told;
            }
            self.sleeping = None;
            let Some((index, library)) = self.one_child(&mut told, until) else { return told };
            let Some(index) = index else {
                told.refuse(library);
                return told;
            };
            let reason = library.in_words();
            let state = GpuState::Breaks { reason: reason.clone() };
            told.gpus.insert(index, Gpu::unasked(Some(index), state, "NVML", &reason));
        }
        told
    }

    /// Let one child ask what is not known yet. Where it broke: over which GPU, and how.
    fn one_child(&mut self, told: &mut Told, until: Instant) -> Option<(Option<u32>, Library)> {
        let Settings { program, library, patience, .. } = &self.settings;
        let skip = told.gpus.keys().copied().collect::<BTreeSet<_>>();
        let question = Question { library: library.clone(), skip, every: None };
        let start = Start { program: program.clone() };
        let mut child = match Asked::start(&start, &question) {
            Ok(child) => child,
            Err(error) => {
                let reason = format!("cannot start `{}`: {error}", program.display());
                return Some((None, Library::Failed { reason }));
            }
        };
        let mut asking = None;
        let mut whole = false;
        let last = loop {
            match child.hear(until.min(Instant::now() + *patience)) {
                Heard::Line(line) => match *line {
                    Line::Refused { library } => {
                        told.refuse(library);
                        whole = true;
                    }
                    Line::Driver { driver_version, nvml_version, cuda_version, gpus } => {
                        let (version, nvml, cuda) = (driver_version, nvml_version, cuda_version);
                        told.driver = Some(Driver { version, nvml, cuda, gpus });
                    }
                    Line::Asking { index } => asking = Some(index),
                    Line::Gpu { gpu } => {
                        if let Some(index) = asking.take() {
                            told.gpus.insert(index, *gpu);
                        }
                    }
                    Line::Round => whole = true,
                    Line::Sample { .. } | Line::Xid { .. } => {}
                },
                other => break other,
            }
        };
        let during =
            asking.map_or_else(|| "loading it".to_owned(), |index| format!("asking GPU {index}"));
        let seconds = patience.as_secs();
        let ended = child.end(matches!(last, Heard::Closed));
        let words = ended.in_words();
        if let Ended::Sleeps(sleeping) = ended {
            self.sleeping = Some(sleeping);
        }
        match last {
            Heard::Late => Some((asking, Library::Hung { during, seconds })),
            Heard::Nonsense(reason) => Some((asking, Library::Failed { reason })),
            // What it had to say was said; how it took its leave doesn't matter.
            _ if whole => None,
            _ => {
                let ended = words.unwrap_or_else(|| "it ended too early".to_owned());
                Some((asking, Library::Crashed { during, ended }))
            }
        }
    }
}

impl GpuReport {
    /// What somebody else saw of the bus: address, driver, and what the NVIDIA module writes of each GPU.
    #[must_use]
    pub fn of_bus(devices: Vec<(String, Found<String>, Found<String>)>, reason: &str) -> Self {
        let one = |(pci, driver, information): (String, Found<String>, Found<String>)| {
            let place = Found::present(pci.clone(), pci::DEVICES);
            (pci, OnBus::new(place, driver, &information))
        };
        only(&devices.into_iter().map(one).collect(), reason)
    }
}

fn only(on_bus: &BTreeMap<String, OnBus>, reason: &str) -> GpuReport {
    let refused = Some(Library::NotAsked { reason: reason.to_owned() });
    join(Told { refused, ..Told::default() }, on_bus)
}

impl Told {
    /// The library can't be used (any more). What was told before stays.
    fn refuse(&mut self, library: Library) {
        self.refused = Some(library);
    }

    /// GPUs that nobody got to.
    fn unreached(&self) -> Vec<Gpu> {
        let Some(Driver { gpus: count, .. }) = &self.driver else { return Vec::new() };
        let reason = self.refused.as_ref().map_or_else(
            || "too many other GPUs hung or crashed the driver's library".to_owned(),
            Library::in_words,
        );
        let missing = (0..*count).filter(|index| !self.gpus.contains_key(index));
        let one = |index| {
            let state = GpuState::NotAsked { reason: reason.clone() };
            Gpu::unasked(Some(index), state, "NVML", &reason)
        };
        missing.map(one).collect()
    }
}

/// What NVML told and what the bus shows, as one list.
fn join(mut told: Told, on_bus: &BTreeMap<String, OnBus>) -> GpuReport {
    let unreached = told.unreached();
    let reason = told.refused.as_ref().map_or_else(|| "NVML".to_owned(), Library::in_words);
    let none = || Found::unknown("NVML", reason.clone());
    let (library, versions) = match (told.driver, told.refused) {
        (Some(told), None | Some(Library::Stuck { .. })) => {
            (Library::Answered, (told.version, told.nvml, told.cuda))
        }
        (Some(told), Some(library)) => (library, (told.version, told.nvml, told.cuda)),
        (None, Some(library)) => (library, (none(), none(), none())),
        (None, None) => {
            let reason = "it said nothing".to_owned();
            (Library::Failed { reason }, (none(), none(), none()))
        }
    };
    let mut gpus: Vec<Gpu> =
        std::mem::take(&mut told.gpus).into_values().chain(unreached).collect();
    let mut rest = on_bus.clone();
    for gpu in &mut gpus {
        if let Some(bus) = gpu.pci.value().and_then(|pci| rest.remove(pci)) {
            bus.add_to(gpu);
        }
    }
    give_places(&mut gpus, &mut rest);
    gpus.extend(rest.values().map(|bus| {
        let (state, reason) = if !bus.is_nvidias() {
            (GpuState::NotNvidias, "the NVIDIA module does not hold it".to_owned())
        } else if library.answered() {
            let reason = "NVML doesn't list it: the driver could not begin with it".to_owned();
            (GpuState::Breaks { reason: reason.clone() }, reason)
        } else {
            let reason = library.in_words();
            (GpuState::NotAsked { reason: reason.clone() }, reason)
        };
        bus.alone(state, &reason)
    }));
    gpus.sort_by(|left, right| left.pci.value().cmp(&right.pci.value()));
    let (driver_version, nvml_version, cuda_version) = versions;
    GpuReport { library, driver_version, nvml_version, cuda_version, gpus }
}

/// GPUs that could not say where they are lie where the bus shows one that nobody spoke for. The driver numbers GPUs in the
/// order of their addresses: where there are as many of the one as of the other, and the whole list is in that order then,
/// they are those.
fn give_places(gpus: &mut [Gpu], rest: &mut BTreeMap<String, OnBus>) {
    gpus.sort_by(|left, right| left.index.value().cmp(&right.index.value()));
    let places: Vec<String> =
        rest.iter().filter(|(_, bus)| bus.is_nvidias()).map(|(pci, _)| pci.clone()).collect();
    let lost = gpus.iter().filter(|gpu| gpu.pci.value().is_none()).count();
    if lost != places.len() {
        return;
    }
    let mut free = places.iter();
    let all: Vec<&String> =
        gpus.iter().filter_map(|gpu| gpu.pci.value().or_else(|| free.next())).collect();
    if !all.is_sorted() {
        return;
    }
    for (gpu, pci) in gpus.iter_mut().filter(|gpu| gpu.pci.value().is_none()).zip(&places) {
        if let Some(bus) = rest.remove(pci) {
            bus.add_to(gpu);
        }
    }
}
