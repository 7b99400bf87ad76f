//! Fetching what this node lacks from the others.
//!
//! Each neighbour is watched for what it has, over one connection, and asked for pieces over a few
//! more; which piece of whom, the [`Picker`] says. A thread proves what comes and stores it, so that
//! neither hashing nor the disk holds up the network. Whoever goes away or is too slow is tried again
//! later, and its pieces are asked of others at once; who sends other bytes than the signed index
//! says is never asked again.

use std::{
    collections::{BTreeSet, HashMap},
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::try_join_all;
use kdc_bundles::index::Digest;
use rustls::ClientConfig;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

use super::{
    PeerError,
    client::{Fault, Link, Patience},
    crew::Crew,
    identity::Identity,
    local::Local,
    picker::{Picker, Piece, WantedBlob},
    pieces::Bitmap,
    server::Activity,
};
use crate::{
    store::{StoreError, piece_length, receive::Intake},
    wire::Peer,
};

/// Connections for pieces to one neighbour: as many as the picker asks for at once.
const LINKS: usize = 4;

/// A connection that nothing was asked over for so long is closed.
const KEEP_LINK: Duration = Duration::from_secs(10);

/// Between two looks at what a neighbour has.
const LOOK: Duration = Duration::from_millis(200);

/// How long a neighbour that has too much to do is left alone.
const BREATH: Duration = Duration::from_millis(500);

/// How long a neighbour that went away is left alone: the first time, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(30));

/// A neighbour that shares another index may be asked to share ours.
const OTHER_INDEX_PAUSE: Duration = Duration::from_secs(30);

/// Pieces that wait to be proved and stored.
const JOBS: usize = 1;

/// A piece that a neighbour sent.
struct Job {
    piece: Piece,
    neighbour: usize,
    bytes: Vec<u8>,
}

/// What became of it.
struct Settled {
    piece: Piece,
    neighbour: usize,
    /// `Some(false)` when the bytes were others than the index says.
    stored: Result<bool, StoreError>,
}

/// What all tasks of a fetch share.
pub(super) struct Fetch {
    pub(super) local: Arc<Local>,
    picker: Mutex<Picker>,
    /// Told whenever somebody may be asked for something again.
    turn: watch::Sender<()>,
    jobs: mpsc::Sender<Job>,
    activity: Arc<Activity>,
    patience: Patience,
    /// By certificate: the picker's number for it.
    numbers: Mutex<HashMap<Digest, usize>>,
    liars: Mutex<BTreeSet<Digest>>,
}

/// The receiving end of a fetch's thread.
pub(super) struct Results(mpsc::UnboundedReceiver<Settled>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fetch {
    /// Of these blobs; what is here already was told by a scan of `local`.
    pub(super) fn new(
        local: &Arc<Local>,
        blobs: &[Digest],
        seed: u64,
        activity: &Arc<Activity>,
        patience: Patience,
    ) -> (Arc<Self>, Results) {
        let index = local.index();
        let wanted: Vec<WantedBlob> = blobs
            .iter()
            .filter_map(|digest| index.ordinal(digest))
            .filter_map(|at| Some((u32::try_from(at).ok()?, index.blobs[at].size)))
            .map(|(ordinal, size)| WantedBlob { ordinal, size })
            .collect();
        let picker = Picker::new(&wanted, index.piece_size, seed);
        let (jobs, queue) = mpsc::channel(JOBS);
        let (settled, results) = mpsc::unbounded_channel();
        let storing = Arc::clone(local);
        std::thread::spawn(move || store(&storing, queue, &settled));
        let (turn, _) = watch::channel(());
        let fetch = Self {
            local: Arc::clone(local),
            picker: Mutex::new(picker),
            turn,
            jobs,
            activity: Arc::clone(activity),
            patience,
            numbers: Mutex::default(),
            liars: Mutex::default(),
        };
        for number in 0..local.numbering().count() {
            if let Some(piece) = local.piece(number).filter(|piece| local.has(*piece)) {
                lock(&fetch.picker).arrived(piece);
            }
        }
        (Arc::new(fetch), Results(results))
    }

    /// Pieces that are not here yet.
    pub(super) fn missing(&self) -> usize {
        lock(&self.picker).missing()
    }

    /// These came by another way.
    pub(super) fn arrived(&self, pieces: &[Piece]) {
        for piece in pieces {
            lock(&self.picker).arrived(*piece);
        }
        self.turn.send_replace(());
    }

    fn failed(&self, piece: Piece, neighbour: usize) {
        lock(&self.picker).failed(piece, neighbour);
        self.turn.send_replace(());
    }

    fn neighbour_has(&self, neighbour: usize, pieces: impl IntoIterator<Item = Piece>) {
        lock(&self.picker).neighbour_has(neighbour, pieces);
        self.turn.send_replace(());
    }

    pub(super) fn neighbour_lost(&self, neighbour: usize) {
        lock(&self.picker).neighbour_lost(neighbour);
        self.turn.send_replace(());
    }

    pub(super) fn number_of(&self, certificate: &Digest) -> usize {
        let mut numbers = lock(&self.numbers);
        let next = numbers.len();
        *numbers.entry(certificate.clone()).or_insert(next)
    }

    pub(super) fn ban(&self, certificate: &Digest) {
        lock(&self.liars).insert(certificate.clone());
    }

    pub(super) fn is_banned(&self, certificate: &Digest) -> bool {
        lock(&self.liars).contains(certificate)
    }

    /// Fetch from these peers, whoever they are at a time, until nothing is missing.
    ///
    /// # Errors
    /// When this node's own store or identity fails.
    pub(super) async fn run(
        self: &Arc<Self>,
        identity: &Identity,
        mut peers: watch::Receiver<Vec<Peer>>,
        mut results: Results,
    ) -> Result<(), PeerError> {
        let mut crew = Crew::new(self, identity);
        crew.meet(&peers.borrow_and_update())?;
        let mut turn = self.turn.subscribe();
        while self.missing() > 0 {
            tokio::select! {
                settled = results.0.recv() => match settled {
                    Some(settled) => {
                        let neighbour = settled.neighbour;
                        if !self.settle(settled)? {
                            crew.dismiss(neighbour);
                        }
                    }
                    None => return Err(StoreError::Io(std::io::Error::other("nobody stores")).into()),
                },
                Ok(()) = peers.changed() => crew.meet(&peers.borrow_and_update())?,
                // Somebody else may have sent the last one.
                Ok(()) = turn.changed() => {}
                Some(()) = crew.one_left() => {}
            }
        }
        Ok(())
    }

    /// False when the neighbour sent other bytes than it was asked for.
    fn settle(&self, settled: Settled) -> Result<bool, PeerError> {
        let Settled { piece, neighbour, stored } = settled;
        let good = stored?;
        if good {
            self.activity.note();
            self.local.note(piece, true);
            self.arrived(&[piece]);
        } else {
            self.failed(piece, neighbour);
        }
        Ok(good)
    }

    /// Deals with one neighbour for ever, or until it lies.
    pub(super) async fn keep(self: Arc<Self>, peer: Peer, config: Arc<ClientConfig>) {
        let neighbour = self.number_of(&peer.certificate);
        let mut pause = PAUSE.0;
        loop {
            let begun = Instant::now();
            let Err(fault) = self.talk(neighbour, &peer, &config).await;
            self.neighbour_lost(neighbour);
            match fault {
                Fault::Lied(_) => {
                    tracing::warn!(peer = peer.name, %fault, "never asked again");
                    self.ban(&peer.certificate);
                    return;
                }
                Fault::OtherIndex => pause = OTHER_INDEX_PAUSE,
                _ if begun.elapsed() > PAUSE.1 => pause = PAUSE.0,
                _ => {}
            }
            tracing::info!(peer = peer.name, %fault, pause_ms = pause.as_millis(), "left alone");
            // Nodes that lost the same neighbour need not come back to it all at once.
            sleep(pause.mul_f64(rand::random_range(0.75..1.25))).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn talk(
        &self,
        neighbour: usize,
        peer: &Peer,
        config: &Arc<ClientConfig>,
    ) -> Result<Infallible, Fault> {
        let open = || Link::open(peer, config, self.local.shelf().digest(), self.patience);
        let mut link = open().await?;
        let anew = AtomicBool::new(false);
        let workers = try_join_all((0..LINKS).map(|_| self.work(neighbour, open, &anew)));
        tokio::select! {
            watched = self.watch(neighbour, &mut link, &anew) => watched,
            worked = workers => match worked?.into_iter().next() {
                Some(never) => match never {},
                None => Err(Fault::Gone("nobody asks it".to_owned())),
            },
        }
    }

    /// Tells the picker what the neighbour has, again and again; all of it when that was wrong.
    async fn watch(
        &self,
        neighbour: usize,
        link: &mut Link,
        anew: &AtomicBool,
    ) -> Result<Infallible, Fault> {
        let count = self.local.numbering().count();
        let (mut after, mut known) = (0, Bitmap::empty(count));
        loop {
            let asked = Instant::now();
            if anew.swap(false, Ordering::Relaxed) {
                (after, known) = (0, Bitmap::empty(count));
            }
            if let Some((version, bitmap)) = link.have(after, count).await? {
                let new = (0..count).filter(|n| bitmap.has(*n) && !known.has(*n));
                let new: Vec<Piece> = new.filter_map(|number| self.local.piece(number)).collect();
                (after, known) = (version, bitmap);
                self.neighbour_has(neighbour, new);
            }
            tokio::time::sleep_until(asked + LOOK).await;
        }
    }

    /// Asks the neighbour for one piece after the other.
    async fn work<O, F>(
        &self,
        neighbour: usize,
        open: O,
        anew: &AtomicBool,
    ) -> Result<Infallible, Fault>
    where
        O: Fn() -> F,
        F: Future<Output = Result<Link, Fault>>,
    {
        let mut turn = self.turn.subscribe();
        let mut link: Option<Link> = None;
        loop {
            turn.borrow_and_update();
            let Some(piece) = lock(&self.picker).next(neighbour) else {
                tokio::select! {
                    Ok(()) = turn.changed() => {}
                    () = sleep(KEEP_LINK), if link.is_some() => link = None,
                }
                continue;
            };
            if link.as_ref().is_some_and(Link::is_closed) {
                link = None;
            }
            let link = match &mut link {
                Some(link) => link,
                none => none.insert(open().await?),
            };
            match self.fetch(link, piece).await {
                Ok(bytes) => {
                    let job = Job { piece, neighbour, bytes };
                    self.jobs.send(job).await.map_err(|_| Fault::Gone("nobody stores".into()))?;
                }
                Err(Fault::Absent) => {
                    self.failed(piece, neighbour);
                    anew.store(true, Ordering::Relaxed);
                }
                Err(Fault::Busy) => {
                    self.failed(piece, neighbour);
                    sleep(BREATH).await;
                    self.neighbour_has(neighbour, [piece]);
                }
                Err(other) => return Err(other),
            }
        }
    }

    async fn fetch(&self, link: &mut Link, piece: Piece) -> Result<Vec<u8>, Fault> {
        let Some(blob) = self.local.blob(piece) else { return Err(Fault::Absent) };
        let length = piece_length(blob, self.local.index().piece_size, piece.piece);
        link.piece(piece, length).await
    }
}

/// Proves and stores what comes, until nobody sends any more.
fn store(local: &Local, mut jobs: mpsc::Receiver<Job>, settled: &mpsc::UnboundedSender<Settled>) {
    let ((), finished) = Intake::within(local.shelf(), |mut intake| {
        while let Some(Job { piece, neighbour, bytes }) = jobs.blocking_recv() {
            let stored = prove(local, piece, &bytes, &mut intake);
            let failed = stored.is_err();
            // Nobody listens any more when everything has come.
            if settled.send(Settled { piece, neighbour, stored }).is_err() || failed {
                return;
            }
        }
    });
    if let Err(error) = finished {
        tracing::error!(%error, "a blob could not be finished");
    }
}

fn prove(
    local: &Local,
    piece: Piece,
    bytes: &[u8],
    intake: &mut Intake<'_>,
) -> Result<bool, StoreError> {
    if local.has(piece) {
        return Ok(true);
    }
    let wanted = local.blob(piece).and_then(|blob| blob.pieces.get(piece.piece as usize));
    if wanted != Some(&Digest::of(bytes)) {
        return Ok(false);
    }
    intake.put(piece.blob, piece.piece, bytes)?;
    Ok(true)
}
