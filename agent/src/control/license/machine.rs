//! What machine this is: the parts of its fingerprint, read where the kernel shows them.
//!
//! Only links that are hardware count, by the address they were made with; in a container, which has none, the first
//! link does, since what a network plugin adds later has higher numbers.

use crate::{
    facts::Look,
    license::{Fingerprint, fingerprint::Part},
};

/// Most links that are looked at; a node with 250 pods has about 300.
const MAX_LINKS: usize = 4096;
/// Most devices below one another that a root file system stands on.
const MAX_LAYERS: usize = 8;

const DMI: &[(Part, &str)] = &[
    (Part::ProductUuid, "/sys/class/dmi/id/product_uuid"),
    (Part::BoardSerial, "/sys/class/dmi/id/board_serial"),
    (Part::ChassisSerial, "/sys/class/dmi/id/chassis_serial"),
];

/// Read it. What can't be read is left out.
#[must_use]
pub fn fingerprint(look: &Look) -> Fingerprint {
    let mut values = Vec::new();
    if let Ok(id) = look.text("/etc/machine-id") {
        values.push((Part::MachineId, id));
    }
    for (part, path) in DMI {
        if let Ok(value) = look.text(path) {
            values.push((*part, value));
        }
    }
    values.extend(addresses(look).into_iter().map(|address| (Part::Mac, address)));
    values.extend(root_disk(look).map(|disk| (Part::RootDisk, disk)));
    Fingerprint::of(&values)
}

struct Link {
    index: u64,
    hardware: bool,
    address: String,
}

fn addresses(look: &Look) -> Vec<String> {
    const FOLDER: &str = "/sys/class/net";
    let Ok(entries) = fs_err::read_dir(look.path(FOLDER)) else { return Vec::new() };
    let mut links = Vec::new();
    for entry in entries.flatten().take(MAX_LINKS) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let text = |file: &str| look.text(&format!("{FOLDER}/{name}/{file}")).unwrap_or_default();
        // A port of a bond shows the bond's address, and there its own.
        let own = text("bonding_slave/perm_hwaddr");
        let address = if own.trim().is_empty() { text("address") } else { own };
        let address = address.trim().to_owned();
        let virtual_function = look.exists(&format!("{FOLDER}/{name}/device/physfn"));
        if name != "lo" && !address.is_empty() {
            links.push(Link {
                index: text("ifindex").trim().parse().unwrap_or(u64::MAX),
                hardware: look.exists(&format!("{FOLDER}/{name}/device")) && !virtual_function,
                address,
            });
        }
    }
    if links.iter().any(|link| link.hardware) {
        return links.into_iter().filter(|link| link.hardware).map(|link| link.address).collect();
    }
    links.into_iter().min_by_key(|link| link.index).map(|link| link.address).into_iter().collect()
}

/// The name that the disk below the root file system was made with.
fn root_disk(look: &Look) -> Option<String> {
    let mounts = look.text("/proc/self/mountinfo").ok()?;
    let root = mounts.lines().rev().find(|line| line.split(' ').nth(4) == Some("/"))?;
    let number = root.split(' ').nth(2)?;
    let link = look.path(&format!("/sys/dev/block/{number}"));
    let mut device = fs_err::canonicalize(link).ok()?;
    for _ in 0..MAX_LAYERS {
        if device.join("partition").exists() {
            device = device.parent()?.to_owned();
        }
        // Volumes of LVM, RAIDs, encryption: what they stand on, the first by name.
        let below = fs_err::read_dir(device.join("slaves")).ok();
        let names = below.map(|entries| entries.flatten().map(|entry| entry.path()).collect());
        let mut names: Vec<std::path::PathBuf> = names.unwrap_or_default();
        names.sort();
        let Some(first) = names.first() else { break };
        device = fs_err::canonicalize(first).ok()?;
    }
    let names = ["wwid", "device/wwid", "device/serial", "serial"];
    let read = |name: &str| {
        let text = fs_err::read_to_string(device.join(name)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty() && text.len() <= 256)
    };
    names.into_iter().find_map(read)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.0.path().join(path.trim_start_matches('/'));
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        }

        fn link(&self, name: &str, index: u32, address: &str, hardware: bool) {
            let folder = format!("/sys/class/net/{name}");
            self.put(&format!("{folder}/ifindex"), &format!("{index}\n"));
            self.put(&format!("{folder}/address"), &format!("{address}\n"));
            if hardware {
                self.put(&format!("{folder}/device/vendor"), "0x8086\n");
            }
        }

        fn read(&self) -> Fingerprint {
            fingerprint(&Look::at(self.0.path()))
        }
    }

    fn server(id: &str) -> Tree {
        let tree = Tree::new();
        tree.put("/etc/machine-id", &format!("{}\n", id.repeat(32)));
        tree.put(
            "/sys/class/dmi/id/product_uuid",
            &format!("4c4c4544-0042-{id}{id}10-8057-c4c04f4a3233\n"),
        );
        tree.put("/sys/class/dmi/id/board_serial", &format!(".SERIAL{id}.\n"));
        tree.link("eno1", 2, &format!("b8:ca:3a:00:00:0{id}"), true);
        let disk = "/sys/devices/pci0/ata1/block/sda";
        tree.put(&format!("{disk}/device/wwid"), &format!("naa.5002538e4{id}\n"));
        tree.put(&format!("{disk}/sda1/partition"), "1\n");
        fs_err::create_dir_all(tree.0.path().join("sys/dev/block")).unwrap();
        symlink("../../devices/pci0/ata1/block/sda/sda1", tree.0.path().join("sys/dev/block/8:1"))
            .unwrap();
        tree.put("/proc/self/mountinfo", "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n");
        tree
    }

    #[test]
    fn the_same_machine_is_known_after_its_disk_was_swapped_and_another_is_another() {
        let (one, other) = (server("1"), server("2"));
        let before = one.read();
        assert!(!before.is_empty() && before.is_well_formed());
        assert!(!before.is_same_machine(&other.read()));
        one.put("/sys/devices/pci0/ata1/block/sda/device/wwid", "naa.5002538eff\n");
        one.put("/etc/machine-id", &"7".repeat(32));
        let after = one.read();
        assert!(after != before && after.is_same_machine(&before), "{after:?}");
    }

    #[test]
    fn what_pods_bring_changes_nothing_and_a_container_is_known_by_its_first_link() {
        let server = server("3");
        let before = server.read();
        server.link("veth12ab", 40, "0a:58:0a:f4:01:01", false);
        server.link("cni0", 7, "0a:58:0a:f4:01:02", false);
        assert_eq!(server.read(), before);
        let container = |id: &str| {
            let tree = Tree::new();
            tree.put("/etc/machine-id", &id.repeat(32));
            tree.link("eth0", 2, &format!("02:00:0a:42:00:1{id}"), false);
            tree.link("cni0", 3, &format!("9a:00:00:00:00:0{id}"), false);
            tree
        };
        let (one, other) = (container("1"), container("2"));
        assert!(!one.read().is_same_machine(&other.read()));
        let before = one.read();
        one.link("cni0", 3, "9a:11:11:11:11:11", false);
        assert_eq!(one.read(), before);
    }

    #[test]
    fn of_a_machine_that_shows_nothing_nothing_is_known() {
        assert!(Tree::new().read().is_empty());
    }
}
