//! The licence: what a signed file allows, judged without a clock, a network or a file of its own.
//!
//! | Word | Meaning |
//! |---|---|
//! | **envelope** | what is written to a file: a payload as it was signed, and the signature |
//! | **licence** | the payload, read only after its signature was found good |
//! | **trial** | the thirty days that every cluster has from its first start, without a licence |
//! | **count** | the distinct, enrolled nodes that show signs of life, and who is over the limit |
//! | **standing** | how a cluster stands with its licence: one state, the reason, the numbers |
//! | **entitlement** | one thing that needs the licence's word: a node more, a paid component |
//!
//! ```text
//!  file ─► envelope (signature) ─► document ─┐
//!  trial's record ───────────────────────────┤
//!  clocks ─► clock (a floor that only rises) ─┼─► state::judge ─► Standing ─► allows(&Feature)
//!  nodes ─► fingerprint ─► count ─► excess ───┘                                 the one gate
//! ```
//!
//! What already runs never asks: there is no state in which running, removing, repairing, restarting,
//! upgrading, reading or exporting is refused ([`entitlement::Feature`]).

pub mod clock;
pub mod count;
pub mod document;
pub mod entitlement;
pub mod envelope;
pub mod fingerprint;
pub mod keys;
pub mod revocation;
pub mod state;
pub mod time;

pub use self::{
    count::{Count, Enrolled, Excess},
    document::License,
    entitlement::{Decision, Feature},
    envelope::{LicenseError, Opened, open},
    fingerprint::Fingerprint,
    keys::LicenseKeys,
    state::{Inputs, Standing, State, Trial, judge},
    time::Timestamp,
};
