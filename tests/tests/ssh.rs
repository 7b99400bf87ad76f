//! The way to a node, over real sshd processes on loopback: what opens, and how each failure reads.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, with its place")]

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use kdc_agent::wire::{MissingPieces, Outcome, Reply, RequestBody};
use kdc_bundles::index::{Blob, Digest, Index};
use kdc_install::ssh::{
    AgentBinary, HostKeyPrompt, Keyring, PieceSource, Reach, SecretKind, SecretPrompt,
    SecretQuestion, Session, Silent, SshError, Target, Trust, UnknownKey, confirm_unknown,
};
use kdc_tests::sshd::{Options, Sshd, keygen, run};
use secrecy::SecretString;

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

#[tokio::test]
async fn a_session_opens_answers_follows_a_run_and_reuses_the_staged_agent() {
    let server = sshd();
    let target = target(reach(&server));
    let session = open(&target).await.unwrap();
    assert!(session.uploaded() && session.hello().root);
    let (runs, fact) =
        tokio::join!(session.request(RequestBody::Runs), session.request(RequestBody::Facts));
    assert_eq!(runs.unwrap(), Reply::Runs { runs: Vec::new() });
    assert_eq!(fact.unwrap_err().code(), "AGENT-999");
    let mut seen = Vec::new();
    let outcome = session.attach("r1", 1, |event| seen.push(event.seq)).await.unwrap();
    assert_eq!((seen, outcome), (vec![2, 3], Outcome::Finished { changed: 3, found: 0 }));
    // A caller that gives up harms nobody else.
    let endless = session.attach("endless", 0, |_| {});
    assert!(tokio::time::timeout(Duration::from_millis(50), endless).await.is_err());
    session.request(RequestBody::Runs).await.unwrap();
    session.close().await;
    let again = open(&target).await.unwrap();
    assert!(!again.uploaded(), "the staged copy is used again");
    again.close().await;
}

struct Memory(Vec<u8>);

