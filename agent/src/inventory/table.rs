//! The inventory for people: one screen that answers what an operator asks first.

use super::{Disk, Found, Inventory, Link, PciDevice, Report, Signature};
use crate::columns::aligned;

/// Render the report as text, without colours, lines no longer than the names in them make it.
#[must_use]
pub fn render_table(report: &Report) -> String {
    let inventory = &report.inventory;
    let mut lines = Vec::new();
    for (name, text) in [
        ("machine", machine(inventory)),
        ("system", system(inventory)),
        ("cpu", cpu(inventory)),
        ("memory", memory(inventory)),
        ("security", security(inventory)),
        ("kdc", kdc(report)),
    ] {
        lines.push(format!("{name:<9} {text}"));
    }
    section(&mut lines, &disks(&inventory.disks));
    section(&mut lines, &links(inventory));
    section(&mut lines, &gpus(&inventory.pci));
    if !inventory.gpus.gpus.is_empty() {
        lines.push(String::new());
        lines.extend(crate::gpu::show::brief(&inventory.gpus));
    }
    lines.push(String::new());
    lines.push(format!("{}; all of it: --output json", report.content_hash));
    lines.join("\n")
}

fn section(lines: &mut Vec<String>, rows: &[Vec<String>]) {
    lines.push(String::new());
    lines.extend(aligned(rows));
}

/// The value, `-` where there is none, `?` where nobody could look.
fn cell<T: ToString>(found: &Found<T>) -> String {
    match found {
        Found::Present { value, .. } => value.to_string(),
        Found::Absent { .. } => "-".to_owned(),
        Found::Unknown { .. } => "?".to_owned(),
    }
}

/// Sizes as disks and memory are sold: no more than needed to tell two apart.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut scaled = bytes as f64;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    match scaled < 10.0 && unit > 0 && scaled.fract() >= 0.05 {
        true => format!("{scaled:.1} {}", UNITS[unit]),
        false => format!("{scaled:.0} {}", UNITS[unit]),
    }
}

