//! Updates: only what changed between two bundles, down to inside their blobs.
//!
//! | Word | Meaning |
//! |---|---|
//! | **update** | a file that makes one bundle out of what a site has, byte for byte, signature included |
//! | **base** | an old blob that a patch starts from |
//! | **unpacked form** | a blob with the compressed streams in it decompressed |
//! | **inventory** | what a site has, for a builder who is far away |
//!
//! ```text
//! diff    new blob ─ open_up ─> unpacked form ─ encode ─> operations ─┐
//!         old blob ─ open_up ─> unpacked form ──┘                  update
//!         old blob ─ unpack_as ─> unpacked form ──┐                   │
//! patch   new blob <── pack ── unpacked form <─ carry_out ────────────┘
//! ```
//!
//! Two packages of neighbouring versions have nothing in common where they are compressed. So
//! streams are decompressed, and compressed again at the site with whatever made them: settings of
//! liblzma for xz ([`xz`]), corrections to a predicted compressor for deflate ([`deflate`]). What does
//! not come out bit by bit travels as it is. Nothing in an update is trusted: it is bounded by
//! the sizes in the signed index, and every piece of the new bundle is proved against that index.

mod align;
mod changes;
mod chunks;
mod deflate;
mod diff;
mod encode;
mod holdings;
mod inventory;
mod layout;
mod members;
mod number;
mod ops;
mod patch;
mod problem;
mod spool;
#[cfg(test)]
mod tests;
mod unpack;
mod update;
mod xz;

use std::path::Path;

pub use self::{
    diff::{Cost, Diffed, OldSide, diff},
    holdings::Holdings,
    inventory::Inventory,
    patch::{Patched, patch},
    problem::DeltaError,
};

/// The folder a file is in or is to be in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
