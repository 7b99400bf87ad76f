//! Preparing a node for its GPUs: containerd's runtime, device specifications, kernel arguments, drivers bound for
//! passthrough.
//!
//! All of it goes through the host's door, below its root, so that a written-down machine
//! (`agent/tests/fixtures/gpu-nodes`) plays the node in tests.

mod bind_vfio;
mod blacklist_module;
mod boot_loader;
mod cdi_spec;
mod configure_nvidia_runtime;
mod enable_iommu;
mod enable_virtual_functions;
mod in_use;
#[cfg(test)]
mod kit_tests;
mod mig_child;
mod mig_cut;
mod mig_geometry;
mod mig_use;
mod pci;
mod reboot;
mod runtime_config;
mod set_mig_geometry;
mod vfio_group;
mod watch_pause;
mod write_cdi_spec;

pub(super) use bind_vfio::BindVfio;
pub(super) use blacklist_module::BlacklistModule;
pub(super) use configure_nvidia_runtime::ConfigureNvidiaRuntime;
pub(super) use enable_iommu::EnableIommu;
pub(super) use enable_virtual_functions::EnableVirtualFunctions;
pub use reboot::waiting as waiting_for_reboot;
pub(super) use set_mig_geometry::SetMigGeometry;
pub use set_mig_geometry::settle_instances;
pub(super) use write_cdi_spec::WriteCdiSpec;
