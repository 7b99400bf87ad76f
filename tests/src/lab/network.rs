//! The lab's network: one namespace with a bridge and no uplink, one namespace and one link for each server.
//!
//! Every link is made between two namespaces of the lab, so the host's own network is never touched.

use std::ffi::OsStr;
use std::iter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::lab::program_path;
use crate::lab::state::{ServerState, State};
use crate::program::{must, run};

/// Name of the bridge in the lab's namespace.
pub const BRIDGE: &str = "br0";

/// The file of a named network namespace.
pub fn file_of(namespace: &str) -> PathBuf {
    Path::new("/run/netns").join(namespace)
}

/// Moves the calling thread into a network namespace.
pub fn enter(namespace: &Path) -> Result<()> {
    let file = fs_err::File::open(namespace)?;
    setns(file.file(), CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter the network namespace `{}`", namespace.display()))
}

/// Runs `work` on a thread of its own inside a network namespace.
pub fn inside<T: Send>(namespace: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(namespace)?;
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Makes the lab's namespace and bridge.
pub fn make_bridge(state: &State) -> Result<()> {
    let namespace = state.namespace.as_str();
    let address = format!("{}/24", state.gateway_address());
    add(state, namespace)?;
    ip(namespace, &["link", "set", "lo", "up"])?;
    ip(namespace, &["link", "add", BRIDGE, "type", "bridge"])?;
    ip(namespace, &["addr", "add", &address, "dev", BRIDGE])?;
    ip(namespace, &["link", "set", BRIDGE, "up"])?;
    if state.gateway {
        // A packet of the workstation to elsewhere becomes an ARP question that nobody answers.
        ip(namespace, &["route", "add", "default", "dev", BRIDGE])?;
    }
    Ok(())
}

/// Makes a server's namespace and its link to the bridge, with its address.
pub fn make_link(state: &State, server: &ServerState) -> Result<()> {
    let (lab, own) = (state.namespace.as_str(), server.namespace.as_str());
    let address = format!("{}/24", server.address);
    add(state, own)?;
    let mac = server.mac();
    let end = ["link", "add", &server.link, "type", "veth"];
    let peer = ["peer", "name", "eth0", "address", &mac, "netns", own];
    ip(lab, &[&end[..], &peer].concat())?;
    ip(lab, &["link", "set", &server.link, "master", BRIDGE, "up"])?;
    ip(own, &["link", "set", "lo", "up"])?;
    ip(own, &["addr", "add", &address, "dev", "eth0"])?;
    ip(own, &["link", "set", "eth0", "up"])?;
    if state.gateway {
        ip(own, &["route", "add", "default", "via", &state.gateway_address().to_string()])?;
    }
    Ok(())
}

/// Makes a named namespace, by a process in the lab's cgroups: `down` ends it, or its late start fails, where `up` was
/// killed meanwhile. Nothing else that `up` starts can make what outlives the lab's folder and namespaces.
fn add(state: &State, namespace: &str) -> Result<()> {
    let program = program_path()?;
    let words = ["_join", &state.name, "--", "ip", "netns", "add", namespace];
    let words: Vec<&OsStr> = iter::once(program.as_os_str()).chain(words.map(OsStr::new)).collect();
    must(&words).map(drop)
}

/// Removes a namespace with every link in it; nothing where there is none.
pub fn remove(namespace: &str) -> Result<()> {
    if file_of(namespace).exists() {
        must(&["ip", "netns", "del", namespace])?;
    }
    Ok(())
}

/// Removes a server's namespace and link.
///
/// The kernel clears a namespace some time after its last user: the link is removed first, and at once, so that
/// another can be made in its place.
pub fn remove_link(state: &State, server: &ServerState) -> Result<()> {
    let namespace = state.namespace.as_str();
    if file_of(namespace).exists() {
        let shown = run(&["ip", "-n", namespace, "link", "show", "dev", &server.link])?;
        if shown.succeeded() {
            ip(namespace, &["link", "del", &server.link])?;
        }
    }
    remove(&server.namespace)
}

/// Takes a server's link down or up, at the bridge's end, as if the cable were pulled.
pub fn set_link(state: &State, server: &ServerState, up: bool) -> Result<()> {
    ip(&state.namespace, &["link", "set", &server.link, if up { "up" } else { "down" }])
}

/// Limits a server's link to a rate in both directions; `None` lifts the limit, where there is one.
pub fn shape(state: &State, server: &ServerState, rate: Option<&str>) -> Result<()> {
    for (namespace, device) in
        [(&state.namespace, server.link.as_str()), (&server.namespace, "eth0")]
    {
        shape_sent(namespace, device, rate)?;
    }
    Ok(())
}

/// Limits what the operator's workstation sends; `None` lifts the limit.
pub fn shape_workstation(state: &State, rate: Option<&str>) -> Result<()> {
    shape_sent(&state.namespace, BRIDGE, rate)
}

/// Bytes that the operator's workstation has sent since the lab is up, all headers included.
pub fn sent_by_workstation(state: &State) -> Result<u64> {
    let devices = inside(&file_of(&state.namespace), || {
        Ok(fs_err::read_to_string("/proc/thread-self/net/dev")?)
    })?;
    let line = devices.lines().find_map(|line| line.trim().strip_prefix(BRIDGE)?.strip_prefix(':'));
    // Eight columns of what came, then what went.
    let sent = line.and_then(|columns| columns.split_whitespace().nth(8)?.parse().ok());
    sent.with_context(|| format!("no counters of `{BRIDGE}`"))
}

/// As [`shape`] for a device whose other end is out of reach, as a machine's is: what comes from it is led through a
/// device of its own, and limited as it leaves that.
pub fn shape_tap(namespace: &str, tap: &str, rate: Option<&str>) -> Result<()> {
    let detour = format!("in-{tap}");
    shape_sent(namespace, tap, rate)?;
    let has_detour = run(&["ip", "-n", namespace, "link", "show", "dev", &detour])?.succeeded();
    if rate.is_none() && has_detour {
        must(&["tc", "-n", namespace, "qdisc", "del", "dev", tap, "ingress"])?;
        return ip(namespace, &["link", "del", &detour]);
    }
    if rate.is_some() && !has_detour {
        ip(namespace, &["link", "add", &detour, "type", "ifb"])?;
        ip(namespace, &["link", "set", &detour, "up"])?;
        must(&["tc", "-n", namespace, "qdisc", "add", "dev", tap, "ingress"])?;
        let all = ["protocol", "all", "u32", "match", "u32", "0", "0"];
        let lead = ["action", "mirred", "egress", "redirect", "dev", &detour];
        let head = ["tc", "-n", namespace, "filter", "add", "dev", tap, "parent", "ffff:"];
        must(&[&head[..], &all, &lead].concat())?;
    }
    if rate.is_some() { shape_sent(namespace, &detour, rate) } else { Ok(()) }
}

/// Limits what a device sends. The burst holds the largest packet that the kernel hands down whole (64 KiB and the
/// headers of its segments): a smaller one has `tbf` cut each into 45, and on two cores that cutting is the limit.
fn shape_sent(namespace: &str, device: &str, rate: Option<&str>) -> Result<()> {
    let shown = must(&["tc", "-n", namespace, "qdisc", "show", "dev", device, "root"])?;
    let is_shaped = shown.stdout_text().contains("tbf");
    let head = |verb| ["tc", "-n", namespace, "qdisc", verb, "dev", device, "root"];
    match rate {
        Some(rate) => {
            let limit = ["tbf", "rate", rate, "burst", "128kb", "latency", "400ms"];
            must(&[&head("replace")[..], &limit].concat()).map(drop)
        }
        None if is_shaped => must(&head("del")).map(drop),
        None => Ok(()),
    }
}

fn ip(namespace: &str, arguments: &[&str]) -> Result<()> {
    must(&[&["ip", "-n", namespace], arguments].concat()).map(drop)
}
