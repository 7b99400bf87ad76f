//! Becoming root, and that no secret is seen on the way.

use std::sync::Mutex;

use kdc_bundles::index::Digest;
use kdc_install::ssh::Reach;

use crate::{MUTE, Memory, Says, one_blob, open, reach, refused, sshd, target, target_saying};

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
