//! CPUs: what they are, how many in which order, and what they can do.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Found, sight::Sight};

const INFO: &str = "/proc/cpuinfo";
const CPUS: &str = "/sys/devices/system/cpu";
const NODES: &str = "/sys/devices/system/node";
/// Most CPUs and NUMA nodes looked at one by one.
const MAX_CPUS: usize = 4096;

/// All CPUs of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    /// As the kernel calls it (`x86_64`).
    pub architecture: Found<String>,
    /// Who made it (`GenuineIntel`).
    pub vendor: Found<String>,
    /// Model name.
    pub model: Found<String>,
    /// Packages.
    pub sockets: Found<u32>,
    /// Cores of all packages.
    pub cores: Found<u32>,
    /// Logical CPUs that are online.
    pub threads: Found<u32>,
    /// Highest frequency.
    pub max_mhz: Found<u32>,
    /// NUMA nodes with their CPUs and memory.
    pub numa_nodes: Found<Vec<NumaNode>>,
    /// Flags of the first CPU.
    pub flags: Found<BTreeSet<String>>,
    /// `vmx` or `svm`: virtual machines can run here.
    pub virtualisation: Found<String>,
    /// This node is a virtual machine, and of which hypervisor.
    pub hypervisor: Found<String>,
}

/// One NUMA node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NumaNode {
    /// Number.
    pub id: u32,
    /// Its CPUs, as the kernel lists them (`0-15,32-47`).
    pub cpus: Found<String>,
    /// Its memory.
    pub memory_bytes: Found<u64>,
}

/// Read it all.
pub(super) fn probe(sight: &Sight) -> Cpu {
    let info = sight.excerpt(INFO, telling).map(|lines| lines.join("\n"));
    let first = |names: &[&str]| field(&info, names);
    let (sockets, cores) = probe_topology(sight, &info);
    let flags = first(&["flags", "Features"])
        .map(|line| line.split_ascii_whitespace().map(str::to_owned).collect::<BTreeSet<_>>());
    let has = |flag: &str| flags.value().is_some_and(|flags| flags.contains(flag));
    let virtualisation = match (&flags, ["vmx", "svm"].into_iter().find(|flag| has(flag))) {
        (Found::Unknown { reason, .. }, _) => Found::unknown(INFO, reason),
        (_, Some(flag)) => Found::present(flag.to_owned(), INFO),
        (_, None) => Found::absent(INFO),
    };
    Cpu {
        architecture: probe_architecture(sight),
        vendor: first(&["vendor_id", "CPU implementer"]),
        model: first(&["model name", "Model", "cpu model"]),
        sockets,
        cores,
        threads: sight
            .text(&format!("{CPUS}/online"))
            .parsed(|list| u32::try_from(parse_list(&list)?.len()).map_err(|e| e.to_string())),
        max_mhz: sight
            .number(&format!("{CPUS}/cpu0/cpufreq/cpuinfo_max_freq"))
            .parsed(|khz| u32::try_from(khz / 1000).map_err(|cause| cause.to_string())),
        numa_nodes: probe_nodes(sight),
        hypervisor: probe_hypervisor(sight, has("hypervisor")),
        flags,
        virtualisation,
    }
}

/// What is needed of `/proc/cpuinfo`: all of the first CPU, and the places of the others.
fn telling(text: &str) -> Vec<String> {
    const PLACES: [&str; 2] = ["physical id", "core id"];
    const ONCE: [&str; 7] =
        ["vendor_id", "CPU implementer", "model name", "Model", "cpu model", "flags", "Features"];
    let mut seen = BTreeSet::new();
    let mut wanted = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default().trim_end();
        PLACES.contains(&name) || (ONCE.contains(&name) && seen.insert(name.to_owned()))
    };
    text.lines().filter(|line| wanted(line)).map(str::to_owned).collect()
}

fn probe_architecture(sight: &Sight) -> Found<String> {
    match sight.text("/proc/sys/kernel/arch") {
        // Kernels before 6.1 have no such file; then it is what this program was built for.
        Found::Absent { .. } => Found::present(std::env::consts::ARCH.to_owned(), "this program"),
        found => found,
    }
}

/// The first line of one of these names in `/proc/cpuinfo`.
fn field(info: &Found<String>, names: &[&str]) -> Found<String> {
    let text = match info {
        Found::Present { value, .. } => value,
        Found::Absent { source } => return Found::absent(source),
        Found::Unknown { source, reason } => return Found::unknown(source, reason),
    };
    let value = names.iter().find_map(|name| text.lines().find_map(|line| value_of(line, name)));
    match value {
        Some(value) if !value.is_empty() => Found::present(value.to_owned(), INFO),
        _ => Found::absent(INFO),
    }
}

fn value_of<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (found, value) = line.split_once(':')?;
    (found.trim_end() == name).then(|| value.trim())
}

/// Packages and cores: from `/proc/cpuinfo` where it has them (x86), else file by file.
fn probe_topology(sight: &Sight, info: &Found<String>) -> (Found<u32>, Found<u32>) {
    let pairs = info.value().map(|text| parse_pairs(text)).unwrap_or_default();
    if !pairs.is_empty() {
        return counted(&pairs, INFO);
    }
    let source = format!("{CPUS}/cpu*/topology");
    let mut pairs = BTreeSet::new();
    let online = sight.text(&format!("{CPUS}/online")).parsed(|list| parse_list(&list));
    for cpu in online.value().into_iter().flatten().take(MAX_CPUS) {
        let number = |name: &str| {
            let path = format!("{CPUS}/cpu{cpu}/topology/{name}");
            sight.text(&path).value().and_then(|text| text.parse::<i64>().ok())
        };
        if let (Some(package), Some(core)) = (number("physical_package_id"), number("core_id")) {
            pairs.insert((package, core));
        }
    }
    if pairs.is_empty() {
        let reason = "the kernel tells no topology";
        return (Found::unknown(&source, reason), Found::unknown(source, reason));
    }
    counted(&pairs, &source)
}

