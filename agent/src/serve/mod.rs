//! The request loop: what the installer asks over the SSH channel's stdio (see [`crate::wire`]).
//!
//! The agent greets first. Requests are answered as they are done, in any order: following a run
//! goes on while others are asked. Looking (`Hello`, `Facts`, `Survey`, `Runs`, `Attach`) writes
//! nothing, not even a directory; everything that changes the node asks for the hold first. When
//! the installer goes away the session ends, and the hold with it; runs go on, they are units.

mod audit;
mod control;
mod depart;
mod error;
mod hold;
mod license;
mod prune;
pub mod registry;
mod runs;
mod tail;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use kdc_bundles::index::Digest;
use kdc_profiles::cidr::Cidr;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{
        Semaphore,
        mpsc::{self, Sender},
    },
};

#[cfg(test)]
pub(crate) use self::runs::attach;
pub use self::{error::ServeError, hold::Hold};
use crate::{
    accept,
    audit::Log,
    facts::{self, Facts, Look, Ours, Ownership},
    host::{Host, SystemHost},
    run,
    step::{BlobSource, NodePlan},
    store::{
        EmptyShelf, Shelf, Store, StoreError,
        peer::{self, Folder},
    },
    traffic,
    wire::{
        Failure, Hello, Message, PROTOCOL, Reply, Request, RequestBody,
        frame::{self, FrameError, FrameReader},
    },
};

/// Answers that may wait for a slow link.
const WAITING_MESSAGES: usize = 256;

/// Requests worked on at once; the next one waits in the pipe. An installer has a handful under way.
const MOST_REQUESTS: usize = 32;

/// Where things are on this node.
#[derive(Debug, Clone)]
pub struct Places {
    /// Runs.
    pub runs: PathBuf,
    /// Gone at reboot.
    pub volatile: PathBuf,
    /// The agent to start units with.
    pub agent: PathBuf,
    /// What sharing with other nodes keeps.
    pub share: Folder,
    /// The audit log.
    pub audit: Log,
}

impl Places {
    /// Those of a real node.
    #[must_use]
    pub fn system() -> Self {
        let installed = PathBuf::from("/usr/local/bin/kdc-agent");
        let agent = std::env::current_exe().ok().filter(|path| path.is_file()).unwrap_or(installed);
        let (runs, volatile) = (run::RUNS_DIR.into(), "/run/kdc".into());
        Self { runs, volatile, agent, share: Folder::system(), audit: Log::system() }
    }
}

/// What the requests of one session share.
struct Session {
    host: SystemHost,
    places: Places,
    store: Store,
    hold: Mutex<Option<Hold>>,
    /// What the installer said of its operator.
    operator: Mutex<String>,
    shelf: Mutex<Option<Shelf>>,
    root: bool,
}

/// Greet, then answer until the installer goes away.
///
/// # Errors
/// When the stream fails or brings something that is not a request.
pub async fn serve<R, W>(input: R, output: W) -> Result<(), FrameError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let root = nix::unistd::geteuid().is_root();
    let session = Arc::new(Session {
        host: SystemHost::new(),
        places: Places::system(),
        store: Store::system(),
        hold: Mutex::new(None),
        operator: Mutex::new(String::new()),
        shelf: Mutex::new(None),
        root,
    });
    let (replies, queue) = mpsc::channel::<Message>(WAITING_MESSAGES);
    let mut output = output;
    let hello = Hello {
        oldest: PROTOCOL.0,
        newest: PROTOCOL.1,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        root,
    };
    frame::write(&mut output, &hello).await?;
    let writer = tokio::spawn(write_all(output, queue));
    let mut requests = FrameReader::new(input);
    let places = Arc::new(Semaphore::new(MOST_REQUESTS));
    let ended = loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("never closed");
        match requests.next::<Request>().await {
            Ok(Some(request)) => {
                let (session, replies) = (Arc::clone(&session), replies.clone());
                tokio::spawn(async move {
                    let _place = place;
                    let result = answer(&session, request.body, &replies).await;
                    // The other side may be gone; then nobody waits for this.
                    let _ = replies.send(Message::Reply { id: request.id, result }).await;
                });
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
        if writer.is_finished() {
            break Ok(());
        }
    };
    drop(lock(&session.hold).take());
    ended
}

async fn write_all<W: AsyncWrite + Unpin>(mut output: W, mut queue: mpsc::Receiver<Message>) {
    while let Some(message) = queue.recv().await {
        if let Err(error) = frame::write(&mut output, &message).await {
            tracing::debug!(%error, "the installer went away");
            return;
        }
    }
}

