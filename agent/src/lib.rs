//! One node: what it is, what may be changed on it, and the record that takes every change back.
//!
//! | Word | Meaning |
//! |---|---|
//! | **fact** | something a probe read on this node; probing changes nothing |
//! | **check** | a judgement over facts: ok, warn, fail or unknown, maybe with a fix |
//! | **step** | the unit of change and of undo |
//! | **run** | one execution of a node's plan; it belongs to the node and outlives the installer |
//! | **journal** | the append-only, fsynced record of a run, written before each change |
//! | **store** | pieces and blobs of the bundle on this node, by digest, proved before use |

pub mod accept;
mod background;
pub mod check;
pub mod daemon;
pub mod facts;
pub mod host;
pub mod image_name;
pub mod journal;
pub mod run;
pub mod serve;
#[cfg(test)]
mod small_disk;
pub mod step;
pub mod store;
pub mod traffic;
pub mod wire;
