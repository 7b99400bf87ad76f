//! `kdc-agent.service`: serves this node's images to its containerd ([`registry`]), and keeps the
//! routes between the nodes' pod ranges (`cni: host-routes`). Each goes by a file of its own, and
//! rests while that is not there.
//!
//! For the routes it is a dumb driver around the pure [`routes`]: every few seconds it reads `routes.json`
//! and the kernel's own table, and changes only what differs. What it put there is on record in
//! `/run/kdc/routes-applied.json` *before* it is put there, so that it can be taken away again: when
//! a peer goes, and wholly when `routes.json` goes ([`settle`] does that for the step's undo too).
//! When the daemon ends, everything stays: running workloads must not notice.
//!
//! Pod traffic that leaves the cluster's pod range is masqueraded by a chain of our own
//! (`KDC-MASQ`). The bridge plugin's `ipMasq` would do so for peers' pods too and hide who calls.

pub mod registry;
pub mod routes;

use std::{collections::BTreeSet, time::Duration};

use self::{
    registry::Keeper,
    routes::{Action, Route, RoutesFile, decide, parse_kernel_routes, wanted},
};
use crate::{
    host::{Attributes, Host, HostError, Program},
    store::peer::{PeerError, Standing},
};

/// What the daemon is told.
pub const ROUTES_PATH: &str = "/etc/kdc/routes.json";

/// What the daemon put into the kernel.
pub const APPLIED_PATH: &str = "/run/kdc/routes-applied.json";

/// Name of the unit.
pub const UNIT_NAME: &str = "kdc-agent.service";

const KERNEL_ROUTES: &str = "/proc/net/route";
const MASQUERADE_CHAIN: &str = "KDC-MASQ";
const PERIOD: Duration = Duration::from_secs(3);

/// Rounds between two looks at the masquerade rule, which cost a program each.
const ROUNDS_A_MASQUERADE: u32 = 10;

/// The unit's text. Nothing in it needs more than the right to change routes and rules, and to listen
/// on a port that is root's.
#[must_use]
pub fn unit() -> &'static str {
    include_str!("kdc-agent.service")
}

/// Why a round failed.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The file was written by hand, or by another version.
    #[error("{ROUTES_PATH} makes no sense: {reason}")]
    RoutesFile {
        /// What is wrong.
        reason: String,
    },
    /// The kernel's table was not understood.
    #[error("{KERNEL_ROUTES} makes no sense: {reason}")]
    KernelRoutes {
        /// What is wrong.
        reason: String,
    },
    /// A file or program failed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Content can't be shared with other nodes.
    #[error(transparent)]
    Sharing(PeerError),
    /// The runtime or a signal handler failed.
    #[error("the daemon can't listen to signals")]
    Signals(#[from] std::io::Error),
}

impl DaemonError {
    /// Stable code, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::RoutesFile { .. } => "AGENT-050",
            Self::KernelRoutes { .. } => "AGENT-051",
            Self::Host(_) => "AGENT-052",
            Self::Sharing(error) => error.code(),
            Self::Signals(_) => "AGENT-053",
        }
    }

    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::RoutesFile { .. } => {
                Some("run `kdc-install apply` again: it writes the file anew".to_owned())
            }
            Self::Host(error) => error.hint(),
            Self::KernelRoutes { .. } | Self::Sharing(_) | Self::Signals(_) => None,
        }
    }
}

/// What one round did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// Routes that are kept now.
    pub kept: usize,
    /// Routes put there or taken away in this round.
    pub changed: usize,
}

/// One round: bring routes and the masquerade rule to what `routes.json` says; without the file,
/// take everything of ours away. Also what the undo of `ConfigureHostRoutes` calls once it has
/// removed the file.
///
/// # Errors
/// When a file makes no sense or a program fails; what was done stays on record.
pub fn settle(host: &dyn Host) -> Result<Settled, DaemonError> {
    settle_round(host, true)
}

