//! The unit that shares: it serves what the store has, fetches what it lacks, and ends by itself when
//! nobody needs it any more.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use kdc_bundles::index::Digest;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
    time::{Instant, sleep},
};
use tokio_rustls::TlsAcceptor;

use super::{
    Folder, PeerError,
    client::Patience,
    fetch::{Fetch, Results},
    folder::{Life, Stamp, Status},
    identity::Identity,
    local::Local,
    pin::{self, Guests},
    server::{Activity, Limits, Server},
};
use crate::{
    store::{Store, StoreError},
    wire::Peer,
};

/// Without a request, a piece or word from the installer for so long, it ends.
const IDLE: Duration = Duration::from_secs(30 * 60);

/// Between two looks at the folder, and at the store while something is missing.
const LOOK: Duration = Duration::from_millis(250);

/// Once all is here, the store is looked at only so often.
const LOOKS_A_SCAN: u32 = 8;

/// How long a former holder of the port is given to let it go.
const HAND_OVER: Duration = Duration::from_secs(5);

/// How long a node whose store failed goes on serving what it has.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

/// Connections that the kernel takes before we do.
const BACKLOG: u32 = 128;

/// Share what the folder asks for, until nobody needs it any more; on this port, or, where somebody
/// else has it, on another.
///
/// # Errors
/// When the folder, the store or the network of this node fails.
pub async fn share(store: &Store, folder: &Folder, port: u16) -> Result<(), PeerError> {
    share_on(store, folder, port, IDLE).await
}

/// The same with less patience.
pub(super) async fn share_on(
    store: &Store,
    folder: &Folder,
    port: u16,
    idle: Duration,
) -> Result<(), PeerError> {
    let wanted = folder.wanted()?.ok_or(PeerError::NotSharing)?;
    let Some(_life) = come_to_life(folder).await? else {
        tracing::info!("another process shares already");
        return Ok(());
    };
    let none = || PeerError::Identity { reason: "it was never made".to_owned() };
    let identity = Identity::load(folder)?.ok_or_else(none)?;
    let shelf = store.shelf(&wanted.index)?;
    let former = folder.status()?.map(|status| status.port);
    let listener = listen(former, port).await?;
    let port = listener.local_addr()?.port();
    folder.save_status(&Status { port, certificate: identity.digest().clone() })?;
    tracing::info!(port, certificate = %identity.digest(), index = %wanted.index, "sharing");

    let local = Arc::new(Local::new(shelf));
    let (settled, blobs) = (Arc::clone(&local), wanted.blobs.clone());
    // Pieces of another boot are proved again before they count.
    let settling = tokio::task::spawn_blocking(move || {
        let missing = settled.shelf().missing(&blobs)?;
        settled.scan()?;
        Ok::<_, StoreError>(missing.len())
    });
    let missing = settling.await.map_err(std::io::Error::other)??;
    tracing::info!(wanted = wanted.blobs.len(), missing, "blobs");
    Sharing::new(folder, identity, local, &wanted.blobs, idle).run(listener).await
}

