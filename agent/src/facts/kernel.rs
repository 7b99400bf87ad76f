//! The kernel: modules that are there in whatever way, and sysctls.

use std::collections::{BTreeMap, BTreeSet};

use super::{Known, look::Look};

/// Modules that Kubernetes and its networks ask for.
const MODULES: &[&str] = &[
    "br_netfilter",
    "bridge",
    "dummy",
    "geneve",
    "ip_set",
    "ip_tables",
    "ip_vs",
    "iptable_filter",
    "iptable_mangle",
    "iptable_nat",
    "nf_conntrack",
    "nf_nat",
    "nf_tables",
    "nft_compat",
    "openvswitch",
    "overlay",
    "tun",
    "veth",
    "vfio",
    "vfio_pci",
    "vxlan",
    "wireguard",
    "xt_MASQUERADE",
    "xt_addrtype",
    "xt_comment",
    "xt_conntrack",
    "xt_mark",
    "xt_nat",
];

/// What shows that a module's code is in the kernel even where no list names it.
const EVIDENCE: &[(&str, &str)] = &[
    ("br_netfilter", "/proc/sys/net/bridge/bridge-nf-call-iptables"),
    ("nf_conntrack", "/proc/sys/net/netfilter/nf_conntrack_max"),
    ("tun", "/dev/net/tun"),
];

/// Sysctls that plans and checks look at.
const SYSCTLS: &[&str] = &[
    "fs.file-max",
    "fs.inotify.max_user_instances",
    "fs.inotify.max_user_watches",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.pid_max",
    "net.bridge.bridge-nf-call-ip6tables",
    "net.bridge.bridge-nf-call-iptables",
    "net.ipv4.conf.all.forwarding",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.conf.default.rp_filter",
    "net.ipv4.ip_forward",
    "net.ipv6.conf.all.forwarding",
    "vm.max_map_count",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
    "vm.swappiness",
];

/// Loaded or built in.
pub(super) fn probe_modules(look: &Look, release: &str) -> Known<BTreeSet<String>> {
    let loaded = look.text("/proc/modules");
    // A kernel without loadable modules has no /proc/modules; /sys/module is always there.
    if loaded.is_err() && !look.exists("/sys/module") {
        return Known::Unknown("neither /proc/modules nor /sys/module can be read".to_owned());
    }
    let loaded = loaded.unwrap_or_default();
    let built_in =
        look.text(&format!("/lib/modules/{release}/modules.builtin")).unwrap_or_default();
    let file_systems = look.text("/proc/filesystems").unwrap_or_default();
    let mut there: BTreeSet<&str> =
        loaded.lines().filter_map(|line| line.split(' ').next()).collect();
    there.extend(built_in.lines().filter_map(built_in_name));
    there.extend(file_systems.lines().filter_map(|line| line.split_ascii_whitespace().last()));
    let evident = |module: &str| {
        there.contains(module)
            || there.contains(module.replace('_', "-").as_str())
            || look.exists(&format!("/sys/module/{module}"))
            || EVIDENCE.iter().any(|(name, path)| *name == module && look.exists(path))
    };
    Known::Known(
        MODULES.iter().filter(|name| evident(name)).map(|name| (*name).to_owned()).collect(),
    )
}

/// `kernel/net/bridge/bridge.ko` → `bridge`.
fn built_in_name(line: &str) -> Option<&str> {
    line.rsplit('/').next()?.split(".ko").next()
}

/// Values of those sysctls that exist.
pub(super) fn probe_sysctls(look: &Look) -> Known<BTreeMap<String, String>> {
    if !look.exists("/proc/sys") {
        return Known::Unknown("/proc/sys can't be read".to_owned());
    }
    Known::Known(
        SYSCTLS
            .iter()
            .filter_map(|key| {
                let value = look.text(&format!("/proc/sys/{}", key.replace('.', "/"))).ok()?;
                Some(((*key).to_owned(), value.trim().to_owned()))
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_modules_are_named_as_modprobe_does() {
        assert_eq!(built_in_name("kernel/fs/overlayfs/overlay.ko"), Some("overlay"));
        assert_eq!(built_in_name("kernel/net/netfilter/nf_conntrack.ko.xz"), Some("nf_conntrack"));
    }
}
