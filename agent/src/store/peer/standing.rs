//! Sharing that goes on when the unit has ended: what the daemon does for as long as the folder is
//! there.
//!
//! The unit and the daemon serve with the same code, as the same node, on the same port, and never
//! both: while a unit lives the daemon lets the port go. It fetches nothing by itself; what containerd
//! asks for and this node lacks comes from others ([`super::WithOthers`]).

use std::{io, sync::Arc, time::Duration};

use kdc_bundles::index::Digest;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{
    Folder, PEER_PORT, PeerError,
    folder::Stamp,
    identity::Identity,
    local::Local,
    pin::{self, Guests},
    server::{Activity, Limits, Server},
    share::bind,
};
use crate::{
    background::{self, Background},
    store::Store,
};

/// Between two looks at the store.
const LOOK: Duration = Duration::from_secs(5);

/// Serves peers while no unit does.
pub struct Standing {
    store: Store,
    folder: Folder,
    serving: Option<Serving>,
}

struct Serving {
    index: Digest,
    certificate: Digest,
    port: u16,
    guests: Guests,
    stamp: Option<Stamp>,
    peers: usize,
    service: Background,
}

impl Standing {
    /// For the store and the folder of this node.
    #[must_use]
    pub fn system() -> Self {
        Self::new(Store::system(), Folder::system())
    }

    /// For others.
    #[must_use]
    pub fn new(store: Store, folder: Folder) -> Self {
        Self { store, folder, serving: None }
    }

    /// One round: serve, or let the port go, as the folder wants it. Says how it stands, for people;
    /// nothing where there is nothing to share.
    ///
    /// # Errors
    /// When the folder, the store or the network of this node fails; the next round tries again.
    pub fn settle(&mut self) -> Result<Option<String>, PeerError> {
        let Some(wanted) = self.folder.wanted()?.filter(|_| !self.folder.is_live().unwrap_or(true))
        else {
            self.stop();
            return Ok(None);
        };
        let identity = Identity::load(&self.folder)?;
        let Some(identity) = identity else {
            self.stop();
            return Ok(None);
        };
        let same = |serving: &Serving| {
            serving.index == wanted.index
                && serving.certificate == *identity.digest()
                && serving.service.stands()
        };
        if !self.serving.as_ref().is_some_and(same) {
            self.stop();
            self.serving = Some(self.start(&wanted.index, &identity)?);
        }
        let Some(serving) = &mut self.serving else { return Ok(None) };
        let stamp = self.folder.peers_stamp();
        if stamp != serving.stamp {
            let peers = self.folder.peers()?;
            (serving.stamp, serving.peers) = (stamp, peers.len());
            serving.guests.set(peers.into_iter().map(|peer| peer.certificate).collect());
        }
        let Serving { peers, port, .. } = serving;
        Ok(Some(format!("content shared with {peers} nodes on port {port}")))
    }

    /// Let the port go.
    pub fn stop(&mut self) {
        self.serving = None;
    }

    fn start(&self, index: &Digest, identity: &Identity) -> Result<Serving, PeerError> {
        let port = self.folder.status()?.map_or(PEER_PORT, |status| status.port);
        let runtime = background::runtime()?;
        let listener = {
            let _entered = runtime.enter();
            bind(port)?
        };
        let local = Arc::new(Local::new(self.store.shelf(index)?));
        let guests = Guests::default();
        let tls = TlsAcceptor::from(pin::server_config(identity, &guests)?);
        let service = Background::start("peers", runtime, move || serve(local, listener, tls))?;
        Ok(Serving {
            index: index.clone(),
            certificate: identity.digest().clone(),
            port,
            guests,
            stamp: None,
            peers: 0,
            service,
        })
    }
}

async fn serve(local: Arc<Local>, listener: TcpListener, tls: TlsAcceptor) {
    let server = Server::new(Arc::clone(&local), Arc::new(Activity::new()), Limits::default());
    let looking = async {
        loop {
            let local = Arc::clone(&local);
            let scanned = tokio::task::spawn_blocking(move || local.scan().map(drop)).await;
            if let Err(error) = scanned
                .map_err(io::Error::other)
                .and_then(|scanned| scanned.map_err(io::Error::other))
            {
                tracing::warn!(%error, "the store can't be looked at");
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        never = server.serve(listener, tls) => match never {},
        () = looking => {}
    }
}
