use super::*;
use crate::{
    host::fake::{FakeHost, Tree},
    step::gpu::kit_tests::context,
};

fn machine(tree: &str) -> FakeHost {
    let host = FakeHost::debian();
    host.plant_tree(tree);
    host.plant_driver("vfio-pci");
    host
}

macro_rules! fixture {
    ($name:literal) => {
        machine(include_str!(concat!("../../../tests/fixtures/gpu-nodes/", $name, ".tree")))
    };
}

fn step<'a>(gpus: &'a [String], display: bool) -> BindVfio<'a> {
    BindVfio { gpus, except: &[], display }
}

/// Looks, then applies.
fn apply(host: &FakeHost, step: &BindVfio<'_>) -> Result<Before, StepError> {
    let context = context(host);
    let before = step.probe(&context)?;
    step.apply(&context, &before).map(|()| before)
}

fn driver(host: &FakeHost, address: &str) -> Option<String> {
    pci::device(host, address).unwrap().unwrap().driver
}

/// Refused with these words, and nothing of the machine changed.
fn refuses(host: &FakeHost, step: &BindVfio<'_>, words: &[&str]) {
    let before: Tree = host.tree();
    let Err(error) = apply(host, step) else { panic!("{words:?}: it was done") };
    for word in words {
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    assert!(error.hint().is_some_and(|hint| !hint.is_empty()));
    assert!(host.tree() == before, "something was changed");
}

#[test]
fn a_card_goes_with_its_sound_and_usb_functions_and_comes_back() {
    let host = fixture!("card-with-sound-and-usb");
    let (start, step) = (host.tree(), step(&[], false));
    let before = apply(&host, &step).unwrap();
    for function in 0..4 {
        let address = format!("0000:01:00.{function}");
        assert_eq!(driver(&host, &address).as_deref(), Some("vfio-pci"), "{address}");
    }
    assert_eq!(driver(&host, "0000:00:01.0").as_deref(), Some("pcieport"), "bridges stay");
    let rules = String::from_utf8(host.tree()[RULES].content.clone()).unwrap();
    assert_eq!(rules.matches("ATTR{driver_override}=\"vfio-pci\"").count(), 4, "{rules}");
    assert!(
        rules.contains(
            "KERNEL==\"0000:01:00.0\", ATTR{vendor}==\"0x10de\", ATTR{device}==\"0x2204\""
        )
    );
    assert!(!host.calls().iter().any(|call| call.contains("systemctl")), "no systemd");
    let context = context(&host);
    assert!(step.is_satisfied_by(&step.probe(&context).unwrap()));
    step.undo(&context, &before).unwrap();
    let end = host.tree();
    let differs: Vec<&String> =
        start.keys().chain(end.keys()).filter(|path| start.get(*path) != end.get(*path)).collect();
    assert_eq!(differs, Vec::<&String>::new());
}

#[test]
fn a_group_shared_with_a_foreign_network_card_is_refused() {
    let host = fixture!("group-with-foreign-network-card");
    let words = ["0000:01:00.0", "shares IOMMU group 1 with 0000:02:00.0 (network"];
    refuses(&host, &step(&[], false), &words);
}

#[test]
fn two_gpus_of_one_group_go_together_or_not_at_all() {
    let host = fixture!("two-cards-in-one-group");
    let one = ["0000:02:00.0".to_owned()];
    refuses(&host, &step(&one, false), &["shares IOMMU group 1 with 0000:03:00.0 (display"]);
    apply(&host, &step(&[], false)).unwrap();
    assert_eq!(driver(&host, "0000:03:00.0").as_deref(), Some("vfio-pci"));
}

#[test]
fn the_first_screen_goes_only_with_consent() {
    let host = fixture!("first-screen");
    refuses(&host, &step(&[], false), &["first screen"]);
    apply(&host, &step(&[], true)).unwrap();
}

#[test]
fn a_gpu_with_virtual_functions_on_is_refused_and_one_function_alone_may_go() {
    let host = fixture!("virtual-functions-on");
    refuses(&host, &step(&[], false), &["0000:41:00.0 has 2 virtual functions on"]);
    let slice = ["0000:41:00.5".to_owned()];
    apply(&host, &step(&slice, false)).unwrap();
    for (address, wanted) in
        [("0000:41:00.0", "nvidia"), ("0000:41:00.4", "nvidia"), ("0000:41:00.5", "vfio-pci")]
    {
        assert_eq!(driver(&host, address).as_deref(), Some(wanted), "{address}");
    }
}

#[test]
fn a_gpu_that_a_pod_has_a_mig_slice_of_is_refused_until_the_pod_is_gone() {
    let host = fixture!("mig-in-use");
    refuses(&host, &step(&[], false), &["pod 6e9f-1 was given nvidia.com/mig-1g.10gb"]);
    crate::host::Host::remove_tree(&host, "/var/lib/kubelet/pods/6e9f-1").unwrap();
    apply(&host, &step(&[], false)).unwrap();
}

#[test]
fn a_gpu_that_a_process_has_open_is_refused_with_its_name() {
    for (link, told) in [
        ("/dev/nvidia0", "process 9 (trainer) has /dev/nvidia0 open"),
        ("/dev/vfio/1", "/dev/vfio/1"),
    ] {
        let host = fixture!("card-with-sound-and-usb");
        host.plant_tree(&format!("/proc/9/comm = trainer\n/proc/9/fd/3 -> {link}\n"));
        refuses(&host, &step(&[], false), &[told]);
    }
    // Another GPU's is none of ours.
    let host = fixture!("card-with-sound-and-usb");
    host.plant_tree(
        "/proc/9/comm = trainer\n/proc/9/fd/3 -> /dev/nvidia1\n/proc/9/fd/4 -> /dev/nvidiactl\n",
    );
    apply(&host, &step(&[], false)).unwrap();
}

#[test]
fn a_running_virtual_machine_keeps_its_gpu_also_when_the_step_is_undone() {
    let host = fixture!("card-with-sound-and-usb");
    let step = step(&[], false);
    let before = apply(&host, &step).unwrap();
    host.plant("/proc/12/cmdline", "/usr/bin/qemu-system-x86_64\0-device\0vfio-pci,host=01:00.0");
    let tree = host.tree();
    let error = step.undo(&context(&host), &before).unwrap_err();
    assert!(error.to_string().contains("runs a virtual machine with 0000:01:00.0"), "{error}");
    assert!(host.tree() == tree, "something was changed");
}

#[test]
fn a_failure_half_way_puts_every_function_back_to_its_driver() {
    for stubborn in 0..4 {
        let host = fixture!("card-with-sound-and-usb");
        host.plant(&format!("/@stubborn/vfio-pci/0000:01:00.{stubborn}"), "");
        let start = host.tree();
        let Err(error) = apply(&host, &step(&[], false)) else { panic!("it was done") };
        assert!(error.to_string().contains("drivers/vfio-pci/bind"), "{error}");
        let end = host.tree();
        let differs: Vec<&String> = start
            .keys()
            .chain(end.keys())
            .filter(|path| start.get(*path) != end.get(*path))
            .collect();
        assert_eq!(differs, Vec::<&String>::new(), "function {stubborn}");
    }
    // The old driver won't take it again either: that is told, and the others are back all the same.
    let host = fixture!("card-with-sound-and-usb");
    host.plant("/@stubborn/vfio-pci/0000:01:00.2", "");
    host.plant("/@stubborn/nvidia/0000:01:00.0", "");
    let Err(error) = apply(&host, &step(&[], false)) else { panic!("it was done") };
    assert!(error.to_string().contains("nor all be given back"), "{error}");
    assert_eq!(driver(&host, "0000:01:00.1").as_deref(), Some("snd_hda_intel"));
}

#[test]
fn a_driver_that_does_not_let_go_half_way_has_every_function_back_with_its_driver() {
    let drivers = ["nvidia", "snd_hda_intel", "xhci_hcd", "nvidia-gpu"];
    let mut failed = 0;
    for function in 0..4 {
        let host = fixture!("card-with-sound-and-usb");
        for driver in drivers {
            host.plant(&format!("/@clinging/{driver}/0000:01:00.{function}"), "");
        }
        let start = host.tree();
        let Err(error) = apply(&host, &step(&[], false)) else { continue };
        assert!(error.to_string().contains("/unbind"), "{error}");
        let end = host.tree();
        let paths = start.keys().chain(end.keys());
        let differs: Vec<_> = paths.filter(|path| start.get(*path) != end.get(*path)).collect();
        assert_eq!(differs, Vec::<&String>::new(), "function {function}");
        failed += 1;
    }
    assert!(failed >= 2, "first and later functions failed: {failed}");
}

#[test]
fn kdc_s_own_watch_lets_go_of_the_gpu_and_goes_on_and_whoever_else_has_it_is_still_named() {
    let watch = ["/etc/systemd/system/kdc-gpu.service", "/@active/kdc-gpu.service", "/run/kdc/x"];
    let host = fixture!("card-with-sound-and-usb");
    watch.iter().for_each(|path| host.plant(path, ""));
    apply(&host, &step(&[], false)).unwrap();
    let calls = host.calls();
    let place = |what: &str| calls.iter().position(|call| call.contains(what)).unwrap();
    let stopped = place("systemctl stop -- kdc-gpu.service");
    assert!(stopped < place("drivers/nvidia/unbind"), "{calls:?}");
    assert!(host.tree().contains_key("/@active/kdc-gpu.service"), "it goes on");
    let host = fixture!("card-with-sound-and-usb");
    watch.iter().for_each(|path| host.plant(path, ""));
    host.plant_tree("/proc/9/comm = trainer\n/proc/9/fd/3 -> /dev/nvidia0\n");
    refuses(&host, &step(&[], false), &["process 9 (trainer) has /dev/nvidia0 open"]);
}

#[test]
fn a_machine_without_groups_is_refused_with_what_to_switch_on() {
    let host = fixture!("iommu-off");
    refuses(&host, &step(&[], false), &["in no IOMMU group"]);
    host.plant("/run/kdc/reboot/iommu", "the kernel starts with intel_iommu=on");
    let Err(error) = apply(&host, &step(&[], false)) else { panic!("it was done") };
    assert_eq!(error.code(), "STEP-007");
    assert!(error.hint().unwrap().contains("reboot"));
}

#[test]
fn a_gpu_that_is_excepted_stays_and_one_that_is_not_found_stops_all() {
    let apart = include_str!("../../../tests/fixtures/gpu-nodes/two-cards-in-one-group.tree")
        .replace("iommu_group -> ../../../../kernel/iommu_groups/1", "iommu_group -> GROUP")
        .lines()
        .map(|line| match line.split_once("GROUP") {
            Some((path, _)) if path.contains("0000:03:00.0") => format!("{path}g/2"),
            Some((path, _)) => format!("{path}g/1"),
            None => line.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("\n");
    let uuid = "GPU-99999999-2222-3333-4444-555555555555";
    for except in [uuid, "1"] {
        let (host, except) = (machine(&apart), [except.to_owned()]);
        let step = BindVfio { gpus: &[], except: &except, display: false };
        apply(&host, &step).unwrap();
        assert_eq!(driver(&host, "0000:02:00.0").as_deref(), Some("vfio-pci"));
        assert_eq!(driver(&host, "0000:03:00.0").as_deref(), Some("nvidia"));
        let context = context(&host);
        assert!(step.is_satisfied_by(&step.probe(&context).unwrap()));
    }
    for except in ["GPU-0", "2"] {
        let (host, except) = (machine(&apart), [except.to_owned()]);
        refuses(
            &host,
            &BindVfio { gpus: &[], except: &except, display: false },
            &["which should stay"],
        );
    }
}
