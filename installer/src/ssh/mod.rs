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
//! ([`confirm_unknown`]) and opens again. Any tokio runtime will do; a current-thread one is fastest.

mod binary;
mod code;
mod config;
mod deadline;
mod dial;
mod error;
mod hint;
mod known_hosts;
mod lane;
mod login;
mod pieces;
mod secret;
mod session;
mod stage;
mod stream;
mod target;
mod trust;

pub use binary::AgentBinary;
pub use config::SshConfigFile;
pub use error::{At, SshError};
pub use pieces::PieceSource;
pub use secret::{Keyring, SecretKind, SecretPrompt, SecretQuestion, Silent};
pub use session::Session;
pub use target::{Reach, Surroundings, Target};
pub use trust::{HostKeyPrompt, RefuseUnknown, Trust, UnknownKey, confirm_unknown};
