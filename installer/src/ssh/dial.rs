//! From an address to a logged-in connection, through a jump host if there is one.

use std::{
    borrow::Cow,
    io,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use russh::{
    ChannelStream, Preferred, cipher,
    client::{self, DisconnectReason, Handle, Msg},
    compression, kex,
    keys::{Algorithm, PublicKeyOrCertificate},
};
use tokio::{net::TcpStream, time::timeout};

use super::{
    Keyring, Reach, SshError, UnknownKey,
    error::At,
    login,
    stream::{Recording, Stream},
    trust::Judge,
};

/// A TCP connection must stand by then.
const CONNECT_SECS: u64 = 10;

/// Greeting and key exchange must be done by then.
const HANDSHAKE_SECS: u64 = 15;

/// A silent peer is asked for a sign of life this often…
const KEEPALIVE: Duration = Duration::from_secs(15);

/// …and given up after this many without an answer. A link cut for half a minute survives.
const KEEPALIVE_MAX: usize = 3;

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
    let at = reach.at(node);
    let through_jump = jump.map(|jump| jump.host.as_str());
    tracing::info!(node, host = reach.host, port = reach.port, through_jump, "connecting");
    let through = match jump {
        Some(jump) => Some(shared_jump(&at, jump, keyring).await?),
        None => None,
    };
    let judge = Judge::load(&reach.trust, &at, node, &reach.host, reach.port)?;
    let mut link = shake_hands(&at, reach, &judge, through).await?;
    tracing::debug!(node, "the host key is proved");
    login::login(&mut link, node, reach, keyring, &at).await?;
    tracing::debug!(node, user = reach.user, "logged in");
    Ok(link)
}

/// The connection to one jump host, or how the last try went.
#[derive(Default)]
pub(super) struct JumpSlot {
    link: Option<Arc<Link>>,
    failed: Option<(Instant, JumpFailure)>,
}

/// A failure that is told to every node waiting for the same jump host.
enum JumpFailure {
    Unknown(Box<UnknownKey>),
    Other(String),
}

/// One connection to a jump host serves all nodes behind it. Whoever waited for a try that failed is
/// told so at once: a thousand nodes must not wait for a thousand timeouts in a row.
async fn shared_jump(at: &At, jump: &Reach, keyring: &Keyring) -> Result<Arc<Link>, SshError> {
    let asked = Instant::now();
    let slot = Arc::clone(keyring.jumps.lock().await.entry(jump.address()).or_default());
    let mut slot = slot.lock().await;
    if let Some(link) = slot.link.as_ref().filter(|link| !link.handle.is_closed()) {
        return Ok(Arc::clone(link));
    }
    match &slot.failed {
        Some((when, JumpFailure::Unknown(unknown))) if *when > asked => {
            return Err(SshError::UnknownHostKey { unknown: unknown.clone() });
        }
        Some((when, JumpFailure::Other(problem))) if *when > asked => {
            let (at, jump, problem) = (at.clone(), jump.address(), problem.clone());
            return Err(SshError::JumpRefused { at, jump, problem });
        }
        _ => {}
    }
    let name = format!("jump for {}", at.node);
    match Box::pin(dial(&name, jump, None, keyring)).await {
        Ok(link) => {
            let link = Arc::new(link);
            slot.link = Some(Arc::clone(&link));
            Ok(link)
        }
        Err(error) => {
            let failure = match &error {
                SshError::UnknownHostKey { unknown } => JumpFailure::Unknown(unknown.clone()),
                other => JumpFailure::Other(other.to_string()),
            };
            slot.failed = Some((Instant::now(), failure));
            Err(error)
        }
    }
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
        None => Stream::over(connect(at, reach).await?),
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
