//! Keeping routes and the masquerade rule as `routes.json` wants them.
//!
//! The daemon looks, which needs no right at all: every few seconds it reads `routes.json`, what it
//! has on record and the kernel's own table ([`Routes::look`]). Where something differs it has a
//! short-lived unit do the work (`kdc-routes.service`, [`have_settled`]): that one may change routes
//! and rules and serves nobody; the daemon serves and may not (`docs/decisions/0016-daemon.md`). What is put there is
//! on record in `/run/kdc/routes-applied.json` *before* it is put there, so that it can be taken away
//! again: when a peer goes, and wholly when `routes.json` goes ([`settle`] does that for the step's
//! undo too). When the daemon ends, everything stays: running workloads must not notice.
//!
//! Pod traffic that leaves the cluster's pod range is masqueraded by a chain of our own
//! (`KDC-MASQ`). The bridge plugin's `ipMasq` would do so for peers' pods too and hide who calls.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    APPLIED_PATH, DaemonError, KERNEL_ROUTES, ROUTES_PATH,
    routes::{Action, Route, RoutesFile, decide, parse_kernel_routes, wanted},
};
use crate::{
    heal,
    host::{Attributes, Host, Program},
    wire::Failure,
};

/// The unit that changes routes and rules.
pub const ROUTES_UNIT_NAME: &str = "kdc-routes.service";

/// What that unit says of its work.
const REPORT_PATH: &str = "/run/kdc/routes-report.json";

const MASQUERADE_CHAIN: &str = "KDC-MASQ";

/// Between two looks at the masquerade rule, which can't be seen without the right to change it.
const MASQUERADE_EVERY: Duration = Duration::from_secs(60);

/// What the unit leaves for the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    kept: usize,
    changed: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
}

/// What a look found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing is asked for.
    Nothing,
    /// All is there, so many routes.
    AsWanted(usize),
    /// Something differs, or the rule is to be looked at.
    Differs,
}

/// Looks at the routes.
#[derive(Debug, Default)]
pub(super) struct Routes {
    masquerade_due: Option<Instant>,
}

impl Routes {
    /// Compare what there should be with what there is. Changes nothing.
    pub(super) fn look(&self, host: &dyn Host) -> Result<Look, DaemonError> {
        let had_record = host.stat(APPLIED_PATH)?.is_some();
        let Some(file) = load_file(host)? else {
            return Ok(if had_record { Look::Differs } else { Look::Nothing });
        };
        let kernel = load_kernel(host)?;
        let (applied, wanted) = (load_applied(host)?, wanted(&file, &kernel));
        let same = had_record && applied == wanted && decide(&wanted, &applied, &kernel).is_empty();
        let due = self.masquerade_due.is_none_or(|due| Instant::now() >= due);
        Ok(if same && !due { Look::AsWanted(wanted.len()) } else { Look::Differs })
    }

    /// The work is being done; the rule is looked at again after a while.
    pub(super) fn work_begins(&mut self) {
        self.masquerade_due = Some(Instant::now() + MASQUERADE_EVERY);
    }

    /// Look at everything next time.
    pub(super) fn look_anew(&mut self) {
        self.masquerade_due = None;
    }
}

fn load_file(host: &dyn Host) -> Result<Option<RoutesFile>, DaemonError> {
    let Some(text) = host.read_text(ROUTES_PATH)? else { return Ok(None) };
    RoutesFile::parse(&text).map(Some).map_err(|reason| DaemonError::RoutesFile { reason })
}

fn load_kernel(host: &dyn Host) -> Result<Vec<Route>, DaemonError> {
    let table = host.read_text(KERNEL_ROUTES)?.unwrap_or_default();
    parse_kernel_routes(&table).map_err(|reason| DaemonError::KernelRoutes { reason })
}

/// Routes that are on record as put there and that the kernel lacks; nothing where none are asked for.
///
/// # Errors
/// When a file makes no sense.
pub(crate) fn missing(host: &dyn Host) -> Result<Option<Vec<String>>, DaemonError> {
    let Some(file) = load_file(host)? else { return Ok(None) };
    let (kernel, applied) = (load_kernel(host)?, load_applied(host)?);
    Ok(Some(lost(&wanted(&file, &kernel), &applied, &kernel)))
}

/// What of the routes that are wanted was there and is not any more.
fn lost(wanted: &BTreeSet<Route>, applied: &BTreeSet<Route>, kernel: &[Route]) -> Vec<String> {
    let gone = decide(wanted, applied, kernel).into_iter().filter_map(|action| match action {
        Action::Add(route) if applied.contains(&route) => Some(route.destination.to_string()),
        Action::Add(_) | Action::Remove(_) => None,
    });
    gone.collect()
}

