//! `kdc-control.service`, on control planes only: what concerns the whole cluster and needs its API server.
//!
//! It judges how the licence stands ([`license`]), keeps HAMi's settings as the cluster file wants them, and proves that they
//! are in force ([`crate::gpu::hami`] says what they are). Every control plane runs one; the holder of a Kubernetes Lease writes ([`lease`]), the others wait.
//! The node daemon stays small and knows nothing of Kubernetes. The unit runs as a user of its own with no right on
//! the host, and acts as the Kubernetes user [`USER`], whose rights are in [`wanted`].

pub mod api;
mod audit;
mod conclude;
mod error;
mod kubeconfig;
mod lease;
mod leave;
pub mod license;
mod node;
pub mod progress;
pub mod report;
mod rights;
mod round;
pub mod settings;
mod sight;
pub mod status;
mod time;
mod wanted;
mod watch;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use self::{
    api::ApiServer,
    lease::Candidate,
    license::{LicenseMemory, license_round},
    progress::Patience,
    round::{Memory, Told, round},
    sight::Sight,
    watch::View,
};
pub use self::{
    api::USER,
    error::{ApiCause, ControlError},
    lease::LEASE,
    rights::manifests,
    round::OWNED_ANNOTATION,
    settings::Settings,
    wanted::{NAMESPACE, WANTED_KEY, WANTED_MAP, Wanted},
};

/// Name of the unit.
pub const UNIT_NAME: &str = "kdc-control.service";
/// Changes come in flocks: the shortest pause between two rounds.
const SETTLE: Duration = Duration::from_millis(200);
/// All is listed anew after this long, whatever was told meanwhile.
const RESYNC: Duration = Duration::from_secs(600);
/// Credentials of a control plane.
const ADMIN_CONF: &str = "/etc/kubernetes/admin.conf";

/// The unit's text.
#[must_use]
pub fn unit() -> &'static str {
    include_str!("kdc-control.service")
}

/// Where and how patiently to work.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Credentials for the API server [default: what the unit was handed, or /etc/kubernetes/admin.conf].
    #[arg(long, value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,
    /// Hand audit entries over on standard output, which the unit leads into the spool.
    #[arg(long, hide = true)]
    pub audit: bool,
    /// Namespace of HAMi.
    #[arg(long, default_value = NAMESPACE, hide = true)]
    pub namespace: String,
    /// How long the lease holds.
    #[arg(long, default_value_t = 15, hide = true)]
    pub lease_secs: u64,
    /// Longest pause between two rounds; where the API server lets nobody watch, all is listed as often.
    #[arg(long, default_value_t = 15_000, hide = true)]
    pub period_ms: u64,
    /// End when nothing is wanted and nothing of kdc's is left; fail after this many seconds.
    #[arg(long, value_name = "SECONDS", hide = true)]
    pub withdraw_secs: Option<u64>,
    /// Longest wait for a restarted plugin to be Ready.
    #[arg(long, default_value_t = 300, hide = true)]
    pub ready_secs: u64,
    /// Longest wait for what it says.
    #[arg(long, default_value_t = 120, hide = true)]
    pub verify_secs: u64,
    /// Most repairs of one node an hour.
    #[arg(long, default_value_t = 3, hide = true)]
    pub repairs_an_hour: usize,
    /// Name of this boot: time goes on within one.
    #[arg(long, default_value = "", hide = true)]
    pub boot_id: String,
}

impl Options {
    fn kubeconfig(&self) -> PathBuf {
        let handed =
            || Some(PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join("admin.conf"));
        self.kubeconfig.clone().or_else(handed).unwrap_or_else(|| ADMIN_CONF.into())
    }

    fn patience(&self) -> Patience {
        Patience {
            ready_secs: self.ready_secs,
            verify_secs: self.verify_secs,
            repairs_an_hour: self.repairs_an_hour,
        }
    }
}

/// Run until SIGTERM or SIGINT. A failed round is told and tried again.
///
/// # Errors
/// When there are no credentials, or they do not count any more (systemd then hands over fresh ones), or signals can't
/// be listened to; when something is left of what was to be withdrawn.
pub async fn run(options: &Options) -> Result<(), ControlError> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let api = ApiServer::with(&options.kubeconfig(), &options.namespace, Some(USER)).await?;
    let host = nix::unistd::gethostname().unwrap_or_default();
    let me = format!("{}_{}_{:016x}", host.display(), std::process::id(), rand::random::<u64>());
    let mut candidate = Candidate::new(me, Duration::from_secs(options.lease_secs.max(1)));
    let mut watch = Watch::default();
    let renew = Duration::from_millis(options.lease_secs * 1000 / 5);
    let renew = renew.max(Duration::from_millis(100));
    let (began, mut stood) = (Instant::now(), None::<Instant>);
    let ended = loop {
        let fresh = stood.is_some_and(|at| at.elapsed() < renew);
        let leading = match candidate.leads(Instant::now()) {
            true if fresh => true,
            _ => {
                stood = Some(Instant::now());
                stand(&mut candidate, &api).await?
            }
        };
        watch.turn(&api, options, &candidate, leading).await?;
        notify(&candidate, leading, &watch.told);
        match options.withdraw_secs {
            Some(_) if watch.told.withdrawn => break Ok(()),
            Some(seconds) if began.elapsed().as_secs() >= seconds => {
                let words = std::mem::take(&mut watch.told.words);
                break Err(ControlError::NotWithdrawn { seconds, words });
            }
            Some(_) | None => {}
        }
        tokio::select! {
            () = tokio::time::sleep(renew.min(watch.pause(options))) => {}
            () = watch.changed() => {}
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
        }
    };
    candidate.give_up(&api).await;
    ended
}

