//! SSH to nodes, behind one door: nothing outside this folder names the SSH library.
//!
//! A [`Target`] says where a node is and whom to trust there; [`Session::open`] connects, proves the
//! host key, logs in, stages the agent and starts it, and from then on speaks the wire with it over
//! one channel. Bulk bytes go over further channels ([`Session::send_pieces`]). This very machine is
//! a target too ([`Target::Local`]): the same staging script then runs as a child process.
//!
//! ```text
//! Target ── connect (jump?) ── host key ── log in ── stage.sh ── hello ── request / attach / send
//! ```
//!
//! Unknown host keys are never accepted inside `open`: it fails with
//! [`SshError::UnknownHostKey`], the caller gathers those of all nodes, asks once
//! ([`confirm_unknown`]) and opens again.

mod error;
mod secret;
mod session;
mod target;
mod trust;

pub use error::SshError;
pub use secret::{Keyring, SecretKind, SecretPrompt, SecretQuestion, Silent};
pub use session::{AgentBinary, PieceSource, Session};
pub use target::{Reach, Target};
pub use trust::{HostKeyPrompt, RefuseUnknown, Trust, UnknownKey, confirm_unknown};
