//! From a definition to a signed bundle.
//!
//! | Word | Meaning |
//! |---|---|
//! | **definition** | the short file a bundle is built from ([`kdc_profiles::definition`]) |
//! | **lock** | the definition with every digest resolved ([`kdc_profiles::lock`]) |
//! | **cache** | blobs that were fetched, by digest, on the builder's machine |
//! | **layout** | a local OCI image layout, folder or tar, that images are taken from |
//! | **content** | bytes that become a blob: a file, or a stretch of a layout's tar |
//!
//! ```text
//! definition ── lock() ──▶ lock ── lock::fetch() ──▶ cache ── create_locked() ──▶ bundle
//!      └──────────── create(), where everything is on this machine ───────────────┘
//! ```
//!
//! [`create()`] works in four passes, and nothing is written before the third has succeeded: *plan*
//! (find every file and follow every image to its blobs; all problems at once), *hash* (each
//! content once, with what its layout says about it checked), *sign*, *write* (streamed, hashed
//! again, put in place whole). Memory holds a few pieces and the index.

pub mod cache;
mod chart;
mod content;
pub mod create;
mod debian;
pub mod delta;
pub mod document;
pub mod export;
pub mod fetch;
mod folder;
pub mod layout;
pub mod lock;
mod oci;
mod plan;
pub mod problem;
pub mod prune;
pub mod registry;

pub use cache::Cache;
pub use create::{Observer, Output, Silent, Summary, Work, create, create_locked};
pub use debian::close_over as debian_closure;
pub use fetch::{FetchError, FetchOptions, Fetcher, Mirror};
pub use lock::{LockRequest, definition_digest, lock};
pub use problem::{CreateError, LockError, Problem};