/// What a leader sees, and when it looked.
#[derive(Default)]
struct Watch {
    view: Option<View>,
    memory: Memory,
    license: LicenseMemory,
    looked: Option<Instant>,
    /// Something is another than at the last look.
    woken: bool,
    told: Told,
}

impl Watch {
    /// A round, if one is due.
    async fn turn(
        &mut self,
        api: &ApiServer,
        options: &Options,
        candidate: &Candidate,
        leading: bool,
    ) -> Result<(), ControlError> {
        if !leading {
            *self = Self::default();
            return Ok(());
        }
        let period = Duration::from_millis(options.period_ms);
        if self.view.as_ref().is_none_or(|view| view.age() >= RESYNC) {
            (self.view, self.memory) = (Some(View::open(api)), Memory::default());
        }
        let Some(view) = &self.view else { return Ok(()) };
        if self.looked.is_some_and(|at| at.elapsed() < self.pause(options)) {
            return Ok(());
        }
        let sight = match view.sight() {
            Some(sight) => Ok(sight),
            // The first lists are on their way.
            None if view.age() < period => return Ok(()),
            None if self.looked.is_some_and(|at| at.elapsed() < period) => return Ok(()),
            None => Sight::list(api).await,
        };
        (self.woken, self.looked) = (false, Some(Instant::now()));
        self.told = match sight {
            Ok(sight) => {
                let license = self.judge_license(api, &sight, options, candidate).await?;
                let mut told = act(api, sight, options, &mut self.memory, candidate).await?;
                told.words = [license, told.words].join("; ").trim_start_matches("; ").to_owned();
                told
            }
            Err(error) => failed(error)?,
        };
        Ok(())
    }

    /// How the licence stands. Where that fails the rest goes on.
    async fn judge_license(
        &mut self,
        api: &ApiServer,
        sight: &Sight,
        options: &Options,
        candidate: &Candidate,
    ) -> Result<String, ControlError> {
        if options.withdraw_secs.is_some() {
            return Ok(String::new());
        }
        let may_write = || candidate.leads(Instant::now());
        let how = (options.boot_id.as_str(), Duration::from_millis(options.period_ms));
        match license_round(api, sight, how, &mut self.license, &may_write).await {
            Ok(words) => Ok(words),
            Err(error) => failed(error).map(|told| format!("licence: {}", told.words)),
        }
    }

    /// Soon again after a change, and while something is being changed.
    fn pause(&self, options: &Options) -> Duration {
        let period = Duration::from_millis(options.period_ms.max(50));
        match () {
            () if self.woken => period.min(SETTLE),
            () if self.told.busy => period / 5,
            () => period,
        }
    }

    /// Comes back when something is another than it was, once; never where nobody looks.
    async fn changed(&mut self) {
        match &self.view {
            Some(view) if !self.woken => view.changed().await,
            Some(_) | None => std::future::pending().await,
        }
        self.woken = true;
    }
}

async fn stand(candidate: &mut Candidate, api: &ApiServer) -> Result<bool, ControlError> {
    let was = candidate.leads(Instant::now());
    if let Err(error) = candidate.stand(api, Instant::now()).await {
        if error.is_unauthorized() {
            return Err(error);
        }
        tell(&error);
    }
    let leading = candidate.leads(Instant::now());
    if leading != was {
        tracing::info!(leading, holder = candidate.holder(), "the lease");
    }
    Ok(leading)
}

async fn act(
    api: &ApiServer,
    sight: Sight,
    options: &Options,
    memory: &mut Memory,
    candidate: &Candidate,
) -> Result<Told, ControlError> {
    let may_write = || candidate.leads(Instant::now());
    if options.withdraw_secs.is_none()
        && let Err(error) =
            audit::keep_heads(api, &sight.nodes, &mut memory.heads, &may_write).await
    {
        // The rest goes on.
        failed(error)?;
    }
    match round(api, sight, &options.patience(), memory, &may_write).await {
        Ok(told) => Ok(told),
        Err(error) => failed(error),
    }
}

/// What became of a round that failed; credentials that do not count end it all.
fn failed(error: ControlError) -> Result<Told, ControlError> {
    if error.is_unauthorized() {
        return Err(error);
    }
    if error.is_conflict() {
        tracing::debug!(%error, "somebody else wrote in between; it is looked at anew");
        return Ok(Told { busy: true, words: "looking anew".to_owned(), ..Told::default() });
    }
    tell(&error);
    Ok(Told { words: format!("error[{}]: {error}", error.code()), ..Told::default() })
}

fn tell(error: &ControlError) {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::warn!(
        code = error.code(),
        hint = error.hint().unwrap_or_default(),
        "{error}: {cause}"
    );
}

fn notify(candidate: &Candidate, leading: bool, told: &Told) {
    use sd_notify::NotifyState;
    let status =
        if leading { told.words.clone() } else { format!("waiting; {} leads", candidate.holder()) };
    let states = [NotifyState::Ready, NotifyState::Watchdog, NotifyState::Status(status.as_str())];
    if let Err(cause) = sd_notify::notify(&states) {
        tracing::debug!(%cause, "no service manager to notify");
    }
}
