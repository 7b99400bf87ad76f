//! Real TLS on loopback: honest nodes, and peers that are slow, dead, or lie.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kdc_bundles::{index::Digest, signing::SigningKey};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{
    client::{Fault, Link, Patience},
    fetch::Fetch,
    folder::{Folder, Status},
    identity::Identity,
    local::Local,
    others::WithOthers,
    picker::Piece,
    pin::{self, Guests},
    server::{Activity, Limits, Server},
    share::{bind, share_on},
    standing::Standing,
    unit::{introduce, prepare},
};
use crate::{
    serve::registry::{Source as _, SourceError},
    small_disk::SmallDisk,
    store::{Shelf, Store, tests::index_of},
    wire::Peer,
};

const PIECE: u64 = 4096;
const SOON: Duration = Duration::from_secs(30);

/// Two blobs of 20 and 3 pieces, the last ones short.
fn contents() -> Vec<Vec<u8>> {
    let bytes = |seed: u64, count: usize| {
        let mut chance = StdRng::seed_from_u64(seed);
        (0..count).map(|_| chance.random()).collect()
    };
    vec![bytes(1, 20 * PIECE as usize - 7), bytes(2, 2 * PIECE as usize + 1)]
}

struct Site {
    place: tempfile::TempDir,
    key: SigningKey,
    contents: Vec<Vec<u8>>,
}

struct Node {
    store: Store,
    shelf: Shelf,
    folder: Folder,
    identity: Identity,
}

impl Site {
    fn new() -> Self {
        let (place, key) = (tempfile::tempdir().unwrap(), SigningKey::generate().unwrap());
        Self { place, key, contents: contents() }
    }

    /// A node that has these pieces, numbered through, and wants everything.
    fn node(&self, name: &str, pieces: impl Fn(u32) -> bool) -> Node {
        let slices: Vec<&[u8]> = self.contents.iter().map(Vec::as_slice).collect();
        let index = index_of(&slices, PIECE);
        let text = String::from_utf8(index.to_bytes()).unwrap();
        let place = self.place.path().join(name);
        let store = Store::at(&place.join("store"));
        let signature = self.key.sign(&index);
        let shelf = store.keep_index(&text, &signature, &[self.key.public().to_text()]).unwrap();
        let local = Local::new(shelf.clone());
        let numbers = (0..local.numbering().count()).filter(|number| pieces(*number));
        let ((), finished) = crate::store::receive::Intake::within(&shelf, |mut intake| {
            for piece in numbers.filter_map(|number| local.piece(number)) {
                intake.put(piece.blob, piece.piece, self.bytes(&shelf, piece)).unwrap();
            }
        });
        finished.unwrap();
        let folder = Folder::at(&place.join("share"));
        let blobs: Vec<Digest> = index.blobs.iter().map(|blob| blob.digest.clone()).collect();
        prepare(&folder, shelf.digest(), &blobs).unwrap();
        let identity = Identity::load(&folder).unwrap().unwrap();
        Node { store, shelf, folder, identity }
    }

    fn bytes(&self, shelf: &Shelf, piece: Piece) -> &[u8] {
        let digest = &shelf.index().blobs[piece.blob as usize].digest;
        let content = self.contents.iter().find(|content| Digest::of(content) == *digest).unwrap();
        content.chunks(PIECE as usize).nth(piece.piece as usize).unwrap()
    }
}

impl Node {
    fn blobs(&self) -> Vec<Digest> {
        self.shelf.index().blobs.iter().map(|blob| blob.digest.clone()).collect()
    }

    fn is_whole(&self) -> bool {
        self.shelf.missing(&self.blobs()).unwrap().is_empty()
    }

    fn local(&self) -> Arc<Local> {
        let local = Arc::new(Local::new(self.shelf.clone()));
        local.scan().unwrap();
        local
    }

    /// Share as the unit does, on a port of its own.
    async fn share(&self) -> (Peer, tokio::task::JoinHandle<()>) {
        let (store, folder) = (self.store.clone(), self.folder.clone());
        let task = tokio::spawn(async move { share_on(&store, &folder, 0, SOON).await.unwrap() });
        let port = soon(|| self.folder.status().unwrap()).await.port;
        (self.peer(port), task)
    }

    fn peer(&self, port: u16) -> Peer {
        let (address, certificate) = (Ipv4Addr::LOCALHOST.into(), self.identity.digest().clone());
        Peer { name: "n".into(), address, port, certificate }
    }

