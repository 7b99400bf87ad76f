//! `/proc/stat`, `/proc/loadavg`, pressure, file handles, connection tracking.

use super::{Sample, Source};
use crate::api::page::{Kind, Page};

/// Ticks a second in what the kernel tells programs, on every platform kdc is built for.
const TICKS: f64 = 100.0;

const MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];

/// What was told of the processors before: the kernel's counts of idle time can step back a little.
#[derive(Debug, Default)]
pub(super) struct Processors(Vec<[u64; 10]>);

impl Processors {
    /// Ticks of each processor by mode, never less than they were; one that went away is kept.
    fn advance(&mut self, text: &str) -> Vec<(String, [u64; 10])> {
        let mut rows = Vec::new();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix("cpu") else { continue };
            let Some((number, ticks)) = rest.split_once(' ') else { continue };
            let Ok(place) = number.parse::<usize>() else { continue };
            if place >= MAX_PROCESSORS {
                continue;
            }
            if self.0.len() <= place {
                self.0.resize(place + 1, [0; 10]);
            }
            for (told, now) in self.0[place].iter_mut().zip(super::numbers(ticks)) {
                *told = (*told).max(now);
            }
            rows.push((number.to_owned(), self.0[place]));
        }
        rows
    }
}

/// Linux has no more.
const MAX_PROCESSORS: usize = 8192;

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / TICKS
}

/// Processors and what the scheduler counted.
pub(super) fn stat(page: &mut Page, sample: &Sample, processors: &mut Processors) {
    let text = sample.text(Source::Stat);
    let rows = processors.advance(text);
    let help = "Seconds the CPUs spent in guests (VMs) for each mode.";
    page.family("node_cpu_guest_seconds_total", Kind::Counter, help);
    for (cpu, ticks) in &rows {
        page.sample(&[("cpu", cpu), ("mode", "user")], seconds(ticks[8]));
        page.sample(&[("cpu", cpu), ("mode", "nice")], seconds(ticks[9]));
    }
    let help = "Seconds the CPUs spent in each mode.";
    page.family("node_cpu_seconds_total", Kind::Counter, help);
    for (cpu, ticks) in &rows {
        for (mode, ticks) in MODES.iter().zip(ticks) {
            page.sample(&[("cpu", cpu), ("mode", mode)], seconds(*ticks));
        }
    }
    for (field, name, kind, help) in [
        ("btime", "node_boot_time_seconds", Kind::Gauge, "Node boot time, in unixtime."),
        ("ctxt", "node_context_switches_total", Kind::Counter, "Total number of context switches."),
        ("processes", "node_forks_total", Kind::Counter, "Total number of forks."),
        ("intr", "node_intr_total", Kind::Counter, "Total number of interrupts serviced."),
        ("procs_blocked", "node_procs_blocked", Kind::Gauge, "Processes blocked waiting for I/O."),
        ("procs_running", "node_procs_running", Kind::Gauge, "Processes in runnable state."),
    ] {
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(' '));
        if let Some(number) = line.and_then(|line| super::numbers(line).next()) {
            page.single(name, kind, help, number);
        }
    }
}

/// Load averages.
pub(super) fn load(page: &mut Page, sample: &Sample) {
    let mut fields = sample.text(Source::Load).split_ascii_whitespace();
    for (name, help) in [
        ("node_load1", "1m load average."),
        ("node_load5", "5m load average."),
        ("node_load15", "15m load average."),
    ] {
        if let Some(load) = fields.next().and_then(|field| field.parse::<f64>().ok()) {
            page.single(name, Kind::Gauge, help, load);
        }
    }
}

/// Time in which something waited for a processor, memory or a disk.
pub(super) fn pressure(page: &mut Page, sample: &Sample) {
    for (source, start, name, help) in [
        (Source::CpuPressure, "some", "cpu_waiting", "waited for CPU time"),
        (Source::IoPressure, "full", "io_stalled", "no process could make progress due to IO"),
        (Source::IoPressure, "some", "io_waiting", "waited due to IO congestion"),
        (
            Source::MemoryPressure,
            "full",
            "memory_stalled",
            "no process could make progress due to memory",
        ),
        (Source::MemoryPressure, "some", "memory_waiting", "waited for memory"),
    ] {
        let line = sample.text(source).lines().find(|line| line.starts_with(start));
        let total = line.and_then(|line| line.rsplit_once("total=")?.1.parse::<u64>().ok());
        if let Some(micros) = total {
            let name = format!("node_pressure_{name}_seconds_total");
            let help = format!("Total time in seconds that processes {help}.");
            page.single(&name, Kind::Counter, &help, micros as f64 / 1e6);
        }
    }
}

/// File handles and tracked connections.
pub(super) fn limits(page: &mut Page, sample: &Sample) {
    let mut fields = super::numbers(sample.text(Source::FileHandles));
    let (allocated, _free, most) = (fields.next(), fields.next(), fields.next());
    let mut gauge = |name, help, number: Option<u64>| {
        if let Some(number) = number {
            page.single(name, Kind::Gauge, help, number);
        }
    };
    gauge("node_filefd_allocated", "File descriptor statistics: allocated.", allocated);
    gauge("node_filefd_maximum", "File descriptor statistics: maximum.", most);
    let entries = super::numbers(sample.text(Source::Tracked)).next();
    let help = "Number of currently allocated flow entries for connection tracking.";
    gauge("node_nf_conntrack_entries", help, entries);
    let most = super::numbers(sample.text(Source::TrackedMost)).next();
    gauge("node_nf_conntrack_entries_limit", "Maximum size of connection tracking table.", most);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::collect::tests::page_of;

    #[test]
    fn processors_pressure_and_limits_have_the_names_that_people_know() {
        let page = page_of(&[
            (
                Source::Stat,
                "cpu  300 0 0 0 0 0 0 0 0 0\ncpu0 100 2 3 400 5 0 7 8 9 10\ncpu1 1 1 1 1 1 1 1 1\n\
                 intr 77 1 2 3\nctxt 88\nbtime 1700000000\nprocesses 99\nprocs_running 2\nprocs_blocked 1\n",
            ),
            (Source::Load, "0.50 1.25 2.00 3/456 789\n"),
            (Source::CpuPressure, "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\n"),
            (Source::FileHandles, "2214\t0\t2466165\n"),
            (Source::TrackedMost, "262144\n"),
        ]);
        for line in [
            "node_cpu_seconds_total{cpu=\"0\",mode=\"idle\"} 4",
            "node_cpu_seconds_total{cpu=\"1\",mode=\"steal\"} 0.01",
            "node_cpu_guest_seconds_total{cpu=\"0\",mode=\"nice\"} 0.1",
            "node_boot_time_seconds 1700000000",
            "node_intr_total 77",
            "node_forks_total 99",
            "node_load5 1.25",
            "node_pressure_cpu_waiting_seconds_total 1.5",
            "node_filefd_maximum 2466165",
            "node_nf_conntrack_entries_limit 262144",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        assert!(!page.contains("node_nf_conntrack_entries "), "nobody counts connections here");
        assert!(!page.contains("cpu=\"\""), "the sum is no processor");
    }

    #[test]
    fn idle_time_that_the_kernel_takes_back_stays_as_it_was_told() {
        let mut processors = Processors::default();
        processors.advance("cpu0 1 1 1 500 60 0 0 0 0 0\n");
        let rows = processors.advance("cpu0 2 1 1 499 59 0 0 0 0 0\ncpu99999 1 1 1 1\n");
        assert_eq!(rows, [("0".to_owned(), [2, 1, 1, 500, 60, 0, 0, 0, 0, 0])]);
    }
}
