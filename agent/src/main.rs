//! `kdc-agent`.
fn main() {}
