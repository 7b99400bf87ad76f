//! What a node's plan has for its GPUs, by what the cluster file says they are for.
//!
//! Pods get GPUs through NVIDIA's container toolkit: where the bundle has its package, the runtime is configured and devices
//! are specified; otherwise whatever brings it to the node (the GPU operator) does that too. What may end in a
//! wait for a reboot comes last, so that the cluster stands by then.

use std::collections::BTreeMap;

use kdc_agent::{facts::Facts, gpu::watch, step::Step};
use kdc_profiles::cluster::{
    Node,
    gpu::{Gpu, GpuMode},
};

use super::{PlanError, select::Selection};

/// NVIDIA's package with the runtime and the program that specifies devices.
const TOOLKIT: &str = "nvidia-container-toolkit";

/// The open driver, which no mode can do with.
const NOUVEAU: &str = "nouveau";

/// A runtime of this name for Kubernetes: pods may ask for it where it is not every pod's.
pub(super) const RUNTIME_CLASS: &str =
    "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata:\n  name: nvidia\nhandler: nvidia\n";

/// What the cluster file may say and no step carries out is refused before anything is changed.
pub(super) fn check(node: &Node) -> Result<(), PlanError> {
    let Some(gpu) = &node.gpu else { return Ok(()) };
    // `1c.3g.40gb`: how several compute instances share a GPU instance is more than names and numbers can say.
    let is_share = |profile: &&String| {
        profile.split('+').next().is_some_and(|plain| plain.split('.').count() > 2)
    };
    match gpu.geometry.keys().find(is_share) {
        Some(profile) => Err(PlanError::SharedInstance {
            node: node.name.clone(),
            profile: profile.clone(),
            whole: profile.split_once('.').map(|(_, whole)| whole.to_owned()).unwrap_or_default(),
        }),
        None => Ok(()),
    }
}

/// The bundle brings NVIDIA's toolkit to this node.
pub(super) fn has_toolkit(selection: &Selection<'_>) -> bool {
    selection.packages.iter().any(|package| package.name == TOOLKIT)
}

/// Its pods get GPUs, whole or in part.
fn is_for_pods(gpu: &Gpu) -> bool {
    matches!(gpu.mode, GpuMode::Hami | GpuMode::Mig | GpuMode::Whole)
}

/// containerd gets a runtime by the next steps, so it has to read their part.
pub(super) fn configures_runtime(gpu: Option<&Gpu>, toolkit: bool) -> bool {
    toolkit && gpu.is_some_and(is_for_pods)
}

/// Early: what takes effect with a reboot, and the driver for virtual machines.
pub(super) fn host_steps(gpu: Option<&Gpu>) -> Vec<(&'static str, Step)> {
    let Some(gpu) = gpu else { return Vec::new() };
    let mut steps = vec![("gpu-nouveau", Step::BlacklistModule { module: NOUVEAU.to_owned() })];
    if !is_for_pods(gpu) {
        steps.push(("gpu-iommu", Step::EnableIommu));
    }
    if gpu.mode == GpuMode::Passthrough {
        let module = "vfio-pci".to_owned();
        steps.push(("gpu-vfio-module", Step::LoadKernelModule { module }));
    }
    steps
}

/// After containerd, and before anything of Kubernetes: nobody uses a GPU yet, and devices are specified as they are then.
pub(super) fn runtime_steps(gpu: Option<&Gpu>, toolkit: bool) -> Vec<(&'static str, Step)> {
    let Some(gpu) = gpu else { return Vec::new() };
    let runtime = configures_runtime(Some(gpu), toolkit);
    let mut steps = Vec::new();
    if runtime {
        // HAMi's plugin and the pods it serves name no runtime by themselves.
        let default = gpu.is_for_hami();
        steps.push(("gpu-runtime", Step::ConfigureNvidiaRuntime { default }));
    }
    if !gpu.geometry.is_empty() {
        let geometry = gpu.geometry.clone();
        steps.push(("gpu-instances", Step::SetMigGeometry { geometry, except: except(gpu) }));
    }
    if runtime {
        steps.push(("gpu-devices", Step::WriteCdiSpec));
    }
    steps
}

/// GPUs that are left alone, as steps name them.
fn except(gpu: &Gpu) -> Vec<String> {
    let indexes = gpu.exclude.indexes.iter().map(ToString::to_string);
    gpu.exclude.uuids.iter().cloned().chain(indexes).collect()
}

/// Once the node is in the cluster: the unit that watches its GPUs, where it has some, or where the cluster file means it to.
pub(super) fn watch_steps(gpu: Option<&Gpu>, facts: &Facts) -> Vec<(&'static str, Step)> {
    if gpu.is_none() && !facts.has_nvidia_gpu() {
        return Vec::new();
    }
    let unit = watch::UNIT_NAME.to_owned();
    let content = watch::unit().to_owned();
    let install = Step::InstallUnit { unit: unit.clone(), content, drop_ins: BTreeMap::new() };
    let state = Step::SetUnitState { unit, enabled: true, active: Some(true) };
    vec![("gpu-watch-unit", install), ("gpu-watch-state", state)]
}