fn counted(pairs: &BTreeSet<(i64, i64)>, source: &str) -> (Found<u32>, Found<u32>) {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let packages: BTreeSet<i64> = pairs.iter().map(|(package, _)| *package).collect();
    (Found::present(count(packages.len()), source), Found::present(count(pairs.len()), source))
}

/// (package, core) of each CPU.
fn parse_pairs(text: &str) -> BTreeSet<(i64, i64)> {
    let mut pairs = BTreeSet::new();
    let mut package = None;
    for line in text.lines() {
        if let Some(value) = value_of(line, "physical id") {
            package = value.parse().ok();
        }
        if let (Some(value), Some(package)) = (value_of(line, "core id"), package)
            && let Ok(core) = value.parse()
        {
            pairs.insert((package, core));
        }
    }
    pairs
}

/// `0-3,8` → 0, 1, 2, 3, 8.
fn parse_list(list: &str) -> Result<Vec<u32>, String> {
    let bad = || format!("`{list}` is no list of CPUs");
    let mut numbers = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u32, u32) =
            (from.parse().map_err(|_| bad())?, to.parse().map_err(|_| bad())?);
        if to < from || numbers.len() + (to - from) as usize >= MAX_CPUS {
            return Err(bad());
        }
        numbers.extend(from..=to);
    }
    Ok(numbers)
}

fn probe_nodes(sight: &Sight) -> Found<Vec<NumaNode>> {
    sight.text(&format!("{NODES}/online")).parsed(|list| parse_list(&list)).map(|ids| {
        let node = |id: u32| {
            let read = |name: &str| sight.text(&format!("{NODES}/node{id}/{name}"));
            NumaNode {
                id,
                // A node without CPUs has an empty list.
                cpus: read("cpulist"),
                memory_bytes: read("meminfo").parsed(|text| parse_total(&text)),
            }
        };
        ids.into_iter().map(node).collect()
    })
}

/// `Node 0 MemTotal:       24576000 kB` → bytes.
fn parse_total(text: &str) -> Result<u64, String> {
    let total = text.lines().find(|line| line.contains("MemTotal:"));
    let kib = total.and_then(|line| line.split_ascii_whitespace().nth_back(1)?.parse::<u64>().ok());
    kib.map(|kib| kib.saturating_mul(1024)).ok_or_else(|| "it tells no MemTotal".to_owned())
}

/// The flag says whether; the firmware's names say which.
fn probe_hypervisor(sight: &Sight, flag: bool) -> Found<String> {
    let xen = sight.text("/sys/hypervisor/type");
    if xen.value().is_some() {
        return xen;
    }
    for name in ["sys_vendor", "product_name", "bios_vendor"] {
        let path = format!("/sys/class/dmi/id/{name}");
        let text = sight.text(&path);
        let known = text.value().and_then(|text| named_hypervisor(text));
        if let Some(known) = known {
            return Found::present(known.to_owned(), path);
        }
    }
    match flag {
        true => Found::present("unnamed".to_owned(), INFO),
        false => Found::absent(INFO),
    }
}

fn named_hypervisor(text: &str) -> Option<&'static str> {
    [
        ("QEMU", "qemu"),
        ("KVM", "kvm"),
        ("VMware", "vmware"),
        ("VirtualBox", "virtualbox"),
        ("innotek", "virtualbox"),
        ("Xen", "xen"),
        ("Virtual Machine", "hyper-v"),
        ("Bochs", "qemu"),
        ("Amazon EC2", "ec2"),
        ("Google Compute Engine", "gce"),
        ("OpenStack", "openstack"),
        ("Firecracker", "firecracker"),
    ]
    .into_iter()
    .find_map(|(part, name)| text.contains(part).then_some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_numa_node_is_read_and_none_is_not_zero() {
        let text = "Node 0 MemTotal:       1024 kB\nNode 0 MemFree:        12 kB";
        assert_eq!(parse_total(text), Ok(1024 * 1024));
        for bad in ["", "Node 0 MemFree: 12 kB", "Node 0 MemTotal: much kB"] {
            assert!(parse_total(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_of_cpus_are_read_and_absurd_ones_refused() {
        assert_eq!(parse_list("0-2,8").unwrap(), [0, 1, 2, 8]);
        assert!(parse_list("").unwrap().is_empty());
        for bad in ["x", "3-1", "0-4294967295"] {
            assert!(parse_list(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn two_packages_with_cores_of_the_same_numbers_are_told_apart() {
        let cpu = |package, core| format!("physical id\t: {package}\ncore id\t\t: {core}\n\n");
        let text = [cpu(0, 0), cpu(0, 1), cpu(1, 0), cpu(1, 1), cpu(0, 0)].concat();
        let (sockets, cores) = counted(&parse_pairs(&text), INFO);
        assert_eq!((sockets.value(), cores.value()), (Some(&2), Some(&4)));
    }
}
