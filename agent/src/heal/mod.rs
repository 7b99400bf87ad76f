//! Self-healing, careful: what stands otherwise than wanted is told, and put back only where the
//! cluster file allows it.
//!
//! | Word | Meaning |
//! |---|---|
//! | **finding** | how one watched thing stands: ok, warn, fail, or unknown with the reason |
//! | **remedy** | the one action that would put a finding right, if there is one |
//! | **policy** | the pure function that says which remedies are carried out now, and why others are held back |
//! | **deed** | an action that was begun, with how it came out; what limits and backoff count |
//!
//! ```text
//!  receipts ─► drift ─┐
//!  node ────► watch ──┴─► findings ─► decide (pure) ─► actions ─► kdc-heal.service ─► deeds
//!                                        ▲   └─► held back, and why
//!                settings, off switch, deeds of the last hour
//! ```
//!
//! Nothing here evicts, stops or moves what runs: there is no action that could ([`Remedy`]).

mod action;
mod board;
mod drift;
mod finding;
mod history;
mod ledger;
mod policy;
mod repair;
mod report;
mod round;
pub mod show;
pub mod watch;

pub use kdc_profiles::healing::{Kind, Mode, SelfHealing};

pub use self::{
    action::{Action, Origin, Remedy},
    board::HealingHealth,
    finding::{State, Watched},
    history::{Deed, End, History, HistoryError, Moment},
    policy::{Decision, Held, Switch, Why, decide},
    report::Report,
    round::Round,
};
pub(crate) use self::{
    board::Board,
    ledger::{begin_routes_alone, end_routes_alone},
};

/// A file with this name stops every repair on the node at once, whatever the configuration says.
pub const NO_REPAIR_PATH: &str = "/etc/kdc/no-repair";

/// What is remembered between looks, in the daemon's own folder; goes with a reboot.
pub const MEMORY_FILE: &str = "heal.json";

/// What the unit that repairs leaves for the daemon.
pub const REPORT_PATH: &str = "/run/kdc/heal-report.json";

/// The unit that repairs, and that looks where the daemon may not.
pub const UNIT_NAME: &str = "kdc-heal.service";
