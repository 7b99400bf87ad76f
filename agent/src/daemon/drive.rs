//! The driver: carries out what [`super::state`] decides, and tells it how it came out.
//!
//! One loop, by the monotonic clock. Parts that are settled by reading a few files are settled in it;
//! what runs a program or reads a whole tree is done by a helper thread, whose word comes back as an
//! event. The watchdog is fed by a turn of the loop and by nothing else.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use super::{
    DaemonError,
    config::{self, Settings},
    events::Events,
    healing::Healing,
    license::Rounds,
    records::Records,
    registry::Keeper,
    settle::{self, Look, Routes},
    state::{self, Effect, Event, Notice, Part, State},
};
use crate::{
    api::{Shown, collect::Sampler, gpus::Gpus, labels::Labeler, own::Figures, server},
    background::Background,
    heal::watch::Round,
    host::SystemHost,
    store::peer::Standing,
    wire::Failure,
};

/// The loop turns at least this often.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Words to the watchdog within the time that it waits.
const FEEDS: u32 = 4;

/// A sample that is older than this, and so many intervals, is none.
const STALE_SAMPLE: Duration = Duration::from_secs(10);

/// A look at file systems that waits longer than this hangs.
const ROOMS_HANG: Duration = Duration::from_secs(30);

/// How a part came out.
type Outcome = Result<Option<String>, String>;

struct Driver {
    host: SystemHost,
    config_dir: PathBuf,
    agent: String,
    settings: Settings,
    state: State,
    begun: Instant,
    news: mpsc::UnboundedSender<Event>,
    images: Keeper,
    sharing: Standing,
    routes: Routes,
    sampler: Sampler,
    records: Arc<Records>,
    healing: Arc<Mutex<Healing>>,
    license: Rounds,
    labels: Labeler,
    shown: Shown,
    api: Option<(Settings, Background)>,
    /// Between two words to the watchdog; none where nobody watches.
    feed_every: Option<Duration>,
    fed: Option<Instant>,
    ended: bool,
}

/// Run until SIGTERM or SIGINT; SIGHUP has the configuration read again.
pub(super) async fn run(config_dir: &Path, gpus: &Path) -> Result<(), DaemonError> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut ends = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (news, mut coming) = mpsc::unbounded_channel();
    let mut driver = Driver::new(config_dir, gpus, news)?;
    driver.shown.events.push("started", format!("kdc-agent {}", env!("CARGO_PKG_VERSION")), &[]);
    driver.load_configuration();
    while let Ok(event) = coming.try_recv() {
        driver.turn(event);
    }
    while !driver.ended {
        driver.turn(Event::Woke);
        let event = driver.wait(&mut coming, &mut hangup, &mut ends).await;
        if let Some(event) = event {
            driver.turn(event);
        }
    }
    driver.api = None;
    driver.images.stop(&driver.host)
}

impl Driver {
    fn new(
        config_dir: &Path,
        gpus: &Path,
        news: mpsc::UnboundedSender<Event>,
    ) -> Result<Self, DaemonError> {
        let settings = Settings::default();
        let sampler = Sampler::start(Path::new("/"), settings.interval)?;
        let figures = Arc::new(Figures::default());
        let gpus = Gpus::at(gpus.to_owned());
        let shown = Shown::new(sampler.samples(), Events::default(), Arc::clone(&figures), gpus);
        let agent = std::env::current_exe()?.to_string_lossy().into_owned();
        Ok(Self {
            host: SystemHost::new(),
            config_dir: config_dir.to_owned(),
            agent,
            settings,
            state: State::default(),
            begun: Instant::now(),
            news,
            images: Keeper::system(figures.pulls.clone()),
            sharing: Standing::system(),
            routes: Routes::default(),
            sampler,
            records: Arc::default(),
            healing: Arc::default(),
            license: Rounds::default(),
            labels: Labeler::system(),
            shown,
            api: None,
            feed_every: sd_notify::watchdog_enabled().map(|within| within / FEEDS),
            fed: None,
            ended: false,
        })
    }

    /// Wait for the next event; none where it is merely time.
    async fn wait(
        &self,
        coming: &mut mpsc::UnboundedReceiver<Event>,
        hangup: &mut Signal,
        ends: &mut (Signal, Signal),
    ) -> Option<Event> {
        let due = self.state.next_due().unwrap_or(LONGEST_PAUSE);
        let pause = due.saturating_sub(self.begun.elapsed()).min(LONGEST_PAUSE);
        tokio::select! {
            () = tokio::time::sleep(pause) => None,
            event = coming.recv() => event,
            _ = hangup.recv() => Some(Event::Reload),
            _ = ends.0.recv() => Some(Event::Stop),
            _ = ends.1.recv() => Some(Event::Stop),
        }
    }