/// A poisoned lock means that another request panicked; its half-made state is only an `Option`.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

async fn answer(
    session: &Arc<Session>,
    body: RequestBody,
    events: &Sender<Message>,
) -> Result<Reply, Failure> {
    match body {
        // Fast enough to be answered without a thread.
        RequestBody::Facts => Ok(Reply::Facts(Box::new(node_facts(&session.places)))),
        RequestBody::Attach { run, after } => {
            Ok(runs::attach(&session.places, &run, after, events).await?)
        }
        other => {
            let session = Arc::clone(session);
            let (sender, receiver) = tokio::sync::oneshot::channel();
            // A thread of its own, not the runtime's pool, so that a session that ends does not
            // wait for a program that hangs.
            std::thread::spawn(move || sender.send(answer_blocking(&session, other)));
            receiver.await.unwrap_or_else(|_| Err(ServeError::Internal.into()))
        }
    }
}

fn answer_blocking(session: &Session, body: RequestBody) -> Result<Reply, Failure> {
    let (host, places): (&dyn Host, _) = (&session.host, &session.places);
    match body {
        RequestBody::Survey { steps, index } => {
            // An index that was never kept, as on a fresh node: there is no content to look into.
            let shelf = index.and_then(|index| session.store.shelf(&index).ok());
            let blobs: &dyn BlobSource = shelf.as_ref().map_or(&EmptyShelf, |shelf| shelf);
            Ok(Reply::Survey { steps: run::survey(&steps, host, blobs) })
        }
        RequestBody::Runs => {
            Ok(Reply::Runs { runs: run::list(&places.runs).map_err(ServeError::from)? })
        }
        RequestBody::Hold { holder, cluster } => take_hold(session, &holder, &cluster),
        RequestBody::Kubeconfig => {
            session.must_be_root()?;
            let reply = control::kubeconfig(host)?;
            audit::kubeconfig_read(session);
            Ok(reply)
        }
        RequestBody::Acceptance => {
            session.must_be_root()?;
            Ok(Reply::Acceptance { record: accept::recorded(host)?.map(Box::new) })
        }
        RequestBody::GpuSharing => {
            session.must_be_root()?;
            control::gpu_sharing(host)
        }
        RequestBody::LicenseStanding { file, enrolled } => {
            session.must_be_root()?;
            license::standing(host, file.as_deref(), &enrolled)
        }
        RequestBody::License => {
            session.must_be_root()?;
            license::report(host, session.who())
        }
        RequestBody::Audit { node, heads } => {
            session.must_be_root()?;
            audit::read(session, &node, heads)
        }
        RequestBody::PlanShown(plan) => {
            session.must_be_root()?;
            Ok(audit::plan_shown(session, &plan))
        }
        RequestBody::OutsideTraffic { node, inside, pods } => {
            session.must_be_root()?;
            outside_traffic(host, node, &inside, &pods)
        }
        changing => {
            session.must_hold()?;
            change(session, changing)
        }
    }
}

/// Requests that change the node.
fn change(session: &Session, body: RequestBody) -> Result<Reply, Failure> {
    let (host, places): (&dyn Host, _) = (&session.host, &session.places);
    match body {
        RequestBody::OfferIndex { index, signature, keys } => {
            let shelf = session.store.keep_index(&index, &signature, &keys)?;
            audit::bundle_trusted(session, shelf.digest())?;
            *lock(&session.shelf) = Some(shelf);
            Ok(Reply::Done)
        }
        RequestBody::Missing { blobs } => {
            let shelf = lock(&session.shelf).clone().ok_or(StoreError::NoIndex)?;
            Ok(Reply::Missing { blobs: shelf.missing(&blobs)? })
        }
        RequestBody::Share { blobs } => share(session, &blobs),
        RequestBody::Peers { peers } => {
            peer::introduce(&places.share, &peers)?;
            Ok(Reply::Done)
        }
        RequestBody::Unshare => {
            peer::leave(host)?;
            Ok(Reply::Done)
        }
        RequestBody::StartRun { run, plan } => {
            Ok(runs::start(host, places, &session.who(), &run, &plan)?)
        }
        RequestBody::Provide { run, name, value } => {
            Ok(runs::provide(host, places, &run, &name, &value)?)
        }
        RequestBody::Accept { image, subject, timeout_secs, elsewhere } => {
            let asked = accept::Asked { image, subject, timeout_secs, elsewhere };
            Ok(Reply::Accepted { proofs: accept::accept(host, &asked)? })
        }
        RequestBody::InstallLicense { file } => license::install(host, session.who(), &file),
        RequestBody::RemoveLicense { license: id } => {
            license::remove(host, session.who(), id.as_deref())
        }
        RequestBody::MintJoin { ttl_secs } => audit::mint_join(session, ttl_secs),
        RequestBody::Prune { dry_run } => audit::prune(session, dry_run),
        RequestBody::Undo => Ok(runs::start_undo(host, places, &session.who())?),
        RequestBody::Depart => {
            let reply = depart::depart(host, places)?;
            // Its file went with /run/kdc; dropping it now finds nothing to remove.
            drop(lock(&session.hold).take());
            Ok(reply)
        }
        RequestBody::Facts
        | RequestBody::Survey { .. }
        | RequestBody::Hold { .. }
        | RequestBody::Attach { .. }
        | RequestBody::Runs
        | RequestBody::Kubeconfig
        | RequestBody::GpuSharing
        | RequestBody::License
        | RequestBody::LicenseStanding { .. }
        | RequestBody::Audit { .. }
        | RequestBody::PlanShown(_)
        | RequestBody::OutsideTraffic { .. }
        | RequestBody::Acceptance => Err(ServeError::Internal.into()),
    }
}

