//! Nodes that feed each other: what one has proved, others may have from it.

pub mod bits;
pub mod picker;