    /// One event, and all that follows from it at once.
    fn turn(&mut self, event: Event) {
        self.shown.figures.watch.look_at_clock(&self.shown.events);
        self.license.turn(&self.agent);
        let mut waiting = VecDeque::from([event]);
        while let Some(event) = waiting.pop_front() {
            if let Event::Failed(Part::Routes, ..) = event {
                // What failed may be the rule, which a look does not see.
                self.routes.look_anew();
            }
            let (state, effects) =
                state::next(std::mem::take(&mut self.state), &event, self.begun.elapsed());
            self.state = state;
            for effect in effects {
                waiting.extend(self.carry_out(effect));
            }
        }
        self.shown.set_state(&self.state);
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Settle(part) => return self.settle(part).map(|how| told(part, how)),
            Effect::LoadConfiguration => self.load_configuration(),
            Effect::Tell(notice) => self.tell(notice),
            Effect::Feed => self.feed(),
            Effect::Note(kind, reason, part) => match part {
                Some(part) => self.shown.events.push(kind, reason, &[("part", &part)]),
                None => self.shown.events.push(kind, reason, &[]),
            },
            Effect::End => self.ended = true,
        }
        None
    }

    fn tell(&self, notice: Notice) {
        let status = self.state.in_words();
        let status = NotifyState::Status(status.as_str());
        let states: &[NotifyState<'_>] = match notice {
            Notice::Status => &[status],
            Notice::Ready => &[NotifyState::Ready, status],
            // systemd 253 wants to know when it began; older ones leave the word aside.
            Notice::Reloading => match NotifyState::monotonic_usec_now() {
                Ok(now) => &[NotifyState::Reloading, now, status],
                Err(_) => &[NotifyState::Reloading, status],
            },
            Notice::Stopping => &[NotifyState::Stopping, status],
        };
        notify(states);
    }

    fn feed(&mut self) {
        let Some(every) = self.feed_every else { return };
        if self.fed.is_none_or(|fed| fed.elapsed() >= every) {
            self.fed = Some(Instant::now());
            notify(&[NotifyState::Watchdog]);
        }
    }

    /// Take the new settings, or stay with the old ones; either is said as an event.
    fn load_configuration(&mut self) {
        let event = match config::load(&self.config_dir) {
            Ok(settings) => {
                self.sampler.set_interval(settings.interval);
                self.shown.events.keep(settings.events_kept);
                if settings.tls.is_some() {
                    // Its files may have changed.
                    self.api = None;
                }
                self.settings = settings;
                Event::Configured
            }
            Err(error) => {
                tracing::error!(code = error.code(), hint = error.hint(), "{error}");
                Event::Misconfigured(format!("error[{}]: {error}", error.code()))
            }
        };
        self.routes.look_anew();
        self.shown.figures.watch.look_anew();
        lock(&self.healing).look_anew();
        self.license.look_anew();
        // The receiver lives as long as the loop.
        let _heard = self.news.send(event);
    }

    /// Settle a part; nothing where its word comes later.
    fn settle(&mut self, part: Part) -> Option<Outcome> {
        Some(match part {
            Part::Images => self.images.settle(&self.host).map_err(|error| words(&error)),
            Part::Sharing => {
                self.sharing.settle().map_err(|error| words(&DaemonError::Sharing(error)))
            }
            Part::Api => self.settle_api(),
            Part::Samples => self.settle_samples(),
            Part::Labels => {
                let settled =
                    self.labels.settle(self.settings.labels, self.shown.gpus.fresh().as_deref());
                settled.map_err(|error| said(error.code(), &error))
            }
            Part::Gpus => self.shown.gpus.settle(&self.shown.events),
            Part::Routes => return self.settle_routes(),
            Part::Watch => {
                self.settle_watch();
                return None;
            }
            Part::Healing => return self.settle_healing(),
            Part::Records => {
                let (records, shown) = (Arc::clone(&self.records), self.shown.clone());
                self.aside(Part::Records, move || records.look(&shown.figures));
                return None;
            }
        })
    }

    fn settle_api(&mut self) -> Outcome {
        let Settings { address, tls, .. } = &self.settings;
        let same = |(settings, service): &(Settings, Background)| {
            settings.address == *address && settings.tls == *tls && service.stands()
        };
        if !self.api.as_ref().is_some_and(same) {
            // The port first, it may be the same.
            self.api = None;
            let service = server::start(&self.shown, &self.agent, *address, tls.as_ref());
            let service = service.map_err(|error| said(error.code(), &error))?;
            self.api = Some((self.settings.clone(), service));
        }
        Ok(Some(format!("API on {address}")))
    }

    fn settle_samples(&self) -> Outcome {
        let samples = self.shown.samples.clone();
        let stale = STALE_SAMPLE.max(self.settings.interval * 3);
        let began = self.begun.elapsed();
        match samples.age() {
            Some(age) if age > stale => {
                return Err(format!("the kernel gave no sample for {} seconds", age.as_secs()));
            }
            None if began > stale => return Err("the kernel never gave a sample".to_owned()),
            _ => {}
        }
        match samples.rooms_wait() {
            Some(wait) if wait > ROOMS_HANG => {
                Err(format!("a local file system doesn't answer since {} seconds", wait.as_secs()))
            }
            _ => Ok(None),
        }
    }

    fn settle_watch(&self) {
        let (shown, agent) = (self.shown.clone(), self.agent.clone());
        let mut thresholds = self.settings.watch.clone();
        let own = self.settings.tls.as_ref();
        thresholds.certificates.extend(own.map(|tls| tls.certificate.display().to_string()));
        self.aside(Part::Watch, move || {
            let Shown { samples, events, figures, .. } = &shown;
            let (agent, board) = (agent.as_str(), &figures.board);
            let thresholds = &thresholds;
            figures.watch.round(&Round { agent, samples, thresholds, events, board })
        });
    }

    fn settle_routes(&mut self) -> Option<Outcome> {
        let figures = &self.shown.figures;
        let kept = |number: usize| format!("{number} routes kept");
        match self.routes.look(&self.host) {
            Err(error) => Some(Err(words(&error))),
            Ok(Look::Nothing) => {
                figures.routes.set(None);
                Some(Ok(None))
            }
            Ok(Look::AsWanted(number)) => {
                figures.routes.set(Some(number as u64));
                Some(Ok(Some(kept(number))))
            }
            Ok(Look::Differs) => {
                self.routes.work_begins();
                let (agent, healing) = (self.agent.clone(), Arc::clone(&self.healing));
                let config = self.config_dir.clone();
                self.aside(Part::Routes, move || {
                    let settled = settle::have_settled(&SystemHost::new(), &agent, &config);
                    let settled = settled.map_err(|error| words(&error))?;
                    if settled.changed > 0 {
                        // It may have been a repair, which is told with a look.
                        lock(&healing).look_anew();
                    }
                    Ok(Some(kept(settled.kept)))
                });
                None
            }
        }
    }

    fn settle_healing(&self) -> Option<Outcome> {
        let errand = match lock(&self.healing).errand(&self.agent, &self.config_dir) {
            Ok(errand) => errand,
            Err(said) => return Some(Ok(said)),
        };
        let (healing, shown) = (Arc::clone(&self.healing), self.shown.clone());
        self.aside(Part::Healing, move || {
            let (board, watched) = (&shown.healing, &shown.figures.board);
            let word = errand.run(&SystemHost::new(), board, watched, &shown.events);
            let word = word.map_err(|error| words(&error))?;
            lock(&healing).hear(&word);
            Ok(word.said)
        });
        None
    }

    /// Have a thread settle a part; its word comes as an event.
    fn aside(&self, part: Part, work: impl FnOnce() -> Outcome + Send + 'static) {
        let news = self.news.clone();
        let working = std::thread::Builder::new().name(part.name().to_owned()).spawn(move || {
            // Nobody hears it where the daemon has ended.
            let _heard = news.send(told(part, work()));
        });
        if let Err(error) = working {
            let _heard = self.news.send(told(part, Err(format!("no thread for it: {error}"))));
        }
    }
}

fn lock(healing: &Mutex<Healing>) -> MutexGuard<'_, Healing> {
    healing.lock().unwrap_or_else(PoisonError::into_inner)
}

fn told(part: Part, outcome: Outcome) -> Event {
    match outcome {
        Ok(said) => Event::Settled(part, said),
        Err(why) => Event::Failed(part, why, rand::random()),
    }
}

fn words(error: &DaemonError) -> String {
    said(error.code(), error)
}

/// Code, error and causes in one line.
fn said(code: &str, error: &dyn std::error::Error) -> String {
    format!("error[{code}]: {}", Failure::from_error(code, error, None).message)
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(cause) = sd_notify::notify(states) {
        tracing::debug!(%cause, "no service manager to notify");
    }
}
