//! The operator's command: read, ask, show; plan; drive many nodes over SSH.

pub mod command;
pub mod distribution;
pub mod fleet;
pub mod plan;
pub mod show;
pub mod ssh;
