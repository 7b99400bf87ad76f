//! The lab and the test kit: fresh servers to break, and the means to see what a command did to them.
//!
//! - [`server::Server`]: one server, whatever it is made of, and the [`server::Fault`]s it can suffer.
//! - [`lab::Lab`]: light servers on a private bridge with no way out; `kdc-lab` is its command.
//! - [`machine::Machine`]: a server with a kernel of its own, under QEMU.
//! - [`differ`]: what differs on a server between two moments.
//! - [`operator::Operator`]: who runs `kdc-install` there, with a bundle, a key and a cluster file.
//! - [`workspace`]: the programs under test, as the sources are now. [`program`]: other programs.
//! - [`api_server::ApiServer`]: a real API server with its etcd, alone on loopback.
//! - [`sshd::Sshd`]: a real sshd on loopback, where a lab would be too much. [`far::Far`]: the same, far away.
//!
//! ```no_run
//! use kdc_tests::lab::{Lab, Wanted};
//! use kdc_tests::server::Server;
//!
//! let lab = Lab::up(&Wanted::named("demo", 3), &|line| println!("{line}"))?;
//! let output = lab.server("node1")?.exec(&["uname", "-n"])?;
//! assert_eq!(output.stdout_text(), "node1\n");
//! lab.down()?;
//! # Ok::<(), anyhow::Error>(())
//! ```

pub mod api_server;
pub mod differ;
pub mod far;
pub mod lab;
pub mod machine;
pub mod operator;
pub mod program;
pub mod server;
pub mod sshd;
pub mod terminal;
pub mod workspace;
