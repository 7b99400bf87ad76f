//! Which host keys are trusted.

use std::path::PathBuf;

use kdc_install::ssh::{HostKeyPrompt, Reach, SshError, Trust, UnknownKey, confirm_unknown};
use kdc_tests::sshd::{Options, Sshd, keygen, run};

use crate::{open, reach, refused, sshd, target, works};

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