fn joined(parts: impl IntoIterator<Item = Option<String>>) -> String {
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn named<T: ToString>(name: &str, found: &Found<T>) -> Option<String> {
    match found {
        Found::Absent { .. } => None,
        found => Some(format!("{name} {}", cell(found))),
    }
}

fn machine(inventory: &Inventory) -> String {
    let (machine, firmware) = (&inventory.machine, &inventory.firmware);
    let virtual_machine = inventory.cpu.hypervisor.value().map(|name| match name.as_str() {
        "unnamed" => "virtual".to_owned(),
        name => format!("virtual ({name})"),
    });
    joined([
        match (machine.vendor.value(), machine.product.value()) {
            (None, None) => Some("of a maker that its firmware doesn't name".to_owned()),
            _ => Some(format!("{} {}", cell(&machine.vendor), cell(&machine.product))),
        },
        named("serial", &machine.serial),
        virtual_machine,
        Some(cell(&firmware.boot)),
        named("firmware", &firmware.bios_version),
        named("of", &firmware.bios_date),
    ])
}

fn system(inventory: &Inventory) -> String {
    let system = &inventory.system;
    joined([
        Some(cell(&system.os_name)),
        named("kernel", &system.kernel),
        Some(format!("cgroup {}", cell(&system.cgroup))),
        named("IOMMU groups:", &system.iommu_groups).or_else(|| Some("IOMMU off".to_owned())),
    ])
}

fn cpu(inventory: &Inventory) -> String {
    let cpu = &inventory.cpu;
    joined([
        Some(format!("{} × {}", cell(&cpu.sockets), cell(&cpu.model))),
        Some(format!("{} cores", cell(&cpu.cores))),
        Some(format!("{} threads", cell(&cpu.threads))),
        cpu.numa_nodes.value().map(|nodes| format!("{} NUMA", nodes.len())),
        named("virtualisation", &cpu.virtualisation),
        named("microcode", &inventory.firmware.microcode),
    ])
}

fn memory(inventory: &Inventory) -> String {
    let memory = &inventory.memory;
    let total = memory.total_bytes.value().map_or_else(|| "?".to_owned(), |bytes| size(*bytes));
    let modules = match &memory.modules {
        Found::Present { value, .. } => {
            let of = memory.slots.value().map(|slots| format!(" of {slots} slots"));
            let kinds = value.iter().filter_map(|module| {
                let speed = module.speed_mts.map(|speed| format!("-{speed}"));
                Some(format!("{}{}", module.kind.clone()?, speed.unwrap_or_default()))
            });
            let mut kinds: Vec<String> = kinds.collect();
            kinds.sort();
            kinds.dedup();
            Some(format!("{}{} {}", value.len(), of.unwrap_or_default(), kinds.join(" ")))
        }
        Found::Absent { .. } => None,
        Found::Unknown { reason, .. } => Some(format!("modules ? ({reason})")),
    };
    let errors = memory.errors.value().map(|errors| {
        format!("errors: {} corrected, {} not", errors.corrected, errors.uncorrected)
    });
    let huge: u64 = memory.huge_pages.value().map_or(0, |pools| {
        pools.iter().map(|pool| pool.page_bytes.saturating_mul(pool.pages)).sum()
    });
    joined([
        Some(total),
        modules.map(|text| text.trim_end().to_owned()),
        named("ECC", &memory.error_correction),
        errors,
        (huge > 0).then(|| format!("huge pages {}", size(huge))),
    ])
}

fn security(inventory: &Inventory) -> String {
    let system = &inventory.system;
    let tpm = inventory.tpm.value().and_then(|list| list.first());
    joined([
        named("secure boot", &inventory.firmware.secure_boot),
        named("lockdown", &system.lockdown),
        system.security_modules.value().map(|list| format!("modules {}", list.join(" "))),
        named("SELinux", &system.selinux),
        tpm.map(|tpm| format!("TPM {}", cell(&tpm.major_version)))
            .or_else(|| Some("no TPM".to_owned())),
        match (&inventory.bmc.devices, &inventory.bmc.ipmi) {
            (Found::Present { value, .. }, _) => Some(format!("BMC at {}", value.join(", "))),
            (_, Found::Present { value, .. }) => Some(format!("BMC {value} without a driver")),
            _ => Some("no BMC seen".to_owned()),
        },
    ])
}

fn kdc(report: &Report) -> String {
    let facts = &report.facts;
    let cluster = match &facts.ownership.cluster {
        Some(cluster) => format!("node of `{cluster}`"),
        None => "in no cluster".to_owned(),
    };
    let foreign = facts.foreign.value().filter(|list| !list.is_empty()).map(|list| {
        let names: Vec<&str> = list.iter().map(|foreign| foreign.what.as_str()).collect();
        format!("in the way: {}", names.join(", "))
    });
    let swap = facts.swap.value().filter(|swaps| !swaps.is_empty());
    joined([
        Some(format!("agent {}", report.agent_version)),
        Some(cluster),
        foreign,
        swap.map(|_| "swap is on".to_owned()),
    ])
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn disks(disks: &Found<Vec<Disk>>) -> Vec<Vec<String>> {
    let mut rows = vec![row(["DISK", "SIZE", "KIND", "MODEL", "HOLDS", "FREE FOR ROOK"])];
    match disks {
        Found::Present { value, .. } => rows.extend(value.iter().map(disk)),
        Found::Absent { .. } => rows.push(row(["none"])),
        Found::Unknown { reason, .. } => rows.push(vec![format!("? ({reason})")]),
    }
    rows
}

fn disk(disk: &Disk) -> Vec<String> {
    let turns = match disk.rotational.value() {
        Some(true) => " hdd",
        Some(false) => " ssd",
        None => "",
    };
    let free = match &disk.rook {
        Found::Present { value, .. } if value.free => "yes".to_owned(),
        Found::Present { value, .. } => format!("no: {}", value.because.join("; ")),
        Found::Absent { .. } => "-".to_owned(),
        Found::Unknown { reason, .. } => format!("?: {reason}"),
    };
    let worn = disk.nvme.value().and_then(|nvme| nvme.health.value());
    let sick = worn.filter(|health| !health.warnings.is_empty());
    vec![
        disk.name.clone(),
        disk.size_bytes.value().map_or_else(|| "?".to_owned(), |bytes| size(*bytes)),
        format!("{}{turns}", cell(&disk.transport)),
        match worn {
            Some(health) => format!("{} ({} % used)", cell(&disk.model), health.used_percent),
            None => cell(&disk.model),
        },
        holds(disk),
        match sick {
            Some(health) => format!("{free}; SICK: {}", health.warnings.join(", ")),
            None => free,
        },
    ]
}

fn holds(disk: &Disk) -> String {
    let inside = disk.partitions.value().into_iter().flatten().map(|part| &part.signatures);
    let mut kinds: Vec<&str> = std::iter::once(&disk.signatures)
        .chain(inside)
        .filter_map(Found::value)
        .flatten()
        .map(|signature: &Signature| signature.kind.as_str())
        .collect();
    kinds.dedup();
    match (kinds.is_empty(), &disk.signatures) {
        (true, Found::Unknown { .. }) => "?".to_owned(),
        (true, _) => "-".to_owned(),
        (false, _) => kinds.join(" "),
    }
}

fn links(inventory: &Inventory) -> Vec<Vec<String>> {
    let mut rows =
        vec![row(["LINK", "KIND", "STATE", "SPEED", "MTU", "DRIVER", "MAC", "ADDRESSES"])];
    let links = match &inventory.network.links {
        Found::Present { value, .. } => value,
        Found::Absent { .. } => return rows,
        Found::Unknown { reason, .. } => {
            rows.push(vec![format!("? ({reason})")]);
            return rows;
        }
    };
    let addresses = |link: &Link| {
        let all = inventory.network.addresses.value().into_iter().flatten();
        let own = all.filter(|address| address.link == link.name && address.scope != "link");
        own.map(|address| address.address.as_str()).collect::<Vec<&str>>()
    };
    // The end of a pod's pair that is here has no address; one that has is how a container is connected.
    let of_pod = |link: &Link| link.kind == "veth" && addresses(link).is_empty();
    let shown = |link: &&Link| !["loopback", "ifb"].contains(&link.kind.as_str()) && !of_pod(link);
    rows.extend(links.iter().filter(shown).map(|link| {
        let own = addresses(link);
        let speed = link.speed_mbps.value().map(|mbps| match mbps % 1000 {
            0 => format!("{} Gb/s", mbps / 1000),
            _ => format!("{mbps} Mb/s"),
        });
        let master = link.master.value().map(|master| format!(" in {master}"));
        vec![
            link.name.clone(),
            format!("{}{}", link.kind, master.unwrap_or_default()),
            cell(&link.state),
            speed.unwrap_or_else(|| "-".to_owned()),
            cell(&link.mtu),
            cell(&link.driver),
            cell(&link.mac),
            if own.is_empty() { "-".to_owned() } else { own.join(" ") },
        ]
    }));
    let pods = links.iter().filter(|link| of_pod(link)).count();
    if pods > 0 {
        rows.push(vec![format!("and {pods} of pods (veth)")]);
    }
    rows
}

fn gpus(pci: &Found<Vec<PciDevice>>) -> Vec<Vec<String>> {
    let mut rows = vec![row(["GPU", "DEVICE", "DRIVER", "IOMMU GROUP", "NUMA"])];
    let devices = match pci {
        Found::Present { value, .. } => value.as_slice(),
        Found::Absent { .. } => &[],
        Found::Unknown { reason, .. } => {
            rows.push(vec![format!("? ({reason})")]);
            return rows;
        }
    };
    rows.extend(devices.iter().filter(|device| device.is_gpu()).map(|device| {
        let numbers = || format!("{}:{}", device.vendor, device.device);
        let name = device.names.value().and_then(|names| names.device.clone());
        vec![
            device.address.clone(),
            name.unwrap_or_else(numbers),
            cell(&device.driver),
            cell(&device.iommu_group),
            cell(&device.numa_node),
        ]
    }));
    if rows.len() == 1 {
        rows.push(row(["none"]));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_tell_apart() {
        for (bytes, text) in [
            (512, "512 B"),
            (1 << 20, "1 MiB"),
            (1_920_383_410_176, "1.7 TiB"),
            (480_103_981_056, "447 GiB"),
            (8_589_934_592, "8 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn absent_and_unknown_look_different() {
        assert_eq!(cell(&Found::<u8>::absent("x")), "-");
        assert_eq!(cell(&Found::<u8>::unknown("x", "y")), "?");
        assert_eq!(named("ECC", &Found::<String>::absent("x")), None);
    }
}
