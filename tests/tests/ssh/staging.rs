//! Where the agent is put, and hosts that make it hard.

use std::path::PathBuf;

use kdc_agent::wire::RequestBody;
use kdc_bundles::index::Digest;
use kdc_install::ssh::{AgentBinary, Session};
use kdc_tests::sshd::{Options, Sshd};

use crate::{Memory, one_blob, open, reach, refused, sshd, target, works};

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
async fn a_staged_copy_on_a_disk_that_changed_since_is_not_started_but_sent_anew() {
    let mounts = vec![("/dev/shm", "noexec")];
    let server = Sshd::start(&Options { mounts, ..Options::default() }).unwrap();
    let target = target(reach(&server));
    works(&target).await;
    let folder = format!("/proc/{}/root/var/tmp/kdc-0", server.pid());
    let staged = fs_err::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let good = fs_err::read(&staged).unwrap();
    fs_err::write(&staged, b"#!/bin/sh\nsleep 60\n").unwrap();
    let session = open(&target).await.unwrap();
    assert!(session.uploaded(), "the damaged copy is not used");
    session.close().await;
    assert_eq!(fs_err::read(&staged).unwrap(), good);
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
async fn an_answer_that_is_no_message_is_named_and_not_tried_again() {
    let server = sshd();
    let target = target(reach(&server));
    let hello = r#"{"oldest":1,"newest":1,"agentVersion":"1.0","root":true}"#;
    let length = format!("\\{:03o}", hello.len());
    let frames = [format!("\\0\\0\\0{length}{hello}"), "\\0\\0\\0\\005wrong".to_owned()];
    let script = format!(
        "#!/bin/sh\nprintf '{}'\nhead -c 4 >/dev/null\nprintf '{}'\n",
        frames[0], frames[1]
    );
    let agent = AgentBinary::new(format!("{script}exec cat >/dev/null\n").into_bytes());
    let session = Session::open(&target, &agent).await.unwrap_or_else(|error| panic!("{error}"));
    let error = session.request(RequestBody::Runs).await.unwrap_err();
    assert_eq!(error.code(), "SSH-042", "{error}");
    assert!(!error.is_link(), "connecting again would only hear it again");
    let said = error.to_string();
    assert!(said.contains("node `w1`") && said.contains("listing the runs"), "{said}");
    assert!(error.hint().is_some_and(|hint| hint.contains("report")));
}

/// A server that has nothing but busybox, as small systems do.
#[tokio::test]
async fn busybox_is_enough_on_the_node() {
    // `/bin` is `/usr/bin` there: nothing of the real one is left to be used by mistake.
    let prepare = "usermod -s /bin/sh root\n\
                   mkdir /mnt/programs && cp /bin/busybox /mnt/programs\n\
                   for name in $(busybox --list); do ln -s busybox /mnt/programs/$name; done\n\
                   mount --bind /mnt/programs /usr/bin\n";
    let options = Options { prepare: prepare.to_owned(), ..Options::default() };
    let server = Sshd::start(&options).unwrap();
    let target = target(reach(&server));
    let session = open(&target).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(session.uploaded());
    let (index, missing) = one_blob(3, 3);
    let source = Memory(vec![1; 3]);
    let sent = session.send_pieces(&index, &Digest::of(b"i"), &missing, &source, &|_| {}).await;
    assert_eq!(sent.unwrap().pieces, 1);
    session.close().await;
    let again = open(&target).await.unwrap();
    assert!(!again.uploaded(), "busybox finds the staged copy and proves its digest");
    again.close().await;
    let inside = format!("/proc/{}/root/usr/bin/sh", server.pid());
    assert_eq!(fs_err::read_link(inside).unwrap(), PathBuf::from("busybox"));
}

/// What hardening guides ask for: nothing that all may write to may execute.
#[tokio::test]
async fn where_no_shared_directory_may_execute_the_home_does() {
    let server = Sshd::start(&Options {
        mounts: ["/dev/shm", "/var/tmp", "/tmp"].map(|at| (at, "noexec")).to_vec(),
        config: vec!["SetEnv HOME=/mnt/home".to_owned()],
        prepare: "mkdir -m 700 /mnt/home\n".to_owned(),
        ..Options::default()
    })
    .unwrap();
    works(&target(reach(&server))).await;
    let inside = |path: &str| PathBuf::from(format!("/proc/{}/root{path}", server.pid()));
    assert_eq!(fs_err::read_dir(inside("/mnt/home/kdc-0")).unwrap().count(), 1);
    for tried in ["/dev/shm", "/var/tmp", "/tmp"] {
        let left = fs_err::read_dir(inside(tried).join("kdc-0")).unwrap().count();
        assert_eq!(left, 0, "a try is left in {tried}");
    }
}