    /// Serve what is here to these guests, within these limits.
    async fn serve(&self, guests: &[&Node], limits: Limits) -> Peer {
        let server = Server::new(self.local(), Arc::new(Activity::new()), limits);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tls =
            TlsAcceptor::from(pin::server_config(&self.identity, &letting_in(guests)).unwrap());
        tokio::spawn(async move { server.serve(listener, tls).await });
        self.peer(port)
    }

    async fn link(&self, peer: &Peer) -> Result<Link, Fault> {
        let config = pin::client_config(&self.identity, &peer.certificate).unwrap();
        Link::open(peer, &config, self.shelf.digest(), short()).await
    }

    /// Fetch everything from these peers; how long that took.
    async fn fetch(&self, peers: Vec<Peer>) -> Duration {
        let (local, activity) = (self.local(), Arc::new(Activity::new()));
        let (fetch, results) = Fetch::new(&local, &self.blobs(), 1, &activity, short());
        let (_peers, known) = watch::channel(peers);
        let begun = Instant::now();
        let run = fetch.run(&self.identity, known, results);
        timeout(SOON, run).await.expect("it ends").unwrap();
        drop(fetch);
        soon(|| self.is_whole().then_some(())).await;
        begun.elapsed()
    }
}

fn letting_in(nodes: &[&Node]) -> Guests {
    let guests = Guests::default();
    guests.set(nodes.iter().map(|node| node.identity.digest().clone()).collect());
    guests
}

fn short() -> Patience {
    let second = Duration::from_secs(2);
    Patience { connect: second, have: second, idle: second, piece: second, bytes_a_second: 4096 }
}

async fn soon<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < SOON, "it never came");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn nodes_that_have_different_halves_make_each_other_and_a_third_one_whole() {
    let site = Site::new();
    let nodes = [
        site.node("even", |number| number.is_multiple_of(2)),
        site.node("odd", |number| !number.is_multiple_of(2)),
        site.node("none", |_| false),
    ];
    let mut peers = Vec::new();
    for node in &nodes {
        peers.push(node.share().await.0);
    }
    for node in &nodes {
        introduce(&node.folder, &peers).unwrap();
    }
    for node in &nodes {
        soon(|| node.is_whole().then_some(())).await;
        for content in &site.contents {
            let mut found = Vec::new();
            let mut blob = node.shelf.open(&Digest::of(content)).unwrap();
            std::io::Read::read_to_end(&mut blob, &mut found).unwrap();
            assert!(found == *content);
        }
    }
}

#[tokio::test]
async fn pieces_that_the_installer_sends_meanwhile_are_passed_on() {
    let site = Site::new();
    let (seeded, other) = (site.node("seeded", |_| false), site.node("other", |_| false));
    let peers = [seeded.share().await.0, other.share().await.0];
    for node in [&seeded, &other] {
        introduce(&node.folder, &peers).unwrap();
    }
    let local = Local::new(seeded.shelf.clone());
    for number in 0..local.numbering().count() {
        let piece = local.piece(number).unwrap();
        // Each as a channel of its own: what a process wrote that is gone again.
        let ((), finished) = crate::store::receive::Intake::within(&seeded.shelf, |mut intake| {
            intake.put(piece.blob, piece.piece, site.bytes(&seeded.shelf, piece)).unwrap();
        });
        finished.unwrap();
        tokio::task::yield_now().await;
    }
    soon(|| other.is_whole().then_some(())).await;
}

#[tokio::test]
async fn sharing_ends_when_nobody_needs_it_or_its_folder_goes_and_a_second_one_leaves_at_once() {
    let site = Site::new();
    let node = site.node("idle", |_| true);
    let short = Duration::from_millis(50);
    let idle = share_on(&node.store, &node.folder, 0, short);
    timeout(SOON, idle).await.expect("it ends").unwrap();

    node.folder.forget_status().unwrap();
    let (_, task) = node.share().await;
    let second = share_on(&node.store, &node.folder, 0, SOON);
    timeout(short * 100, second).await.expect("it ends at once").unwrap();
    assert!(!task.is_finished());
    node.folder.remove().unwrap();
    timeout(SOON, task).await.expect("it ends").unwrap();
}

#[tokio::test]
async fn a_restarted_node_listens_where_it_was_and_as_who_it_was() {
    let site = Site::new();
    let node = site.node("n", |_| true);
    let (before, task) = node.share().await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    let (after, _task) = node.share().await;
    assert_eq!(before, after);
}