fn take_hold(session: &Session, holder: &str, cluster: &str) -> Result<Reply, Failure> {
    session.must_be_root()?;
    let mut hold = lock(&session.hold);
    if hold.is_none() {
        *hold = Some(Hold::take(&session.places.volatile, holder, cluster)?);
        holder.clone_into(&mut lock(&session.operator));
    }
    Ok(Reply::Done)
}

fn share(session: &Session, blobs: &[Digest]) -> Result<Reply, Failure> {
    let shelf = lock(&session.shelf).clone().ok_or(StoreError::NoIndex)?;
    if let Some(unknown) = blobs.iter().find(|blob| shelf.index().blob(blob).is_none()) {
        return Err(StoreError::UnknownBlob { blob: unknown.clone() }.into());
    }
    let Places { agent, share, .. } = &session.places;
    let (port, certificate) = peer::begin(&session.host, share, agent, shelf.digest(), blobs)?;
    Ok(Reply::Sharing { port, certificate })
}

fn outside_traffic(
    host: &dyn Host,
    node: String,
    inside: &[String],
    pods: &[String],
) -> Result<Reply, Failure> {
    let ranges = |texts: &[String]| {
        let range = |text: &String| {
            text.parse::<Cidr>().map_err(|cause| ServeError::Range { reason: cause.to_string() })
        };
        texts.iter().map(range).collect::<Result<Vec<_>, _>>()
    };
    let asked = traffic::Asked { node, inside: ranges(inside)?, pods: ranges(pods)? };
    Ok(Reply::OutsideTraffic { proof: traffic::prove(host, &asked, &facts::own_addresses()) })
}

impl Session {
    fn must_be_root(&self) -> Result<(), ServeError> {
        if self.root { Ok(()) } else { Err(ServeError::NotRoot) }
    }

    fn must_hold(&self) -> Result<(), ServeError> {
        if lock(&self.hold).is_some() { Ok(()) } else { Err(ServeError::NotHeld) }
    }
}

/// The facts of this node, with what is ours by receipt told apart from what is foreign.
#[must_use]
pub fn node_facts(places: &Places) -> Facts {
    let (ownership, ours) = receipt(places).unwrap_or_else(|error| {
        // A receipt that can't be read is no licence to call our own software foreign or not.
        tracing::warn!(%error, "the receipt can't be read");
        let runs = vec![format!("unreadable: {error}")];
        (Ownership { cluster: None, runs, components: BTreeSet::new() }, Ours::default())
    });
    facts::collect(&Look::machine(), ownership, &ours)
}

fn receipt(places: &Places) -> Result<(Ownership, Ours), run::RunError> {
    let runs = run::in_force(&places.runs)?;
    let plans = runs
        .iter()
        .map(|summary| run::load_plan(&places.runs.join(&summary.run)))
        .collect::<Result<Vec<_>, _>>()?;
    let ownership = Ownership {
        cluster: runs.last().map(|summary| summary.cluster.clone()),
        runs: runs.into_iter().map(|summary| summary.run).collect(),
        components: plans.iter().flat_map(NodePlan::components).collect(),
    };
    Ok((ownership, Ours::of(&plans)))
}

#[cfg(test)]
mod tests;
