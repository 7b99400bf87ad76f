//! Which code makes which step: the one place where all of them meet.

use super::{
    Step, apply_manifests, change, configure_containerd, configure_host_routes, create_directory,
    disable_swap, gpu, init_control_plane, install_packages, install_unit, join_node,
    load_kernel_module, open_firewall, pull_images, remove_file, set_node_labels, set_sysctl,
    set_unit_state, unpack_archive, wait_until, withdraw_gpu_control, write_file,
};

/// The behaviour of a step.
#[expect(clippy::too_many_lines, reason = "one short arm a step, and a table wants no parts")]
pub(super) fn change_of(step: &Step) -> Box<dyn change::AnyChange + '_> {
    match step {
        Step::CreateDirectory { path, mode } => {
            Box::new(create_directory::CreateDirectory { path, mode: *mode })
        }
        Step::WriteFile { path, mode, content } => {
            Box::new(write_file::WriteFile { path, mode: *mode, content })
        }
        Step::RemoveFile { path } => Box::new(remove_file::RemoveFile { path }),
        Step::PlaceBinary { path, digest } => Box::new(write_file::PlaceBinary { path, digest }),
        Step::InstallPackages { packages } => {
            Box::new(install_packages::InstallPackages { packages })
        }
        Step::LoadKernelModule { module } => {
            Box::new(load_kernel_module::LoadKernelModule { module })
        }
        Step::SetSysctl { key, value } => Box::new(set_sysctl::SetSysctl { key, value }),
        Step::DisableSwap => Box::new(disable_swap::DisableSwap),
        Step::InstallUnit { unit, content, drop_ins } => {
            Box::new(install_unit::InstallUnit { unit, content, drop_ins })
        }
        Step::SetUnitState { unit, enabled, active } => {
            Box::new(set_unit_state::SetUnitState { unit, enabled: *enabled, active: *active })
        }
        Step::UnpackArchive { digest, target } => {
            Box::new(unpack_archive::UnpackArchive { digest, target })
        }
        Step::PullImages { index, images } => {
            Box::new(pull_images::PullImages { index: Some(index), images })
        }
        Step::ImportImages { images } => Box::new(pull_images::PullImages { index: None, images }),
        Step::OpenFirewall { ports } => Box::new(open_firewall::OpenFirewall { ports }),
        Step::ConfigureContainerd {
            sandbox_image,
            cni_bin_dir,
            systemd_cgroup,
            restrict_oom_score_adj,
            registries,
            drop_ins,
        } => Box::new(configure_containerd::ConfigureContainerd {
            sandbox_image,
            cni_bin_dir,
            systemd_cgroup: *systemd_cgroup,
            restrict_oom_score_adj: *restrict_oom_score_adj,
            registries,
            drop_ins: *drop_ins,
        }),
        Step::ConfigureNvidiaRuntime { default } => {
            Box::new(gpu::ConfigureNvidiaRuntime { default: *default })
        }
        Step::WriteCdiSpec => Box::new(gpu::WriteCdiSpec),
        Step::BlacklistModule { module } => Box::new(gpu::BlacklistModule { module }),
        Step::EnableIommu => Box::new(gpu::EnableIommu),
        Step::BindVfio { gpus, except, display } => {
            Box::new(gpu::BindVfio { gpus, except, display: *display })
        }
        Step::EnableVirtualFunctions { except } => Box::new(gpu::EnableVirtualFunctions { except }),
        Step::SetMigGeometry { geometry, except } => {
            Box::new(gpu::SetMigGeometry { geometry, except })
        }
        Step::ConfigureHostRoutes { pod_cidr, cluster_cidr, service_cidr, peers } => {
            Box::new(configure_host_routes::ConfigureHostRoutes {
                pod_cidr,
                cluster_cidr,
                service_cidr,
                peers,
            })
        }
        Step::InitControlPlane { config } => {
            Box::new(init_control_plane::InitControlPlane { config })
        }
        Step::JoinNode { config } => Box::new(join_node::JoinNode { config }),
        Step::ApplyManifests { name, manifests } => {
            Box::new(apply_manifests::ApplyManifests { name, manifests })
        }
        Step::SetNodeLabels { node, labels, taints } => {
            Box::new(set_node_labels::SetNodeLabels { node, labels, taints })
        }
        Step::WithdrawGpuControl => Box::new(withdraw_gpu_control::WithdrawGpuControl),
        Step::WaitUntil { condition, timeout_secs } => {
            Box::new(wait_until::WaitUntil { condition, timeout_secs: *timeout_secs })
        }
    }
}
