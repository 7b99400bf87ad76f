//! What was used, summed up: collected from every node exactly once, kept, asked for, priced, told to others.
//!
//! ```text
//! node: meter's journal ─► batch ─► API server (one ConfigMap a batch) ─► every control plane's store, each record once
//!                                                                          │ leader tells the node: its batch is deleted
//! kdc-install usage ─► query ─► exact sums ─► prices ─► table, JSON, CSV, FOCUS, statement ◄┘
//! ```
//!
//! The words: a **record** is what one pod or node used in one hour or day ([`crate::meter::record`]); a **batch** is some of
//! them as they travel and are kept ([`batch`]); the **store** takes batches in, each record once ([`store`]); a **tenant** is
//! whoever a namespace belongs to at some time ([`tenant`]); a **charge** is an amount with its price ([`bill`]).
//!
//! Sums are exact: amounts are whole numbers, money is kept as exact fractions ([`money`]) and rounded only to be shown.
//! Whatever is not known is said with the answer ([`query::Coverage`]), never filled in.

pub mod answer;
pub mod batch;
pub mod bill;
pub mod calendar;
mod chart;
mod coverage;
pub mod csv;
mod error;
pub mod focus;
pub mod money;
pub mod price;
pub mod query;
pub mod ranges;
#[cfg(test)]
pub(crate) mod samples;
pub mod shelf;
pub mod statement;
pub mod store;
pub mod tenant;
pub mod unpack;

pub use self::error::UsageError;
