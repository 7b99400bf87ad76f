//! What the watch knows, pure: surveys, samples, errors and log lines in; the document out.
//!
//! A survey says everything, a minute apart; samples say what changes, a second apart, and are laid over it. A GPU that was
//! there and is gone from the bus too is not forgotten: it is said to be lost.

use std::{collections::BTreeMap, time::Duration};

use super::document::{FORM, Published};
use crate::gpu::{
    GpuReport,
    kernel_log::Record,
    node::NodeGpus,
    report::{Gpu, GpuState, Library},
    sample::{GpuSample, NvmlXid},
    verdict::{Verdict, judge},
    xid::{Action, XidLog, XidTable},
};

/// Most GPUs that are remembered after they have gone.
const MOST_REMEMBERED: usize = 128;

/// What is to be done about what came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing before its time.
    Nothing,
    /// Every GPU is to be asked anew soon: something happened.
    Survey,
}

/// All that is known.
#[derive(Debug)]
pub(super) struct State {
    boot: String,
    table: XidTable,
    report: GpuReport,
    surveyed: Option<Duration>,
    round: Vec<GpuSample>,
    sampled: Option<Duration>,
    xids: XidLog,
    /// GPUs by address, as they last were.
    known: BTreeMap<String, Gpu>,
    /// What can't be looked at, by what it is about.
    warnings: BTreeMap<&'static str, String>,
}

impl State {
    /// Nothing but what the bus shows, and what was counted before.
    pub(super) fn new(boot: &str, table: XidTable, report: GpuReport, xids: XidLog) -> Self {
        Self {
            boot: boot.to_owned(),
            table,
            report,
            surveyed: None,
            round: Vec::new(),
            sampled: None,
            xids,
            known: BTreeMap::new(),
            warnings: BTreeMap::new(),
        }
    }

    /// What was counted.
    pub(super) fn xids(&self) -> &XidLog {
        &self.xids
    }

    /// Say what can't be looked at, or nothing where it can (again).
    pub(super) fn warn(&mut self, about: &'static str, what: Option<String>) {
        match what {
            Some(what) => self.warnings.insert(about, what),
            None => self.warnings.remove(about),
        };
    }

    /// Every GPU was asked for everything.
    pub(super) fn survey(&mut self, report: GpuReport, now: Duration) {
        self.report = report;
        self.surveyed = Some(now);
        for gpu in &self.report.gpus {
            if let Some(pci) = gpu.pci.value()
                && (self.known.len() < MOST_REMEMBERED || self.known.contains_key(pci))
            {
                self.known.insert(pci.clone(), gpu.clone());
            }
        }
        let here = |pci: &String| self.report.gpus.iter().any(|gpu| gpu.pci.value() == Some(pci));
        let missing = self.known.iter().filter(|(pci, _)| !here(pci));
        let missing: Vec<Gpu> =
            missing.map(|(_, gpu)| missing_now(gpu, &self.report.library)).collect();
        self.report.gpus.extend(missing);
        self.report.gpus.sort_by(|left, right| left.pci.value().cmp(&right.pci.value()));
    }

    /// Every GPU was asked for what changes.
    pub(super) fn sample(&mut self, round: Vec<GpuSample>, now: Duration) -> Next {
        let changed = round.iter().any(|sample| {
            let before = self.round.iter().find(|other| other.index == sample.index);
            before.is_some_and(|before| {
                std::mem::discriminant(&before.state) != std::mem::discriminant(&sample.state)
                    || before.recovery_action.value() != sample.recovery_action.value()
                    || before.row_remaps.pending.value() != sample.row_remaps.pending.value()
                    || before.row_remaps.failed.value() != sample.row_remaps.failed.value()
            })
        });
        let other_number = !self.round.is_empty() && self.round.len() != round.len();
        (self.round, self.sampled) = (round, Some(now));
        if changed || other_number { Next::Survey } else { Next::Nothing }
    }

    /// NVML can't be sampled. What it said before is no news any more.
    pub(super) fn down(&mut self) {
        self.round.clear();
        self.sampled = None;
    }

    /// A line of the kernel's log; says what is new of it.
    pub(super) fn line(
        &mut self,
        record: &Record<'_>,
        received: Duration,
        live: bool,
    ) -> Option<String> {
        let told = self.xids.take_line(record, received, live)?;
        Some(in_words(told.slot.as_deref(), told.xid, told.count, &told.text))
    }

