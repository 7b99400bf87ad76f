//! Nodes that are prepared for their GPUs, interrupted like all others.

use super::{case::Case, *};
use crate::{
    host::fake::FakeHost,
    step::{Step, gpu::waiting_for_reboot},
};

fn containerd_there(host: &FakeHost) {
    for path in [
        "/usr/bin/containerd",
        "/usr/bin/ctr",
        "/lib/systemd/system/containerd.service",
        "/usr/bin/nvidia-container-runtime",
        "/usr/bin/nvidia-ctk",
        "/usr/sbin/update-initramfs",
        "/dev/nvidia0",
        "/@active/containerd.service",
        "/run/containerd/containerd.sock",
        "/var/lib/containerd/meta",
        "/boot/initrd.img",
    ] {
        host.plant(path, "");
    }
}

/// Its owner wrote containerd's configuration, nouveau has the GPU, and the specification is of an older driver.
fn shared() -> FakeHost {
    let host = FakeHost::debian();
    containerd_there(&host);
    host.plant_tree(include_str!("../../../tests/fixtures/gpu-nodes/card-with-sound-and-usb.tree"));
    host.plant("/proc/modules", "nouveau 1 0 - Live 0\n");
    host.plant("/boot/initrd.img", "");
    host.plant("/etc/containerd/config.toml", "# Ours.\nversion = 2\nroot = \"/data\" # big\n");
    host.plant(
        "/etc/cdi/nvidia.yaml",
        "kind: nvidia.com/gpu\ncontainerEdits:\n  mounts:\n  - {hostPath: /lib/libcuda.so.1.2}\n",
    );
    host
}

/// The card goes to virtual machines, on a machine that was started with its IOMMU on.
fn passed_through() -> FakeHost {
    let host = FakeHost::debian();
    host.plant_tree(include_str!("../../../tests/fixtures/gpu-nodes/card-with-sound-and-usb.tree"));
    host
}

fn sharing() -> Case {
    Case::alone(
        shared,
        vec![
            ("nouveau", Step::BlacklistModule { module: "nouveau".to_owned() }),
            ("runtime", Step::ConfigureNvidiaRuntime { default: true }),
            ("cdi", Step::WriteCdiSpec),
        ],
    )
}

fn passthrough() -> Case {
    Case::alone(
        passed_through,
        vec![
            ("iommu", Step::EnableIommu),
            ("module", Step::LoadKernelModule { module: "vfio-pci".to_owned() }),
            ("vfio", Step::BindVfio { gpus: Vec::new(), except: Vec::new(), display: false }),
        ],
    )
}

/// MIG is off on the first GPU; the second is cut in another way.
fn to_be_cut() -> FakeHost {
    let host = FakeHost::debian();
    host.plant_tree(include_str!(
        "../../../tests/fixtures/gpu-nodes/two-gpus-that-can-be-cut.tree"
    ));
    host
}

/// The same, where kdc's own watch has the GPUs open.
fn watched_and_to_be_cut() -> FakeHost {
    let host = to_be_cut();
    for path in
        ["/etc/systemd/system/kdc-gpu.service", "/@active/kdc-gpu.service", "/run/kdc/gpus.json"]
    {
        host.plant(path, "");
    }
    host
}

/// Where MIG starts with a reboot only.
fn to_be_cut_after_a_reboot() -> FakeHost {
    let host = to_be_cut();
    host.plant("/@gpus-want-a-reset", "");
    host
}

fn cutting(machine: fn() -> FakeHost) -> Case {
    let geometry = [("3g.40gb".to_owned(), 1), ("1g.10gb".to_owned(), 2)].into();
    Case::alone(machine, vec![("mig", Step::SetMigGeometry { geometry, except: Vec::new() })])
}

/// Room for virtual functions, NVIDIA's vGPU manager, and kdc's own watch.
fn to_be_sliced() -> FakeHost {
    let host = FakeHost::debian();
    host.plant_tree(include_str!("../../../tests/fixtures/gpu-nodes/virtual-functions-off.tree"));
    host.plant("/@vgpu-types", "nvidia/creatable_vgpu_types");
    for path in [
        "/usr/lib/nvidia/sriov-manage",
        "/etc/systemd/system/kdc-gpu.service",
        "/@active/kdc-gpu.service",
        "/run/kdc/gpus.json",
    ] {
        host.plant(path, "");
    }
    host
}