#[tokio::test]
async fn who_is_not_in_the_list_is_not_let_in_and_gives_nothing() {
    let site = Site::new();
    let [host, friend, stranger] =
        ["host", "friend", "stranger"].map(|name| site.node(name, |_| true));
    let peer = host.serve(&[&friend], Limits::default()).await;
    let count = host.local().numbering().count();
    let (_, all) = friend.link(&peer).await.unwrap().have(0, count).await.unwrap().unwrap();
    assert_eq!(all.len(), count);

    // In TLS 1.3 the client hears of the refusal when it first asks.
    let refused = match stranger.link(&peer).await {
        Ok(mut link) => link.have(0, count).await.unwrap_err(),
        Err(fault) => fault,
    };
    assert!(matches!(refused, Fault::Gone(_)), "{refused}");

    let impostor = Peer { port: peer.port, ..stranger.peer(1) };
    let Err(Fault::Gone(reason)) = friend.link(&impostor).await else { panic!("it was believed") };
    assert!(reason.contains("certificate"), "{reason}");

    // Without any certificate, and with an older TLS.
    for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
        let nobody = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
        assert!(speak(&peer, Arc::new(nobody)).await.is_err());
    }
}

async fn speak(peer: &Peer, config: Arc<rustls::ClientConfig>) -> std::io::Result<usize> {
    let stream = TcpStream::connect((peer.address, peer.port)).await?;
    let name = rustls::pki_types::ServerName::IpAddress(peer.address.into());
    let mut stream = TlsConnector::from(config).connect(name, stream).await?;
    stream.write_all(b"GET /v1/have HTTP/1.1\r\n\r\n").await?;
    stream.read(&mut [0; 100]).await
}

#[tokio::test]
async fn a_list_that_changes_lets_others_in_and_those_before_out() {
    let site = Site::new();
    let [host, one, two] = ["host", "one", "two"].map(|name| site.node(name, |_| true));
    let (peer, _task) = host.share().await;
    let answers = |node: &Node| {
        let config = pin::client_config(&node.identity, &peer.certificate).unwrap();
        let (peer, index) = (peer.clone(), node.shelf.digest().clone());
        async move {
            let Ok(mut link) = Link::open(&peer, &config, &index, short()).await else {
                return false;
            };
            link.have(0, 23).await.is_ok()
        }
    };
    for (inside, outside) in [(&one, &two), (&two, &one)] {
        introduce(&host.folder, &[inside.peer(1)]).unwrap();
        let begun = Instant::now();
        while !answers(inside).await {
            assert!(begun.elapsed() < SOON);
        }
        assert!(!answers(outside).await);
    }
}

#[tokio::test]
async fn what_is_no_good_request_is_refused() {
    let site = Site::new();
    let (host, guest) = (site.node("host", |number| number != 3), site.node("guest", |_| true));
    let peer = host.serve(&[&guest], Limits::default()).await;
    let config = pin::client_config(&guest.identity, &peer.certificate).unwrap();
    let mut other = Link::open(&peer, &config, &Digest::of(b"other"), short()).await.unwrap();
    assert_eq!(other.have(0, 23).await.unwrap_err(), Fault::OtherIndex);

    let mut link = guest.link(&peer).await.unwrap();
    let missing = host.local().piece(3).unwrap();
    for piece in [missing, Piece { blob: 9, piece: 0 }, Piece { blob: 0, piece: u32::MAX }] {
        assert_eq!(link.piece(piece, PIECE).await.unwrap_err(), Fault::Absent, "{piece:?}");
    }
    let there = host.local().piece(4).unwrap();
    let bytes = link.piece(there, PIECE).await.unwrap();
    assert_eq!(bytes, site.bytes(&host.shelf, there));

    let (version, _) = link.have(0, 23).await.unwrap().unwrap();
    assert_eq!(link.have(version, 23).await.unwrap(), None, "nothing new");
    for (line, status) in [
        ("POST /v1/have HTTP/1.1", "405"),
        ("GET / HTTP/1.1", "404"),
        ("GET /v1/pieces/0/x HTTP/1.1", "404"),
        ("GET /v1/pieces/0/-1 HTTP/1.1", "404"),
        ("nonsense", "400"),
    ] {
        let request = format!("{line}\r\nkdc-index: {}\r\n\r\n", host.shelf.digest());
        let answer = raw(&guest, &peer, request.as_bytes(), SOON).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{line}: {answer}");
    }
    let endless = [b"GET / HTTP/1.1\r\nx: ".as_slice(), &[b'x'; 64 * 1024]].concat();
    let answer = raw(&guest, &peer, &endless, SOON).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
}

