//! The licence on a site: where it is kept, how it stands, and who is told.
//!
//! ```text
//!  kdc-install license install ─► ConfigMap kdc-license ◄── copies on control planes, /var/lib/kdc/license ([`node`])
//!                                        │
//!  nodes: Ready, kdc.dev/fingerprint ────┤
//!  clocks ([`clock`]) ───────────────────┼─► [`turn`] (pure) ─► ConfigMap kdc-license-record, before all else
//!  what was known ([`record`]) ──────────┘                 ├─► ConfigMap kdc-license-standing ─► each node's /run/kdc/license.json
//!                                                          └─► conditions, taints where asked for, events
//! ```
//!
//! The leader of `kdc-control.service` judges, with [`crate::license::state::judge`], and writes; nobody else decides.
//! Nothing here is asked before something starts, and nothing here ends what runs: a node beyond the licence gets a
//! condition and an event, and where the cluster file asks for it a taint that keeps *new* pods away.

mod ask;
pub mod clock;
pub mod kept;
pub mod machine;
pub mod node;
pub mod publish;
pub mod record;
pub mod report;
mod round;
pub mod site;
#[cfg(test)]
mod tests;
pub mod turn;

pub(super) use self::round::{LicenseMemory, license_round};

/// ConfigMap with the licence files, as an operator installed them.
pub const LICENSE_MAP: &str = "kdc-license";
/// Its key.
pub const LICENSE_KEY: &str = "license.json";
/// ConfigMap with what the leader remembers: the trial's start, the clock's floor, nodes that were let in.
pub const RECORD_MAP: &str = "kdc-license-record";
/// Its key.
pub const RECORD_KEY: &str = "record.json";
/// ConfigMap with how the licence stands, for people and for nodes.
pub const STANDING_MAP: &str = "kdc-license-standing";
/// Its key.
pub const STANDING_KEY: &str = "standing.json";
/// Annotation by which a node's own agent says what machine it is: keyed hashes only.
pub const FINGERPRINT_ANNOTATION: &str = "kdc.dev/fingerprint";
/// Annotation by which a control plane's agent says when the kernel last said that time servers keep its clock.
pub const CLOCK_ANNOTATION: &str = "kdc.dev/clock-kept";
/// Condition of nodes beyond the licence.
pub const CONDITION: &str = "KdcLicensed";
/// Taint of nodes beyond the licence, where the cluster file asks for one. It keeps new pods away and moves none.
pub const TAINT: (&str, &str) = ("kdc.dev/over-license", "NoSchedule");
