//! Watching what no step of kdc can put right: certificates that end, etcd that fills, disks that
//! fill, a clock that is off; and services that failed, which may be started again.
//!
//! | Watcher | Looks at | Where it runs |
//! |---|---|---|
//! | [`certificate`] | dates in `/etc/kubernetes`, kubelet's, RKE2's and K3s' folders | privileged, ends |
//! | [`etcd`] | size of its file, its own metrics on loopback | privileged, ends |
//! | [`clock`] | what the kernel thinks of its clock | privileged, ends |
//! | [`service`] | what systemd says of units, those of kdc's receipts first | daemon |
//! | [`disk`] | room that is sampled anyhow, and its trend | daemon |
//! | [`clock::Steps`] | the wall clock against the one since boot | daemon |
//!
//! A watcher is a bounded reader below a root path that tells figures ([`Seen`]), and a pure judgement
//! that turns figures into findings by [`Thresholds`]. What could not be looked at is `unknown` with
//! the reason. What needs rights the daemon has not, or comes near keys, is read by a process that
//! serves nobody and ends (`docs/decisions/0016-daemon.md`); the daemon gets figures.

pub(crate) mod board;
pub mod certificate;
pub mod clock;
pub mod disk;
pub mod etcd;
mod looker;
mod loopback;
pub mod service;
mod standing;
mod tell;
mod thresholds;
mod words;

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

pub(crate) use self::standing::{Round, Watch};
use self::{certificate::Certificates, clock::Kept, etcd::Etcd};
pub use self::{
    looker::{UNIT_NAME, see_and_report},
    thresholds::Thresholds,
};
use super::{Kind, Watched};
use crate::facts::{Known, Look};

/// What the watchers saw that need rights, or come near keys: figures, no judgement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// When certificates end.
    pub certificates: Certificates,
    /// Etcd; nothing where there is none on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<Etcd>,
    /// What the kernel thinks of its clock.
    pub clock: Known<Kept>,
    /// Units that should run, by kdc's receipts.
    pub owned: Known<BTreeSet<String>>,
}

/// Look at everything once. Changes nothing, and reads no key.
#[must_use]
pub fn see(look: &Look, besides: &[String]) -> Seen {
    Seen {
        certificates: Certificates::read(look, besides),
        etcd: Etcd::read(look),
        clock: Kept::read(look),
        owned: service::owned(look),
    }
}

/// The time at which figures are judged.
#[derive(Debug, Clone, Copy)]
pub struct When {
    /// Since 1970, by the node's clock.
    pub wall: Duration,
    /// Since boot.
    pub up: Duration,
}

/// What is to be said about what was seen. Pure.
#[must_use]
pub fn judge(seen: &Seen, when: When, thresholds: &Thresholds) -> Vec<Watched> {
    let now = i64::try_from(when.wall.as_secs()).unwrap_or(i64::MAX);
    let mut findings = certificate::judge(&seen.certificates, now, thresholds);
    findings.extend(seen.etcd.iter().flat_map(|etcd| etcd::judge(etcd, thresholds)));
    findings.push(clock::judge(&seen.clock, when.up, thresholds));
    if let Known::Unknown(reason) = &seen.owned {
        let hint = "see `kdc-agent status`; until then nothing is started again";
        let unknown = Watched::unknown(Kind::Service, "services of kdc's receipts", reason);
        findings.push(unknown.with_hint(hint));
    }
    findings
}
