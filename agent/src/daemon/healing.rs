//! The daemon's part in self-healing: it has somebody look, and somebody repair.
//!
//! A look is a child process, confined as the daemon is, which reads and ends: what journals and plans
//! need of memory goes with it. Where something is to be done, or could not be looked at for want of
//! rights, a unit of its own does it ([`crate::heal::UNIT_NAME`]), and decides anew. Without a
//! folder of its own (`RUNTIME_DIRECTORY`) nothing is remembered between looks.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{DaemonError, events::Events};
use crate::{
    heal::{Board, MEMORY_FILE, REPORT_PATH, Report, UNIT_NAME, watch::board::Board as Watching},
    host::{Host, Program},
};

/// How long a look may take.
const LOOK_WITHIN_SECS: u64 = 50;

/// Between two looks with more rights than the daemon has, where nothing is to be done.
const LOOK_CLOSER_EVERY: Duration = Duration::from_secs(600);

/// Most bytes of what the unit tells.
const MAX_REPORT_BYTES: u64 = 4 * 1024 * 1024;

/// When it is looked again.
#[derive(Debug, Default)]
pub(super) struct Healing {
    due: Option<Instant>,
    looked_closer: Option<Instant>,
    said: Option<String>,
}

/// What a thread needs to have somebody look.
#[derive(Debug)]
pub(super) struct Errand {
    agent: String,
    config: PathBuf,
    memory: Option<String>,
    closer: bool,
}

/// What a look came to.
#[derive(Debug)]
pub(super) struct Word {
    pub(super) said: Option<String>,
    next: Duration,
    closer: bool,
}

impl Healing {
    /// Something to do, or what was said last.
    pub(super) fn errand(&self, agent: &str, config: &Path) -> Result<Errand, Option<String>> {
        let now = Instant::now();
        if self.due.is_some_and(|due| now < due) {
            return Err(self.said.clone());
        }
        let folder = std::env::var("RUNTIME_DIRECTORY").ok().filter(|path| path.starts_with('/'));
        let closer = self.looked_closer.is_none_or(|at| now - at >= LOOK_CLOSER_EVERY);
        Ok(Errand {
            agent: agent.to_owned(),
            config: config.to_owned(),
            memory: folder.map(|folder| format!("{folder}/{MEMORY_FILE}")),
            closer,
        })
    }

    /// A look came out.
    pub(super) fn hear(&mut self, word: &Word) {
        self.due = Some(Instant::now() + word.next);
        self.said.clone_from(&word.said);
        if word.closer {
            self.looked_closer = Some(Instant::now());
        }
    }

    /// Look at once.
    pub(super) fn look_anew(&mut self) {
        self.due = None;
    }
}

impl Errand {
    /// Have somebody look, and repair where that is to be done.
    pub(super) fn run(
        &self,
        host: &dyn Host,
        board: &Board,
        watched: &Watching,
        events: &Events,
    ) -> Result<Word, DaemonError> {
        let mut look = Program::new(&self.agent).args(["heal-look", "--config"]);
        look = look.arg(self.config.to_string_lossy()).within_secs(LOOK_WITHIN_SECS);
        if let Some(memory) = &self.memory {
            look = look.args(["--memory", memory]);
        }
        let text = host.run_checked(&look)?.text();
        let mut report = understand(text.as_bytes())?;
        let closer = !report.act.is_empty() || report.unseen > 0 && self.closer;
        if closer && self.memory.is_some() {
            report = self.have_repaired(host)?;
        }
        let next = Duration::from_secs(u64::from(report.interval_secs.max(1)));
        Ok(Word { said: board.take(report, watched, events), next, closer })
    }

    fn have_repaired(&self, host: &dyn Host) -> Result<Report, DaemonError> {
        host.remove(REPORT_PATH)?;
        let ended = host.run(&self.unit())?;
        match host.read(REPORT_PATH, MAX_REPORT_BYTES)? {
            Some(bytes) if ended.good() => understand(&bytes),
            _ => {
                let reason = format!("it left no word: {}", ended.tail().trim());
                Err(DaemonError::Helper { unit: UNIT_NAME, reason })
            }
        }
    }

    /// It may write where kdc's steps write, load modules, set kernel parameters; it serves nobody,
    /// and ends.
    fn unit(&self) -> Program {
        Program::new("systemd-run")
            .arg(format!("--unit={UNIT_NAME}"))
            .arg("--description=kdc puts back what is not as wanted")
            .args(["--quiet", "--collect", "--no-ask-password"])
            .args(["--property=Type=oneshot", "--property=TimeoutStartSec=120"])
            .arg(
                "--property=CapabilityBoundingSet=CAP_SYS_MODULE CAP_NET_ADMIN CAP_NET_RAW \
                 CAP_DAC_OVERRIDE CAP_CHOWN CAP_FOWNER CAP_FSETID CAP_SYS_RESOURCE",
            )
            .args(["--property=NoNewPrivileges=yes", "--property=UMask=0022"])
            .args(["--property=PrivateTmp=yes", "--property=ProtectHome=read-only"])
            .args(["--property=RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK"])
            .args(["--property=LockPersonality=yes", "--property=StandardInput=null"])
            .args(["--", &self.agent, "heal-repair", "--config"])
            .arg(self.config.to_string_lossy())
            .args(["--memory".to_owned(), self.memory.clone().unwrap_or_default()])
            .within_secs(140)
    }
}

fn understand(bytes: &[u8]) -> Result<Report, DaemonError> {
    serde_json::from_slice(bytes)
        .map_err(|error| DaemonError::Look { reason: format!("its word makes no sense: {error}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_that_repairs_ends_and_may_not_do_everything() {
        let errand = Errand {
            agent: "/usr/local/bin/kdc-agent".to_owned(),
            config: "/etc/kdc".into(),
            memory: Some("/run/kdc/heal.json".to_owned()),
            closer: true,
        };
        let program = errand.unit();
        let all = program.arguments().join(" ");
        for part in ["Type=oneshot", "NoNewPrivileges=yes", "heal-repair --config /etc/kdc"] {
            assert!(all.contains(part), "{part} in {all}");
        }
        for right in ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_KILL", "CAP_SYS_BOOT"] {
            assert!(!all.contains(right), "{right} in {all}");
        }
    }

    #[test]
    fn between_two_looks_the_last_word_stands() {
        let mut healing = Healing::default();
        assert!(healing.errand("a", Path::new("/c")).is_ok());
        let said = Some("not as wanted: x".to_owned());
        let next = Duration::from_secs(1000);
        healing.hear(&Word { said: said.clone(), next, closer: false });
        assert_eq!(healing.errand("a", Path::new("/c")).unwrap_err(), said);
        healing.look_anew();
        assert!(healing.errand("a", Path::new("/c")).unwrap().closer);
    }
}
