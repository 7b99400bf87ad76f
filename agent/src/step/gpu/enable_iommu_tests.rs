use super::*;
use crate::host::fake::FakeHost;

fn machine() -> FakeHost {
    let host = FakeHost::debian();
    host.plant_tree(include_str!("../../../tests/fixtures/gpu-nodes/iommu-off.tree"));
    host
}

#[test]
fn each_processor_has_its_own_arguments() {
    for (vendor, arguments) in [
        ("GenuineIntel", vec!["intel_iommu=on", "iommu=pt"]),
        ("AuthenticAMD", vec!["amd_iommu=on", "iommu=pt"]),
        ("Somebody", vec![]),
    ] {
        let host = machine();
        host.plant("/proc/cpuinfo", &format!("processor\t: 0\nvendor_id\t: {vendor}\n"));
        assert_eq!(wanted(&host).unwrap(), arguments, "{vendor}");
    }
}

#[test]
fn what_was_switched_off_on_purpose_is_not_overruled() {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    assert!(refuse_contradiction(&words("quiet iommu=pt")).is_ok());
    let error = refuse_contradiction(&words("quiet intel_iommu=off")).unwrap_err();
    assert!(error.to_string().contains("`intel_iommu=off`"), "{error}");
}

#[test]
fn groups_that_are_there_are_all_that_is_wanted() {
    let missing = || PathState::Missing { parents: Vec::new() };
    let before = |groups, loader, missing_arguments: &[&str], request| Before {
        groups,
        loader,
        missing: missing_arguments.iter().map(|one| (*one).to_owned()).collect(),
        live: Vec::new(),
        file: None,
        request,
    };
    let asked = || PathState::Link { target: "x".to_owned() };
    let both: &[&str] = &["intel_iommu=on", "iommu=pt"];
    for (before, satisfied) in [
        (before(true, None, both, missing()), true),
        (before(false, Some(Loader::Grub), both, missing()), false),
        (before(false, Some(Loader::Grub), &[], asked()), true),
        (before(false, Some(Loader::Grub), &[], missing()), false),
        (before(false, None, both, asked()), false),
    ] {
        assert_eq!(
            EnableIommu.is_satisfied_by(&before),
            satisfied,
            "{}",
            EnableIommu.detail(&before)
        );
    }
}
