//! Recorded machines read as they did: each tree beside the inventory that it must give.

use std::path::{Path, PathBuf};

use super::{Found, Inventory, collect};
use crate::facts::Look;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/inventory")
}

fn recorded(name: &str) -> Inventory {
    collect(&Look::at(&fixtures().join(name)))
}

#[test]
fn every_recorded_machine_gives_the_inventory_beside_it() {
    let mut machines = 0;
    for entry in fs_err::read_dir(fixtures()).unwrap() {
        let tree = entry.unwrap().path();
        if !tree.is_dir() {
            continue;
        }
        machines += 1;
        let inventory = collect(&Look::at(&tree));
        let written = tree.with_extension("json");
        if std::env::var_os("KDC_WRITE_INVENTORY").is_some() {
            let text = serde_json::to_string_pretty(&inventory).unwrap();
            fs_err::write(&written, text + "\n").unwrap();
        }
        let wanted: Inventory =
            serde_json::from_str(&fs_err::read_to_string(&written).unwrap()).unwrap();
        let (found, wanted) =
            (serde_json::to_value(&inventory).unwrap(), serde_json::to_value(wanted).unwrap());
        for (part, value) in wanted.as_object().unwrap() {
            assert_eq!(
                &found[part],
                value,
                "{part} of {}: if that is right, KDC_WRITE_INVENTORY=1 cargo test -p kdc-agent recorded",
                tree.display()
            );
        }
    }
    assert!(machines >= 3, "{machines}");
}

#[test]
fn a_machine_with_nvme_disks_says_which_rook_may_take() {
    let inventory = recorded("qemu-nvme");
    let disks = inventory.disks.value().unwrap();
    let verdict = |name: &str| {
        let disk = disks.iter().find(|disk| disk.name == name).unwrap();
        disk.rook.value().unwrap().clone()
    };
    assert!(verdict("nvme0n1").free);
    for (name, reason) in [
        ("nvme1n1", "3 partitions"),
        ("nvme2n1", "OSD already"),
        ("vda", "mounted at /"),
        ("vdb", "smaller than 5 GiB"),
    ] {
        let verdict = verdict(name);
        assert!(!verdict.free, "{name}");
        assert!(verdict.because.join("; ").contains(reason), "{name}: {:?}", verdict.because);
    }
    let parts = disks.iter().find(|disk| disk.name == "nvme1n1").unwrap().partitions.value();
    let held = parts.unwrap().iter().map(|part| part.signatures.value().unwrap());
    let held: Vec<&str> = held.flatten().map(|held| held.kind.as_str()).collect();
    assert_eq!(held, ["swap", "ext4", "LVM2_member"]);
    let nvme = disks.iter().find(|disk| disk.name == "nvme0n1").unwrap();
    let health = nvme.nvme.value().unwrap().health.value().unwrap();
    assert!(health.warnings.is_empty() && health.celsius > 0, "{health:?}");
    let links = inventory.network.links.value().unwrap();
    let link = |name: &str| links.iter().find(|link| link.name == name).unwrap();
    assert_eq!(links.iter().filter(|link| link.kind == "physical").count(), 2);
    let bond = link("bond0").bond.value().unwrap().clone();
    assert_eq!(bond.links.value().unwrap(), &["eth1"]);
    assert_eq!(link("eth0.42").vlan.value().unwrap().id, 42);
    assert_eq!(link("br0").bridge.value().unwrap().links, ["eth0.42"]);
    assert!(inventory.memory.modules.value().is_some_and(|modules| !modules.is_empty()));
}

#[test]
fn a_server_without_a_firmware_of_its_own_says_what_nobody_could_look_at() {
    let inventory = recorded("lab-server");
    assert!(matches!(inventory.machine.vendor, Found::Absent { .. }));
    assert!(inventory.memory.modules.reason().is_some());
    let links = inventory.network.links.value().unwrap();
    assert!(links.iter().any(|link| link.kind == "veth"));
}