impl PieceSource for Memory {
    fn read_into(&self, _: &Digest, at: u64, length: usize, into: &mut Vec<u8>) -> io::Result<()> {
        let start = usize::try_from(at).unwrap();
        let slice = self.0.get(start..start + length).ok_or(io::ErrorKind::UnexpectedEof)?;
        into.extend_from_slice(slice);
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

#[tokio::test]
async fn pieces_arrive_and_a_bad_one_or_an_unreadable_one_stops_the_stream() {
    let server = sshd();
    let session = open(&target(reach(&server))).await.unwrap();
    let (index, missing) = one_blob(10_500_000, 1_000_000);
    let (digest, sent) = (Digest::of(b"index"), Mutex::new(0));
    let progress = |bytes: u64| *sent.lock().unwrap() += bytes;
    let source = Memory(vec![7; 10_500_000]);
    let received =
        session.send_pieces(&index, &digest, &missing, &source, &progress).await.unwrap();
    assert_eq!((received.pieces, received.bytes), (11, 10_500_000));
    assert_eq!(*sent.lock().unwrap(), 10_500_000);
    let mut bad = vec![7; 10_500_000];
    bad[3_000_000..3_000_003].copy_from_slice(b"BAD");
    let error = session.send_pieces(&index, &digest, &missing, &Memory(bad), &progress).await;
    let error = error.unwrap_err();
    assert_eq!((error.code(), error.to_string().contains("piece 3 is bad")), ("AGENT-998", true));
    let short = Memory(vec![7; 4_000_000]);
    let error =
        session.send_pieces(&index, &digest, &missing, &short, &progress).await.unwrap_err();
    assert_eq!(error.code(), "SSH-043");
    session.request(RequestBody::Runs).await.unwrap();
    session.close().await;
}

struct Yes;

impl HostKeyPrompt for Yes {
    fn confirm(&self, _: &[UnknownKey]) -> bool {
        true
    }
}

#[tokio::test]
async fn an_unknown_key_is_refused_confirmed_once_and_a_changed_one_refused_for_good() {
    let (one, two) = (sshd(), sshd());
    let own = one.path("kdc/known_hosts");
    let trust = Trust { own: Some(own.clone()), ..Trust::default() };
    let first = target(Reach { trust: trust.clone(), ..reach(&one) });
    let Err(SshError::UnknownHostKey { unknown }) = open(&first).await.map(drop) else {
        panic!("the key was known");
    };
    let real =
        run("ssh-keygen", &["-lf", &one.path("host_ed25519.pub").display().to_string()]).unwrap();
    assert!(real.contains(&unknown.fingerprint), "{real} {}", unknown.fingerprint);
    assert!(refused(&first, "SSH-010").await.contains(&unknown.fingerprint));
    confirm_unknown(&Yes, &[*unknown]).unwrap();
    works(&first).await;
    // Another server takes over the address: both fingerprints are named.
    let text = fs_err::read_to_string(&own).unwrap();
    let moved = text.replace(&one.port.to_string(), &two.port.to_string());
    fs_err::write(&own, moved).unwrap();
    let second = target(Reach { trust, ..reach(&two) });
    let said = refused(&second, "SSH-011").await;
    let found =
        run("ssh-keygen", &["-lf", &two.path("host_ed25519.pub").display().to_string()]).unwrap();
    for print in [&real, &found] {
        assert!(said.contains(print.split_whitespace().nth(1).unwrap()), "{said}");
    }
}

#[tokio::test]
async fn a_pinned_fingerprint_is_found_among_several_host_keys() {
    let keys = vec!["ed25519", "ecdsa"];
    let server = Sshd::start(&Options { host_keys: keys, ..Options::default() }).unwrap();
    let mut reach = reach(&server);
    for kind in ["ed25519", "ecdsa"] {
        let path = server.path(&format!("host_{kind}.pub")).display().to_string();
        let line = run("ssh-keygen", &["-lf", &path]).unwrap();
        reach.trust.pinned = line.split_whitespace().nth(1).map(str::to_owned);
        works(&target(reach.clone())).await;
    }
    reach.trust.pinned = Some(format!("SHA256:{}", "A".repeat(43)));
    refused(&target(reach), "SSH-011").await;
}

#[tokio::test]
async fn a_hashed_known_hosts_line_is_found() {
    let server = sshd();
    let path = server.path("known");
    let key = fs_err::read_to_string(server.path("host_ed25519.pub")).unwrap();
    fs_err::write(&path, format!("[127.0.0.1]:{} {key}", server.port)).unwrap();
    run("ssh-keygen", &["-H", "-f", &path.display().to_string()]).unwrap();
    assert!(fs_err::read_to_string(&path).unwrap().starts_with("|1|"));
    let trust = Trust { known_hosts: vec![path], ..Trust::default() };
    works(&target(Reach { trust, ..reach(&server) })).await;
}

/// A server whose host certificate is made out to `principal` and valid for `valid`.
fn certified(principal: &str, valid: &str) -> (Sshd, PathBuf) {
    let ca = tempfile::tempdir().unwrap().keep();
    keygen(&ca.join("ca"), "ed25519", "").unwrap();
    keygen(&ca.join("host"), "ed25519", "").unwrap();
    let (signer, host) =
        (ca.join("ca").display().to_string(), ca.join("host.pub").display().to_string());
    run("ssh-keygen", &["-q", "-s", &signer, "-I", "t", "-h", "-n", principal, "-V", valid, &host])
        .unwrap();
    let files =
        ["host", "host-cert.pub"].map(|name| fs_err::read_to_string(ca.join(name)).unwrap());
    let prepare = format!(
        "cat >/mnt/ca_host <<'E'\n{}E\nchmod 600 /mnt/ca_host\ncat >/mnt/ca_host-cert.pub <<'E'\n{}E\n",
        files[0], files[1]
    );
    let config = ["HostKey /mnt/ca_host", "HostCertificate /mnt/ca_host-cert.pub"];
    let config = config.map(str::to_owned).to_vec();
    let server = Sshd::start(&Options { config, prepare, ..Options::default() }).unwrap();
    let line = fs_err::read_to_string(ca.join("ca.pub")).unwrap();
    let known = server.path("known");
    fs_err::write(&known, format!("@cert-authority 127.0.0.* {line}")).unwrap();
    fs_err::remove_dir_all(ca).unwrap();
    (server, known)
}

#[tokio::test]
async fn a_host_certificate_of_the_ca_is_trusted_only_for_its_name_and_time() {
    for (principal, valid, want) in [
        ("127.0.0.1", "-1h:+1h", None),
        ("w1", "-1h:+1h", None),
        ("other", "-1h:+1h", Some("made out to other")),
        ("w1", "-2h:-1h", Some("expired")),
    ] {
        let (server, known) = certified(principal, valid);
        let trust = Trust { known_hosts: vec![known.clone()], ..Trust::default() };
        let target = target(Reach { trust, ..reach(&server) });
        match want {
            None => works(&target).await,
            Some(why) => assert!(refused(&target, "SSH-013").await.contains(why)),
        }
        if want.is_none() {
            let line = fs_err::read_to_string(&known).unwrap();
            let revoked = line.replace("@cert-authority", "@revoked");
            fs_err::write(&known, format!("{line}{revoked}")).unwrap();
            refused(&target, "SSH-012").await;
        }
    }
}

#[tokio::test]
async fn a_wrong_key_is_refused_naming_what_was_tried() {
    let server = sshd();
    let mut reach = reach(&server);
    reach.identities = vec![server.path("host_ed25519")];
    let said = refused(&target(reach.clone()), "SSH-020").await;
    assert!(said.contains("host_ed25519") && said.contains("publickey"), "{said}");
    reach.identities = Vec::new();
    assert!(refused(&target(reach), "SSH-020").await.contains("tried nothing"));
}

#[tokio::test]
async fn a_key_with_a_passphrase_opens_with_the_right_one_only() {
    let server = sshd();
    let mut reach = reach(&server);
    let path = server.path("id").display().to_string();
    run("ssh-keygen", &["-q", "-p", "-P", "", "-N", "open sesame", "-f", &path]).unwrap();
    reach.identities = vec![server.path("id")];
    works(&target_saying(reach.clone(), Says { passphrase: Some("open sesame"), ..MUTE })).await;
    let wrong = target_saying(reach.clone(), Says { passphrase: Some("abracadabra"), ..MUTE });
    let said = refused(&wrong, "SSH-021").await;
    assert!(said.contains("wrong passphrase") && !said.contains("abracadabra"), "{said}");
    let none = refused(&target_saying(reach, MUTE), "SSH-021").await;
    assert!(none.contains("needs a passphrase"), "{none}");
}

/// An `ssh-agent` process; killed when dropped.
struct SshAgent(std::process::Child);

impl Drop for SshAgent {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn an_rsa_key_works_through_the_ssh_agent_and_not_from_its_file() {
    let server = sshd();
    keygen(&server.path("rsa"), "rsa", "").unwrap();
    let public = fs_err::read_to_string(server.path("rsa.pub")).unwrap();
    let inside = format!("/proc/{}/root/mnt/authorized_keys", server.pid());
    fs_err::write(inside, public).unwrap();
    let mut reach = reach(&server);
    reach.identities = vec![server.path("rsa")];
    assert!(refused(&target(reach.clone()), "SSH-022").await.contains("RSA"));
    let socket = server.path("agent.sock");
    let path = socket.display().to_string();
    let child = std::process::Command::new("ssh-agent")
        .args(["-D", "-a", &path])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let _agent = SshAgent(child);
    while !socket.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let key = server.path("rsa").display().to_string();
    let variable = format!("SSH_AUTH_SOCK={path}");
    run("env", &[&variable, "ssh-add", "-q", &key]).unwrap();
    works(&target_with(reach, None, Keyring::with_agent(Arc::new(Silent), Some(socket)))).await;
}

#[tokio::test]
async fn one_jump_host_is_gone_through_and_has_its_own_host_key_check() {
    let (jump, node) = (sshd(), sshd());
    let keyring = || Keyring::with_agent(Arc::new(Silent), None);
    let through = target_with(reach(&node), Some(reach(&jump)), keyring());
    works(&through).await;
    works(&through).await;
    assert_eq!(jump.logins().unwrap().len(), 1, "both sessions share one connection to it");
    let unknown = Reach { trust: Trust::default(), ..reach(&jump) };
    let said = refused(&target_with(reach(&node), Some(unknown), keyring()), "SSH-010").await;
    assert!(said.contains("jump for w1"), "{said}");
    let closed = Reach { port: 1, ..reach(&node) };
    let said = refused(&target_with(closed, Some(reach(&jump)), keyring()), "SSH-023").await;
    assert!(said.contains("connection from there failed"), "{said}");
    let config = vec!["AllowTcpForwarding no".to_owned()];
    let strict = Sshd::start(&Options { config, ..Options::default() }).unwrap();
    let said =
        refused(&target_with(reach(&node), Some(reach(&strict)), keyring()), "SSH-023").await;
    assert!(said.contains("forbidden"), "{said}");
}

#[tokio::test]
async fn what_is_no_ssh_server_is_told_apart() {
    use std::{io::Write as _, net::TcpListener};
    let server = sshd();
    let closed = Reach { port: 1, ..reach(&server) };
    refused(&target(closed), "SSH-005").await;
    for (banner, code, part) in [
        ("HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-007", "HTTP/1.1 400"),
        ("Exceeded MaxStartups\r\n", "SSH-040", "too many logins"),
        ("", "SSH-040", "hung up"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(banner.as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            io::Read::read_to_end(&mut stream, &mut rest).ok();
        });
        let said = refused(&target(Reach { port, ..reach(&server) }), code).await;
        assert!(said.contains(part), "{said}");
        answering.join().unwrap();
    }
}

#[tokio::test]
async fn an_address_that_swallows_packets_is_a_timeout() {
    use nix::sys::socket;
    let server = sshd();
    let flags = socket::SockFlag::empty();
    let kind = socket::SockType::Stream;
    let listening = socket::socket(socket::AddressFamily::Inet, kind, flags, None).unwrap();
    let bound = std::os::fd::AsRawFd::as_raw_fd(&listening);
    socket::bind(bound, &socket::SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    socket::listen(&listening, socket::Backlog::new(0).unwrap()).unwrap();
    let port = socket::getsockname::<socket::SockaddrIn>(bound).unwrap().port();
    // The queue takes one or two; then the kernel drops what comes.
    let limit = Duration::from_millis(100);
    let address = ([127, 0, 0, 1], port).into();
    let mut held = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, limit) {
        held.push(stream);
    }
    refused(&target(Reach { port, ..reach(&server) }), "SSH-006").await;
}

#[tokio::test]
async fn staging_takes_the_first_directory_that_may_execute_and_has_room() {
    let full = "size=300k";
    for (mounts, want) in [
        (vec![("/dev/shm", "noexec")], "opens"),
        (vec![("/dev/shm", full)], "opens"),
        (vec![("/dev/shm", "noexec"), ("/var/tmp", "noexec"), ("/tmp", "noexec")], "SSH-031"),
        (vec![("/dev/shm", full), ("/var/tmp", full), ("/tmp", "noexec")], "SSH-030"),
    ] {
        let server =
            Sshd::start(&Options { mounts: mounts.clone(), ..Options::default() }).unwrap();
        let target = target(reach(&server));
        if want == "opens" {
            works(&target).await;
            let staged = format!("/proc/{}/root/var/tmp/kdc-0", server.pid());
            assert_eq!(fs_err::read_dir(staged).unwrap().count(), 1, "{mounts:?}");
        } else {
            let said = refused(&target, want).await;
            assert!(said.contains("/dev/shm") && said.contains("/var/tmp"), "{said}");
        }
    }
}

#[tokio::test]
async fn a_directory_that_someone_else_prepared_is_not_used() {
    let prepare = "mkdir /dev/shm/kdc-0 && chown ops /dev/shm/kdc-0\nln -s /tmp /var/tmp/kdc-0\n";
    let options = Options { prepare: prepare.to_owned(), ..Options::default() };
    let server = Sshd::start(&options).unwrap();
    works(&target(reach(&server))).await;
    let inside = |path: &str| PathBuf::from(format!("/proc/{}/root{path}", server.pid()));
    assert_eq!(fs_err::read_dir(inside("/dev/shm/kdc-0")).unwrap().count(), 0);
    assert_eq!(fs_err::read_dir(inside("/tmp/kdc-0")).unwrap().count(), 1);
}

#[tokio::test]
async fn noise_of_login_shells_is_tolerated_and_a_login_without_shell_is_named() {
    let forced = |command: &str| {
        let config = vec![format!("ForceCommand {command}")];
        Sshd::start(&Options { config, ..Options::default() }).unwrap()
    };
    let noisy = forced(
        "echo Welcome; printf 'no line end '; echo oops >&2; eval \"$SSH_ORIGINAL_COMMAND\"",
    );
    let session = open(&target(reach(&noisy))).await.unwrap();
    let (index, missing) = one_blob(3, 3);
    let source = Memory(vec![1; 3]);
    let sent = session.send_pieces(&index, &Digest::of(b"i"), &missing, &source, &|_| {}).await;
    assert_eq!(sent.unwrap().pieces, 1);
    session.close().await;
    let none = forced("echo This account is currently not available.; exit 1");
    let said = refused(&target(reach(&none)), "SSH-024").await;
    assert!(said.contains("not available") && said.contains("exit status 1"), "{said}");
}

#[tokio::test]
async fn sudo_is_used_without_with_and_with_a_wrong_password() {
    let server = sshd();
    let user = |user: &str| Reach { user: user.to_owned(), ..reach(&server) };
    let sudo = |password| Says { sudo: password, ..MUTE };
    let free = open(&target(user("free"))).await.unwrap();
    assert!(free.hello().root);
    free.close().await;
    let ops = open(&target_saying(user("ops"), sudo(Some("ops-pass")))).await.unwrap();
    assert!(ops.hello().root);
    let (index, missing) = one_blob(3_000_000, 1_000_000);
    let source = Memory(vec![1; 3_000_000]);
    let sent = ops.send_pieces(&index, &Digest::of(b"i"), &missing, &source, &|_| {}).await;
    assert_eq!(sent.unwrap().bytes, 3_000_000);
    ops.close().await;
    refused(&target_saying(user("ops"), sudo(None)), "SSH-026").await;
    let said = refused(&target_saying(user("ops"), sudo(Some("hunter2"))), "SSH-027").await;
    assert!(!said.contains("hunter2"));
    let said = refused(&target_saying(user("guest"), sudo(Some("ops-pass"))), "SSH-028").await;
    assert!(said.contains("sudoers"), "{said}");
}

#[tokio::test]
async fn a_login_by_password_works_and_a_wrong_one_is_refused() {
    let server = sshd();
    let reach = Reach { user: "free".to_owned(), identities: Vec::new(), ..reach(&server) };
    works(&target_saying(reach.clone(), Says { password: Some("ops-pass"), ..MUTE })).await;
    let wrong = target_saying(reach, Says { password: Some("hunter2"), ..MUTE });
    let said = refused(&wrong, "SSH-020").await;
    assert!(said.contains("tried password") && !said.contains("hunter2"), "{said}");
}

/// Pids of processes with `secret` in their arguments or environment.
fn showing(secret: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir("/proc").unwrap().flatten() {
        for file in ["cmdline", "environ"] {
            // Processes come and go while we look.
            let content = fs_err::read(entry.path().join(file)).unwrap_or_default();
            if content.windows(secret.len()).any(|window| window == secret.as_bytes()) {
                found.push(format!("{}/{file}", entry.path().display()));
            }
        }
    }
    found
}

#[tokio::test]
async fn no_secret_shows_in_any_process_while_a_session_works() {
    let server = sshd();
    let reach = Reach { user: "ops".to_owned(), ..reach(&server) };
    let says = Says { sudo: Some("ops-pass"), ..MUTE };
    let session = open(&target_saying(reach, says)).await.unwrap();
    let (index, missing) = one_blob(20_000_000, 1_000_000);
    let source = Memory(vec![1; 20_000_000]);
    let looked = Mutex::new(Vec::new());
    let look = |_| looked.lock().unwrap().push(showing("ops-pass"));
    session.send_pieces(&index, &Digest::of(b"i"), &missing, &source, &look).await.unwrap();
    let looked = looked.into_inner().unwrap();
    assert_eq!(looked.len(), 20);
    assert!(looked.iter().all(Vec::is_empty), "{looked:?}");
    assert!(!showing("serve\0--stdio").is_empty(), "the search finds what is there");
    session.close().await;
}

#[tokio::test]
async fn an_agent_that_does_not_start_or_speaks_another_protocol_is_named() {
    let server = sshd();
    let target = target(reach(&server));
    let script = |text: &str| AgentBinary::new(text.as_bytes().to_vec());
    let dies = script("#!/bin/sh\necho cannot find my feet >&2\nexit 7\n");
    let error = Session::open(&target, &dies).await.map(drop).unwrap_err();
    assert_eq!(error.code(), "SSH-034");
    let said = error.to_string();
    assert!(said.contains("exit status 7") && said.contains("my feet"), "{said}");
    let hello = r#"{"oldest":9,"newest":9,"agentVersion":"99.0","root":true}"#;
    let length = format!("\\{:03o}", hello.len());
    let other = script(&format!("#!/bin/sh\nprintf '\\0\\0\\0{length}%s' '{hello}'\nexec cat\n"));
    let error = Session::open(&target, &other).await.map(drop).unwrap_err();
    assert_eq!(error.code(), "SSH-035", "{error}");
    assert!(error.to_string().contains("99.0"));
}

#[tokio::test]
async fn a_cut_connection_names_what_was_going_on_and_a_new_one_goes_on() {
    let server = sshd();
    let target = target(reach(&server));
    let session = open(&target).await.unwrap();
    let following = session.attach("endless", 0, |_| {});
    let cutting = async {
        tokio::task::yield_now().await;
        for pid in server.logins().unwrap() {
            let pid = nix::unistd::Pid::from_raw(pid);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        }
    };
    let (followed, ()) = tokio::join!(following, cutting);
    let error = followed.unwrap_err();
    assert!(error.is_link(), "{error}");
    assert!(error.to_string().contains("following the run"), "{error}");
    assert!(!session.is_open());
    let again = Session::reconnect(&target, &agent(), Duration::from_secs(20)).await.unwrap();
    assert_eq!(
        again.attach("r1", 0, |_| {}).await.unwrap(),
        Outcome::Finished { changed: 3, found: 0 }
    );
    again.close().await;
}

#[tokio::test]
async fn this_machine_is_a_target_without_ssh() {
    let keyring = Arc::new(Keyring::with_agent(Arc::new(Silent), None));
    let target = Target::Local { node: "me".to_owned(), keyring };
    let session = open(&target).await.unwrap();
    assert_eq!(session.request(RequestBody::Runs).await.unwrap(), Reply::Runs { runs: Vec::new() });
    let (index, missing) = one_blob(2_000_000, 1_000_000);
    let source = Memory(vec![1; 2_000_000]);
    let sent = session.send_pieces(&index, &Digest::of(b"i"), &missing, &source, &|_| {}).await;
    assert_eq!(sent.unwrap().pieces, 2);
    session.close().await;
    let uid = nix::unistd::geteuid();
    for base in ["/dev/shm", "/var/tmp", "/tmp"] {
        let staged = format!("{base}/kdc-{uid}/agent-{}", agent().digest().hex());
        fs_err::remove_file(staged).ok();
    }
}