fn settle_round(host: &dyn Host, with_masquerade: bool) -> Result<Settled, DaemonError> {
    let file = match host.read_text(ROUTES_PATH)? {
        Some(text) => {
            Some(RoutesFile::parse(&text).map_err(|reason| DaemonError::RoutesFile { reason })?)
        }
        None => None,
    };
    let table = host.read_text(KERNEL_ROUTES)?.unwrap_or_default();
    let kernel =
        parse_kernel_routes(&table).map_err(|reason| DaemonError::KernelRoutes { reason })?;
    let had_record = host.stat(APPLIED_PATH)?.is_some();
    let applied = load_applied(host)?;
    let wanted = file.as_ref().map(|file| wanted(file, &kernel)).unwrap_or_default();
    let actions = decide(&wanted, &applied, &kernel);
    if applied != wanted && !wanted.is_empty() {
        // On record before it is in the kernel; the old ones too, until they are gone.
        save_applied(host, &applied.union(&wanted).cloned().collect())?;
    }
    // One that the kernel refuses (a peer that is on no link yet) must not keep the others away.
    let mut refused = None;
    for action in &actions {
        if let Err(error) = carry_out(host, action) {
            refused.get_or_insert(error);
        }
    }
    match &file {
        Some(file) if with_masquerade || !had_record => ensure_masquerade(host, file)?,
        Some(_) => {}
        None if had_record => remove_masquerade(host)?,
        None => {}
    }
    if let Some(error) = refused {
        return Err(error);
    }
    if wanted.is_empty() && file.is_none() {
        host.remove(APPLIED_PATH)?;
    } else if applied != wanted || !had_record {
        save_applied(host, &wanted)?;
    }
    Ok(Settled { kept: wanted.len(), changed: actions.len() })
}

fn load_applied(host: &dyn Host) -> Result<BTreeSet<Route>, DaemonError> {
    let Some(text) = host.read_text(APPLIED_PATH)? else { return Ok(BTreeSet::new()) };
    // Written atomically by us alone; if it makes no sense, claiming nothing is the safe reading.
    Ok(serde_json::from_str(&text).unwrap_or_else(|cause| {
        tracing::warn!(%cause, "{APPLIED_PATH} makes no sense; nothing in it is taken for ours");
        BTreeSet::new()
    }))
}

fn save_applied(host: &dyn Host, routes: &BTreeSet<Route>) -> Result<(), DaemonError> {
    let directory = crate::host::parent(APPLIED_PATH);
    if host.stat(directory)?.is_none() {
        host.make_directory(directory, Attributes::root(0o700))?;
    }
    let text = serde_json::to_vec(routes).expect("routes are plain text and numbers");
    Ok(host.write(APPLIED_PATH, &text, Attributes::root(0o600))?)
}

fn carry_out(host: &dyn Host, action: &Action) -> Result<(), DaemonError> {
    let (verb, route) = match action {
        Action::Add(route) => ("replace", route),
        Action::Remove(route) => ("del", route),
    };
    let mut program =
        Program::new("ip").args(["-4", "route", verb]).arg(route.destination.to_string());
    if let Some(via) = route.via {
        program = program.args(["via".to_owned(), via.to_string()]);
    }
    if let Some(device) = &route.device {
        program = program.args(["dev", device]);
    }
    tracing::info!(verb, destination = %route.destination, "route");
    host.run_checked(&program.within_secs(10))?;
    Ok(())
}

fn iptables(arguments: &[&str]) -> Program {
    Program::new("iptables")
        .args(["-w", "10", "-t", "nat"])
        .args(arguments.iter().copied())
        .within_secs(20)
}

/// The jump into our chain; its comment names the range, so that it can be found again.
fn jump(verb: &'static str, pod_cidr: &str) -> Program {
    iptables(&[verb, "POSTROUTING", "-s", pod_cidr, "-j", MASQUERADE_CHAIN])
}

fn ensure_masquerade(host: &dyn Host, file: &RoutesFile) -> Result<(), DaemonError> {
    let (pods, cluster) = (file.pod_cidr.to_string(), file.cluster_cidr.to_string());
    let wanted = [
        format!("-N {MASQUERADE_CHAIN}"),
        format!("-A {MASQUERADE_CHAIN} -d {cluster} -j RETURN"),
        format!("-A {MASQUERADE_CHAIN} -d 224.0.0.0/4 -j RETURN"),
        format!("-A {MASQUERADE_CHAIN} -j MASQUERADE"),
    ];
    let listed = host.run(&iptables(&["-S", MASQUERADE_CHAIN]))?;
    let text = listed.text();
    if !listed.good() || !text.lines().eq(wanted.iter().map(String::as_str)) {
        if !listed.good() {
            host.run_checked(&iptables(&["-N", MASQUERADE_CHAIN]))?;
        }
        host.run_checked(&iptables(&["-F", MASQUERADE_CHAIN]))?;
        for rule in &wanted[1..] {
            let arguments: Vec<&str> = rule.split(' ').collect();
            host.run_checked(&iptables(&arguments))?;
        }
    }
    if !host.run(&jump("-C", &pods))?.good() {
        host.run_checked(&jump("-A", &pods))?;
    }
    Ok(())
}

