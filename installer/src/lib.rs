//! The operator's command: read, ask, show; plan; drive many nodes over SSH.

pub mod ssh;