/// What comes back to these bytes until the other side closes, or a second passes.
async fn raw(guest: &Node, peer: &Peer, bytes: &[u8], within: Duration) -> String {
    let config = pin::client_config(&guest.identity, &peer.certificate).unwrap();
    let stream = TcpStream::connect((peer.address, peer.port)).await.unwrap();
    let name = rustls::pki_types::ServerName::IpAddress(peer.address.into());
    let mut stream = TlsConnector::from(config).connect(name, stream).await.unwrap();
    let mut answer = vec![0; 4096];
    let talk = async {
        // The other side may close before it has read everything.
        let _ = stream.write_all(bytes).await;
        stream.read(&mut answer).await.unwrap_or(0)
    };
    let length = timeout(within, talk).await.expect("an answer or an end");
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test]
async fn guests_are_bounded_in_connections_and_in_time() {
    let site = Site::new();
    let [host, one, two] = ["host", "one", "two"].map(|name| site.node(name, |_| true));
    let brief = Duration::from_millis(1500);
    let limits = Limits {
        of_one: 2,
        connections: 3,
        handshake: brief,
        idle: brief,
        handshakes: 1,
        ..Limits::default()
    };
    let peer = host.serve(&[&one, &two], limits).await;
    let ask = |node| {
        let peer = peer.clone();
        async move {
            let mut link = Node::link(node, &peer).await?;
            link.have(0, 23).await?;
            Ok::<_, Fault>(link)
        }
    };
    let held = [ask(&one).await.unwrap(), ask(&one).await.unwrap()];
    assert!(ask(&one).await.is_err(), "two are enough for one");
    let other = ask(&two).await.unwrap();
    assert!(ask(&two).await.is_err(), "three are enough for all");
    drop((held, other));
    // A caller that never says a word holds the others up for no longer than a handshake may take;
    // a guest that asks nothing is shown out.
    let silent = TcpStream::connect((peer.address, peer.port)).await.unwrap();
    let begun = Instant::now();
    let quiet = loop {
        match ask(&one).await {
            Ok(link) => break link,
            Err(_) => assert!(begun.elapsed() < SOON),
        }
    };
    soon(|| quiet.is_closed().then_some(())).await;
    drop(silent);
}

#[tokio::test]
async fn an_address_that_calls_and_never_speaks_keeps_no_other_waiting() {
    let site = Site::new();
    let [host, guest] = ["host", "guest"].map(|name| site.node(name, |_| true));
    let limits = Limits {
        handshakes: 3,
        handshakes_of_one: 2,
        handshake: Duration::from_secs(3600),
        ..Limits::default()
    };
    let peer = host.serve(&[&guest], limits).await;
    let mut flood = Vec::new();
    for _ in 0..20 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        flood.push(socket.connect((peer.address, peer.port).into()).await.unwrap());
    }
    let mut link = timeout(SOON, guest.link(&peer)).await.expect("it is let in").unwrap();
    link.have(0, 23).await.unwrap();
    drop(flood);
}

