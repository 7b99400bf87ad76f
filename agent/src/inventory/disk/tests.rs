use std::path::Path;

use super::*;
use crate::facts::Look;

/// A tree with one disk of 10 GiB that has been read and holds nothing.
fn machine() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let root = place.path();
    for (path, text) in [
        ("sys/devices/pci0000:00/0000:00:05.0/ata1/block/sda/dev", "8:0\n"),
        ("sys/devices/pci0000:00/0000:00:05.0/ata1/block/sda/size", "20971520\n"),
        ("sys/devices/pci0000:00/0000:00:05.0/ata1/block/sda/removable", "0\n"),
        ("sys/devices/pci0000:00/0000:00:05.0/ata1/block/sda/ro", "0\n"),
        ("sys/devices/virtual/block/dm-0/dm/name", "vg-root\n"),
        ("sys/devices/virtual/block/dm-0/dm/uuid", "LVM-abc\n"),
        ("sys/devices/virtual/block/dm-0/size", "2048\n"),
        ("sys/devices/virtual/block/dm-0/dev", "253:0\n"),
        ("proc/self/mountinfo", "1 0 253:0 / / rw - ext4 /dev/mapper/vg-root rw\n"),
        ("proc/swaps", "Filename Type Size Used Priority\n"),
        ("kdc-recorded/marks-sda.hex", &hex::encode("sda\n")),
    ] {
        put(root, path, text);
    }
    for folder in ["ata1/block/sda/holders", "ata1/block/sda/queue"] {
        let under = root.join("sys/devices/pci0000:00/0000:00:05.0");
        fs_err::create_dir_all(under.join(folder)).unwrap();
    }
    let class = root.join("sys/class/block");
    fs_err::create_dir_all(&class).unwrap();
    for (name, target) in [
        ("sda", "../../devices/pci0000:00/0000:00:05.0/ata1/block/sda"),
        ("dm-0", "../../devices/virtual/block/dm-0"),
    ] {
        std::os::unix::fs::symlink(target, class.join(name)).unwrap();
    }
    place
}

fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    fs_err::write(path, text).unwrap();
}

fn only_disk(root: &Path) -> Disk {
    let look = Look::at(root);
    let mut disks = probe(&Sight::new(&look)).disks.value().unwrap().clone();
    assert_eq!(disks.len(), 1, "{disks:?}");
    disks.remove(0)
}

#[test]
fn an_empty_disk_is_free_and_each_use_is_a_reason_of_its_own() {
    let sda = "sys/devices/pci0000:00/0000:00:05.0/ata1/block/sda";
    let marks = "kdc-recorded/marks-sda.hex";
    let mount = "1 0 8:0 / /data rw - xfs /dev/sda rw\n";
    let bluestore = format!("sda\nsda 0 {}\n", hex::encode("bluestore block device"));
    type Change<'a> = (&'a str, String, &'a str);
    let changes: &[Change] = &[
        ("unrelated", String::new(), "whole, empty"),
        (&format!("{sda}/size"), "2048\n".into(), "smaller than 5 GiB"),
        (&format!("{sda}/ro"), "1\n".into(), "only be read"),
        (&format!("{sda}/removable"), "1\n".into(), "taken out"),
        (&format!("{sda}/holders/dm-0"), String::new(), "vg-root holds it"),
        ("proc/self/mountinfo", mount.into(), "mounted at /data"),
        ("proc/swaps", "Filename\n/dev/sda partition 1 0 -2\n".into(), "swap in use"),
        (marks, hex::encode(&bluestore), "Ceph OSD already"),
        ("run/udev/data/b8:0", "E:ID_FS_TYPE=LVM2_member\n".into(), "physical volume of LVM"),
        ("run/udev/data/b8:0", "E:ID_PART_TABLE_TYPE=gpt\n".into(), "partition table (gpt)"),
    ];
    for (path, text, reason) in changes {
        let place = machine();
        put(place.path(), path, text);
        let disk = only_disk(place.path());
        let rook = disk.rook.value().unwrap_or_else(|| panic!("{path}: {:?}", disk.rook));
        assert_eq!(rook.free, *path == "unrelated", "{path}: {rook:?}");
        assert!(rook.because.len() == 1 && rook.because[0].contains(reason), "{path}: {rook:?}");
    }
}

