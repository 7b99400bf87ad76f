//! What is to be done about each GPU, and why. Pure: facts in, verdicts out.
//!
//! Who knows best is asked first, and the first who wants something is followed:
//!
//! 1. the driver's own recovery action (field 230, or the last Xid 154 where the field can't be read);
//! 2. a row of memory that could not be replaced: the board is worn out;
//! 3. the table of Xids. Where the driver says that nothing is to be done (any more), errors that ask for a reset or a
//!    reboot are settled by that;
//! 4. signs: the GPU is lost, hangs its reader, waits for a reset.
//!
//! What the others would have said stands in [`Verdict::also`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    kernel_log::slot,
    report::{Gpu, GpuReport, GpuState, RecoveryAction},
    xid::{Action, XidLog, XidRecord, XidTable},
};

/// What is to be done about one GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The GPU's name for good, where it is known.
    pub uuid: Option<String>,
    /// Its PCI address, where it is known.
    pub pci: Option<String>,
    /// What is to be done.
    pub action: Action,
    /// Is new work kept away from it until then?
    pub cordon: bool,
    /// Why, in words.
    pub reason: String,
    /// Who says so: an NVML field, a table, a line of the kernel's log.
    pub source: String,
    /// What else speaks for doing something.
    pub also: Vec<String>,
}

/// One voice.
struct Voice {
    action: Action,
    cordon: bool,
    reason: String,
    source: String,
    /// Is it the driver's own?
    of_driver: bool,
}

impl Voice {
    fn new(action: Action, reason: impl Into<String>, source: impl Into<String>) -> Self {
        let (cordon, reason, source) = (action.cordons(), reason.into(), source.into());
        Self { action, cordon, reason, source, of_driver: false }
    }

    /// The GPU can be used until it suits.
    fn when_it_suits(self) -> Self {
        Self { cordon: false, ..self }
    }

    fn cordoned(self) -> Self {
        Self { cordon: true, ..self }
    }
}

/// Judge every GPU of the report, and every error of one that the report doesn't have.
#[must_use]
pub fn judge(report: &GpuReport, xids: &XidLog, table: &XidTable) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> =
        report.gpus.iter().map(|gpu| judge_one(gpu, xids, table)).collect();
    let known = |record: &XidRecord| {
        record.slot.as_deref().is_some_and(|at| {
            report.gpus.iter().any(|gpu| gpu.pci.value().is_some_and(|pci| slot(pci) == at))
        })
    };
    let mut strangers: Vec<Option<&str>> = Vec::new();
    for record in xids.records().iter().filter(|record| !known(record)) {
        if strangers.contains(&record.slot.as_deref()) {
            continue;
        }
        strangers.push(record.slot.as_deref());
        let own: Vec<&XidRecord> =
            xids.records().iter().filter(|other| other.slot == record.slot).collect();
        let voices = of_log(&own, last_wish(&own), table);
        let pci = record.slot.clone();
        let uuid = pci.as_deref().and_then(|pci| xids.uuid_at(pci)).map(str::to_owned);
        verdicts.push(decide(uuid, pci, voices));
    }
    verdicts
}

fn judge_one(gpu: &Gpu, xids: &XidLog, table: &XidTable) -> Verdict {
    let pci = gpu.pci.value().cloned();
    let named = pci.as_deref().and_then(|pci| xids.uuid_at(pci)).map(str::to_owned);
    let uuid = gpu.uuid.value().cloned().or(named);
    if gpu.state == GpuState::NotNvidias {
        return decide(uuid, pci, Vec::new());
    }
    let own: Vec<&XidRecord> = xids
        .records()
        .iter()
        .filter(|record| record.slot.as_deref() == pci.as_deref().map(slot))
        .filter(|record| record.slot.is_some())
        .collect();
    // The field is of now; the log is asked where the field is mute.
    let field = gpu.recovery_action.value();
    let wish = field.map(|action| (*action, gpu.recovery_action.source().to_owned()));
    let mut voices = of_log(&own, wish.or_else(|| last_wish(&own)), table);
    if let Some(worn) = of_memory(gpu) {
        let behind_driver = voices.iter().take_while(|voice| voice.of_driver).count();
        voices.insert(behind_driver, worn);
    }
    voices.extend(of_state(gpu));
    voices.extend(of_leftovers(gpu));
    decide(uuid, pci, voices)
}

/// The first voice is followed, the others are noted.
fn decide(uuid: Option<String>, pci: Option<String>, voices: Vec<Voice>) -> Verdict {
    let mut voices = voices.into_iter().filter(|voice| voice.action != Action::None);
    let Some(first) = voices.next() else {
        let (action, reason, source) = (Action::None, "nothing is wrong".into(), String::new());
        return Verdict { uuid, pci, action, cordon: false, reason, source, also: Vec::new() };
    };
    let also = voices
        .map(|voice| format!("{} ({}): {}", voice.reason, voice.source, voice.action.in_words()))
        .collect();
    let Voice { action, cordon, reason, source, .. } = first;
    Verdict { uuid, pci, action, cordon, reason, source, also }
}

