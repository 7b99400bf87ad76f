//! The daemon's part in the licence: every ten minutes it has `kdc-license.service` run, which ends ([`node`]).
//!
//! It is no part of the daemon's state: whatever comes of it, the daemon is as well, as ready and as alive as before.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    control::license::node::{self, UNIT_NAME},
    gpu::watch::KUBELET,
    host::{Host, Program, SystemHost},
};

/// Between two rounds that came out well.
const EVERY: Duration = Duration::from_secs(600);
/// Between two that did not.
const AGAIN: Duration = Duration::from_secs(60);
/// How long one may take.
const WITHIN_SECS: u64 = 110;

/// When the next round is due; `None` while one goes on.
#[derive(Debug, Clone, Default)]
pub(super) struct Rounds {
    due: Arc<Mutex<Due>>,
}

#[derive(Debug, Default)]
struct Due {
    at: Option<Instant>,
    working: bool,
    /// Failures are told once.
    told: Option<String>,
}

impl Rounds {
    /// Have a round run, if one is due. Never waits.
    pub(super) fn turn(&self, agent: &str) {
        // Without a service manager there is nobody to run a unit.
        let managed = std::env::var_os("RUNTIME_DIRECTORY").is_some();
        if managed && KUBELET.iter().any(|path| Path::new(path).exists()) && self.begin() {
            let (rounds, agent) = (self.clone(), agent.to_owned());
            let work = move || rounds.end(run(&SystemHost::new(), &agent));
            let begun = std::thread::Builder::new().name("license".to_owned()).spawn(work);
            if let Err(error) = begun {
                self.end(Err(format!("no thread for it: {error}")));
            }
        }
    }

    /// Have the next one run at once.
    pub(super) fn look_anew(&self) {
        self.lock().at = None;
    }

    fn begin(&self) -> bool {
        let mut due = self.lock();
        let now = Instant::now();
        if due.working || due.at.is_some_and(|at| now < at) {
            return false;
        }
        due.working = true;
        true
    }

    fn end(&self, outcome: Result<(), String>) {
        let mut due = self.lock();
        due.working = false;
        due.at = Some(Instant::now() + if outcome.is_ok() { EVERY } else { AGAIN });
        let failure = outcome.err();
        if let Some(why) = failure.as_ref().filter(|why| due.told.as_ref() != Some(why)) {
            tracing::warn!("{UNIT_NAME}: {why}; it is tried again, and the node runs on");
        }
        due.told = failure;
    }

    fn lock(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(host: &dyn Host, agent: &str) -> Result<(), String> {
    let ended = host.run(&unit(agent)).map_err(|error| error.to_string())?;
    if ended.good() { Ok(()) } else { Err(ended.tail().trim().replace('\n', " | ")) }
}

/// It reads what the machine is and credentials, writes its own two folders, and talks to the API server.
fn unit(agent: &str) -> Program {
    let folder = node::FOLDER.trim_start_matches("/var/lib/");
    Program::new("systemd-run")
        .arg(format!("--unit={UNIT_NAME}"))
        .arg("--description=kdc tells the cluster what machine this is and fetches how the licence stands")
        .args(["--quiet", "--collect", "--no-ask-password"])
        .args(["--property=Type=oneshot", "--property=TimeoutStartSec=100"])
        .args(["--property=CapabilityBoundingSet=", "--property=AmbientCapabilities="])
        .args(["--property=NoNewPrivileges=yes", "--property=UMask=0077"])
        .args(["--property=ProtectSystem=strict", "--property=ReadWritePaths=/run/kdc"])
        .arg(format!("--property=StateDirectory={folder}"))
        .args(["--property=StateDirectoryMode=0700", "--property=ProtectHome=yes"])
        .args(["--property=PrivateTmp=yes", "--property=PrivateDevices=yes"])
        .args(["--property=ProtectKernelModules=yes", "--property=ProtectKernelTunables=yes"])
        .args(["--property=ProtectControlGroups=yes", "--property=RestrictNamespaces=yes"])
        .args(["--property=RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"])
        .args(["--property=MemoryMax=128M", "--property=LockPersonality=yes"])
        .args(["--property=LogLevelMax=notice", "--property=LimitCORE=0"])
        .args(["--", agent, "license-round"])
        .within_secs(WITHIN_SECS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_round_at_a_time_and_the_next_after_a_while() {
        let rounds = Rounds::default();
        assert!(rounds.begin() && !rounds.begin(), "one goes on");
        rounds.end(Ok(()));
        assert!(!rounds.begin(), "it came out well a moment ago");
        rounds.look_anew();
        assert!(rounds.begin());
        rounds.end(Err("no answer".to_owned()));
        assert!(!rounds.begin());
        assert_eq!(rounds.lock().told.as_deref(), Some("no answer"));
    }

    #[test]
    fn the_unit_that_comes_near_credentials_has_no_right_on_the_host() {
        let program = unit("/usr/local/bin/kdc-agent");
        for wanted in [
            "--property=CapabilityBoundingSet=",
            "--property=NoNewPrivileges=yes",
            "--property=ProtectSystem=strict",
            "--property=StateDirectory=kdc/license",
            "--property=LimitCORE=0",
        ] {
            assert!(program.arguments().iter().any(|found| found == wanted), "{wanted}");
        }
        assert_eq!(program.arguments().last().map(String::as_str), Some("license-round"));
    }
}
