//! What makes one server differ from the next: name, identity, host key, who may log in.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use anyhow::{Context, Result};
use fs_err::os::unix::fs::OpenOptionsExt;

use crate::lab::keys;
use crate::lab::state::{ServerState, State};
use crate::program::must_with_input;

/// Gives a server's root its identity at its first start; at later starts it keeps what is there.
pub(super) fn settle(state: &State, server: &ServerState, root: &Path) -> Result<()> {
    let done = state.disk(&server.name).join("settled");
    if done.exists() {
        return Ok(());
    }
    let (name, address) = (&server.name, server.address);
    put(root, "etc/hostname", 0o644, &format!("{name}\n"))?;
    put(root, "etc/hosts", 0o644, &format!("127.0.0.1 localhost\n{address} {name}\n"))?;
    put(root, "etc/machine-id", 0o444, &format!("{}\n", keys::random_hex::<16>()))?;
    let resolver = format!("nameserver {}\n", state.gateway_address());
    put(root, "etc/resolv.conf", 0o644, &resolver)?;
    let host_key = host_key_file(state, name);
    put(root, "etc/ssh/ssh_host_ed25519_key", 0o600, &fs_err::read_to_string(&host_key)?)?;
    let public = fs_err::read_to_string(host_key.with_extension("pub"))?;
    put(root, "etc/ssh/ssh_host_ed25519_key.pub", 0o644, &public)?;
    put_kernel_config(root)?;
    let authorized = fs_err::read_to_string(state.key.with_extension("pub"))?;
    for user in &state.users {
        authorize(root, &user.name, &authorized)?;
        if let Some(file) = &user.password_file {
            let line = format!("{}:{}", user.name, fs_err::read_to_string(file)?);
            let chpasswd = ["chroot".as_ref(), root.as_os_str(), "chpasswd".as_ref()];
            must_with_input(&chpasswd, line.as_bytes())?;
        }
    }
    Ok(fs_err::write(done, "")?)
}

/// The kernel's configuration where a real Debian server has it, since kubeadm wants to read it; not where the kernel
/// itself tells it.
fn put_kernel_config(root: &Path) -> Result<()> {
    let release = fs_err::read_to_string("/proc/sys/kernel/osrelease")?;
    let config = format!("boot/config-{}", release.trim());
    let hosts = Path::new("/").join(&config);
    if Path::new("/proc/config.gz").exists() || !hosts.exists() {
        return Ok(());
    }
    put(root, &config, 0o644, &fs_err::read_to_string(hosts)?)
}

/// Where a server's private host key lies before it is given to the server.
pub(super) fn host_key_file(state: &State, server: &str) -> std::path::PathBuf {
    state.folder.join(format!("{server}-host-key"))
}

/// Lets the lab's key log in as a user.
fn authorize(root: &Path, user: &str, public: &str) -> Result<()> {
    let (uid, gid, home) = account(root, user)?;
    let folder = root.join(&home).join(".ssh");
    fs_err::create_dir_all(&folder)?;
    fs_err::set_permissions(&folder, PermissionsExt::from_mode(0o700))?;
    put(root, &format!("{home}/.ssh/authorized_keys"), 0o600, public)?;
    for path in [folder.join("authorized_keys"), folder] {
        chown(&path, Some(uid), Some(gid))
            .with_context(|| format!("cannot give away `{}`", path.display()))?;
    }
    Ok(())
}

/// A user's ids and home folder (without the leading `/`), from the server's own `passwd`.
fn account(root: &Path, user: &str) -> Result<(u32, u32, String)> {
    let passwd = fs_err::read_to_string(root.join("etc/passwd"))?;
    let found =
        passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|f| f[0] == user);
    let fields = found.with_context(|| format!("the base has no user `{user}`"))?;
    let [_, _, uid, gid, _, home, _] = fields[..] else {
        anyhow::bail!("the base's passwd has a broken line for `{user}`");
    };
    Ok((uid.parse()?, gid.parse()?, home.trim_start_matches('/').to_owned()))
}

fn put(root: &Path, path: &str, mode: u32, text: &str) -> Result<()> {
    use std::io::Write;
    let path = root.join(path);
    // A new file, not a new content: a link of the base must not be followed to the host.
    if path.symlink_metadata().is_ok() {
        fs_err::remove_file(&path)?;
    }
    let mut options = fs_err::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(&path)?;
    Ok(file.write_all(text.as_bytes())?)
}
