//! `kdc-install`.
fn main() {}
