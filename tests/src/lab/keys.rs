//! Who may log in, and how a client knows the servers: keys, passwords, `known_hosts`, `ssh_config`.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use fs_err::os::unix::fs::OpenOptionsExt;
use rand::Rng;

use crate::lab::state::{State, Sudo, User};
use crate::program::must;

/// The users of every server, with the files their passwords will lie in.
pub(super) fn users(folder: &Path) -> Vec<User> {
    let user = |name: &str, sudo, password: bool| User {
        name: name.to_owned(),
        sudo,
        password_file: password.then(|| folder.join(format!("password-{name}"))),
    };
    vec![
        user("root", Sudo::Root, false),
        user("ops", Sudo::Password, true),
        user("deploy", Sudo::Passwordless, false),
    ]
}

/// Makes the lab's key and every password.
pub(super) fn make(state: &State) -> Result<()> {
    make_key(&state.key, "lab")?;
    for file in state.users.iter().filter_map(|user| user.password_file.as_deref()) {
        write_private(file, &format!("{}\n", random_hex::<12>()))?;
    }
    Ok(())
}

/// Makes an ed25519 key pair and returns the public line without its comment.
pub(super) fn make_key(path: &Path, comment: &str) -> Result<String> {
    let path = path.to_str().context("the lab's folder isn't text")?;
    if !Path::new(path).exists() {
        must(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path])?;
    }
    let public = fs_err::read_to_string(format!("{path}.pub"))?;
    Ok(public.split(' ').take(2).collect::<Vec<_>>().join(" "))
}

/// `N` random bytes as hexadecimal digits.
pub(super) fn random_hex<const N: usize>() -> String {
    let mut bytes = [0; N];
    rand::rng().fill(&mut bytes[..]);
    hex::encode(bytes)
}

/// Writes what an SSH client needs: `known_hosts`, `ssh_config`, and `hosts` with every name.
pub(super) fn write_client_files(state: &State) -> Result<()> {
    let (mut known, mut hosts) = (String::new(), String::from("127.0.0.1 localhost\n"));
    let mut config =
        String::from("# Written by kdc-lab; use it inside the lab's network (`kdc-lab run`).\n");
    for server in &state.servers {
        let (name, address) = (&server.name, server.address);
        if !server.host_key.is_empty() {
            writeln!(known, "{name},{address} {}", server.host_key)?;
        }
        writeln!(hosts, "{address} {name}")?;
        writeln!(config, "Host {name}\n  HostName {address}\n  HostKeyAlias {name}")?;
    }
    writeln!(config, "Host *\n  User root\n  IdentityFile {}", state.key.display())?;
    writeln!(config, "  IdentitiesOnly yes\n  UserKnownHostsFile {}", state.known_hosts.display())?;
    writeln!(
        config,
        "  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  ConnectTimeout 10"
    )?;
    fs_err::write(&state.known_hosts, known)?;
    fs_err::write(&state.ssh_config, config)?;
    fs_err::write(state.folder.join("hosts"), hosts)?;
    // A question for a name that isn't in `hosts` goes to the bridge's address, where a capture sees it.
    let resolver =
        format!("nameserver {}\noptions timeout:1 attempts:1\n", state.gateway_address());
    Ok(fs_err::write(state.folder.join("resolv.conf"), resolver)?)
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut options = fs_err::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    Ok(options.open(path)?.write_all(text.as_bytes())?)
}
