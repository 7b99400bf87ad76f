//! What asks: a thread that surveys, a thread that samples, and the kernel's log.

use std::{
    path::{Path, PathBuf},
    sync::mpsc,
    time::{Duration, Instant},
};

use crate::{
    facts::Look,
    gpu::{
        GpuReport, Sampler, Seen, Settings, Surveyor,
        kernel_log::{KernelLog, LogError, Record},
        report::Library,
        sample::{GpuSample, NvmlXid},
    },
};

/// News that wait for the loop; a thread that is faster waits for it.
const MOST_WAITING: usize = 64;
/// A log that can't be read is tried again after this.
const LOG_AGAIN: Duration = Duration::from_secs(30);

/// What a thread saw.
#[derive(Debug)]
pub(super) enum News {
    /// Everything about every GPU.
    Surveyed(Box<GpuReport>),
    /// What changes, of every GPU.
    Round(Vec<GpuSample>),
    /// An error of a GPU.
    Xid(NvmlXid),
    /// NVML can't be sampled; it is tried again after this time.
    Down { library: Library, again: Duration },
}

/// The threads that ask. They end with the process: what they wait for may hang.
pub(super) struct Asking {
    wishes: mpsc::SyncSender<()>,
}

impl Asking {
    /// Start them. The first survey begins at once, sampling after it, and only where there is something to sample.
    pub(super) fn begin(
        settings: &Settings,
        every: Duration,
        surveys: Duration,
    ) -> std::io::Result<(Self, mpsc::Receiver<News>)> {
        let (sender, news) = mpsc::sync_channel(MOST_WAITING);
        let (wishes, wanted) = mpsc::sync_channel(1);
        let settings = settings.clone();
        let begin = move || {
            let mut surveyor = Surveyor::new(settings.clone());
            let report = surveyor.survey();
            if report.gpus.is_empty() {
                // The loop ends the process, which may take a moment.
                let _heard = sender.send(News::Surveyed(Box::new(report)));
                return;
            }
            if sender.send(News::Surveyed(Box::new(report))).is_err() {
                return;
            }
            let told = sender.clone();
            let sampling = std::thread::Builder::new()
                .name("sampler".to_owned())
                .spawn(move || sample(Sampler::new(settings, every), &told));
            if let Err(error) = sampling {
                tracing::error!(%error, "no thread to sample GPUs in; surveys go on");
            }
            survey(surveyor, surveys, &wanted, &sender);
        };
        std::thread::Builder::new().name("surveyor".to_owned()).spawn(begin)?;
        Ok((Self { wishes }, news))
    }

    /// Have every GPU asked now. A wish that waits already is enough.
    pub(super) fn survey_now(&self) {
        let _waits = self.wishes.try_send(());
    }
}

fn survey(
    mut surveyor: Surveyor,
    every: Duration,
    wanted: &mpsc::Receiver<()>,
    sender: &mpsc::SyncSender<News>,
) {
    loop {
        match wanted.recv_timeout(every) {
            Ok(()) | Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        if sender.send(News::Surveyed(Box::new(surveyor.survey()))).is_err() {
            return;
        }
    }
}

fn sample(mut sampler: Sampler, sender: &mpsc::SyncSender<News>) {
    loop {
        let news = match sampler.wait() {
            Seen::Round(round) => News::Round(round),
            Seen::Xid(xid) => News::Xid(xid),
            Seen::Down { library, again } => News::Down { library, again },
        };
        if sender.send(news).is_err() {
            return;
        }
    }
}

/// The kernel's log, opened anew where it failed.
pub(super) struct Ears {
    path: PathBuf,
    log: Option<KernelLog>,
    /// Lines were read once: what comes now is live.
    live: bool,
    again: Option<Instant>,
    failure: Option<String>,
    missed: u64,
}

impl Ears {
    pub(super) fn new(path: &Path) -> Self {
        let path = path.to_owned();
        Self { path, log: None, live: false, again: None, failure: None, missed: 0 }
    }

    /// Read on after the line of this number. Says what is wrong, as long as it is.
    pub(super) fn read(
        &mut self,
        seen: Option<u64>,
        mut each: impl FnMut(&Record<'_>, bool),
    ) -> Option<String> {
        if self.again.is_some_and(|again| Instant::now() < again) {
            return self.failure.clone();
        }
        let live = self.live;
        let read = match self.log.take() {
            Some(log) => Ok(log),
            None => KernelLog::open(&self.path, seen),
        };
        let read = read.and_then(|mut log| {
            log.read(|record| each(record, live))?;
            Ok(log)
        });
        match read {
            Ok(log) => {
                (self.live, self.again) = (true, None);
                self.missed = self.missed.max(log.missed());
                self.log = Some(log);
                self.failure = (self.missed > 0).then(|| {
                    "lines of the kernel's log were overwritten before they could be read"
                        .to_owned()
                });
            }
            Err(error) => {
                self.again = Some(Instant::now() + LOG_AGAIN);
                self.failure = Some(said(&error));
            }
        }
        self.failure.clone()
    }
}

fn said(error: &LogError) -> String {
    format!("{error}: {}; {}", error.source, error.hint())
}

/// The driver's devices are there.
pub(super) fn has_driver(look: &Look) -> bool {
    let devices = look.text("/proc/devices").unwrap_or_default();
    devices
        .lines()
        .any(|line| line.split_whitespace().nth(1).is_some_and(|name| name.starts_with("nvidia")))
}
