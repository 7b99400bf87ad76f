//! The way to a node, over real sshd processes on loopback: what opens, and how each failure reads.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, with its place")]

use std::{io, path::Path, sync::Arc};

use kdc_agent::wire::{MissingPieces, Reply, RequestBody};
use kdc_bundles::index::{Blob, Digest, Index};
use kdc_install::ssh::{
    AgentBinary, Keyring, PieceSource, Reach, SecretKind, SecretPrompt, SecretQuestion, Session,
    Silent, SshError, Target, Trust,
};
use kdc_tests::sshd::{Options, Sshd};
use secrecy::SecretString;

mod host_keys;
mod login;
mod route;
mod session;
mod staging;
mod sudo;
mod terminal;

fn agent() -> AgentBinary {
    AgentBinary::load(Path::new(env!("CARGO_BIN_EXE_fake-agent"))).unwrap()
}

fn sshd() -> Sshd {
    Sshd::start(&Options::default()).unwrap()
}

fn reach(server: &Sshd) -> Reach {
    let key = fs_err::read_to_string(server.path("host_ed25519.pub")).unwrap_or_default();
    Reach {
        host: "127.0.0.1".to_owned(),
        port: server.port,
        user: "root".to_owned(),
        identities: vec![server.path("id")],
        identities_only: true,
        trust: Trust { pinned: Some(key), ..Trust::default() },
    }
}

/// Answers by kind of secret.
struct Says {
    passphrase: Option<&'static str>,
    password: Option<&'static str>,
    sudo: Option<&'static str>,
}

/// Has no answer at all.
const MUTE: Says = Says { passphrase: None, password: None, sudo: None };

impl SecretPrompt for Says {
    fn ask(&self, question: &SecretQuestion) -> Option<SecretString> {
        let answer = match question.kind {
            SecretKind::Passphrase { .. } => self.passphrase,
            SecretKind::Password { .. } => self.password,
            SecretKind::Sudo { .. } => self.sudo,
        };
        answer.map(|text| text.to_owned().into())
    }
}

fn target_with(reach: Reach, jump: Option<Reach>, keyring: Keyring) -> Target {
    Target::Ssh {
        node: "w1".to_owned(),
        reach: Box::new(reach),
        jump: jump.map(Box::new),
        keyring: Arc::new(keyring),
    }
}

fn target(reach: Reach) -> Target {
    target_with(reach, None, Keyring::with_agent(Arc::new(Silent), None))
}

fn target_saying(reach: Reach, says: Says) -> Target {
    target_with(reach, None, Keyring::with_agent(Arc::new(says), None))
}

async fn open(target: &Target) -> Result<Session, SshError> {
    Session::open(target, &agent()).await
}

/// The error of an open that must fail, its code checked, and a hint there.
async fn refused(target: &Target, code: &str) -> String {
    match open(target).await {
        Ok(_) => panic!("it opened; expected {code}"),
        Err(error) => {
            assert_eq!(error.code(), code, "{error}");
            assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "{code} has no hint");
            error.to_string()
        }
    }
}

async fn works(target: &Target) {
    let session = open(target).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(session.request(RequestBody::Runs).await.unwrap(), Reply::Runs { runs: Vec::new() });
    session.close().await;
}

struct Memory(Vec<u8>);

impl PieceSource for Memory {
    fn read_at(&self, _: &Digest, at: u64, into: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(at).unwrap();
        let slice = self.0.get(start..start + into.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(slice);
        Ok(())
    }
}

fn one_blob(size: u64, piece_size: u64) -> (Index, Vec<MissingPieces>) {
    let digest = Digest::of(b"blob");
    let blob = Blob { digest: digest.clone(), size, pieces: Vec::new() };
    let index = Index {
        version: 1,
        name: "t".to_owned(),
        bundle_version: "1".to_owned(),
        piece_size,
        parameters: std::collections::BTreeMap::new(),
        artifacts: Vec::new(),
        blobs: vec![blob],
    };
    let pieces = u32::try_from(size.div_ceil(piece_size)).unwrap();
    (index, vec![MissingPieces { blob: digest, ranges: vec![(0, pieces)] }])
}
