//! `kdc-gpu.service`: the one process of a node that asks its GPUs, reads the kernel's log for their errors, and says what
//! is to be done. The daemon that listens reads what this one writes, and needs no device and no capability for it.
//!
//! ```text
//!  Surveyor (thread) ─┐
//!  Sampler  (thread) ─┼─► State (pure) ─► /run/kdc/gpus.json ─► kdc-agent.service: metrics, health, events, facts
//!  /dev/kmsg ─────────┘        │          /var/lib/kdc/gpu/xids.json
//!                              └────────► annotation kdc.dev/gpu-health of this node
//! ```
//!
//! NVML itself runs in children of this process ([`super::child`]), so its loop turns whatever the library does. Where a
//! node has no GPU it ends at once, and well. A driver whose devices came after the unit was started can't be opened by it
//! (systemd looks devices up when it starts a unit), so it ends with a failure then, and systemd starts it again.

mod annotate;
mod document;
mod looking;
mod state;

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use sd_notify::NotifyState;

pub use self::document::{DOCUMENT, DocumentError, FORM, Published, STALE, read, since_boot};
pub(crate) use self::{
    annotate::{KUBELET, node_name},
    document::replace,
};
use self::{
    looking::{Asking, Ears, News},
    state::{Next, State, status},
};
use super::{Settings, Surveyor, node, xid::XidLog, xid::XidTable};
use crate::{facts, wire::Failure};

/// Name of the unit.
pub const UNIT_NAME: &str = "kdc-gpu.service";
/// Longest pause between two turns of the loop, which feed the watchdog and read the kernel's log.
const TURN: Duration = Duration::from_secs(1);
/// Two surveys that something called for are at least that far from each other.
const SURVEYS_APART: Duration = Duration::from_secs(10);
/// Where nothing new came the document is written again after this, so that it stays young.
const ANEW_AFTER: Duration = Duration::from_secs(15);

/// The unit's text.
#[must_use]
pub fn unit() -> &'static str {
    include_str!("kdc-gpu.service")
}

/// Where to look, and how often.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// NVML, where the loader doesn't find it (a driver in a container).
    #[arg(long, value_name = "PATH")]
    pub library: Option<PathBuf>,
    /// Where to publish.
    #[arg(long, value_name = "PATH", default_value = DOCUMENT, hide = true)]
    pub document: PathBuf,
    /// Where to keep what was counted.
    #[arg(long, value_name = "PATH", default_value = node::XID_LOG, hide = true)]
    pub counted: PathBuf,
    /// The kernel's log.
    #[arg(long, value_name = "PATH", default_value = super::kernel_log::KERNEL_LOG, hide = true)]
    pub kernel_log: PathBuf,
    /// The site's table of Xids.
    #[arg(long, value_name = "PATH", default_value = super::xid::SITE_TABLE, hide = true)]
    pub table: PathBuf,
    /// The root below which the bus is looked at.
    #[arg(long, value_name = "PATH", default_value = "/", hide = true)]
    pub root: PathBuf,
    /// The program that asks NVML [default: this one].
    #[arg(long, value_name = "PATH", hide = true)]
    pub program: Option<PathBuf>,
    /// Credentials to tell the cluster with [default: the kubelet's].
    #[arg(long, value_name = "PATH", hide = true)]
    pub kubeconfig: Option<PathBuf>,
    /// Between two samples.
    #[arg(long, default_value_t = 1000, hide = true, value_parser = clap::value_parser!(u64).range(50..))]
    pub every_ms: u64,
    /// Between two surveys.
    #[arg(long, default_value_t = 60_000, hide = true, value_parser = clap::value_parser!(u64).range(50..))]
    pub survey_ms: u64,
    /// How long one GPU may take to answer.
    #[arg(long, default_value_t = 10_000, hide = true)]
    pub patience_ms: u64,
}

impl Options {
    fn credentials(&self) -> Vec<PathBuf> {
        let kubelets = || annotate::KUBELET.iter().map(PathBuf::from).collect();
        self.kubeconfig.clone().map_or_else(kubelets, |path| vec![path])
    }

    fn settings(&self) -> Settings {
        let machine = Settings::machine();
        Settings {
            program: self.program.clone().unwrap_or(machine.program),
            library: self.library.clone(),
            patience: Duration::from_millis(self.patience_ms),
            look: facts::Look::at(&self.root),
        }
    }
}

