//! The process that looks where the daemon may not: it reads files of root's and etcd's, comes near
//! keys, serves nobody, and ends. It leaves figures in `/run/kdc/watch.json`, and the daemon judges
//! them.

use serde::{Deserialize, Serialize};

use super::{Seen, see};
use crate::{
    facts::Look,
    host::{Attributes, Host, HostError, Program},
};

/// Its unit.
pub const UNIT_NAME: &str = "kdc-watch.service";

/// What it leaves.
const REPORT_PATH: &str = "/run/kdc/watch.json";

/// Most bytes of that: 512 certificates with the longest names stay far below.
const MAX_REPORT_BYTES: u64 = 1024 * 1024;

/// The daemon begins with no round before that, so it is ready in time.
const WITHIN_SECS: u64 = 20;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    v: u32,
    seen: Seen,
}

/// What the unit does: look once, and leave what was seen.
///
/// # Errors
/// When it can't be written down.
pub fn see_and_report(host: &dyn Host, look: &Look, besides: &[String]) -> Result<(), HostError> {
    let report = Report { v: 1, seen: see(look, besides) };
    let text = serde_json::to_vec(&report).expect("texts and numbers");
    host.write(REPORT_PATH, &text, Attributes::root(0o600))
}

/// Has systemd run the unit, and answers what was seen.
///
/// # Errors
/// Why nothing was, in words.
pub(super) fn have_seen(host: &dyn Host, agent: &str, besides: &[String]) -> Result<Seen, String> {
    let failed = |error: HostError| match error.is_missing_program() {
        true => "there is no systemd here".to_owned(),
        false => error.to_string(),
    };
    host.remove(REPORT_PATH).map_err(failed)?;
    let ended = host.run(&unit(agent, besides)).map_err(failed)?;
    let bytes = host.read(REPORT_PATH, MAX_REPORT_BYTES).map_err(failed)?;
    let report = bytes.map(|bytes| serde_json::from_slice::<Report>(&bytes));
    match report {
        Some(Ok(report)) => Ok(report.seen),
        Some(Err(cause)) => Err(format!("{REPORT_PATH} makes no sense: {cause}")),
        None => Err(format!("{UNIT_NAME} left no word: {}", ended.tail().trim())),
    }
}

/// It may read everything and write to `/run/kdc` alone, and talks to this node alone.
fn unit(agent: &str, besides: &[String]) -> Program {
    let besides = besides.iter().flat_map(|path| ["--certificate".to_owned(), path.clone()]);
    Program::new("systemd-run")
        .arg(format!("--unit={UNIT_NAME}"))
        .arg("--description=kdc looks at certificates, etcd and the clock")
        .args(["--quiet", "--collect", "--no-ask-password"])
        .args(["--property=Type=oneshot", "--property=TimeoutStartSec=15"])
        .args(["--property=CapabilityBoundingSet=CAP_DAC_READ_SEARCH"])
        .args(["--property=NoNewPrivileges=yes", "--property=UMask=0077"])
        .args(["--property=ProtectSystem=strict", "--property=ReadWritePaths=/run/kdc"])
        .args(["--property=ProtectHome=yes", "--property=PrivateTmp=yes"])
        .args(["--property=PrivateDevices=yes", "--property=LimitCORE=0"])
        .args(["--property=RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"])
        .args(["--property=IPAddressDeny=any", "--property=IPAddressAllow=localhost"])
        .args(["--property=MemoryMax=128M", "--property=LockPersonality=yes"])
        .args(["--property=LogLevelMax=notice"])
        .args(["--", agent, "watch"])
        .args(besides)
        .within_secs(WITHIN_SECS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{facts::Known, host::fake::FakeHost};

    #[test]
    fn what_is_seen_is_left_for_the_daemon_and_what_makes_no_sense_is_told() {
        let (host, root) = (FakeHost::debian(), tempfile::tempdir().unwrap());
        host.plant("/run/kdc/x", "");
        see_and_report(&host, &Look::at(root.path()), &[]).unwrap();
        let text = host.read_text(REPORT_PATH).unwrap().unwrap();
        let report: Report = serde_json::from_str(&text).unwrap();
        assert_eq!((report.v, report.seen.etcd), (1, None));
        assert!(matches!(report.seen.clock, Known::Unknown(_)));
        // The fake's systemd-run is not there.
        assert_eq!(have_seen(&host, "/agent", &[]).unwrap_err(), "there is no systemd here");
        host.plant("/usr/bin/systemd-run", "");
        assert!(have_seen(&host, "/agent", &[]).unwrap_err().contains("left no word"));
    }

    #[test]
    fn the_unit_that_comes_near_keys_may_do_nothing_else() {
        let program = unit("/usr/local/bin/kdc-agent", &["/a.crt".to_owned()]);
        for wanted in [
            "--property=CapabilityBoundingSet=CAP_DAC_READ_SEARCH",
            "--property=ReadWritePaths=/run/kdc",
            "--property=IPAddressDeny=any",
            "--property=LimitCORE=0",
        ] {
            assert!(program.arguments().iter().any(|found| found == wanted), "{wanted}");
        }
        assert!(program.line().len() <= 300);
        assert_eq!(
            program.arguments()[program.arguments().len() - 2..],
            ["--certificate", "/a.crt"]
        );
    }
}
