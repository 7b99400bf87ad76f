//! Labs of light servers: each a systemd of its own as PID 1 in namespaces, on a private bridge with no way out.
//!
//! A light server has its own processes, mounts, network, host name, cgroups, SSH host key and machine id; its root
//! is an overlay on the cached [`base`], its `/var/lib` a real folder. Kernel, clock, memory and `/sys` are the
//! host's. Several labs stand side by side; [`Lab::down`] leaves nothing of one, whenever its making was cut short.

pub mod base;
pub mod boot;
pub mod capture;
pub mod cgroup;
mod keys;
pub mod light;
pub mod network;
mod personal;
pub mod state;
pub mod workstation;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::program::{must, run};
pub use capture::{Capture, Packet};
pub use light::LightServer;
use state::{Hold, LABS, ServerState, State};

/// inotify instances one user may have. The usual 128 is used up by about 20 servers.
const INOTIFY_INSTANCES: u64 = 8192;

/// Modules of the host's kernel that Kubernetes needs; what its firewall needs besides, the kernel loads when asked.
const MODULES: &[&str] = &["overlay", "br_netfilter", "nf_conntrack"];

/// Most servers of one lab: the bridge's network is a /24, and servers begin at `.11`.
const MOST_SERVERS: usize = 200;

/// What a lab shall be like.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The lab's name.
    pub name: String,
    /// How many servers, named `node1`, `node2` and so on.
    pub servers: usize,
    /// First three bytes of the network; by default the first free one of `10.66.0` to `10.66.255`.
    pub subnet: Option<[u8; 3]>,
    /// Size of each server's disk; without one they write to the host's.
    pub disk_mib: Option<u64>,
    /// Give servers a default route that ends at the bridge, so that attempts to get out can be captured.
    pub gateway: bool,
}

impl Wanted {
    /// A lab of some servers and nothing else wished for.
    pub fn named(name: &str, servers: usize) -> Self {
        Self { name: name.to_owned(), servers, subnet: None, disk_mib: None, gateway: false }
    }
}

/// A lab that is up.
#[derive(Debug, Clone)]
pub struct Lab {
    state: State,
}

impl Lab {
    /// Makes a lab and waits until every server answers SSH. A half-made lab of that name is taken down first.
    pub fn up(wanted: &Wanted, progress: &(dyn Fn(&str) + Sync)) -> Result<Self> {
        check(wanted)?;
        program_path()?;
        let base = base::ensure(progress)?;
        let folder = state::folder_of(&wanted.name);
        let hold = Hold::take_or_make(&folder)?;
        match State::read_from(&folder)? {
            Some(old) if old.complete => {
                bail!("lab `{0}` is up; `kdc-lab down --name {0}` takes it down", wanted.name)
            }
            Some(old) => {
                progress("taking down what a killed `up` left");
                clear(&old)?;
            }
            None => {}
        }
        let mut state = claim(wanted, base)?;
        let made = make(&mut state, progress);
        if let Err(error) = made {
            progress("taking the lab down again, since it could not be made");
            return Err(match remove(&state) {
                Ok(()) => error,
                Err(also) => error.context(format!("and taking it down failed too: {also:#}")),
            });
        }
        drop(hold);
        Ok(Self { state })
    }

    /// A lab that is up already.
    pub fn open(name: &str) -> Result<Self> {
        let state = State::read(name)?.with_context(|| {
            format!(
                "no lab `{name}`; `kdc-lab list` shows them, `kdc-lab up --name {name}` makes it"
            )
        })?;
        if !state.complete {
            bail!(
                "lab `{name}` is being made, or `up` was killed; `kdc-lab down --name {name}` clears it"
            );
        }
        Ok(Self { state })
    }

    /// Takes down the lab of this name, whole or half made. Says whether there was one.
    pub fn take_down(name: &str) -> Result<bool> {
        state::check_name(name)?;
        let folder = state::folder_of(name);
        let Some(hold) = Hold::take(&folder)? else { return Ok(false) };
        match State::read_from(&folder)? {
            Some(state) => remove(&state)?,
            None => fs_err::remove_dir_all(&folder)?,
        }
        drop(hold);
        // The folder of all labs goes with the last of them.
        let _ = fs_err::remove_dir(LABS);
        Ok(true)
    }

