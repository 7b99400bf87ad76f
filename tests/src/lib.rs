//! The lab and the test kit.
