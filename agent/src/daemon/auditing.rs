//! The daemon's part in the audit log: it has a unit take in what `kdc-control` has to say, and tell the cluster the head.
//!
//! The daemon may write no line and reads no key: the unit ([`UNIT_NAME`]) does, serves nobody, and ends. It is started where
//! the head is another than the one that was told, or something waits. What fails is told in systemd's journal and tried
//! again: a cluster that doesn't answer is no fault of the node's.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::{
    audit::{AUDIT_DIR, Log},
    host::{Host, Program},
};

/// Its unit.
const UNIT_NAME: &str = "kdc-audit.service";
/// A unit that failed is tried again after this.
const AGAIN: Duration = Duration::from_secs(300);
/// How long the unit may take.
const WITHIN_SECS: u64 = 60;

/// What was told, or when it failed.
#[derive(Debug, Default)]
pub(super) struct Auditing(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    head: Option<(u64, String)>,
    failed: Option<Instant>,
}

impl Auditing {
    /// Look, and have the unit run where there is something to do.
    pub(super) fn settle(&self, host: &dyn Host, agent: &str, log: &Log) {
        let mut told = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !log.exists() || told.failed.is_some_and(|at| at.elapsed() < AGAIN) {
            return;
        }
        let head = || log.head().ok().flatten().map(|head| (head.seq, head.sum));
        if !log.waits() && head() == told.head {
            return;
        }
        match host.run_checked(&unit(agent)) {
            Ok(_) => *told = Told { head: head(), failed: None },
            Err(error) => {
                tracing::warn!(%error, "the audit log's head was not told; it is tried again");
                told.failed = Some(Instant::now());
            }
        }
    }
}

/// It may write to the log's folder and to the spool beside it, and ask the API server; the files that it reads are root's.
fn unit(agent: &str) -> Program {
    Program::new("systemd-run")
        .arg(format!("--unit={UNIT_NAME}"))
        .arg("--description=kdc tells the cluster where this node's audit log ends")
        .args(["--quiet", "--collect", "--wait", "--no-ask-password"])
        .args(["--property=Type=oneshot", "--property=TimeoutStartSec=45"])
        .args(["--property=CapabilityBoundingSet=", "--property=NoNewPrivileges=yes"])
        .args(["--property=UMask=0077", "--property=ProtectSystem=strict"])
        .args(["--property=ReadWritePaths=/var/lib/kdc", "--property=ProtectHome=yes"])
        .args(["--property=PrivateTmp=yes", "--property=PrivateDevices=yes"])
        .args(["--property=RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"])
        .args(["--property=MemoryMax=128M", "--property=LimitCORE=0"])
        .args(["--property=LockPersonality=yes", "--property=RestrictNamespaces=yes"])
        .args(["--", agent, "audit-settle", "--folder", AUDIT_DIR])
        .within_secs(WITHIN_SECS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::{Entry, Moment, Who},
        host::fake::FakeHost,
    };

    #[test]
    fn the_unit_runs_once_for_a_head_and_again_for_the_next_and_never_without_a_log() {
        let (host, folder) = (FakeHost::debian(), tempfile::tempdir().unwrap());
        let log = Log::at(&folder.path().join("audit"));
        let auditing = Auditing::default();
        let runs = |host: &FakeHost| {
            let calls = host.calls();
            calls.iter().filter(|call| call.contains(UNIT_NAME)).count()
        };
        auditing.settle(&host, "/agent", &log);
        assert_eq!(runs(&host), 0);
        host.plant("/usr/bin/systemd-run", "");
        for deeds in 1..3 {
            let moment = Moment { at_unix_ms: 1, boot: String::new() };
            log.append(&Entry::KubeconfigRead {}, &Who::part("serve"), &moment).unwrap();
            auditing.settle(&host, "/agent", &log);
            auditing.settle(&host, "/agent", &log);
            assert_eq!(runs(&host), deeds);
        }
    }

    #[test]
    fn the_unit_may_do_next_to_nothing() {
        let all = unit("/usr/local/bin/kdc-agent").arguments().join(" ");
        for part in
            ["CapabilityBoundingSet= ", "ProtectSystem=strict", "ReadWritePaths=/var/lib/kdc "]
        {
            assert!(all.contains(part), "{part} in {all}");
        }
    }
}