    /// An event of NVML; says what is new of it.
    pub(super) fn event(
        &mut self,
        xid: &NvmlXid,
        received: Duration,
        now: Duration,
    ) -> Option<String> {
        let told = self.xids.take_event(xid, received, now)?;
        Some(in_words(told.slot.as_deref(), told.xid, told.count, "told by NVML"))
    }

    /// Does the node have a GPU that is worth a watch?
    pub(super) fn has_gpus(&self) -> bool {
        !self.report.gpus.is_empty()
    }

    /// How NVML answered last.
    pub(super) fn library(&self) -> &Library {
        &self.report.library
    }

    /// The newest of everything, judged.
    pub(super) fn document(&self, now: Duration, unix_ms: u64) -> Published {
        let mut report = self.report.clone();
        for gpu in &mut report.gpus {
            if let Some(sample) = self.sample_of(gpu) {
                gpu.state = sample.state.clone();
                gpu.recovery_action = sample.recovery_action.clone();
                gpu.row_remaps = sample.row_remaps.clone();
                gpu.live = sample.live.clone();
            }
        }
        let verdicts = judge(&report, &self.xids, &self.table);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Published {
            form: FORM,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            boot: self.boot.clone(),
            at_unix_ms: unix_ms,
            at_boot_ms: millis(now),
            surveyed_boot_ms: self.surveyed.map(millis),
            sampled_boot_ms: self.sampled.map(millis),
            node: NodeGpus {
                report,
                errors: self.xids.records().to_vec(),
                verdicts,
                warnings: self.warnings.values().cloned().collect(),
            },
        }
    }

    /// The sample of a GPU, where it is the newer word.
    fn sample_of(&self, gpu: &Gpu) -> Option<&GpuSample> {
        if self.sampled < self.surveyed {
            return None;
        }
        let same = |sample: &&GpuSample| match (&sample.uuid, gpu.uuid.value()) {
            (Some(left), Some(right)) => left == right,
            // A lost GPU tells no name.
            _ => gpu.index.value() == Some(&sample.index),
        };
        self.round.iter().find(same)
    }
}

/// A GPU that was there and is not told of now: gone, where somebody who would know of it looked.
fn missing_now(gpu: &Gpu, library: &Library) -> Gpu {
    let on_bus = gpu.kernel_driver.reason().is_none();
    let (state, reason) = if library.answered() || on_bus {
        (GpuState::Lost, "it was there, and is gone from the bus".to_owned())
    } else {
        (GpuState::NotAsked { reason: library.in_words() }, library.in_words())
    };
    let mut gone = Gpu::unasked(None, state, "/sys/bus/pci/devices", &reason);
    (gone.pci, gone.uuid) = (gpu.pci.clone(), gpu.uuid.clone());
    (gone.model, gone.serial) = (gpu.model.clone(), gpu.serial.clone());
    gone
}

fn in_words(slot: Option<&str>, xid: u32, count: u64, text: &str) -> String {
    let slot = slot.unwrap_or("a GPU that is not named");
    format!("{slot}: Xid {xid}, {count} since boot: {text}")
}

/// One line for `systemctl status`: what is wrong first.
pub(super) fn status(document: &Published) -> String {
    let NodeGpus { report, verdicts, warnings, .. } = &document.node;
    let sick = verdicts.iter().filter(|verdict| verdict.action != Action::None);
    let sick = sick.map(|Verdict { pci, uuid, action, reason, .. }| {
        let name = pci.as_deref().or(uuid.as_deref()).unwrap_or("a GPU that is not named");
        format!("{name}: {reason}: {}", action.in_words())
    });
    let answering = report.gpus.iter().filter(|gpu| gpu.state == GpuState::Answers).count();
    let (all, library) = (report.gpus.len(), report.library.in_words());
    let library = (!report.library.answered()).then(|| format!("NVML {library}"));
    let count = Some(format!("{answering} of {all} GPUs answer"));
    let lines: Vec<String> =
        sick.chain(library).chain(warnings.iter().cloned()).chain(count).collect();
    lines.join("; ").replace('\n', " | ")
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