/// The watch can't go on.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// No signals, or no threads.
    #[error("the GPU watch can't start")]
    Start(#[from] std::io::Error),
    /// The driver's devices came after the unit was started, which may not open them therefore.
    #[error(
        "the NVIDIA driver was loaded after this unit was started, which may open only devices that it knew of"
    )]
    DriverCame,
}

impl WatchError {
    /// Stable code, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Start(_) => "AGENT-068",
            Self::DriverCame => "AGENT-069",
        }
    }

    /// The next thing to try.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Start(_) => "`journalctl -u kdc-gpu`; `TasksMax` of the unit",
            Self::DriverCame => "nothing: systemd starts the unit again, with the driver's devices",
        }
    }
}

impl From<&WatchError> for Failure {
    fn from(error: &WatchError) -> Self {
        Self::from_error(error.code(), error, Some(error.hint().to_owned()))
    }
}

/// Watch until SIGTERM or SIGINT, or until it is clear that there is no GPU.
///
/// # Errors
/// When there are no signals or threads to be had, or the driver came later than this process.
pub fn run(options: &Options) -> Result<(), WatchError> {
    let stop = crate::run::stop_on_signals()?;
    let watch = Watch::begin(options, stop)?;
    let ended = watch.go_on();
    // What nobody keeps up to date would be taken for what is.
    let _gone = fs_err::remove_file(&options.document);
    ended
}

struct Watch {
    options: Options,
    stop: Arc<AtomicBool>,
    state: State,
    ears: Ears,
    asking: Asking,
    told: annotate::Wanted,
    news: mpsc::Receiver<News>,
    begun: Instant,
    /// What was counted, as it is on the disk.
    kept: XidLog,
    surveyed: bool,
    /// When a survey was asked for last.
    asked: Instant,
    wants_survey: bool,
    written: Option<Instant>,
    /// The driver had no devices when this process began.
    began_without_driver: bool,
}

impl Watch {
    fn begin(options: &Options, stop: Arc<AtomicBool>) -> Result<Self, WatchError> {
        let settings = options.settings();
        let boot = node::boot_id(&settings.look);
        let (table, bad_table) = match XidTable::with_site(&options.table) {
            Ok(table) => (table, None),
            Err(error) => {
                let why = std::error::Error::source(&error).map(|why| format!(": {why}"));
                let why = why.unwrap_or_default();
                let what = format!("error[{}]: {error}{why}; kdc's own table holds", error.code());
                (XidTable::builtin(), Some(what))
            }
        };
        let kept = XidLog::load(&options.counted, &boot);
        let report = Surveyor::only_bus(&settings.look, "the first survey is under way");
        let mut state = State::new(&boot, table, report, kept.clone());
        state.warn("table", bad_table);
        let began_without_driver = !looking::has_driver(&settings.look);
        let every = Duration::from_millis(options.every_ms);
        let surveys = Duration::from_millis(options.survey_ms);
        let (asking, news) = Asking::begin(&settings, every, surveys)?;
        Ok(Self {
            ears: Ears::new(&options.kernel_log),
            options: options.clone(),
            stop,
            state,
            asking,
            told: annotate::begin(options.credentials())?,
            news,
            begun: Instant::now(),
            kept,
            surveyed: false,
            asked: Instant::now(),
            wants_survey: false,
            written: None,
            began_without_driver,
        })
    }

