//! From an address to a logged-in connection, through a jump host if there is one.

use std::{
    borrow::Cow,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use russh::{
    ChannelStream, Preferred, cipher,
    client::{self, DisconnectReason, Handle, Msg},
    compression, kex,
    keys::{Algorithm, PublicKeyOrCertificate},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use super::{Keyring, Reach, SshError, error::At, login, trust::Judge};

/// A TCP connection must stand by then.
const CONNECT_SECS: u64 = 10;

/// Greeting and key exchange must be done by then.
const HANDSHAKE_SECS: u64 = 15;

/// A silent peer is asked for a sign of life this often…
const KEEPALIVE: Duration = Duration::from_secs(15);

/// …and given up after this many without an answer. A link cut for half a minute survives.
const KEEPALIVE_MAX: usize = 3;

/// First bytes of the peer kept for an error message.
const HEARD_BYTES: usize = 96;

/// A logged-in connection.
pub(super) struct Link {
    pub(super) handle: Handle<Guard>,
    pub(super) last_words: LastWords,
    address: String,
    _jump: Option<Arc<Link>>,
}

/// What the server said when it ended the connection.
pub(super) type LastWords = Arc<Mutex<Option<String>>>;

/// The library's callbacks: judge the host key, remember last words.
pub(super) struct Guard {
    judge: Judge,
    last_words: LastWords,
}

/// Why a connection ended, from inside the library's callbacks.
#[derive(Debug)]
pub(super) enum GuardError {
    Refused(Box<SshError>),
    Library(russh::Error),
}

impl From<russh::Error> for GuardError {
    fn from(error: russh::Error) -> Self {
        Self::Library(error)
    }
}

impl client::Handler for Guard {
    type Error = GuardError;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, GuardError> {
        self.judge.judge(shown).map(|()| true).map_err(|error| GuardError::Refused(Box::new(error)))
    }

    async fn disconnected(
        &mut self,
        reason: DisconnectReason<GuardError>,
    ) -> Result<(), GuardError> {
        let (words, outcome) = match reason {
            DisconnectReason::ReceivedDisconnect(info) => (info.message, Ok(())),
            DisconnectReason::Error(GuardError::Library(error)) => {
                (error.to_string(), Err(GuardError::Library(error)))
            }
            DisconnectReason::Error(error) => return Err(error),
        };
        if let Ok(mut slot) = self.last_words.lock() {
            slot.get_or_insert(words);
        }
        outcome
    }
}

/// Connect, prove the host key and log in.
pub(super) async fn dial(
    node: &str,
    reach: &Reach,
    jump: Option<&Reach>,
    keyring: &Keyring,
) -> Result<Link, SshError> {
    let through = match jump {
        Some(jump) => Some(shared_jump(node, jump, keyring).await?),
        None => None,
    };
    let at = reach.at(node);
    let judge = Judge::load(&reach.trust, &at, node, &reach.host, reach.port)?;
    let mut link = shake_hands(&at, reach, &judge, through).await?;
    login::login(&mut link, node, reach, keyring, &at).await?;
    Ok(link)
}

/// One connection to a jump host serves all nodes behind it.
async fn shared_jump(node: &str, jump: &Reach, keyring: &Keyring) -> Result<Arc<Link>, SshError> {
    let mut jumps = keyring.jumps.lock().await;
    let key = jump.address();
    if let Some(link) = jumps.get(&key).filter(|link| !link.handle.is_closed()) {
        return Ok(Arc::clone(link));
    }
    let name = format!("jump for {node}");
    let link = Arc::new(Box::pin(dial(&name, jump, None, keyring)).await?);
    jumps.insert(key, Arc::clone(&link));
    Ok(link)
}

/// Key exchange. Where only a fingerprint is pinned and another key is shown, the server is asked
/// for its other keys before that counts as a change.
async fn shake_hands(
    at: &At,
    reach: &Reach,
    judge: &Judge,
    through: Option<Arc<Link>>,
) -> Result<Link, SshError> {
    let wanted = judge.algorithms();
    let first = greet(at, reach, judge, wanted.clone(), through.clone()).await;
    let Err(changed @ SshError::ChangedHostKey { .. }) = first else { return first };
    if !judge.is_fingerprint() {
        return Err(changed);
    }
    for algorithm in wanted {
        match greet(at, reach, judge, vec![algorithm], through.clone()).await {
            Ok(link) => return Ok(link),
            Err(SshError::ChangedHostKey { .. } | SshError::NoCommonAlgorithm { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    Err(changed)
}

async fn greet(
    at: &At,
    reach: &Reach,
    judge: &Judge,
    algorithms: Vec<Algorithm>,
    through: Option<Arc<Link>>,
) -> Result<Link, SshError> {
    let stream = match &through {
        None => Stream::Tcp(connect(at, reach).await?),
        Some(jump) => Stream::Tunnel(tunnel(at, reach, jump).await?),
    };
    let heard = Arc::new(Mutex::new(Vec::new()));
    let stream = Recording { stream, heard: Arc::clone(&heard) };
    let last_words = LastWords::default();
    let guard = Guard { judge: judge.clone(), last_words: Arc::clone(&last_words) };
    let settings = Arc::new(settings(algorithms, judge.wants_certificate()));
    let limit = Duration::from_secs(HANDSHAKE_SECS);
    let outcome = timeout(limit, client::connect_stream(settings, stream, guard)).await;
    let heard = heard.lock().map_or_else(|_| Vec::new(), |heard| heard.clone());
    match outcome {
        Ok(Ok(handle)) => {
            Ok(Link { handle, last_words, address: at.address.clone(), _jump: through })
        }
        Ok(Err(GuardError::Refused(error))) => Err(*error),
        Ok(Err(GuardError::Library(error))) => Err(greeting_failed(at, &error, &heard)),
        Err(_) if is_ssh(&heard) => Err(SshError::Timeout { at: at.clone(), secs: HANDSHAKE_SECS }),
        Err(_) => Err(SshError::NotSsh { at: at.clone(), said: quote(&heard) }),
    }
}

async fn connect(at: &At, reach: &Reach) -> Result<TcpStream, SshError> {
    let limit = Duration::from_secs(CONNECT_SECS);
    let late = || SshError::Timeout { at: at.clone(), secs: CONNECT_SECS };
    let addresses = timeout(limit, tokio::net::lookup_host((reach.host.as_str(), reach.port)))
        .await
        .map_err(|_| late())?
        .map_err(|source| SshError::NoAddress { at: at.clone(), source })?;
    let mut last = SshError::NoAddress { at: at.clone(), source: io::ErrorKind::NotFound.into() };
    for address in addresses.take(8) {
        last = match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Without it, small requests wait for each other's acknowledgement.
                return match stream.set_nodelay(true) {
                    Ok(()) => Ok(stream),
                    Err(source) => Err(SshError::NoRoute { at: at.clone(), source }),
                };
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                SshError::Refused { at: at.clone() }
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => late(),
            Ok(Err(source)) => SshError::NoRoute { at: at.clone(), source },
            Err(_) => late(),
        };
    }
    Err(last)
}

async fn tunnel(at: &At, reach: &Reach, jump: &Link) -> Result<ChannelStream<Msg>, SshError> {
    let port = u32::from(reach.port);
    let limit = Duration::from_secs(CONNECT_SECS);
    let opening = jump.handle.channel_open_direct_tcpip(reach.host.as_str(), port, "127.0.0.1", 0);
    let refused = |problem: String| SshError::JumpRefused {
        at: at.clone(),
        jump: jump.address.clone(),
        problem,
    };
    match timeout(limit, opening).await {
        Ok(Ok(channel)) => Ok(channel.into_stream()),
        Ok(Err(russh::Error::ChannelOpenFailure(why))) => Err(refused(match why {
            russh::ChannelOpenFailure::AdministrativelyProhibited => {
                "forwarding is forbidden".to_owned()
            }
            russh::ChannelOpenFailure::ConnectFailed => {
                "the connection from there failed".to_owned()
            }
            other => format!("{other:?}"),
        })),
        Ok(Err(error)) => Err(refused(error.to_string())),
        Err(_) => Err(refused(format!("no answer within {CONNECT_SECS} s"))),
    }
}

fn greeting_failed(at: &At, error: &russh::Error, heard: &[u8]) -> SshError {
    let at = at.clone();
    match error {
        russh::Error::NoCommonAlgo { kind, theirs, .. } => SshError::NoCommonAlgorithm {
            at,
            kind: format!("{kind:?}").to_lowercase(),
            theirs: theirs.join(", "),
        },
        // A server that is full says so, or just hangs up, before it greets.
        _ if heard.is_empty() || heard.starts_with(b"Exceeded MaxStartups") => SshError::Lost {
            node: at.node,
            during: "waiting for the server's greeting".to_owned(),
            detail: ": it hung up (too many logins at once, or this address is banned)".to_owned(),
        },
        _ if !is_ssh(heard) => SshError::NotSsh { at, said: quote(heard) },
        other => SshError::Lost {
            node: at.node,
            during: "exchanging keys".to_owned(),
            detail: format!(": {other}"),
        },
    }
}

fn is_ssh(heard: &[u8]) -> bool {
    heard.windows(4).any(|window| window == b"SSH-")
}

fn quote(heard: &[u8]) -> String {
    if heard.is_empty() { "nothing".to_owned() } else { format!("`{}`", heard.escape_ascii()) }
}

fn settings(algorithms: Vec<Algorithm>, certificates: bool) -> client::Config {
    let certificates = if certificates { super::trust::host_key_algorithms() } else { Vec::new() };
    client::Config {
        nodelay: true,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: KEEPALIVE_MAX,
        preferred: Preferred {
            kex: Cow::Borrowed(KEX),
            key: Cow::Owned(algorithms),
            host_key_certificates: Cow::Owned(certificates),
            cipher: Cow::Borrowed(if has_aes() { AES_FIRST } else { CHACHA_FIRST }),
            compression: Cow::Borrowed(&[compression::NONE]),
            ..Preferred::DEFAULT
        },
        ..client::Config::default()
    }
}

/// Cheap and safe first; the last ones for servers in FIPS mode.
const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::ECDH_SHA2_NISTP256,
    kex::ECDH_SHA2_NISTP384,
    kex::DH_G16_SHA512,
    kex::DH_G14_SHA256,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
];

/// AES-GCM costs half of chacha20 on both ends where the processor knows AES.
const AES_FIRST: &[cipher::Name] = &[
    cipher::AES_256_GCM,
    cipher::AES_128_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
    cipher::AES_128_CTR,
];

const CHACHA_FIRST: &[cipher::Name] = &[
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_GCM,
    cipher::AES_128_GCM,
    cipher::AES_256_CTR,
    cipher::AES_128_CTR,
];

fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// The byte stream under SSH: a socket, or a channel of the jump host's connection.
enum Stream {
    Tcp(TcpStream),
    Tunnel(ChannelStream<Msg>),
}

/// A stream whose first bytes are kept, to say what answered when it wasn't SSH.
struct Recording {
    stream: Stream,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Recording {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tunnel(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        // Only this handle is left once the greeting is over: then there is nothing to keep.
        if Arc::strong_count(&self.heard) > 1
            && let Ok(mut heard) = self.heard.lock()
        {
            let fresh = &buffer.filled()[before..];
            let room = HEARD_BYTES.saturating_sub(heard.len()).min(fresh.len());
            heard.extend_from_slice(&fresh[..room]);
        }
        polled
    }
}

impl AsyncWrite for Recording {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tunnel(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tunnel(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tunnel(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
