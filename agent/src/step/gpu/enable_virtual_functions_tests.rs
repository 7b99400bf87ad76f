use super::*;
use crate::{
    host::fake::{FakeHost, Tree},
    step::gpu::kit_tests::context,
};

/// A card with room for 16 virtual functions, none of them on.
fn off() -> FakeHost {
    let host = FakeHost::debian();
    host.plant_tree(include_str!("../../../tests/fixtures/gpu-nodes/virtual-functions-off.tree"));
    host.plant(MANAGER, "");
    host
}

/// An older card, whose driver has mediated devices.
fn mediated() -> FakeHost {
    let host = off();
    for file in ["sriov_totalvfs", "sriov_numvfs"] {
        crate::host::Host::remove(&host, &format!("/sys/bus/pci/devices/0000:41:00.0/{file}"))
            .unwrap();
    }
    host.plant_tree("/sys/bus/pci/devices/0000:41:00.0/mdev_supported_types/nvidia-63/available_instances = 8\n");
    host
}

const STEP: EnableVirtualFunctions<'static> = EnableVirtualFunctions { except: &[] };

fn apply(host: &FakeHost) -> Result<Before, StepError> {
    let context = context(host);
    let before = STEP.probe(&context)?;
    STEP.apply(&context, &before).map(|()| before)
}

fn differing(left: &Tree, right: &Tree) -> Vec<String> {
    let paths = left.keys().chain(right.keys());
    paths.filter(|path| left.get(*path) != right.get(*path)).cloned().collect()
}

/// Refused with these words, and nothing of the machine changed.
fn refuses(host: &FakeHost, words: &[&str]) {
    let start = host.tree();
    let Err(error) = apply(host) else { panic!("{words:?}: it was done") };
    for word in words {
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "{error}");
    assert_eq!(differing(&start, &host.tree()), [""; 0], "{error}");
}

#[test]
fn virtual_functions_are_on_now_and_at_boot_and_off_again_after_the_undo() {
    for types in ["nvidia/creatable_vgpu_types", "mdev_supported_types/nvidia-558/name"] {
        let host = off();
        host.plant("/@vgpu-types", types);
        let start = host.tree();
        let context = context(&host);
        let before = STEP.probe(&context).unwrap();
        assert!(STEP.detail(&before).contains("0000:41:00.0: up to 16 virtual functions on"));
        STEP.apply(&context, &before).unwrap();
        let gpu = pci::device(&host, "0000:41:00.0").unwrap().unwrap();
        assert_eq!(functions(&host, &gpu).unwrap().len(), 16, "{types}");
        assert!(STEP.is_satisfied_by(&STEP.probe(&context).unwrap()), "{types}");
        let unit = String::from_utf8(host.tree()[&unit_path()].content.clone()).unwrap();
        assert!(
            unit.contains("ExecStart=/usr/lib/nvidia/sriov-manage -e 0000:41:00.0\n"),
            "{unit}"
        );
        STEP.undo(&context, &before).unwrap();
        assert_eq!(differing(&start, &host.tree()), [""; 0], "{types}");
    }
}

#[test]
fn an_older_card_that_offers_mediated_devices_is_left_as_it_is() {
    let host = mediated();
    let context = context(&host);
    let before = STEP.probe(&context).unwrap();
    assert!(STEP.is_satisfied_by(&before), "{}", STEP.detail(&before));
}

#[test]
fn what_is_missing_on_the_host_is_named() {
    let host = off();
    crate::host::Host::remove(&host, MANAGER).unwrap();
    refuses(&host, &["vGPU manager is not installed", MANAGER]);
    // The driver for containers has the same program and no types; what was switched on goes off again.
    let host = off();
    refuses(&host, &["GPU 0000:41:00.0 offers no virtual GPUs (its driver is nvidia)"]);
    let host = mediated();
    crate::host::Host::remove_tree(&host, "/sys/bus/pci/devices/0000:41:00.0/mdev_supported_types")
        .unwrap();
    refuses(&host, &["offers no virtual GPUs"]);
    let host = off();
    crate::host::Host::remove_tree(&host, "/sys/kernel/iommu_groups").unwrap();
    refuses(&host, &["there are no IOMMU groups"]);
    host.plant("/run/kdc/reboot/iommu", "the kernel starts with intel_iommu=on");
    let Err(error) = apply(&host) else { panic!("it was done") };
    assert_eq!(error.code(), "STEP-007");
}

#[test]
fn a_gpu_that_somebody_has_open_keeps_its_functions_off() {
    let host = off();
    host.plant("/@vgpu-types", "nvidia/creatable_vgpu_types");
    host.plant_tree("/proc/9/comm = trainer\n/proc/9/fd/3 -> /dev/nvidia0\n");
    refuses(&host, &["GPU 0000:41:00.0 is in use: process 9 (trainer) has /dev/nvidia0 open"]);
}

#[test]
fn virtual_gpus_that_exist_keep_the_functions_on_when_the_step_is_undone() {
    for (path, text, told) in [
        (
            "/sys/bus/pci/devices/0000:41:00.4/nvidia/current_vgpu_type",
            "1145\n",
            "0000:41:00.4 is a virtual GPU of type 1145",
        ),
        (
            "/proc/12/cmdline",
            "/usr/bin/qemu-system-x86_64\0-device\0vfio-pci,host=41:00.5",
            "0000:41:00.5",
        ),
    ] {
        let host = off();
        host.plant("/@vgpu-types", "nvidia/creatable_vgpu_types");
        let before = apply(&host).unwrap();
        host.plant(path, text);
        let tree = host.tree();
        let error = STEP.undo(&context(&host), &before).unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
        assert_eq!(differing(&tree, &host.tree()), [""; 0]);
    }
}
