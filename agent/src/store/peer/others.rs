//! Other nodes as a source of what this one lacks, a piece at a time.
//!
//! For whoever reads the store with no fetch loop behind him: the node's registry, when containerd asks
//! for an image that this node was never given. What comes is proved and handed on; it is not stored.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use futures_util::future::join_all;
use kdc_bundles::index::{Digest, Index};
use rand::seq::SliceRandom as _;
use tokio::{
    sync::mpsc as questions,
    time::{Instant, timeout},
};

use super::{
    Folder, PeerError,
    client::{Fault, Link, Patience},
    identity::Identity,
    picker::{Piece, neighbours},
    pieces::{Bitmap, Numbering},
    pin,
};
use crate::{
    serve::registry::{Source, SourceError},
    store::{Shelf, StoreError, piece_length},
    wire::Peer,
};

/// What others have is asked anew so often, while this node lacks something.
const LOOK: Duration = Duration::from_secs(300);

/// And sooner, when something was asked for that nobody seemed to have.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// For so long others may still be fed themselves: what they have is asked every [`LOOK_AGAIN`].
const SETTLING: Duration = Duration::from_secs(600);

/// How long a piece may take, whoever is asked.
const MOST: Duration = Duration::from_secs(20);

/// Who is asked for one piece, one after the other.
const TRIES: usize = 4;

/// Pieces that are asked for at once; more wait.
const QUESTIONS: usize = 4;

/// How long each of them may let us wait.
const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(2),
    have: Duration::from_secs(4),
    idle: Duration::from_secs(5),
    piece: Duration::from_secs(8),
    bytes_a_second: 256 * 1024,
};

/// A shelf that asks other nodes for what it lacks.
pub struct WithOthers {
    shelf: Shelf,
    numbering: Numbering,
    others: Arc<Others>,
    questions: questions::Sender<Question>,
}

struct Question {
    piece: Piece,
    answer: mpsc::SyncSender<Result<Vec<u8>, Fault>>,
}