    /// Takes this lab down and leaves nothing of it.
    pub fn down(self) -> Result<()> {
        Self::take_down(&self.state.name).map(drop)
    }

    /// What the lab consists of.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// One of its servers.
    pub fn server(&self, name: &str) -> Result<LightServer> {
        LightServer::new(&self.state, name)
    }

    /// Begins to note what tries to leave the lab. Networks in `inside` (pods, services) count as part of it.
    pub fn capture(&self, inside: &[&str]) -> Result<Capture> {
        Capture::start(&self.state, inside)
    }

    /// All of its servers.
    pub fn servers(&self) -> Result<Vec<LightServer>> {
        self.state.servers.iter().map(|server| self.server(&server.name)).collect()
    }
}

fn check(wanted: &Wanted) -> Result<()> {
    state::check_name(&wanted.name)?;
    if wanted.servers == 0 || wanted.servers > MOST_SERVERS {
        bail!("a lab has 1 to {MOST_SERVERS} servers, not {}", wanted.servers);
    }
    if wanted.disk_mib.is_some_and(|mib| mib < 64) {
        bail!("a server's disk has 64 MiB at least");
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("a lab needs root: it makes namespaces, mounts and cgroups");
    }
    Ok(())
}

/// Picks a free network and writes the whole plan down, while no other lab can do the same.
fn claim(wanted: &Wanted, base: PathBuf) -> Result<State> {
    let all = Hold::take_or_make(Path::new(LABS))?;
    let others = State::all()?;
    let taken =
        |subnet: [u8; 3]| others.iter().any(|o| o.subnet == subnet && o.name != wanted.name);
    let subnet = match wanted.subnet {
        Some(subnet) if taken(subnet) => bail!("network {subnet:?} belongs to another lab"),
        Some(subnet) => subnet,
        None => (0..=255)
            .map(|n| [10, 66, n])
            .find(|s| !taken(*s))
            .context("all of 10.66.0.0/16 is taken")?,
    };
    let (name, folder) = (&wanted.name, state::folder_of(&wanted.name));
    let places = cgroup::places(name)?;
    let servers = (1..=wanted.servers).map(|number| ServerState {
        name: format!("node{number}"),
        address: Ipv4Addr::new(subnet[0], subnet[1], subnet[2], 10 + number as u8),
        namespace: format!("kdc-lab-{name}-node{number}"),
        link: format!("v{number}"),
        disk_mib: wanted.disk_mib,
        host_key: String::new(),
    });
    let state = State {
        name: name.clone(),
        complete: false,
        subnet,
        gateway: wanted.gateway,
        namespace: format!("kdc-lab-{name}"),
        base,
        disks: base::cache()?.join("labs").join(name),
        cgroups: places.cgroups,
        unified: places.unified,
        key: folder.join("key"),
        known_hosts: folder.join("known_hosts"),
        ssh_config: folder.join("ssh_config"),
        users: keys::users(&folder),
        servers: servers.collect(),
        folder,
    };
    state.write()?;
    drop(all);
    Ok(state)
}

fn make(state: &mut State, progress: &(dyn Fn(&str) + Sync)) -> Result<()> {
    raise_inotify()?;
    load_modules()?;
    keys::make(state)?;
    for part in 0..state.servers.len() {
        let name = state.servers[part].name.clone();
        state.servers[part].host_key =
            keys::make_key(&personal::host_key_file(state, &name), &name)?;
    }
    keys::write_client_files(state)?;
    state.write()?;
    make_cgroups(state)?;
    network::make_bridge(state)?;
    start_all(state, progress)?;
    state.complete = true;
    state.write()
}

fn make_cgroups(state: &State) -> Result<()> {
    for cgroup in &state.cgroups {
        cgroup::make(cgroup)?;
        if state.unified {
            cgroup::delegate(cgroup.parent().context("a lab's cgroup has a parent")?)?;
            cgroup::delegate(cgroup)?;
        }
    }
    state.cgroups_of(workstation::PART).iter().try_for_each(|cgroup| cgroup::make(cgroup))
}

