//! The kernel's counters of packets that had no route: of the node's own (`OutNoRoutes`) and of those it
//! should forward for others (`InNoRoutes`, pods' first of all).
//!
//! They count from the machine's start, and what they showed when the run began lies under `/run/kdc`:
//! a reboot clears both, and `depart` removes it with everything else there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::host::{Attributes, Host, HostError};

const BASELINE: &str = "/run/kdc/no-routes.json";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NoRoutes {
    /// Packets of the node's own.
    own: u64,
    /// Packets to be forwarded.
    forwarded: u64,
}

/// Note the counters where a run begins; one that is taken up keeps what was noted first. A node whose
/// counters can't be noted is told by the proof later: no reason to stop a run.
///
/// # Errors
/// When they can't be read or written.
pub fn begin(host: &dyn Host, resumed: bool) -> Result<(), HostError> {
    if resumed && host.stat(BASELINE)?.is_some() {
        return Ok(());
    }
    let Ok(now) = read(host) else { return host.remove(BASELINE) };
    let text = format!("{{\"own\":{},\"forwarded\":{}}}\n", now.own, now.forwarded);
    host.write(BASELINE, text.as_bytes(), Attributes::root(0o600))
}

/// What they say against the baseline: nothing, or a warning in words.
pub(super) fn since_begun(host: &dyn Host) -> Option<String> {
    let now = match read(host) {
        Ok(now) => now,
        Err(why) => return Some(format!("could not look at the no-route counters: {why}")),
    };
    let noted = host.read_text(BASELINE).ok().flatten();
    let noted = noted.and_then(|text| serde_json::from_str::<NoRoutes>(&text).ok());
    told(noted, now)
}

fn told(noted: Option<NoRoutes>, now: NoRoutes) -> Option<String> {
    let since = if noted.is_some() { "the run began" } else { "the machine started" };
    let noted = noted.unwrap_or_default();
    let grown = (now.own.checked_sub(noted.own), now.forwarded.checked_sub(noted.forwarded));
    match grown {
        (Some(0), Some(0)) => None,
        (Some(own), Some(forwarded)) => Some(format!(
            "{own} packets of the node's own and {forwarded} of pods or neighbours had no route \
             since {since}; the kernel does not say where to"
        )),
        _ => Some("the no-route counters began anew since the run began".to_owned()),
    }
}

fn read(host: &dyn Host) -> Result<NoRoutes, String> {
    let text = |path: &str| {
        let text = host.read_text(path).map_err(|error| error.to_string())?;
        text.ok_or_else(|| format!("there is no {path}"))
    };
    let own = value(&text("/proc/net/snmp")?, "Ip", "OutNoRoutes")?;
    let forwarded = value(&text("/proc/net/netstat")?, "IpExt", "InNoRoutes")?;
    Ok(NoRoutes { own, forwarded })
}

/// One counter: a group is two lines, its names and its values.
fn value(text: &str, group: &str, name: &str) -> Result<u64, String> {
    let mut lines = text.lines().filter_map(|line| line.split_once(": "));
    let mut lines = lines.by_ref().filter(|(found, _)| *found == group).map(|(_, rest)| rest);
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let found: BTreeMap<&str, &str> =
        names.split_ascii_whitespace().zip(values.split_ascii_whitespace()).collect();
    let value = found.get(name).and_then(|value| value.parse().ok());
    value.ok_or_else(|| format!("the kernel has no counter {group} {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    fn plant(host: &FakeHost, own: u64, forwarded: u64) {
        let snmp = format!(
            "Ip: Forwarding DefaultTTL OutDiscards OutNoRoutes\nIp: 1 64 0 {own}\n\
             Icmp: InMsgs\nIcmp: 4\n"
        );
        let netstat = format!(
            "TcpExt: SyncookiesSent\nTcpExt: 0\nIpExt: InNoRoutes InTruncatedPkts\nIpExt: {forwarded} 0\n"
        );
        host.plant("/proc/net/snmp", &snmp);
        host.plant("/proc/net/netstat", &netstat);
    }

    #[test]
    fn counters_are_told_against_the_beginning_of_the_run_and_a_resumed_run_keeps_it() {
        let host = FakeHost::debian();
        host.plant("/run/kdc/hold", "");
        assert!(since_begun(&host).unwrap().contains("could not look"));
        plant(&host, 7, 40);
        assert!(since_begun(&host).unwrap().contains("since the machine started"));
        begin(&host, true).unwrap();
        assert_eq!(since_begun(&host), None);
        plant(&host, 9, 41);
        begin(&host, true).unwrap();
        let told = since_begun(&host).unwrap();
        assert!(told.starts_with("2 packets of the node's own and 1 of pods"), "{told}");
        begin(&host, false).unwrap();
        assert_eq!(since_begun(&host), None, "a new run begins anew");
        plant(&host, 1, 0);
        assert!(since_begun(&host).unwrap().contains("began anew"));
    }

    #[test]
    fn a_kernel_without_the_counter_is_no_zero() {
        assert!(value("Ip: Forwarding\nIp: 1\n", "Ip", "OutNoRoutes").is_err());
        assert!(value("Ip: OutNoRoutes\n", "Ip", "OutNoRoutes").is_err());
        assert!(value("", "Ip", "OutNoRoutes").is_err());
    }
}
