//! What an open session does, and how it ends.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use kdc_agent::wire::{Outcome, Reply, RequestBody};
use kdc_bundles::index::Digest;
use kdc_install::ssh::{Keyring, Session, Silent, Target};

use crate::{Memory, agent, one_blob, open, reach, sshd, target};

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