/// After everything else.
pub(super) fn last_steps(gpu: Option<&Gpu>) -> Vec<(&'static str, Step)> {
    let Some(gpu) = gpu else { return Vec::new() };
    let (gpus, except) = (Vec::new(), except(gpu));
    match gpu.mode {
        GpuMode::Passthrough => {
            vec![("gpu-passthrough", Step::BindVfio { gpus, except, display: false })]
        }
        GpuMode::Vgpu => vec![("gpu-functions", Step::EnableVirtualFunctions { except })],
        GpuMode::Hami | GpuMode::Mig | GpuMode::Whole => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mode, and its steps early, after containerd, and last.
    type Row<'a> = (Option<GpuMode>, &'a [&'a str], &'a [&'a str], &'a [&'a str]);

    fn names(steps: Vec<(&'static str, Step)>) -> Vec<&'static str> {
        steps.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn each_mode_has_its_own_steps_and_a_node_without_one_has_none() {
        let table: &[Row<'_>] = &[
            (None, &[], &[], &[]),
            (Some(GpuMode::Hami), &["gpu-nouveau"], &["gpu-runtime", "gpu-devices"], &[]),
            (Some(GpuMode::Mig), &["gpu-nouveau"], &["gpu-runtime", "gpu-devices"], &[]),
            (Some(GpuMode::Whole), &["gpu-nouveau"], &["gpu-runtime", "gpu-devices"], &[]),
            (
                Some(GpuMode::Passthrough),
                &["gpu-nouveau", "gpu-iommu", "gpu-vfio-module"],
                &[],
                &["gpu-passthrough"],
            ),
            (Some(GpuMode::Vgpu), &["gpu-nouveau", "gpu-iommu"], &[], &["gpu-functions"]),
        ];
        for (mode, host, runtime, last) in table {
            let gpu = mode.map(Gpu::of);
            assert_eq!(names(host_steps(gpu.as_ref())), *host, "{mode:?}");
            assert_eq!(names(runtime_steps(gpu.as_ref(), true)), *runtime, "{mode:?}");
            assert_eq!(names(runtime_steps(gpu.as_ref(), false)), [""; 0], "{mode:?}");
            assert_eq!(names(last_steps(gpu.as_ref())), *last, "{mode:?}");
        }
    }

    #[test]
    fn gpus_are_watched_where_there_are_some_or_are_meant_to_be() {
        use kdc_agent::facts::Known;
        let mut facts = crate::plan::samples::facts_of("w1", "10.0.0.11".parse().unwrap());
        let hami = Gpu::of(GpuMode::Hami);
        let wanted = ["gpu-watch-unit", "gpu-watch-state"];
        for (gpus, gpu, steps) in [
            (Known::Known(0), None, &[][..]),
            (Known::Unknown("no /sys".to_owned()), None, &[]),
            (Known::Known(2), None, &wanted),
            (Known::Known(0), Some(&hami), &wanted),
        ] {
            facts.nvidia_gpus = gpus;
            assert_eq!(names(watch_steps(gpu, &facts)), steps);
        }
    }

    #[test]
    fn a_fixed_geometry_is_made_before_devices_are_specified_and_needs_no_toolkit() {
        let geometry = [("3g.40gb".to_owned(), 2)].into();
        let mut gpu = Gpu { geometry, ..Gpu::of(GpuMode::Mig) };
        gpu.exclude.indexes = vec![1];
        let steps = runtime_steps(Some(&gpu), true);
        assert_eq!(
            steps[0].1,
            Step::ConfigureNvidiaRuntime { default: false },
            "HAMi is not here to name it for pods"
        );
        assert_eq!(names(steps), ["gpu-runtime", "gpu-instances", "gpu-devices"]);
        let steps = runtime_steps(Some(&gpu), false);
        let Step::SetMigGeometry { geometry, except } = &steps[0].1 else { panic!("{steps:?}") };
        assert_eq!((geometry["3g.40gb"], except.as_slice()), (2, ["1".to_owned()].as_slice()));
        assert_eq!(steps.len(), 1);
    }

    #[test]
    fn only_hami_makes_the_runtime_everybody_s_and_what_is_excluded_stays() {
        for (mode, wanted) in [(GpuMode::Hami, true), (GpuMode::Whole, false)] {
            let steps = runtime_steps(Some(&Gpu::of(mode)), true);
            assert_eq!(steps[0].1, Step::ConfigureNvidiaRuntime { default: wanted });
        }
        let mut gpu = Gpu::of(GpuMode::Passthrough);
        gpu.exclude.uuids = vec!["GPU-1".to_owned()];
        gpu.exclude.indexes = vec![3];
        let steps = last_steps(Some(&gpu));
        let Step::BindVfio { except, .. } = &steps[0].1 else { panic!("{steps:?}") };
        assert_eq!(except, &["GPU-1", "3"]);
    }
}
