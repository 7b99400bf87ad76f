//! From a definition to a signed bundle.
//!
//! | Word | Meaning |
//! |---|---|
//! | **definition** | the short file a bundle is built from ([`kdc_profiles::definition`]) |
//! | **layout** | a local OCI image layout, folder or tar, that images are taken from |
//! | **content** | bytes that become a blob: a file, or a stretch of a layout's tar |
//!
//! [`create()`] works in four passes, and nothing is written before the third has succeeded: *plan*
//! (find every file and follow every image to its blobs; all problems at once), *hash* (each
//! content once, with what its layout says about it checked), *sign*, *write* (streamed, hashed
//! again, put in place whole). Memory holds a few pieces and the index.

mod content;
pub mod create;
pub mod layout;
mod plan;
pub mod problem;

pub use create::{Observer, Silent, Summary, Work, create};
pub use problem::{CreateError, Problem};
