//! One node: what it is, what may be changed on it, and the record that takes every change back.
//!
//! | Word | Meaning |
//! |---|---|
//! | **fact** | something a probe read on this node; probing changes nothing |
//! | **check** | a judgement over facts: ok, warn, fail or unknown, maybe with a fix |
//! | **step** | the unit of change and of undo |
//! | **run** | one execution of a node's plan; it belongs to the node and outlives the installer |
//! | **journal** | the append-only, fsynced record of a run, written before each change |
//! | **finding** | how one thing that is watched stands; drift is one that is otherwise than wanted |
//! | **record** | what the node or one pod used in one minute, hour or day |
//! | **store** | pieces and blobs of the bundle on this node, by digest, proved before use |

pub mod accept;
pub mod api;
pub mod audit;
mod background;
pub mod check;
mod columns;
pub mod control;
pub mod daemon;
pub mod facts;
pub mod gpu;
pub mod heal;
pub mod host;
pub mod image_name;
pub mod inventory;
pub mod journal;
pub mod license;
pub mod meter;
pub mod run;
pub mod serve;
#[cfg(test)]
mod small_disk;
pub mod step;
pub mod store;
pub mod traffic;
pub mod usage;
pub mod wire;
