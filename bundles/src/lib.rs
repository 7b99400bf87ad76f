//! The bundle: one signed file that carries everything an install needs.
//!
//! | Word | Meaning |
//! |---|---|
//! | **bundle** | the signed file: a deterministic tar of an OCI image layout, one index, one signature |
//! | **index** | the one document that is signed; it names every artifact, every blob and every piece |
//! | **artifact** | one named thing an install asks for: a binary, an image, a package, a file |
//! | **blob** | content addressed by its sha256, as in an OCI layout |
//! | **piece** | a fixed-size slice of a blob with its own digest; the unit of transfer and of resume |
//! | **member** | one file of the tar: index, signature, two OCI files, blobs |
//! | **medium** | where a bundle lies: one file, or a set of parts on one or several sticks |
//!
//! Nothing in a bundle is used before [`mod@verify`] (whole file), [`open`] (the piece at hand) or the
//! node's store (piece by piece) has proved it against an index whose signature was checked with a
//! key the caller supplied.
//!
//! | Module | Job |
//! |---|---|
//! | [`index`] | the index: types, reading, rules |
//! | [`keys`] | public keys, and which are trusted |
//! | [`signature`] | from bytes and a signature to an [`index::Index`] |
//! | [`member`] | names, tar headers and places of the members |
//! | [`error`] | everything that can be wrong with a file |
//! | [`layout`] | what lies where in the file, as it follows from the index |
//! | [`medium`] | one file or parts, found and read alike |
//! | [`parts`] | the parts: format, proof, splitting, joining, rebuilding |
//! | [`mod@verify`] | prove a whole bundle, streaming |
//! | [`open`] | random access, every byte proved |
//! | [`reader`] | one blob as a stream, every byte proved |
//! | `signing`, `write` | with the feature `create`: keys and new bundles |

pub mod error;
pub mod index;
pub mod keys;
pub mod layout;
pub mod medium;
pub mod member;
pub mod open;
pub mod parts;
mod pieces;
mod prelude;
pub mod reader;
pub mod signature;
#[cfg(feature = "create")]
pub mod signing;
#[cfg(feature = "create")]
mod sparse;
pub mod verify;
#[cfg(feature = "create")]
pub mod write;
