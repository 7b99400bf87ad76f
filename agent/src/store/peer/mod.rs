//! Nodes that give each other the content of a bundle.
//!
//! There is no tracker and no discovery. The installer, which has a session on every node, asks each
//! to share (`Share`), learns where it listens and which certificate it made for itself, and tells
//! that to the others (`Peers`). From then on the nodes go on without it: a unit of its own
//! (`kdc-share.service`) serves what the store has and fetches what it lacks, a piece here, a piece
//! there, the rarest first ([`picker`]).
//!
//! Trust has two halves. *Who*: TLS 1.3 on which both sides show the certificate they made for this
//! purpose, and both refuse one that is not in the list the installer gave ([`pin`]). *What*: the
//! signed index. A piece is proved before it is stored, and proved again when it is read to be passed
//! on, so neither a lying peer nor a damaged disk ever poisons anybody.
//!
//! ```text
//! GET /v1/have?after=VERSION        the bitmap of all pieces ([`pieces`]), once it is newer
//! GET /v1/pieces/<blob>/<piece>     the bytes; blob by its ordinal in the index
//! ```
//!
//! Both name the index in `kdc-index`; another one is refused with 409. Whatever a peer can use up
//! is bounded: connections, heads, bodies, times, and the memory of all together.

pub mod bits;
mod client;
mod crew;
mod error;
mod fetch;
mod folder;
mod identity;
mod local;
mod others;
pub mod picker;
pub mod pieces;
mod pin;
mod server;
mod share;
mod standing;
mod unit;

pub use self::{
    error::PeerError,
    folder::{Folder, SHARE_PATH},
    others::WithOthers,
    share::share,
    standing::Standing,
    unit::{UNIT_NAME, begin, end, introduce, leave, prepare, stop},
};

/// Where a sharing node listens, unless somebody else does.
pub const PEER_PORT: u16 = 7390;

/// The header that says which index is meant.
const INDEX_HEADER: &str = "kdc-index";

/// The header that says how new a bitmap is.
const VERSION_HEADER: &str = "kdc-version";

/// What both sides must speak inside TLS.
const PROTOCOL_NAME: &[u8] = b"kdc-peer/1";

#[cfg(test)]
mod tests;