#[tokio::test]
async fn a_guest_that_takes_a_byte_now_and_then_loses_its_connection_and_its_turn() {
    let mut site = Site::new();
    // Far more than sockets hold.
    site.contents = vec![vec![7; 4 << 20]];
    let index = index_of(&[&site.contents[0]], 4 << 20);
    let text = String::from_utf8(index.to_bytes()).unwrap();
    let [mut host, guest] = ["host", "guest"].map(|name| site.node(name, |_| false));
    let keys = [site.key.public().to_text()];
    host.shelf = host.store.keep_index(&text, &site.key.sign(&index), &keys).unwrap();
    let ((), finished) = crate::store::receive::Intake::within(&host.shelf, |mut intake| {
        intake.put(0, 0, &site.contents[0]).unwrap();
    });
    finished.unwrap();
    let answer = Duration::from_millis(700);
    let limits = Limits { uploads: 1, answer, turn: SOON, ..Limits::default() };
    let peer = host.serve(&[&guest], limits).await;
    let config = pin::client_config(&guest.identity, &peer.certificate).unwrap();
    let stream = TcpStream::connect((peer.address, peer.port)).await.unwrap();
    let name = rustls::pki_types::ServerName::IpAddress(peer.address.into());
    let mut slow = TlsConnector::from(Arc::clone(&config)).connect(name, stream).await.unwrap();
    let request =
        format!("GET /v1/pieces/0/0 HTTP/1.1\r\nkdc-index: {}\r\n\r\n", host.shelf.digest());
    slow.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(slow.read(&mut [0; 16]).await.unwrap(), 16, "its turn has begun");

    let mut link =
        Link::open(&peer, &config, host.shelf.digest(), Patience::default()).await.unwrap();
    let begun = Instant::now();
    let bytes = link.piece(Piece { blob: 0, piece: 0 }, 4 << 20).await.unwrap();
    assert!(bytes == site.contents[0]);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_damaged_disk_poisons_nobody_and_the_piece_comes_from_another() {
    let site = Site::new();
    let (bad, good, fresh) =
        (site.node("bad", |_| true), site.node("good", |_| true), site.node("fresh", |_| false));
    let partial = site.node("partial", |number| number < 2);
    for node in [&bad, &partial] {
        let blob = &node.shelf.index().blobs[0].digest;
        let whole = node.store.root.join("blobs/sha256").join(blob.hex());
        let path =
            if whole.exists() { whole } else { node.store.root.join("partial").join(blob.hex()) };
        let mut content = fs_err::read(&path).unwrap();
        content[5] ^= 1;
        fs_err::write(&path, content).unwrap();
    }
    let first = Piece { blob: 0, piece: 0 };
    for node in [&bad, &partial] {
        let peer = node.serve(&[&fresh], Limits::default()).await;
        let mut link = fresh.link(&peer).await.unwrap();
        let (version, before) = link.have(0, 23).await.unwrap().unwrap();
        assert!(before.has(0));
        assert_eq!(link.piece(first, PIECE).await.unwrap_err(), Fault::Absent);
        let (_, after) = link.have(version, 23).await.unwrap().expect("something changed");
        assert!(!after.has(0), "it is not announced any more");
        assert!(node.shelf.missing(&node.blobs()).unwrap()[0].ranges[0].0 == 0, "asked for again");
    }
    let peers = vec![
        bad.serve(&[&fresh], Limits::default()).await,
        good.serve(&[&fresh], Limits::default()).await,
    ];
    fresh.fetch(peers).await;
}

/// What a bad peer does with a connection that passed the handshake.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Vice {
    WrongBytes,
    TooShort,
    TooLong,
    NoLength,
    CutOff,
    EndlessHead,
    Nonsense,
    Dribble,
    NeverAnswersPieces,
    NeverAnswers,
    WrongBitmap,
}

/// A peer with that vice; counts the pieces it was asked for.
async fn bad_peer(node: &Node, guest: &Node, vice: Vice) -> (Peer, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = node.peer(listener.local_addr().unwrap().port());
    let tls = TlsAcceptor::from(pin::server_config(&node.identity, &letting_in(&[guest])).unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (tls, counter) = (tls.clone(), Arc::clone(&counter));
            tokio::spawn(async move {
                let Ok(mut stream) = tls.accept(stream).await else { return };
                let _ = misbehave(&mut stream, vice, &counter).await;
            });
        }
    });
    (peer, asked)
}