/// What the driver wants and what its errors come to, in this order.
fn of_log(
    own: &[&XidRecord],
    wish: Option<(RecoveryAction, String)>,
    table: &XidTable,
) -> Vec<Voice> {
    let mut voices: Vec<Voice> = wish.iter().filter_map(of_recovery).collect();
    for voice in &mut voices {
        voice.of_driver = true;
    }
    voices.extend(of_xids(own, wish.map(|(action, _)| action), table));
    voices
}

/// What the driver last wanted, as the log tells it.
fn last_wish(own: &[&XidRecord]) -> Option<(RecoveryAction, String)> {
    let told = own.iter().filter(|record| record.recovery_action.is_some());
    let last = told.max_by_key(|record| record.last_microseconds)?;
    Some((last.recovery_action?, format!("kernel log, Xid {}", last.xid)))
}

fn of_recovery((action, source): &(RecoveryAction, String)) -> Option<Voice> {
    let reason = |what: &str| format!("the driver asks for {what}");
    let voice = match action {
        RecoveryAction::None => return None,
        RecoveryAction::ResetGpu => Voice::new(Action::ResetGpu, reason("a reset"), source),
        RecoveryAction::RebootNode => Voice::new(Action::RebootNode, reason("a reboot"), source),
        RecoveryAction::DrainPeers => Voice::new(
            Action::AskHuman,
            reason("an end of the traffic between this GPU and its peers"),
            source,
        )
        .cordoned(),
        RecoveryAction::DrainAndReset => {
            Voice::new(Action::DrainAndReset, reason("its work to be moved and a reset"), source)
        }
        RecoveryAction::Other(number) => Voice::new(
            Action::AskHuman,
            reason(&format!("recovery action {number}, which this kdc does not know")),
            source,
        )
        .cordoned(),
    };
    Some(voice)
}

fn of_memory(gpu: &Gpu) -> Option<Voice> {
    let failed = &gpu.row_remaps.failed;
    failed.value().copied().unwrap_or(false).then(|| {
        let reason = "a faulty row of memory could not be replaced: no spare one is left";
        Voice::new(Action::ReplaceHardware, reason, failed.source())
    })
}

/// The errors of one GPU, worst first.
fn of_xids(own: &[&XidRecord], driver: Option<RecoveryAction>, table: &XidTable) -> Vec<Voice> {
    let mut voices: Vec<Voice> = own
        .iter()
        .filter(|record| !record.settled && record.recovery_action.is_none())
        .map(|record| of_xid(record, table))
        // The driver knows what its errors came to.
        .filter(|voice| !(driver == Some(RecoveryAction::None) && voice.action.cordons()))
        .collect();
    voices.sort_by_key(|voice| std::cmp::Reverse((voice.cordon, voice.action)));
    voices
}

fn of_xid(record: &XidRecord, table: &XidTable) -> Voice {
    let xid = record.xid;
    let times = if record.count == 1 { String::new() } else { format!(", {} times", record.count) };
    let Some(row) = table.get(xid) else {
        let reason = format!("Xid {xid}{times}, which is not in the table: {}", record.text);
        return Voice::new(Action::AskHuman, reason, "kernel log");
    };
    let reason = format!("Xid {xid}{times}: {}", row.what);
    let action = row.nonfatal.filter(|_| record.nonfatal).unwrap_or(row.action);
    let voice = Voice::new(action, reason, row.source.clone());
    match row.cordon {
        Some(cordon) if action == row.action => Voice { cordon, ..voice },
        _ => voice,
    }
}

fn of_state(gpu: &Gpu) -> Option<Voice> {
    match &gpu.state {
        GpuState::Answers | GpuState::NotNvidias | GpuState::NotAsked { .. } => None,
        GpuState::Lost => {
            Some(Voice::new(Action::RebootNode, "the GPU fell off the bus", "NVML GPU_IS_LOST"))
        }
        GpuState::ResetRequired => {
            Some(Voice::new(Action::ResetGpu, "the GPU wants a reset", "NVML RESET_REQUIRED"))
        }
        GpuState::Breaks { reason } => {
            Some(Voice::new(Action::AskHuman, reason.clone(), "NVML").cordoned())
        }
    }
}

/// What waits for a reset or a reboot that will come anyway.
fn of_leftovers(gpu: &Gpu) -> Vec<Voice> {
    let set = |found: &crate::inventory::Found<bool>| found.value().copied().unwrap_or(false);
    let mut voices = Vec::new();
    let remap = &gpu.row_remaps.pending;
    if set(remap) {
        let reason = "a row of memory is replaced by the next reset";
        voices.push(Voice::new(Action::ResetGpu, reason, remap.source()).when_it_suits());
    }
    let page = &gpu.retired_pages.pending;
    if set(page) {
        let reason = "a page of memory is taken out of use by the next reboot";
        voices.push(Voice::new(Action::RebootNode, reason, page.source()).when_it_suits());
    }
    let throttled = &gpu.live.throttle_reasons;
    for reason in throttled.value().into_iter().flatten() {
        let what = match reason.as_str() {
            "hwThermalSlowdown" => "it slows down since it is too hot",
            "hwPowerBrakeSlowdown" => "it slows down since the power supply asks for it",
            _ => continue,
        };
        voices.push(Voice::new(Action::AskHuman, what, throttled.source()));
    }
    voices
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
