//! `kdc-agent.service`: what stays on a node. It serves the node's images to its containerd
//! ([`registry`]), keeps the routes between the nodes' pod ranges (`cni: host-routes`, [`settle`]), goes
//! on sharing content with other nodes, and tells how the node is ([`crate::api`]). Each goes by a file
//! of its own, and rests while that is not there.
//!
//! ```text
//!  signals, time, words of helpers ─► drive ─► state::next (pure) ─► effects ─► drive
//!                                                                    ├─ settle a part
//!  /etc/kdc/agent.yaml, agent.d ────► config                         ├─ READY, STATUS, WATCHDOG
//!                                                                    └─ events ─► /v1/events
//! ```
//!
//! The daemon listens, so it may do next to nothing: its unit leaves it one capability, a port below
//! 1024. What changes the network is done by a unit of its own that ends ([`settle`]). It never has
//! systemd read its units again: that would take devices from running containers
//! (`docs/decisions/0016-daemon.md`).

mod auditing;
pub mod config;
mod drive;
pub mod events;
mod healing;
mod license;
mod records;
pub mod registry;
pub mod routes;
pub mod settle;
pub mod state;

use std::path::Path;

pub use self::settle::{Settled, settle};
use crate::{host::HostError, store::peer::PeerError, wire::Failure};

/// What the daemon is told.
pub const ROUTES_PATH: &str = "/etc/kdc/routes.json";

/// What the daemon put into the kernel.
pub const APPLIED_PATH: &str = "/run/kdc/routes-applied.json";

/// Name of the unit.
pub const UNIT_NAME: &str = "kdc-agent.service";

const KERNEL_ROUTES: &str = "/proc/net/route";

/// The unit's text. All it needs beyond reading is to listen on a port that is root's.
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
    /// The unit that changes the network failed.
    #[error("{unit} failed: {reason}")]
    Helper {
        /// Its name.
        unit: &'static str,
        /// What it said, or that it said nothing.
        reason: String,
    },
    /// A look at what is watched told nothing.
    #[error("what is watched could not be looked at: {reason}")]
    Look {
        /// What came instead.
        reason: String,
    },
    /// Routes are gone and may not be put back now.
    #[error("routes to other nodes' pods are missing and are not put back: {why}")]
    RoutesHeld {
        /// Why not.
        why: String,
    },
    /// A signal handler or a thread could not be had.
    #[error("the daemon can't start")]
    Start(#[from] std::io::Error),
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
            Self::Start(_) => "AGENT-053",
            Self::Helper { .. } => "AGENT-057",
            Self::Look { .. } => "AGENT-090",
            Self::RoutesHeld { .. } => "AGENT-091",
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
            Self::Helper { unit, .. } => Some(format!("see `journalctl -u {unit}`")),
            Self::Look { .. } => {
                Some("run `kdc-agent heal` on the node: it says what is in the way".to_owned())
            }
            Self::RoutesHeld { .. } => Some(format!(
                "see `kdc-agent heal` for who took them away; remove {} if it is there",
                crate::heal::NO_REPAIR_PATH
            )),
            Self::Sharing(error) => error.hint(),
            Self::KernelRoutes { .. } | Self::Start(_) => None,
        }
    }
}

impl From<&DaemonError> for Failure {
    fn from(error: &DaemonError) -> Self {
        Self::from_error(error.code(), error, error.hint())
    }
}

/// Run until SIGTERM or SIGINT; SIGHUP has the configuration in that folder read again, and `gpus` is
/// what `kdc-gpu.service` publishes. What fails is told (status, events, metrics) and tried again. Who
/// waits for the unit to be started finds routes and images as the files want them, or told why not.
///
/// # Errors
/// When signals can't be listened to, or no thread can be started.
pub async fn run(config_dir: &Path, gpus: &Path) -> Result<(), DaemonError> {
    drive::run(config_dir, gpus).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_watched_restarted_and_may_do_next_to_nothing() {
        let unit = unit();
        for line in [
            "Type=notify",
            "ExecStart=/usr/local/bin/kdc-agent daemon",
            "ExecReload=/bin/kill -HUP $MAINPID",
            "Restart=on-failure",
            "WatchdogSec=60",
            "CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
        ] {
            assert!(unit.lines().any(|found| found == line), "{line}");
        }
    }

    /// It would take devices from running containers: systemd writes their device rules anew.
    #[test]
    fn nothing_of_the_daemon_has_systemd_read_its_units_again() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let word = ["daemon", "reload"].join("-");
        let mut folders = vec![source.join("daemon"), source.join("api")];
        let mut looked = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs_err::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let text = fs_err::read_to_string(&path).unwrap();
                    assert!(!text.contains(&word), "{}", path.display());
                    looked += 1;
                }
            }
        }
        assert!(looked > 15, "{looked} files");
    }
}