    fn go_on(mut self) -> Result<(), WatchError> {
        self.listen();
        self.publish();
        notify(&[NotifyState::Ready]);
        while !self.stop.load(Ordering::Relaxed) {
            let fresh = match self.news.recv_timeout(TURN) {
                Ok(news) => self.take(news),
                Err(mpsc::RecvTimeoutError::Timeout) => false,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(WatchError::Start(std::io::Error::other("a thread died")));
                }
            };
            let heard = self.listen();
            if self.surveyed && !self.state.has_gpus() {
                notify(&[NotifyState::Status("no NVIDIA GPU on this node")]);
                tracing::info!("no NVIDIA GPU on this node: nothing to watch");
                return Ok(());
            }
            self.look_for_driver()?;
            self.keep();
            let old = self.written.is_none_or(|written| written.elapsed() >= ANEW_AFTER);
            if fresh || heard || old {
                self.publish();
            }
            self.ask_anew();
            notify(&[NotifyState::Watchdog]);
        }
        notify(&[NotifyState::Stopping]);
        Ok(())
    }

    /// Take in what a thread saw; says whether the document is another now.
    fn take(&mut self, news: News) -> bool {
        let now = since_boot();
        match news {
            News::Surveyed(report) => {
                if !report.library.answered() && report.library != *self.state.library() {
                    tracing::warn!("NVML {}", report.library.in_words());
                }
                self.state.survey(*report, now);
                self.surveyed = true;
            }
            News::Round(round) => {
                self.wants_survey |= self.state.sample(round, now) == Next::Survey;
            }
            News::Xid(xid) => {
                if let Some(what) = self.state.event(&xid, self.begun.elapsed(), now) {
                    tracing::warn!("{what}");
                    self.wants_survey = true;
                }
            }
            News::Down { library, again } => {
                let seconds = again.as_secs();
                tracing::warn!(seconds, "NVML {}; it is asked again", library.in_words());
                self.state.down();
            }
        }
        true
    }

    /// Read on in the kernel's log; says whether there was something about a GPU.
    fn listen(&mut self) -> bool {
        let (received, state) = (self.begun.elapsed(), &mut self.state);
        let seen = state.xids().sequence();
        let mut heard = false;
        let warning = self.ears.read(seen, |record, live| {
            if let Some(what) = state.line(record, received, live) {
                heard = true;
                tracing::warn!("{what}");
            }
        });
        self.state.warn("kernel log", warning);
        self.wants_survey |= heard && self.surveyed;
        heard
    }

    /// Keep what was counted, where it is another than what is kept.
    fn keep(&mut self) {
        if self.state.xids().says_the_same(&self.kept) {
            return;
        }
        let saved = self.state.xids().save(&self.options.counted);
        if let Err(error) = &saved {
            tracing::warn!(%error, "what was counted can't be kept");
        } else {
            self.kept = self.state.xids().clone();
        }
        let why = saved.err().map(|error| format!("what was counted can't be kept: {error}"));
        self.state.warn("counted", why);
    }

    fn publish(&mut self) {
        let document = self.state.document(since_boot(), facts::now_unix_ms());
        let written = serde_json::to_vec(&document)
            .map_err(std::io::Error::other)
            .and_then(|bytes| replace(&self.options.document, &bytes));
        // Where it can't be written the old one grows stale, and its readers say so.
        if let Err(error) = written {
            tracing::error!(%error, "the GPUs can't be published");
        }
        self.written = Some(Instant::now());
        notify(&[NotifyState::Status(&status(&document))]);
        if self.surveyed {
            let health = annotate::health_of(&document.node);
            self.told.send_if_modified(|told| {
                let other = told.as_ref() != Some(&health);
                *told = Some(health);
                other
            });
        }
    }

    fn ask_anew(&mut self) {
        if self.wants_survey && self.asked.elapsed() >= SURVEYS_APART {
            (self.wants_survey, self.asked) = (false, Instant::now());
            self.asking.survey_now();
        }
    }

    /// A unit may open only what was there when systemd started it.
    fn look_for_driver(&self) -> Result<(), WatchError> {
        let under_systemd = std::env::var_os("INVOCATION_ID").is_some();
        let came = under_systemd
            && self.began_without_driver
            && looking::has_driver(&facts::Look::at(&self.options.root));
        if came { Err(WatchError::DriverCame) } else { Ok(()) }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(cause) = sd_notify::notify(states) {
        tracing::debug!(%cause, "no service manager to notify");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_watched_restarted_and_reads_the_kernels_log_alone() {
        for line in [
            "Type=notify",
            "ExecStart=/usr/local/bin/kdc-agent gpu-watch",
            "Restart=on-failure",
            "RemainAfterExit=yes",
            "WatchdogSec=60",
            "CapabilityBoundingSet=CAP_SYSLOG",
            "DeviceAllow=/dev/kmsg r",
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
        ] {
            assert!(unit().lines().any(|found| found == line), "{line}");
        }
    }
}
