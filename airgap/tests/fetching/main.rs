//! Locking and fetching against real peers on loopback, and against peers that lie.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, with its place")]

mod archive;
mod debian;
mod fetch;
mod lock;
mod peers;
mod registry;
