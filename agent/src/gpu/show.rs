//! GPUs as a table for people.

use super::{
    report::{Gpu, GpuReport, GpuState},
    verdict::Verdict,
    xid::Action,
};
use crate::{columns::aligned, inventory::Found};

/// The GPUs, one a line, below what the driver says of itself.
pub(crate) fn brief(report: &GpuReport) -> Vec<String> {
    std::iter::once(head(report)).chain(table(report)).collect()
}

/// The GPUs, one a line, then what is wrong with them. `verdicts` as [`super::judge`] gives them for this report.
#[must_use]
pub fn render(report: &GpuReport, verdicts: &[Verdict]) -> String {
    let mut lines = vec![head(report)];
    if let Some(hint) = report.library.hint().filter(|_| !report.gpus.is_empty()) {
        lines.push(format!("hint: {hint}"));
    }
    if report.gpus.is_empty() {
        lines.push("no NVIDIA GPU".to_owned());
    } else {
        lines.push(String::new());
        lines.extend(table(report));
    }
    let sick: Vec<&Verdict> =
        verdicts.iter().filter(|verdict| verdict.action != Action::None).collect();
    if !sick.is_empty() {
        lines.push(String::new());
    }
    for verdict in sick {
        let pci = verdict.pci.as_deref().unwrap_or("a GPU that is not named");
        let cordon = if verdict.cordon { "; no new work until then" } else { "" };
        let (reason, source) = (&verdict.reason, &verdict.source);
        lines.push(format!("{pci}: {reason} ({source}): {}{cordon}", verdict.action.in_words()));
        lines.extend(verdict.also.iter().map(|also| format!("  also: {also}")));
    }
    lines.join("\n")
}

fn head(report: &GpuReport) -> String {
    if !report.library.answered() {
        return format!("NVML {}", report.library.in_words());
    }
    let version = |found: &Found<String>| found.value().cloned().unwrap_or_else(|| "?".to_owned());
    format!("driver {}, CUDA {}", version(&report.driver_version), version(&report.cuda_version))
}

fn table(report: &GpuReport) -> Vec<String> {
    let head = ["PCI", "MODEL", "UUID", "DRIVER", "MEMORY", "USED", "TEMP", "MIG", "STATE"];
    let rows = report.gpus.iter().map(row);
    let rows: Vec<Vec<String>> =
        std::iter::once(head.map(str::to_owned)).chain(rows).map(Vec::from).collect();
    aligned(&rows)
}

fn row(gpu: &Gpu) -> [String; 9] {
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    let memory = gpu.live.memory.value();
    let mig = match (gpu.mig.mode.value(), gpu.mig.instances.value()) {
        (Some(mode), Some(parts)) if mode.current => format!("{} parts", parts.len()),
        (Some(mode), _) if mode.current != mode.pending => "pending".to_owned(),
        (Some(mode), _) => if mode.current { "on" } else { "off" }.to_owned(),
        (None, _) => mark(&gpu.mig.mode),
    };
    [
        text(&gpu.pci),
        text(&gpu.model),
        text(&gpu.uuid),
        text(&gpu.kernel_driver),
        memory.map_or_else(|| mark(&gpu.live.memory), |memory| gib(memory.total_bytes)),
        memory.map_or_else(|| mark(&gpu.live.memory), |memory| gib(memory.used_bytes)),
        gpu.live
            .temperature_celsius
            .value()
            .map_or_else(|| mark(&gpu.live.temperature_celsius), |celsius| format!("{celsius} °C")),
        mig,
        state(&gpu.state).to_owned(),
    ]
}

fn state(state: &GpuState) -> &'static str {
    match state {
        GpuState::Answers => "answers",
        GpuState::Lost => "lost",
        GpuState::ResetRequired => "wants a reset",
        GpuState::NotNvidias => "not the NVIDIA driver's",
        GpuState::Breaks { .. } => "breaks its reader",
        GpuState::NotAsked { .. } => "not asked",
    }
}

fn text(found: &Found<String>) -> String {
    found.value().cloned().unwrap_or_else(|| mark(found))
}

/// `-` is "it has none", `?` is "it could not be asked".
fn mark<T>(found: &Found<T>) -> String {
    match found {
        Found::Present { .. } => "yes",
        Found::Absent { .. } => "-",
        Found::Unknown { .. } => "?",
    }
    .to_owned()
}