/// Starts servers a few at a time: more at once only wait for each other's CPU.
fn start_all(state: &State, progress: &(dyn Fn(&str) + Sync)) -> Result<()> {
    let at_once = std::thread::available_parallelism().map_or(2, usize::from) * 3;
    let waiting = Mutex::new(state.servers.iter());
    let failure = Mutex::new(None);
    let work = || {
        while failure.lock().is_ok_and(|failure| failure.is_none()) {
            let Some(server) = waiting.lock().ok().and_then(|mut servers| servers.next()) else {
                return;
            };
            match start_one(state, server) {
                Ok(()) => progress(&format!("{} answers at {}", server.name, server.address)),
                Err(error) => {
                    if let Ok(mut failure) = failure.lock() {
                        failure.get_or_insert(error);
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..at_once.min(state.servers.len()) {
            scope.spawn(work);
        }
    });
    match failure.into_inner() {
        Ok(None) => Ok(()),
        Ok(Some(error)) => Err(error),
        Err(_) => bail!("a thread that started servers panicked"),
    }
}

fn start_one(state: &State, server: &ServerState) -> Result<()> {
    let server = LightServer::new(state, &server.name)?;
    server.make_disk()?;
    server.start()?;
    server.wait_for_ssh(Duration::from_secs(120))
}

/// Lets one user have enough inotify instances for many systemds. Not taken back: others may need them by then.
fn raise_inotify() -> Result<()> {
    let path = "/proc/sys/fs/inotify/max_user_instances";
    let now: u64 =
        fs_err::read_to_string(path)?.trim().parse().context("inotify's limit isn't a number")?;
    if now < INOTIFY_INSTANCES {
        fs_err::write(path, INOTIFY_INSTANCES.to_string())?;
    }
    Ok(())
}

/// Has the host's kernel load what servers can't: they have no modules of its version. Not taken back either.
fn load_modules() -> Result<()> {
    let missing = |name: &&&str| !Path::new("/sys/module").join(name).exists();
    // A kernel that was built without modules has all that it will ever have.
    if !Path::new("/proc/modules").exists() || !MODULES.iter().any(|name| missing(&name)) {
        return Ok(());
    }
    let said = run(&[&["modprobe", "-a", "--"], MODULES].concat())?;
    let missing: Vec<_> = MODULES.iter().filter(missing).collect();
    if !missing.is_empty() && !said.succeeded() {
        bail!(
            "the host's kernel can't load {missing:?}, which Kubernetes needs: {}",
            said.stderr_text().trim()
        );
    }
    Ok(())
}

/// Ends everything that a lab runs and removes what it made, but not its folder.
fn clear(state: &State) -> Result<()> {
    cgroup::kill_all(&state.cgroups)?;
    cgroup::remove(&state.cgroups)?;
    for server in &state.servers {
        network::remove(&server.namespace)?;
    }
    network::remove(&state.namespace)?;
    refuse_mounts_below(&state.disks)?;
    if state.disks.exists() {
        must(&[
            "rm".as_ref(),
            "-rf".as_ref(),
            "--one-file-system".as_ref(),
            state.disks.as_os_str(),
        ])?;
    }
    // The folder of all labs' disks goes with the last of them.
    let _ = state.disks.parent().map(fs_err::remove_dir);
    Ok(())
}

fn remove(state: &State) -> Result<()> {
    clear(state)?;
    Ok(fs_err::remove_dir_all(&state.folder)?)
}

/// Servers mount in namespaces of their own; a mount that the host sees there is somebody else's.
fn refuse_mounts_below(folder: &Path) -> Result<()> {
    let mounts = fs_err::read_to_string("/proc/self/mountinfo")?;
    let below = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .find(|at| Path::new(at).starts_with(folder));
    match below {
        Some(at) => {
            bail!("`{at}` is mounted inside the lab's folder, not by the lab; unmount it first")
        }
        None => Ok(()),
    }
}

/// The `kdc-lab` program, whose hidden subcommands are a server's first stages: `$KDC_LAB`, or beside this program.
pub fn program_path() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("KDC_LAB") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("cannot tell my own path")?;
    let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join("kdc-lab"));
    beside.into_iter().find(|path| path.is_file()).with_context(|| {
        format!("no `kdc-lab` beside `{}`; `cargo build -p kdc-tests` makes it", own.display())
    })
}