#[test]
fn a_disk_that_nobody_could_look_into_is_never_called_free() {
    for missing in ["kdc-recorded/marks-sda.hex", "proc/self/mountinfo"] {
        let place = machine();
        fs_err::remove_file(place.path().join(missing)).unwrap();
        let disk = only_disk(place.path());
        assert!(disk.rook.reason().is_some(), "{missing}: {:?}", disk.rook);
    }
    // A folder in its place: it can't be read, and is not "not there".
    for unreadable in ["proc/swaps", "sys/devices/pci0000:00/0000:00:05.0/ata1/block/sda/ro"] {
        let place = machine();
        fs_err::remove_file(place.path().join(unreadable)).unwrap();
        fs_err::create_dir(place.path().join(unreadable)).unwrap();
        let disk = only_disk(place.path());
        assert!(disk.rook.reason().is_some(), "{unreadable}: {:?}", disk.rook);
    }
    // udev knows the disk and nothing on it, but its bytes could not be read.
    let place = machine();
    fs_err::remove_file(place.path().join("kdc-recorded/marks-sda.hex")).unwrap();
    put(place.path(), "run/udev/data/b8:0", "E:ID_SERIAL=x\n");
    let disk = only_disk(place.path());
    assert!(disk.rook.reason().is_some_and(|why| why.contains("content")), "{:?}", disk.rook);
}

#[test]
fn a_disk_is_found_with_what_it_hangs_on_and_a_volume_with_its_mount() {
    let place = machine();
    let disk = only_disk(place.path());
    assert_eq!(disk.transport.value().unwrap(), "sata");
    assert_eq!(disk.pci_address.value().unwrap(), "0000:00:05.0");
    assert_eq!(disk.size_bytes.value(), Some(&10_737_418_240));
    assert!(matches!(disk.serial, Found::Absent { .. }));
    let look = Look::at(place.path());
    let volumes = probe(&Sight::new(&look)).volumes;
    let volume = &volumes.value().unwrap()[0];
    assert_eq!(volume.known_as.value().unwrap(), "vg-root");
    assert_eq!(volume.kind.value().unwrap(), "LVM");
    assert_eq!(volume.mounts.value().unwrap(), &["/"]);
}

#[test]
fn partitions_belong_to_the_disk_that_their_link_leads_through() {
    let links = [
        ("nvme0n1", "../../devices/pci0000:00/0000:00:08.0/nvme/nvme0/nvme0n1"),
        ("nvme0n1p1", "../../devices/pci0000:00/0000:00:08.0/nvme/nvme0/nvme0n1/nvme0n1p1"),
        ("nvme1n1", "../../devices/virtual/nvme-subsystem/nvme-subsys1/nvme1n1"),
        ("sda", "../../devices/pci0000:00/0000:00:05.0/ata1/block/sda"),
        ("sda2", "../../devices/pci0000:00/0000:00:05.0/ata1/block/sda/sda2"),
        ("loop0", "../../devices/virtual/block/loop0"),
        ("loop0p1", "../../devices/virtual/block/loop0/loop0p1"),
    ];
    let links = links.map(|(name, link)| (name.to_owned(), link.to_owned()));
    let tree = Tree::of(&links.into_iter().collect()).0;
    let parts: Vec<String> = tree.iter().map(|(disk, parts)| format!("{disk} {parts:?}")).collect();
    assert_eq!(parts, ["nvme0n1 [\"nvme0n1p1\"]", "nvme1n1 []", "sda [\"sda2\"]"]);
}

#[test]
fn disks_are_told_from_what_is_not_one() {
    for (name, disk) in [
        ("sda", true),
        ("nvme0n1", true),
        ("vda", true),
        ("mmcblk0", true),
        ("loop0", false),
        ("dm-1", false),
        ("md127", false),
        ("nvme0c0n1", false),
        ("ram0", false),
        ("zram0", false),
        ("sr0", false),
    ] {
        assert_eq!(is_disk(name), disk, "{name}");
    }
}

#[test]
fn no_list_is_told_that_lacks_what_could_not_be_told_apart() {
    let place = machine();
    // A place that can't be followed: `readlink` fails on it.
    put(place.path(), "sys/class/block/sdb", "");
    let look = Look::at(place.path());
    let storage = probe(&Sight::new(&look));
    assert_eq!(storage.disks.source(), "/sys/class/block/sdb");
    assert!(storage.disks.reason().is_some(), "{:?}", storage.disks);
    assert!(storage.volumes.reason().is_some());
    assert!(storage.mounts.value().is_some(), "mounts were read elsewhere");
}