async fn misbehave(
    stream: &mut tokio_rustls::server::TlsStream<TcpStream>,
    vice: Vice,
    asked: &AtomicUsize,
) -> std::io::Result<()> {
    let mut request = vec![0; 4096];
    loop {
        let length = stream.read(&mut request).await?;
        if length == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&request[..length]).into_owned();
        let head = |length: usize| format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n");
        let whole = PIECE as usize;
        if vice == Vice::NeverAnswers {
            std::future::pending::<()>().await;
        }
        if text.contains("/v1/have") {
            let length = if vice == Vice::WrongBitmap { 9 } else { 3 };
            stream.write_all(format!("{}kdc-version: 1\r\n\r\n", head(length)).as_bytes()).await?;
            stream.write_all(&[0xff, 0xff, 0x7f, 0, 0, 0, 0, 0, 0][..length]).await?;
            continue;
        }
        asked.fetch_add(1, Ordering::Relaxed);
        match vice {
            Vice::WrongBytes => {
                stream.write_all(format!("{}\r\n", head(whole)).as_bytes()).await?;
                stream.write_all(&vec![1; whole]).await?;
            }
            Vice::TooShort => stream.write_all(format!("{}\r\nx", head(1)).as_bytes()).await?,
            Vice::TooLong => {
                stream.write_all(format!("{}\r\n", head(1 << 40)).as_bytes()).await?;
                while stream.write_all(&vec![1; whole]).await.is_ok() {}
            }
            Vice::NoLength => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
                while stream.write_all(b"4\r\nabcd\r\n").await.is_ok() {}
            }
            Vice::CutOff => {
                stream.write_all(format!("{}\r\nbegun", head(whole)).as_bytes()).await?;
                return Ok(());
            }
            Vice::EndlessHead => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
                while stream.write_all(b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n").await.is_ok() {}
            }
            Vice::Nonsense => stream.write_all(b"\x00\x01\x02 what?\r\n\r\n").await?,
            Vice::Dribble => {
                stream.write_all(format!("{}\r\n", head(whole)).as_bytes()).await?;
                while stream.write_all(b"x").await.is_ok() {
                    sleep(Duration::from_millis(100)).await;
                }
            }
            Vice::NeverAnswersPieces | Vice::NeverAnswers | Vice::WrongBitmap => {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[tokio::test]
async fn a_peer_with_any_vice_is_dropped_and_the_others_give_everything() {
    let site = Site::new();
    let (good, bad) = (site.node("good", |_| true), site.node("bad", |_| true));
    for vice in [
        Vice::WrongBytes,
        Vice::TooShort,
        Vice::TooLong,
        Vice::NoLength,
        Vice::CutOff,
        Vice::EndlessHead,
        Vice::Nonsense,
        Vice::Dribble,
        Vice::NeverAnswersPieces,
        Vice::NeverAnswers,
        Vice::WrongBitmap,
    ] {
        let fresh = site.node(&format!("fresh-{vice:?}"), |_| false);
        let (liar, asked) = bad_peer(&bad, &fresh, vice).await;
        let honest = good.serve(&[&fresh], Limits::default()).await;
        let took = fresh.fetch(vec![liar, honest]).await;
        assert!(took < Duration::from_secs(15), "{vice:?} held it up for {took:?}");
        let asked = asked.load(Ordering::Relaxed);
        assert!(asked <= 16, "{vice:?} was asked {asked} times");
    }
}

#[tokio::test]
async fn alone_with_a_liar_a_node_stops_asking_it_and_stores_nothing_of_it() {
    let site = Site::new();
    let (bad, fresh) = (site.node("bad", |_| true), site.node("fresh", |_| false));
    for vice in [Vice::WrongBytes, Vice::EndlessHead, Vice::TooShort, Vice::WrongBitmap] {
        let (liar, asked) = bad_peer(&bad, &fresh, vice).await;
        let (local, activity) = (fresh.local(), Arc::new(Activity::new()));
        let (fetch, results) = Fetch::new(&local, &fresh.blobs(), 1, &activity, short());
        let (_peers, known) = watch::channel(vec![liar]);
        let run = fetch.run(&fresh.identity, known, results);
        // Longer than anybody is left alone the first time.
        assert!(timeout(Duration::from_secs(3), run).await.is_err(), "{vice:?}");
        assert!(asked.load(Ordering::Relaxed) <= 8, "{vice:?}: {asked:?}");
        assert_eq!(fetch.missing(), 23, "{vice:?}");
    }
    let all: u32 = fresh
        .shelf
        .missing(&fresh.blobs())
        .unwrap()
        .iter()
        .flat_map(|m| &m.ranges)
        .map(|(a, b)| b - a)
        .sum();
    assert_eq!(all, 23);
}

#[tokio::test]
async fn a_peer_that_comes_back_is_asked_again_and_dead_addresses_hold_nobody_up() {
    let site = Site::new();
    let (good, fresh) = (site.node("good", |_| true), site.node("fresh", |_| false));
    let dead = site.node("dead", |_| true).peer(1);
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let (local, activity) = (fresh.local(), Arc::new(Activity::new()));
    let (fetch, results) = Fetch::new(&local, &fresh.blobs(), 1, &activity, short());
    let (_peers, known) = watch::channel(vec![dead, good.peer(port)]);
    let late = async {
        sleep(Duration::from_millis(500)).await;
        let server = Server::new(good.local(), Arc::new(Activity::new()), Limits::default());
        let tls =
            TlsAcceptor::from(pin::server_config(&good.identity, &letting_in(&[&fresh])).unwrap());
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        server.serve(listener, tls).await
    };
    tokio::select! {
        never = late => match never {},
        done = timeout(SOON, fetch.run(&fresh.identity, known, results)) => done.unwrap().unwrap(),
    }
    assert_eq!(fetch.missing(), 0);
}

#[test]
fn what_the_installer_names_is_checked_before_it_is_kept() {
    let site = Site::new();
    let node = site.node("n", |_| false);
    let nowhere = Folder::at(&site.place.path().join("nowhere"));
    assert_eq!(introduce(&nowhere, &[]).unwrap_err().code(), "AGENT-060");
    let wrong = [
        vec![node.peer(0)],
        vec![Peer { address: Ipv4Addr::UNSPECIFIED.into(), ..node.peer(1) }],
        vec![Peer { address: "ff02::1".parse().unwrap(), ..node.peer(1) }],
        vec![node.peer(1); crate::wire::MAX_PEERS + 1],
    ];
    for peers in wrong {
        let error = introduce(&node.folder, &peers).unwrap_err();
        assert_eq!(error.code(), "AGENT-061", "{error}");
    }
    assert_eq!(node.folder.peers().unwrap(), []);
    introduce(&node.folder, &[node.peer(1)]).unwrap();
    assert_eq!(node.folder.peers().unwrap(), [node.peer(1)]);
}

#[tokio::test]
async fn a_unit_that_lives_is_left_alone_and_one_that_never_listens_is_told() {
    use std::path::Path;

    use super::unit::{begin, end, stop};
    use crate::host::fake::{Accident, FakeHost};

    let site = Site::new();
    let node = site.node("n", |_| true);
    let (peer, task) = node.share().await;
    let host = FakeHost::debian();
    let again = |blobs: &[Digest]| {
        begin(&host, &node.folder, Path::new("/x/kdc-agent"), node.shelf.digest(), blobs)
    };
    let answer = again(&node.blobs()).unwrap();
    assert_eq!(answer, (peer.port, peer.certificate.clone()));
    assert!(host.calls().is_empty(), "{:?}", host.calls());
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());

    host.plan_accident(0, Accident::Fail);
    assert_eq!(again(&node.blobs()[..1]).unwrap_err().code(), "AGENT-066");
    host.recover();
    host.plant("/usr/bin/systemd-run", "");
    let error = again(&node.blobs()[..1]).unwrap_err();
    assert_eq!(error.code(), "AGENT-062", "{error}");
    let calls = host.calls().join("\n");
    for part in ["systemctl stop kdc-share.service", "systemd-run --unit=kdc-share.service"] {
        assert!(calls.contains(part), "{part}: {calls}");
    }
    let kept = Identity::load(&node.folder).unwrap().unwrap();
    assert_eq!(kept.digest(), &peer.certificate, "the same index, the same identity");

    prepare(&node.folder, &Digest::of(b"another"), &[]).unwrap();
    let anew = Identity::load(&node.folder).unwrap().unwrap();
    assert_ne!(anew.digest(), &peer.certificate);
    end(&host, &node.folder).unwrap();
    assert!(!node.folder.exists());
    let before = host.calls().len();
    stop(&host, &node.folder).unwrap();
    assert_eq!(host.calls().len(), before, "without a folder there is nothing to stop");
}

#[tokio::test]
async fn a_folder_that_lacks_what_is_needed_says_which() {
    let site = Site::new();
    let node = site.node("n", |_| false);
    let code = |folder: &Folder| {
        let (store, folder) = (node.store.clone(), folder.clone());
        async move { share_on(&store, &folder, 0, SOON).await.unwrap_err().code() }
    };
    let place = site.place.path().join("n/share");
    fs_err::remove_file(place.join("identity.json")).unwrap();
    assert_eq!(code(&node.folder).await, "AGENT-063");
    fs_err::write(place.join("wanted.json"), "{").unwrap();
    assert_eq!(code(&node.folder).await, "AGENT-064");
    fs_err::remove_file(place.join("wanted.json")).unwrap();
    assert_eq!(code(&node.folder).await, "AGENT-060");
    fs_err::create_dir(place.join("wanted.json")).unwrap();
    assert_eq!(code(&node.folder).await, "AGENT-065");
    let unknown = site.node("other", |_| false);
    prepare(&unknown.folder, &Digest::of(b"never offered"), &[]).unwrap();
    assert_eq!(code(&unknown.folder).await, "AGENT-012");
}

/// Where nobody listens now.
async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn the_daemon_serves_on_while_no_unit_does_and_lets_the_port_go_when_one_comes() {
    let site = Site::new();
    let [host, guest] = ["host", "guest"].map(|name| site.node(name, |_| true));
    let mut standing = Standing::new(host.store.clone(), host.folder.clone());
    let (port, certificate) = (free_port().await, host.identity.digest().clone());
    host.folder.save_status(&Status { port, certificate }).unwrap();
    introduce(&host.folder, &[guest.peer(1)]).unwrap();
    let told = format!("content shared with 1 nodes on port {port}");
    for _ in 0..2 {
        assert_eq!(standing.settle().unwrap(), Some(told.clone()));
        let peer = host.peer(port);
        let mut link = guest.link(&peer).await.unwrap();
        let begun = Instant::now();
        // It looks at the store first.
        while link.have(0, 23).await.unwrap().is_none_or(|(_, map)| map.len() < 23) {
            assert!(begun.elapsed() < SOON);
        }
        assert_eq!(standing.settle().unwrap(), Some(told.clone()), "nothing changes");
        assert!(!link.is_closed());

        let life = host.folder.live().unwrap().expect("the daemon holds no lock");
        assert_eq!(standing.settle().unwrap(), None);
        drop(bind(port).expect("the port is free"));
        drop(life);
    }
    host.folder.remove().unwrap();
    assert_eq!(standing.settle().unwrap(), None);
    assert_eq!(Standing::new(host.store.clone(), host.folder.clone()).settle().unwrap(), None);
}

#[tokio::test]
async fn what_is_lacking_comes_from_the_others_proved_and_a_liar_is_asked_once() {
    let site = Site::new();
    let [good, bad] = ["good", "bad"].map(|name| site.node(name, |_| true));
    let fresh = site.node("fresh", |number| number == 7);
    let (liar, asked) = bad_peer(&bad, &fresh, Vice::WrongBytes).await;
    let honest = good.serve(&[&fresh], Limits::default()).await;
    introduce(&fresh.folder, &[liar, honest]).unwrap();
    let shelf = fresh.shelf.clone();
    let read = tokio::task::spawn_blocking(move || {
        let others = WithOthers::new(shelf.clone(), fresh.folder.clone()).unwrap();
        let begun = std::time::Instant::now();
        while !(others.has(0) && others.has(1)) {
            assert!(begun.elapsed() < SOON, "nobody was heard");
            std::thread::sleep(Duration::from_millis(20));
        }
        let (mut all, mut buffer) = (Vec::new(), vec![1, 2, 3]);
        for (ordinal, blob) in shelf.index().blobs.iter().enumerate() {
            let mut content = Vec::new();
            for piece in 0..blob.pieces.len() {
                others.read_piece_into(ordinal, piece, &mut buffer).unwrap();
                content.extend_from_slice(&buffer);
            }
            all.push((blob.digest.clone(), content));
            let beyond = others.read_piece_into(ordinal, blob.pieces.len(), &mut buffer);
            assert!(matches!(beyond, Err(SourceError::Absent)));
        }
        assert!(!others.has(2));
        assert!(!fresh.is_whole(), "nothing is stored");
        all
    });
    for (digest, content) in read.await.unwrap() {
        assert_eq!(Digest::of(&content), digest);
    }
    assert!(asked.load(Ordering::Relaxed) <= 1, "{asked:?}");
}

#[test]
fn a_full_disk_is_told_what_came_is_kept_and_it_goes_on_once_there_is_room() {
    let name = "store::peer::tests::\
                a_full_disk_is_told_what_came_is_kept_and_it_goes_on_once_there_is_room";
    let Some(disk) = SmallDisk::within(name, 128) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let site = Site::new();
        let good = site.node("good", |_| true);
        let fresh = site.node(disk.root().join("fresh").to_str().unwrap(), |_| false);
        let peer = good.serve(&[&fresh], Limits::default()).await;
        disk.leave(12);
        let (local, activity) = (fresh.local(), Arc::new(Activity::new()));
        let (fetch, results) = Fetch::new(&local, &fresh.blobs(), 1, &activity, short());
        let (_peers, known) = watch::channel(vec![peer.clone()]);
        let run = fetch.run(&fresh.identity, known, results);
        let error = timeout(SOON, run).await.expect("it ends").unwrap_err();
        assert_eq!(error.code(), "AGENT-017", "{error}");
        assert!(fetch.missing() < 23, "some came");
        disk.free();
        fresh.fetch(vec![peer]).await;
    });
}