#[test]
fn a_node_with_virtual_gpus_interrupted_anywhere_resumes_to_the_same_end_and_undoes_to_the_start() {
    let step = Step::EnableVirtualFunctions { except: Vec::new() };
    let case = Case::alone(to_be_sliced, vec![("functions", step)]);
    interrupt_everywhere(&case);
    interrupt_then_undo_everywhere(&case);
}

#[test]
fn a_node_whose_gpus_are_cut_interrupted_anywhere_resumes_to_the_same_end_and_undoes_to_the_start()
{
    interrupt_everywhere(&cutting(watched_and_to_be_cut));
    interrupt_then_undo_everywhere(&cutting(watched_and_to_be_cut));
    interrupt_everywhere(&cutting(to_be_cut_after_a_reboot));
}

#[test]
fn a_node_that_shares_gpus_interrupted_anywhere_resumes_to_the_same_end_and_undoes_to_the_start() {
    interrupt_everywhere(&sharing());
}

#[test]
fn a_node_that_passes_gpus_through_interrupted_anywhere_resumes_and_undoes_to_the_start() {
    interrupt_everywhere(&passthrough());
}

#[test]
fn preparing_gpus_interrupted_anywhere_can_be_undone_and_the_undo_goes_on() {
    interrupt_then_undo_everywhere(&sharing());
    interrupt_then_undo_everywhere(&passthrough());
}

#[test]
fn the_second_time_nothing_is_changed_and_nothing_restarted() {
    for case in [sharing(), passthrough(), cutting(to_be_cut)] {
        let (runs, host) = (directory(), (case.machine)());
        case.execute(runs.path(), &host).unwrap();
        let tree = host.tree();
        host.recover();
        let path = create(runs.path(), "r2", &case.plan).unwrap();
        let (heard, stop) = (Heard::default(), AtomicBool::new(false));
        let outcome = execute(&path, &host, &case.blobs, &Given, &heard, &stop).unwrap();
        assert!(matches!(outcome, Outcome::Finished { changed: 0, .. }), "{outcome:?}");
        assert_eq!(differences(&tree, &host.tree()), [""; 0]);
        assert!(!host.calls().iter().any(|call| call.contains("restart")), "{:?}", host.calls());
    }
}

#[test]
fn a_node_without_iommu_is_told_and_waits_for_its_reboot_and_then_goes_on() {
    fn machine() -> FakeHost {
        let host = FakeHost::debian();
        host.plant_tree(include_str!("../../../tests/fixtures/gpu-nodes/iommu-off.tree"));
        host.plant("/boot/grub/grub.cfg", "");
        host
    }
    let steps = passthrough().plan.steps;
    let case =
        Case::alone(machine, steps.iter().map(|one| (one.id.as_str(), one.step.clone())).collect());
    let (runs, host) = (directory(), machine());
    let start = host.tree();
    let outcome = case.execute(runs.path(), &host).unwrap();
    let Outcome::Failed { step, failure } = outcome else { panic!("{outcome:?}") };
    assert_eq!((step.as_str(), failure.code.as_str()), ("vfio", "STEP-007"));
    assert!(failure.message.contains("intel_iommu=on iommu=pt"), "{failure}");
    assert!(waiting_for_reboot(&host).unwrap().contains_key("iommu"));
    let menu = String::from_utf8(host.tree()["/boot/grub/grub.cfg"].content.clone()).unwrap();
    assert!(menu.contains("intel_iommu=on iommu=pt"), "{menu}");
    // The request is gone with the reboot; the kernel has its arguments and its groups.
    for path in ["/run/kdc/reboot/iommu", "/run/kdc/reboot"] {
        assert!(host.tree().contains_key(path), "{path}");
    }
    case.undo(runs.path(), &host).unwrap();
    assert_eq!(differences(&start, &host.tree()), [""; 0]);

    let (runs, host) = (directory(), machine());
    case.execute(runs.path(), &host).unwrap();
    crate::host::Host::remove_tree(&host, "/run/kdc/reboot").unwrap();
    host.plant_tree(include_str!("../../../tests/fixtures/gpu-nodes/card-with-sound-and-usb.tree"));
    let outcome = case.execute(runs.path(), &host).unwrap();
    assert!(matches!(outcome, Outcome::Finished { .. }), "{outcome:?}");
}
