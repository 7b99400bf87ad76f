//! How Kubernetes itself is put on a node. Nothing here knows a version: what depends on one is a
//! parameter of the bundle.

pub mod containerd;
pub mod kubeadm;
pub mod parameters;
