use super::*;
use crate::{
    host::fake::{FakeHost, Tree},
    step::gpu::kit_tests::context,
};

const FIRST: &str = "GPU-11111111-0000-0000-0000-000000000000";
const SECOND: &str = "GPU-22222222-0000-0000-0000-000000000000";

/// MIG is off on the first GPU; the second has a large instance that is cut itself, and a small one.
fn machine() -> FakeHost {
    let host = FakeHost::debian();
    host.plant_tree(include_str!(
        "../../../tests/fixtures/gpu-nodes/two-gpus-that-can-be-cut.tree"
    ));
    host
}

fn gpus(host: &FakeHost) -> Vec<CutGpu> {
    look_at_gpus(host).unwrap()
}

/// Change one GPU of the machine before the test.
fn arrange(host: &FakeHost, index: usize, how: impl FnOnce(&mut CutGpu)) {
    let mut gpu = gpus(host).remove(index);
    how(&mut gpu);
    host.plant(&format!("/@gpus/{index}"), &format!("{}\n", serde_json::to_string(&gpu).unwrap()));
}

fn geometry(parts: &[(&str, u8)]) -> BTreeMap<String, u8> {
    parts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

fn step<'a>(geometry: &'a BTreeMap<String, u8>, except: &'a [String]) -> SetMigGeometry<'a> {
    SetMigGeometry { geometry, except }
}

/// Looks, then applies.
fn apply(host: &FakeHost, step: &SetMigGeometry<'_>) -> Result<Before, StepError> {
    let context = context(host);
    let before = step.probe(&context)?;
    step.apply(&context, &before).map(|()| before)
}

fn differing(left: &Tree, right: &Tree) -> Vec<String> {
    let paths = left.keys().chain(right.keys());
    paths.filter(|path| left.get(*path) != right.get(*path)).cloned().collect()
}

/// Refused with these words, and nothing of the machine changed.
fn refuses(host: &FakeHost, step: &SetMigGeometry<'_>, words: &[&str]) {
    let start = host.tree();
    let Err(error) = apply(host, step) else { panic!("{words:?}: it was done") };
    for word in words {
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "{error}");
    assert_eq!(differing(&start, &host.tree()), [""; 0], "{error}");
}

fn standing(host: &FakeHost, index: usize) -> Vec<(u32, u32)> {
    gpus(host)[index].instances.iter().map(|one| (one.profile, one.start)).collect()
}

#[test]
fn gpus_are_cut_as_wanted_now_and_at_boot_and_come_back_as_they_were() {
    let (host, wanted) = (machine(), geometry(&[("3g.40gb", 1), ("1g.10gb", 2)]));
    let (start, step) = (host.tree(), step(&wanted, &[]));
    let context = context(&host);
    let before = step.probe(&context).unwrap();
    assert!(!step.is_satisfied_by(&before));
    let told = step.detail(&before);
    for words in [
        &*format!(
            "{FIRST} (NVIDIA H100 80GB HBM3): switches MIG on, which resets it or waits for a reboot; makes 2 x 1g.10gb and 1 x 3g.40gb"
        ),
        // The large one is of the right profile and cut itself: what is wanted can be had whole.
        &*format!(
            "{SECOND} (NVIDIA H100 80GB HBM3): takes away 3g.40gb (instance 1), makes 3g.40gb at slice 0, makes 1g.10gb at slice 5"
        ),
        "the same at every boot",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    step.apply(&context, &before).unwrap();
    for gpu in gpus(&host) {
        assert!(stands(&gpu, &wanted), "{gpu:?}");
    }
    assert!(step.is_satisfied_by(&step.probe(&context).unwrap()));
    let tree = host.tree();
    let text = |path: &str| String::from_utf8(tree[path].content.clone()).unwrap();
    let written: Written = serde_json::from_str(&text(FILE)).unwrap();
    assert_eq!((written.geometry, written.except), (wanted.clone(), Vec::new()));
    assert_eq!(text(&link_path()), unit_path());
    assert!(text(&unit_path()).contains("gpu-instances --settle"));
    assert!(!host.calls().iter().any(|call| call.contains("systemctl")), "no systemd");
    step.undo(&context, &before).unwrap();
    assert_eq!(differing(&start, &host.tree()), [""; 0]);
}

#[test]
fn what_is_used_and_wanted_stays_and_what_is_used_and_not_wanted_is_refused_by_name() {
    let host = machine();
    let except = ["0".to_owned()];
    // The small one is used and wanted: it stays, and the rest is made beside it.
    host.plant_tree("/proc/9/comm = trainer\n/proc/9/fd/3 -> /dev/nvidia1\n/proc/9/fd/4 -> /dev/nvidia-caps/nvidia-cap49\n");
    let wanted = geometry(&[("1g.10gb", 1), ("2g.20gb", 2)]);
    apply(&host, &step(&wanted, &except)).unwrap();
    assert_eq!(standing(&host, 1), [(14, 0), (14, 2), (19, 4)]);
    assert!(!gpus(&host)[0].mode.unwrap().current, "the one that is excepted stays as it was");
    // And where it would have to go, nothing is done.
    let wanted = geometry(&[("7g.80gb", 1)]);
    let words = [SECOND, "is in use: process 9 (trainer) has /dev/nvidia-caps/nvidia-cap49 open"];
    refuses(&host, &step(&wanted, &except), &words);
}

#[test]
fn a_pod_that_was_given_an_instance_keeps_it_and_is_named() {
    let uid = "0f2f8a5e-1c7b-4c39-9d0e-5b8f3a1c2d4e";
    let wanted = geometry(&[("7g.80gb", 1)]);
    for (device, told) in [
        ("MIG-1-4-0", true),
        // Nobody can tell whose it is.
        ("MIG-gone", true),
        (SECOND, true),
        (FIRST, false),
    ] {
        let host = machine();
        let record = format!(
            r#"{{"Data":{{"PodDeviceEntries":[{{"PodUID":"{uid}","ContainerName":"c","ResourceName":"nvidia.com/mig-1g.10gb","DeviceIDs":{{"-1":["{device}"]}},"AllocResp":""}}]}},"Checksum":1}}"#
        );
        host.plant("/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint", &record);
        host.plant_tree(&format!(
            "/var/lib/kubelet/pods/{uid}/volumes/\n/var/log/pods/default_train-0_{uid}/\n"
        ));
        let (except, words) =
            (["0".to_owned()], "pod default/train-0 was given nvidia.com/mig-1g.10gb");
        if told {
            refuses(&host, &step(&wanted, &except), &[SECOND, words]);
            crate::host::Host::remove_tree(&host, &format!("/var/lib/kubelet/pods/{uid}")).unwrap();
        }
        apply(&host, &step(&wanted, &except)).unwrap();
    }
}

#[test]
fn mig_is_not_switched_on_under_anybody() {
    let wanted = geometry(&[("1g.10gb", 7)]);
    let except = ["1".to_owned()];
    let host = machine();
    host.plant_tree("/proc/812/comm = nvidia-persiste\n/proc/812/fd/5 -> /dev/nvidia0\n");
    let words = [FIRST, "process 812 (nvidia-persiste) has /dev/nvidia0 open"];
    refuses(&host, &step(&wanted, &except), &words);
    // The driver knows of one whose files can't be seen.
    let host = machine();
    host.plant("/proc/77/comm", "python3\n");
    let process = crate::gpu::mig::CutProcess { pid: 77, instance: None };
    arrange(&host, 0, |gpu| gpu.processes.push(process));
    refuses(&host, &step(&wanted, &except), &[FIRST, "process 77 (python3) runs on it"]);
    // One on the other GPU is none of ours.
    let host = machine();
    host.plant_tree("/proc/9/comm = trainer\n/proc/9/fd/3 -> /dev/nvidia1\n");
    apply(&host, &step(&wanted, &except)).unwrap();
}

#[test]
fn what_a_gpu_can_t_have_is_refused_with_what_it_can() {
    for (parts, words) in [
        (
            vec![("1g.5gb", 1)],
            vec![FIRST, SECOND, "no profile `1g.5gb`; it has 1g.10gb, 1g.10gb+me"],
        ),
        (vec![("4g.40gb", 2)], vec!["2 x 4g.40gb do not fit", "1 x 4g.40gb would"]),
        (
            vec![("3g.40gb", 1), ("4g.40gb", 2)],
            vec!["do not fit", "1 x 3g.40gb and 1 x 4g.40gb would"],
        ),
    ] {
        let wanted = geometry(&parts);
        refuses(&machine(), &step(&wanted, &[]), &words);
    }
    let wanted = geometry(&[("1g.10gb", 7)]);
    let host = machine();
    arrange(&host, 0, |gpu| (gpu.mode, gpu.profiles) = (None, Vec::new()));
    refuses(&host, &step(&wanted, &[]), &[FIRST, "knows no MIG"]);
    apply(&host, &step(&wanted, &[FIRST.to_owned()])).unwrap();
    for except in [vec!["GPU-0"], vec!["2"], vec!["0", "1"]] {
        let except: Vec<String> = except.into_iter().map(str::to_owned).collect();
        refuses(&machine(), &step(&wanted, &except), &["GPU"]);
    }
}

#[test]
fn without_its_driver_a_node_is_not_begun_with() {
    let wanted = geometry(&[("1g.10gb", 7)]);
    let host = FakeHost::debian();
    let Err(error) = step(&wanted, &[]).probe(&context(&host)) else { panic!("it was looked at") };
    assert!(error.to_string().contains("not installed"), "{error}");
    assert!(error.hint().unwrap().contains("install the NVIDIA driver"));
    // It is only that nouveau still has the GPUs.
    host.plant(
        "/run/kdc/reboot/blacklist-nouveau",
        "the driver nouveau is loaded and goes with it\n",
    );
    let Err(error) = step(&wanted, &[]).probe(&context(&host)) else { panic!("it was looked at") };
    assert_eq!(error.code(), "STEP-007");
    assert!(error.to_string().contains("nouveau"), "{error}");
}

#[test]
fn a_driver_that_tells_its_profiles_with_mig_on_only_is_switched_on_first_and_off_again_where_none_fits()
 {
    let except = ["1".to_owned()];
    let host = machine();
    arrange(&host, 0, |gpu| gpu.profiles.clear());
    // The fake driver has none at all then, as one without that profile.
    let wanted = geometry(&[("1g.10gb", 7)]);
    refuses(&host, &step(&wanted, &except), &["no profile `1g.10gb`"]);
}

#[test]
fn where_mig_starts_with_a_reset_only_that_is_told_and_asked_for_and_the_boot_does_the_rest() {
    let (host, wanted) = (machine(), geometry(&[("1g.10gb", 7)]));
    let (except, start) = (["1".to_owned()], host.tree());
    host.plant("/@gpus-want-a-reset", "");
    let step = step(&wanted, &except);
    let before = apply(&host, &step).unwrap();
    let context = context(&host);
    assert!(step.is_satisfied_by(&step.probe(&context).unwrap()), "only the reboot is left");
    let waiting = reboot::waiting(&host).unwrap();
    assert_eq!(waiting["mig"], format!("MIG starts on {FIRST} (0000:17:00.0)"));
    let error = settle_instances(&host, &|_| ()).unwrap_err();
    assert_eq!(error.code(), "STEP-007");
    // The reboot: what is in /run goes, and MIG is on. The unit makes the instances.
    crate::host::Host::remove_tree(&host, "/run/kdc").unwrap();
    crate::host::Host::remove(&host, "/@gpus-want-a-reset").unwrap();
    arrange(&host, 0, |gpu| {
        gpu.mode = Some(crate::gpu::mig::Mode { current: true, pending: true })
    });
    assert!(!step.is_satisfied_by(&step.probe(&context).unwrap()));
    settle_instances(&host, &|_| ()).unwrap();
    assert!(step.is_satisfied_by(&step.probe(&context).unwrap()));
    step.undo(&context, &before).unwrap();
    assert_eq!(differing(&start, &host.tree()), [""; 0]);
}

#[test]
fn newer_cards_forget_all_with_a_reboot_and_have_all_again_by_the_unit() {
    let (host, wanted) = (machine(), geometry(&[("3g.40gb", 2)]));
    apply(&host, &step(&wanted, &[])).unwrap();
    for index in [0, 1] {
        arrange(&host, index, |gpu| {
            gpu.instances.clear();
            gpu.mode = Some(crate::gpu::mig::Mode { current: false, pending: false });
        });
    }
    settle_instances(&host, &|_| ()).unwrap();
    assert_eq!(
        (standing(&host, 0), standing(&host, 1)),
        (vec![(9, 0), (9, 4)], vec![(9, 0), (9, 4)])
    );
    // Nothing written down, nothing done.
    settle_instances(&FakeHost::debian(), &|_| ()).unwrap();
}

#[test]
fn a_failure_half_way_brings_every_gpu_back_to_how_it_was_cut() {
    let wanted = geometry(&[("3g.40gb", 1), ("1g.10gb", 2)]);
    let mut failed = 0;
    for number in 0..20 {
        let host = machine();
        let start = host.tree();
        host.plant("/@gpus-stubborn", &number.to_string());
        let Err(error) = apply(&host, &step(&wanted, &[])) else { break };
        assert!(error.to_string().contains("it would not"), "{error}");
        assert_eq!(differing(&start, &host.tree()), [""; 0], "order {number}");
        failed += 1;
    }
    assert_eq!(failed, 7, "MIG on, three made on the first; one gone, two made on the second");
}

#[test]
fn an_undo_leaves_what_somebody_uses() {
    let (host, wanted) = (machine(), geometry(&[("1g.10gb", 7)]));
    let step = step(&wanted, &[]);
    let before = apply(&host, &step).unwrap();
    host.plant("/proc/77/comm", "python3\n");
    let process = crate::gpu::mig::CutProcess { pid: 77, instance: Some(3) };
    arrange(&host, 0, |gpu| gpu.processes.push(process));
    let tree = host.tree();
    let error = step.undo(&context(&host), &before).unwrap_err();
    assert!(error.to_string().contains("process 77 (python3) runs on it"), "{error}");
    assert_eq!(differing(&tree, &host.tree()), [""; 0]);
}
