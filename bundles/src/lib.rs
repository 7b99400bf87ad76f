//! The bundle: one signed file that carries everything an install needs.
//!
//! | Word | Meaning |
//! |---|---|
//! | **bundle** | the signed file: a deterministic tar of an OCI image layout, one index, one signature |
//! | **index** | the one document that is signed; it names every artifact, every blob and every piece |
//! | **artifact** | one named thing an install asks for: a binary, an image, a package, a file |
//! | **blob** | content addressed by its sha256, as in an OCI layout |
//! | **piece** | a fixed-size slice of a blob with its own digest; the unit of transfer and of resume |
//!
//! Nothing in a bundle is used before [`verify`] (whole file) or the node's store (piece by piece)
//! has proved it against an index whose signature was checked with a key the caller supplied.

pub mod index;