/// What is known of the others.
struct Others {
    folder: Folder,
    shelf: Shelf,
    numbering: Numbering,
    /// By certificate: what each has, as last heard.
    known: Mutex<HashMap<Digest, (Peer, Bitmap)>>,
    liars: Mutex<BTreeSet<Digest>>,
    again: tokio::sync::Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WithOthers {
    /// Begins to ask around, in a thread that ends with this.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn new(shelf: Shelf, folder: Folder) -> io::Result<Self> {
        let numbering = Numbering::of(shelf.index());
        let others = Arc::new(Others {
            folder,
            shelf: shelf.clone(),
            numbering: numbering.clone(),
            known: Mutex::default(),
            liars: Mutex::default(),
            again: tokio::sync::Notify::new(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (questions, asked) = questions::channel(QUESTIONS);
        let answering = Arc::clone(&others);
        std::thread::Builder::new()
            .name("others".to_owned())
            .spawn(move || runtime.block_on(answering.answer(asked)))?;
        Ok(Self { shelf, numbering, others, questions })
    }

    fn ask(&self, piece: Piece) -> Result<Vec<u8>, Fault> {
        let nobody = || Fault::Gone("nobody asks the others any more".to_owned());
        let (answer, answered) = mpsc::sync_channel(1);
        self.questions.try_send(Question { piece, answer }).map_err(|_| Fault::Busy)?;
        answered.recv_timeout(MOST + Duration::from_secs(1)).map_err(|_| nobody())?
    }
}

impl Source for WithOthers {
    fn index(&self) -> &Index {
        self.shelf.index()
    }

    /// Here, or with one of the others as last heard. Asks nobody: that would take time.
    fn has(&self, ordinal: usize) -> bool {
        let Some(blob) = self.index().blobs.get(ordinal) else { return false };
        if self.shelf.has(blob) {
            return true;
        }
        let range = self.numbering.of_blob(ordinal);
        let whole = |map: &Bitmap| range.clone().all(|number| map.has(number));
        let found = lock(&self.others.known).values().any(|(_, map)| whole(map));
        if !found {
            self.others.again.notify_one();
        }
        found
    }

    fn read_piece_into(
        &self,
        ordinal: usize,
        piece: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        match self.shelf.read_piece(ordinal, piece, buffer) {
            Ok(()) => return Ok(()),
            Err(StoreError::NoPiece { .. }) => return Err(SourceError::Absent),
            // Damaged here may be good elsewhere.
            Err(StoreError::Absent { .. }) => {}
            Err(error) => tracing::warn!(%error, "a piece is asked of other nodes"),
        }
        let number = |number: usize| u32::try_from(number).map_err(|_| SourceError::Absent);
        let piece = Piece { blob: number(ordinal)?, piece: number(piece)? };
        match self.ask(piece) {
            Ok(bytes) => {
                *buffer = bytes;
                Ok(())
            }
            Err(Fault::Absent) => Err(SourceError::Absent),
            Err(fault) => Err(SourceError::Unreadable(fault.into())),
        }
    }
}

impl Others {
    /// Answers until nobody can ask any more.
    async fn answer(self: Arc<Self>, mut asked: questions::Receiver<Question>) {
        let begun = Instant::now();
        let looking = async {
            loop {
                if let Err(error) = self.look().await {
                    tracing::warn!(code = error.code(), %error, "other nodes can't be asked");
                }
                // Soon again only for who asks, and not in a row.
                tokio::time::sleep(LOOK_AGAIN).await;
                if begun.elapsed() < SETTLING {
                    continue;
                }
                let _woken = timeout(LOOK, self.again.notified()).await;
            }
        };
        let answering = async {
            while let Some(Question { piece, answer }) = asked.recv().await {
                let others = Arc::clone(&self);
                tokio::spawn(async move {
                    let found = timeout(MOST, others.find(piece)).await;
                    let late = |_| Err(Fault::Gone("it took too long".to_owned()));
                    // Who asked may have given up.
                    let _ = answer.send(found.unwrap_or_else(late));
                });
            }
        };
        tokio::select! {
            () = answering => {}
            () = looking => {}
        }
    }

    /// Asks the neighbours what they have, all at once. Asks nobody while nothing is lacking here.
    async fn look(&self) -> Result<(), PeerError> {
        let lacks = self.shelf.index().blobs.iter().any(|blob| !self.shelf.has(blob));
        let Some(identity) = Identity::load(&self.folder)?.filter(|_| lacks) else { return Ok(()) };
        let mut peers = self.folder.peers()?;
        peers.retain(|peer| peer.certificate != *identity.digest());
        // Whom exactly does not matter: nobody counts on being asked.
        let place = peers.len();
        let chosen = neighbours(place, place + 1, u64::from(std::process::id()));
        let chosen = chosen.into_iter().filter_map(|at| peers.get(at));
        let heard = join_all(chosen.map(|peer| self.hear(&identity, peer))).await;
        let known = heard.into_iter().flatten();
        *lock(&self.known) =
            known.map(|(peer, map)| (peer.certificate.clone(), (peer, map))).collect();
        Ok(())
    }

    async fn hear(&self, identity: &Identity, peer: &Peer) -> Option<(Peer, Bitmap)> {
        let heard = async {
            let mut link = self.link(identity, peer).await?;
            link.have(0, self.numbering.count()).await
        };
        match heard.await {
            Ok(Some((_, map))) => Some((peer.clone(), map)),
            Ok(None) => None,
            Err(fault) => {
                tracing::debug!(peer = peer.name, %fault, "not heard");
                None
            }
        }
    }

    async fn link(&self, identity: &Identity, peer: &Peer) -> Result<Link, Fault> {
        let config = pin::client_config(identity, &peer.certificate)
            .map_err(|error| Fault::Gone(error.to_string()))?;
        Link::open(peer, &config, self.shelf.digest(), PATIENCE).await
    }

    /// The proved bytes of a piece, from whoever has it.
    async fn find(&self, piece: Piece) -> Result<Vec<u8>, Fault> {
        let index = self.shelf.index();
        let (ordinal, at) = (piece.blob as usize, piece.piece as usize);
        let blob = index.blobs.get(ordinal).ok_or(Fault::Absent)?;
        let wanted = blob.pieces.get(at).ok_or(Fault::Absent)?;
        let number = self.numbering.number(ordinal, piece.piece).ok_or(Fault::Absent)?;
        let length = piece_length(blob, index.piece_size, piece.piece);
        let identity = Identity::load(&self.folder)
            .map_err(|error| Fault::Gone(error.to_string()))?
            .ok_or(Fault::Absent)?;
        let mut holders: Vec<Peer> = {
            let (known, liars) = (lock(&self.known), lock(&self.liars));
            let has =
                known.iter().filter(|(peer, (_, map))| map.has(number) && !liars.contains(*peer));
            has.map(|(_, (peer, _))| peer.clone()).collect()
        };
        holders.shuffle(&mut rand::rng());
        let mut last = Fault::Absent;
        for peer in holders.iter().take(TRIES) {
            let asked = async { self.link(&identity, peer).await?.piece(piece, length).await };
            match asked.await {
                Ok(bytes) if Digest::of(&bytes) == *wanted => return Ok(bytes),
                Ok(_) => last = Fault::Lied("other bytes than were signed".to_owned()),
                Err(fault) => last = fault,
            }
            tracing::warn!(peer = peer.name, fault = %last, "a piece is asked of another node");
            if matches!(last, Fault::Lied(_)) {
                lock(&self.liars).insert(peer.certificate.clone());
            }
        }
        Err(last)
    }
}