/// Who only looks whether a unit lives holds the lock for a moment too.
async fn come_to_life(folder: &Folder) -> Result<Option<Life>, PeerError> {
    for _ in 0..20 {
        if let Some(life) = folder.live()? {
            return Ok(Some(life));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(None)
}

struct Sharing<'a> {
    folder: &'a Folder,
    identity: Identity,
    local: Arc<Local>,
    guests: Guests,
    activity: Arc<Activity>,
    fetch: Arc<Fetch>,
    results: Option<Results>,
    peers: watch::Sender<Vec<Peer>>,
    stamp: Option<Stamp>,
    idle: Duration,
}

impl<'a> Sharing<'a> {
    fn new(
        folder: &'a Folder,
        identity: Identity,
        local: Arc<Local>,
        blobs: &[Digest],
        idle: Duration,
    ) -> Self {
        let activity = Arc::new(Activity::new());
        let seed = rand::random();
        let (fetch, results) = Fetch::new(&local, blobs, seed, &activity, Patience::default());
        let (peers, _) = watch::channel(Vec::new());
        Self {
            folder,
            identity,
            local,
            guests: Guests::default(),
            activity,
            fetch,
            results: Some(results),
            peers,
            stamp: None,
            idle,
        }
    }

    async fn run(mut self, listener: TcpListener) -> Result<(), PeerError> {
        let tls = TlsAcceptor::from(pin::server_config(&self.identity, &self.guests)?);
        let limits = Limits::default();
        let server = Server::new(Arc::clone(&self.local), Arc::clone(&self.activity), limits);
        let (fetch, identity, peers) =
            (Arc::clone(&self.fetch), self.identity.clone(), self.peers.subscribe());
        let results = self.results.take();
        let fetching = async {
            let Some(results) = results else { return Ok(()) };
            match fetch.run(&identity, peers, results).await {
                Ok(()) => {
                    tracing::info!("all that is wanted is here");
                    std::future::pending().await
                }
                // A full disk, as a rule. What is here is passed on meanwhile; then the unit ends, and
                // begins again with what there is.
                Err(error) => {
                    tracing::error!(code = error.code(), error = &error as &dyn std::error::Error);
                    sleep(AFTER_FAILURE).await;
                    Err(error)
                }
            }
        };
        tokio::select! {
            never = server.serve(listener, tls) => match never {},
            failed = fetching => failed,
            looked = self.look() => looked,
        }
    }

    /// Looks at the folder and at the store, until there is no reason to go on.
    async fn look(&mut self) -> Result<(), PeerError> {
        for round in 0_u32.. {
            let stamp = self.folder.peers_stamp();
            if stamp != self.stamp {
                self.stamp = stamp;
                self.meet()?;
            }
            if self.folder.status()?.is_none() {
                tracing::info!("the share folder is gone, and with it the reason to share");
                return Ok(());
            }
            if self.activity.quiet_for() > self.idle {
                tracing::info!("nobody asked for anything for a long time");
                return Ok(());
            }
            sleep(LOOK).await;
            if self.fetch.missing() == 0 && !round.is_multiple_of(LOOKS_A_SCAN) {
                continue;
            }
            let local = Arc::clone(&self.local);
            let scanned = tokio::task::spawn_blocking(move || local.scan()).await;
            let came = scanned.map_err(std::io::Error::other)??;
            if !came.is_empty() {
                self.activity.note();
                self.fetch.arrived(&came);
            }
        }
        Ok(())
    }

    fn meet(&mut self) -> Result<(), PeerError> {
        let peers = self.folder.peers()?;
        tracing::info!(peers = peers.len(), "introduced");
        self.activity.note();
        let certificates: BTreeSet<Digest> =
            peers.iter().map(|peer| peer.certificate.clone()).collect();
        self.guests.set(certificates);
        self.peers.send_replace(peers);
        Ok(())
    }
}

/// Where it listened before, so that peers find it again; else on `port`, which a process that hands
/// over is given time to let go; else wherever there is room.
async fn listen(former: Option<u16>, port: u16) -> Result<TcpListener, PeerError> {
    let begun = Instant::now();
    loop {
        for port in former.into_iter().chain([port]) {
            if let Ok(listener) = bind(port) {
                return Ok(listener);
            }
        }
        if begun.elapsed() > HAND_OVER {
            tracing::warn!(port, "somebody else listens there; the others are told another port");
            return Ok(bind(0)?);
        }
        sleep(LOOK).await;
    }
}

/// On every address, of both families where there are two.
pub(super) fn bind(port: u16) -> std::io::Result<TcpListener> {
    let both = || {
        let socket = TcpSocket::new_v6()?;
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
        socket.listen(BACKLOG)
    };
    both().or_else(|_| {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
        socket.listen(BACKLOG)
    })
}
