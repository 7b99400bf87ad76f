//! What an operator is asked at the terminal: host keys, passphrases, passwords; nothing typed is seen.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use kdc_tests::{
    operator::built,
    sshd::{Options, Sshd, run},
    terminal::Terminal,
};

use crate::sshd;

/// The home of somebody who has `kdc-install` with the fake agent beside it, and one node.
struct Home(tempfile::TempDir);

impl Home {
    /// `login` are the lines of `spec.ssh`.
    fn of(server: &Sshd, login: &str) -> Self {
        let program = built("kdc-install").unwrap();
        // Beside the program: links don't cross file systems.
        let home = Self(tempfile::tempdir_in(program.parent().unwrap()).unwrap());
        fs_err::hard_link(&program, home.path("kdc-install")).unwrap();
        fs_err::hard_link(env!("CARGO_BIN_EXE_fake-agent"), home.path("kdc-agent")).unwrap();
        let text = format!(
            "apiVersion: kdc.dev/v1\nkind: Cluster\nmetadata: {{name: t}}\nspec:\n  profile: single\n  \
             ssh: {{{login}}}\n  nodes:\n    - {{name: n1, role: control-plane, address: 192.0.2.1, \
             ssh: {{port: {}}}}}\n",
            server.port
        );
        fs_err::write(home.path("cluster.yaml"), text).unwrap();
        fs_err::create_dir(home.path(".ssh")).unwrap();
        let config = "Host 192.0.2.1\n  HostName 127.0.0.1\n";
        fs_err::write(home.path(".ssh/config"), config).unwrap();
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// With the server's host key on record.
    fn knowing(self, server: &Sshd) -> Self {
        let key = fs_err::read_to_string(server.path("host_ed25519.pub")).unwrap();
        let line = format!("[127.0.0.1]:{} {key}", server.port);
        fs_err::write(self.path(".ssh/known_hosts"), line).unwrap();
        self
    }

    fn start(&self, arguments: &[&str]) -> Terminal {
        let program = self.path("kdc-install").display().to_string();
        let argv = [&[program.as_str()], arguments].concat();
        Terminal::start(&argv, |command| {
            command.current_dir(self.0.path()).env("HOME", self.0.path()).env("TERM", "xterm");
        })
        .unwrap()
    }
}

fn identity(path: &Path) -> String {
    format!("identity: {}", path.display())
}

#[test]
fn host_key_login_password_and_sudo_password_are_asked_for_in_turn_and_none_is_shown() {
    let server = sshd();
    let home = Home::of(&server, "user: ops");
    let mut terminal = home.start(&["status"]);
    let print = run("ssh-keygen", &["-lf", &server.path("host_ed25519.pub").display().to_string()]);
    terminal.until(print.unwrap().split_whitespace().nth(1).unwrap()).unwrap();
    terminal.answer("Trust all of them from now on? [y/N]", "y").unwrap();
    terminal.answer_hidden("Password of ops on n1 (used for all nodes):", "ops-pass").unwrap();
    terminal.answer_hidden("sudo password of ops on n1 (used for all nodes):", "ops-pass").unwrap();
    let (code, screen) = terminal.end().unwrap();
    assert!(code == 0 && screen.contains("kdc has done nothing here"), "{code}: {screen}");
    assert!(!screen.contains("ops-pass"), "{screen}");
    let known = home.path(".config/kdc/known_hosts");
    assert_eq!(fs_err::metadata(&known).unwrap().permissions().mode() & 0o777, 0o600);
    // Known from now on: the next question is the password, and a wrong one is refused unseen.
    let mut again = home.start(&["status"]);
    again.answer_hidden("Password of ops on n1", "hunter2").unwrap();
    let (code, screen) = again.end().unwrap();
    assert!(code == 3 && screen.contains("error[SSH-020]"), "{code}: {screen}");
    assert!(!screen.contains("hunter2") && !screen.contains("Trust all"), "{screen}");
}

#[test]
fn a_host_key_that_is_not_confirmed_and_an_undo_that_is_not_meant_change_nothing() {
    let server = sshd();
    let home = Home::of(&server, &identity(&server.path("id")));
    let mut terminal = home.start(&["status"]);
    terminal.answer("Trust all of them from now on? [y/N]", "").unwrap();
    let (code, screen) = terminal.end().unwrap();
    assert!(code == 3 && screen.contains("error[SSH-010]"), "{code}: {screen}");
    assert!(!home.path(".config/kdc/known_hosts").exists());
    let mut terminal = home.start(&["undo"]);
    terminal.answer("Take cluster `t` off n1? Its data is gone afterwards [y/N]", "no").unwrap();
    let (code, screen) = terminal.end().unwrap();
    assert!(code == 3 && screen.contains("error[KDC-015]"), "{code}: {screen}");
}

#[test]
fn a_node_that_can_not_be_held_is_named_and_nothing_was_changed() {
    let server = sshd();
    let home = Home::of(&server, &identity(&server.path("id"))).knowing(&server);
    // The fake agent can't be held by anybody.
    let (code, screen) = home.start(&["undo", "--yes"]).end().unwrap();
    assert!(code == 3 && screen.contains("error[KDC-013]"), "{code}: {screen}");
    assert!(screen.contains("node `n1`: ") && screen.contains("use a real one"), "{screen}");
}

#[test]
fn a_passphrase_is_asked_for_with_the_key_it_opens() {
    let server = sshd();
    let path = server.path("id").display().to_string();
    run("ssh-keygen", &["-q", "-p", "-P", "", "-N", "open sesame", "-f", &path]).unwrap();
    let home = Home::of(&server, &identity(&server.path("id"))).knowing(&server);
    for (typed, code, said) in [
        ("open sesame", 0, "kdc has done nothing here"),
        ("abracadabra", 3, "wrong passphrase"),
        ("", 3, "it needs a passphrase"),
    ] {
        let mut terminal = home.start(&["status"]);
        terminal.answer_hidden(&format!("Passphrase for {path}:"), typed).unwrap();
        if code != 0 {
            // The server takes passwords too.
            terminal.answer_hidden("Password of root on n1", "").unwrap();
        }
        let (ended, screen) = terminal.end().unwrap();
        assert!(ended == code && screen.contains(said), "{typed}: {ended}: {screen}");
        assert!(typed.is_empty() || !screen.contains(typed), "{screen}");
    }
}

/// A server that asks through PAM, as those do that ask for passwords at all.
fn asking() -> Sshd {
    let config = ["UsePAM yes", "KbdInteractiveAuthentication yes", "PasswordAuthentication no"];
    let prepare = "printf '%s\\n' 'auth required pam_unix.so' 'account required pam_permit.so' \
                   'session required pam_permit.so' >/etc/pam.d/sshd\n";
    Sshd::start(&Options {
        config: config.map(str::to_owned).to_vec(),
        prepare: prepare.to_owned(),
        ..Options::default()
    })
    .unwrap()
}

#[test]
fn a_server_that_asks_questions_gets_the_password_and_a_wrong_one_is_refused() {
    let server = asking();
    let home = Home::of(&server, "user: free").knowing(&server);
    for (typed, code, said) in
        [("ops-pass", 0, "kdc has done nothing here"), ("hunter2", 3, "tried keyboard-interactive")]
    {
        let mut terminal = home.start(&["status"]);
        terminal.answer_hidden("Password of free on n1", typed).unwrap();
        let (ended, screen) = terminal.end().unwrap();
        assert!(ended == code && screen.contains(said), "{typed}: {ended}: {screen}");
        assert!(!screen.contains(typed), "{screen}");
    }
}

#[test]
fn ctrl_c_at_a_question_ends_at_once_and_leaves_a_terminal_that_shows_typing() {
    let server = sshd();
    let home = Home::of(&server, "user: ops").knowing(&server);
    for command in [&["status"][..], &["check"], &["undo", "--yes"]] {
        let mut terminal = home.start(command);
        terminal.until("Password of ops on n1").unwrap();
        while !terminal.hides_typing().unwrap() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        terminal.press("\x03").unwrap();
        terminal.until("stopped; nothing was changed").unwrap();
        assert!(!terminal.hides_typing().unwrap(), "{command:?} leaves a blind terminal");
        let (code, screen) = terminal.end().unwrap();
        assert!(code == 3 && screen.contains("error[KDC-018]"), "{command:?}: {code}: {screen}");
    }
}