/// Has the unit do the work, and says what it did.
pub(super) fn have_settled(
    host: &dyn Host,
    agent: &str,
    config: &Path,
) -> Result<Settled, DaemonError> {
    host.remove(REPORT_PATH)?;
    let ended = host.run(&unit(agent, config))?;
    let report: Option<Report> =
        host.read_text(REPORT_PATH)?.and_then(|text| serde_json::from_str(&text).ok());
    let reason = match report {
        Some(Report { failure: None, kept, changed }) if ended.good() => {
            return Ok(Settled { kept, changed });
        }
        Some(Report { failure: Some(failure), .. }) => {
            format!("error[{}]: {}", failure.code, failure.message)
        }
        _ => format!("it left no word: {}", ended.tail().trim()),
    };
    Err(DaemonError::Helper { unit: ROUTES_UNIT_NAME, reason })
}

/// It may change the network and nothing else, and it ends.
fn unit(agent: &str, config: &Path) -> Program {
    Program::new("systemd-run")
        .arg(format!("--unit={ROUTES_UNIT_NAME}"))
        .arg("--description=kdc keeps the routes between the nodes' pods")
        .args(["--quiet", "--collect", "--no-ask-password"])
        .args(["--property=Type=oneshot", "--property=TimeoutStartSec=60"])
        .args(["--property=CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW"])
        .args(["--property=NoNewPrivileges=yes", "--property=UMask=0077"])
        .args(["--property=ProtectSystem=strict", "--property=ReadWritePaths=/run"])
        .args(["--property=StateDirectory=kdc/heal", "--property=StateDirectoryMode=0700"])
        .args(["--property=ProtectHome=yes", "--property=PrivateTmp=yes"])
        .args(["--property=RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK"])
        .args(["--property=LockPersonality=yes", "--property=LogLevelMax=notice"])
        .args(["--", agent, "settle-routes", "--config"])
        .arg(config.to_string_lossy())
        .within_secs(90)
}

/// What the unit does: one round, and word of how it came out. Routes that somebody took away are put
/// back only as far as self-healing allows, and that is written down.
///
/// # Errors
/// As [`settle`]; the word is left all the same.
pub fn settle_and_report(host: &dyn Host, config: &Path) -> Result<Settled, DaemonError> {
    let settled = settle_or_hold(host, config);
    let report = match &settled {
        Ok(settled) => Report { kept: settled.kept, changed: settled.changed, failure: None },
        Err(error) => Report { failure: Some(Failure::from(error)), ..Report::default() },
    };
    let text = serde_json::to_vec(&report).expect("texts and numbers");
    host.write(REPORT_PATH, &text, Attributes::root(0o600))?;
    settled
}

fn settle_or_hold(host: &dyn Host, config: &Path) -> Result<Settled, DaemonError> {
    let lost = missing(host)?.unwrap_or_default();
    if lost.is_empty() {
        return settle(host);
    }
    let number = heal::begin_routes_alone(host, config, &lost)
        .map_err(|why| DaemonError::RoutesHeld { why })?;
    let settled = settle(host);
    // A rule that can't be set is another matter than the routes.
    let still = missing(host)?.unwrap_or_default();
    let why = (!still.is_empty()).then(|| format!("still missing: {}", still.join(", ")));
    heal::end_routes_alone(host, number, why);
    settled
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
    let (file, kernel) = (load_file(host)?, load_kernel(host)?);
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
        Some(file) => ensure_masquerade(host, file)?,
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
    fn a_look_changes_nothing_and_tells_whether_there_is_work() {
        let host = FakeHost::debian();
        assert_eq!(Routes::default().look(&host).unwrap(), Look::Nothing);
        let host = host_with_two_peers();
        assert_eq!(Routes::default().look(&host).unwrap(), Look::Differs);
        assert!(host.calls().iter().all(|call| !call.contains("route replace")));
        host.plant(ROUTES_PATH, "{}");
        assert_eq!(Routes::default().look(&host).unwrap_err().code(), "AGENT-050");
    }

    #[test]
    fn the_unit_that_changes_the_network_may_do_nothing_else() {
        let program = unit("/usr/local/bin/kdc-agent", Path::new("/etc/kdc"));
        let arguments = program.arguments();
        for wanted in [
            "--property=CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW",
            "--property=ProtectSystem=strict",
            "settle-routes",
        ] {
            assert!(arguments.iter().any(|found| found == wanted), "{wanted} in {arguments:?}");
        }
    }
}
