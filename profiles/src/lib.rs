//! What an operator writes, and what kdc ships for him to choose from.
//!
//! | Word | Meaning |
//! |---|---|
//! | **cluster file** | `cluster.yaml`: nodes, how to reach them, profile, settings |
//! | **profile** | what a cluster is made of: distribution, components, host needs, acceptance. Data |
//! | **component** | one thing a profile installs |
//! | **definition** | the short file a bundle is built from |
//! | **lock** | a definition with every digest resolved |
//! | **trust file** | the public keys a site takes bundles from |
//! | **problem** | one mistake in one of these files: line, field, and what would be right |

pub mod cidr;
pub mod cluster;
pub mod definition;
pub mod fields;
pub mod healing;
pub mod lock;
pub mod moment;
pub mod problem;
pub mod profile;
pub mod template;
pub mod trust;
pub mod yaml;