/// Take our chain and every jump into it away. A host without iptables has neither.
fn remove_masquerade(host: &dyn Host) -> Result<(), DaemonError> {
    let listed = match host.run(&iptables(&["-S", "POSTROUTING"])) {
        Err(error) if error.is_missing_program() => return Ok(()),
        other => other?,
    };
    let text = listed.text();
    for rule in text.lines().filter(|line| line.ends_with(&format!("-j {MASQUERADE_CHAIN}"))) {
        let arguments: Vec<&str> = ["-D"].into_iter().chain(rule.split(' ').skip(1)).collect();
        host.run_checked(&iptables(&arguments))?;
    }
    if host.run(&iptables(&["-S", MASQUERADE_CHAIN]))?.good() {
        host.run_checked(&iptables(&["-F", MASQUERADE_CHAIN]))?;
        host.run_checked(&iptables(&["-X", MASQUERADE_CHAIN]))?;
    }
    Ok(())
}

/// Run until SIGTERM or SIGINT. SIGHUP starts a round at once. A failed round is told in the status
/// and tried again; the watchdog is fed after every round, since a round that ended is life. Who
/// waits for the unit to be started finds routes and images as the files want them, or told why not.
///
/// # Errors
/// When signals can't be listened to.
pub async fn run(host: &dyn Host) -> Result<(), DaemonError> {
    use sd_notify::NotifyState;
    use tokio::signal::unix::{SignalKind, signal};
    let (mut hangup, mut terminate, mut interrupt) = (
        signal(SignalKind::hangup())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let (mut round, mut keeper, mut sharing) = (0_u32, Keeper::system(), Standing::system());
    loop {
        let images = keeper.settle(host);
        let settled = settle_round(host, round.is_multiple_of(ROUNDS_A_MASQUERADE));
        let routes = settled.map(|settled| Some(format!("{} routes kept", settled.kept)));
        let shared = sharing.settle().map_err(DaemonError::Sharing);
        let status = in_words(&[routes, images, shared]);
        let states =
            [NotifyState::Ready, NotifyState::Watchdog, NotifyState::Status(status.as_str())];
        if let Err(cause) = sd_notify::notify(&states) {
            tracing::debug!(%cause, "no service manager to notify");
        }
        round = round.wrapping_add(1);
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            _ = hangup.recv() => round = 0,
            _ = terminate.recv() => return keeper.stop(host),
            _ = interrupt.recv() => return keeper.stop(host),
        }
    }
}

/// How the parts of a round came out, for the unit's status.
fn in_words(parts: &[Result<Option<String>, DaemonError>]) -> String {
    let said = parts.iter().filter_map(|part| match part {
        Ok(said) => said.clone(),
        Err(error) => {
            tracing::warn!(code = error.code(), %error, "a round failed");
            Some(format!("error[{}]: {error}", error.code()))
        }
    });
    said.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::{Accident, FakeHost};

    fn host_with_two_peers() -> FakeHost {
        let host = FakeHost::debian();
        for program in ["ip", "iptables"] {
            host.plant(&format!("/usr/sbin/{program}"), "");
        }
        host.plant(
            ROUTES_PATH,
            r#"{"podCidr":"10.244.0.0/24","clusterCidr":"10.244.0.0/16","serviceCidr":"10.96.0.0/12",
                "peers":{"10.66.0.12":"10.244.1.0/24","10.66.0.13":"10.244.2.0/24"}}"#,
        );
        host
    }

    #[test]
    fn a_route_that_the_kernel_refuses_keeps_no_other_away_and_is_tried_again() {
        let host = host_with_two_peers();
        settle(&host).unwrap();
        let adds = |calls: &[String]| {
            let is_add = |call: &String| call.contains("route replace");
            calls.iter().filter(|call| is_add(call)).cloned().collect::<Vec<_>>()
        };
        let all = adds(&host.calls());
        assert_eq!(all.len(), 3, "two peers and the Service range: {all:?}");
        let first = host.calls().iter().position(|call| *call == all[0]).unwrap();

        let host = host_with_two_peers();
        host.plan_accident(first, Accident::Fail);
        assert_eq!(settle(&host).unwrap_err().code(), "AGENT-052");
        assert_eq!(adds(&host.calls()), all);
        assert!(host.recover());
        // Nothing of it is in the fake's table, so all of it is wanted again.
        assert_eq!(settle(&host).unwrap(), Settled { kept: 3, changed: 3 });
    }

    #[test]
    fn the_unit_is_watched_restarted_and_may_do_no_more_than_networking() {
        let unit = unit();
        for line in [
            "Type=notify",
            "ExecStart=/usr/local/bin/kdc-agent daemon",
            "Restart=on-failure",
            "WatchdogSec=60",
            "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_NET_RAW",
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
        ] {
            assert!(unit.lines().any(|found| found == line), "{line}");
        }
    }
}
