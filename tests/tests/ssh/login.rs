//! Keys, passphrases, the SSH agent, passwords and questions.

use std::{sync::Arc, time::Duration};

use kdc_install::ssh::{Keyring, Reach, Silent};
use kdc_tests::sshd::{keygen, run};

use crate::{MUTE, Says, reach, refused, sshd, target, target_saying, target_with, works};

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
async fn a_login_by_password_works_and_a_wrong_one_is_refused() {
    let server = sshd();
    let reach = Reach { user: "free".to_owned(), identities: Vec::new(), ..reach(&server) };
    works(&target_saying(reach.clone(), Says { password: Some("ops-pass"), ..MUTE })).await;
    let wrong = target_saying(reach, Says { password: Some("hunter2"), ..MUTE });
    let said = refused(&wrong, "SSH-020").await;
    assert!(said.contains("tried password") && !said.contains("hunter2"), "{said}");
}
