//! What the differ leaves out, each with its reason. Keep it tight: a leftover could hide in everything named here.

/// Folders and files that are left out with all they hold.
pub const PATHS: &[(&str, &str)] = &[
    ("/proc", "the kernel's; sysctls, mounts, modules and swaps are compared by themselves"),
    ("/sys", "the kernel's; links and modules are compared by themselves"),
    ("/dev", "made anew at every boot"),
    ("/run", "made anew at every boot; mounts and units are compared by themselves"),
    ("/tmp", "anyone's scratch, emptied at boot"),
    ("/var/tmp", "anyone's scratch, emptied by age"),
    ("/var/log", "logs tell what happened, undo included: they are to stay"),
    (
        "/var/cache",
        "caches by definition (apt, ldconfig, debconf); whoever made them makes them again",
    ),
    ("/var/lib/dpkg/status-old", "dpkg's copy of its file before the last change"),
    ("/var/lib/dpkg/diversions-old", "dpkg's copy of its file before the last change"),
    ("/var/lib/dpkg/statoverride-old", "dpkg's copy of its file before the last change"),
    ("/var/lib/dpkg/lock", "dpkg makes its lock at its first use and keeps it"),
    ("/var/lib/dpkg/lock-frontend", "dpkg makes its lock at its first use and keeps it"),
    ("/var/lib/dpkg/triggers/Lock", "dpkg makes its lock at its first use and keeps it"),
    ("/var/lib/systemd", "random seed, clock and timer stamps: systemd writes them by the clock"),
    ("/var/lib/sudo", "sudo notes there whom it has lectured: a trace of a login, as in a log"),
    ("/etc/passwd-", "copy of the file before the last change"),
    ("/etc/group-", "copy of the file before the last change"),
    ("/etc/shadow-", "copy of the file before the last change"),
    ("/etc/gshadow-", "copy of the file before the last change"),
    ("/etc/subuid-", "copy of the file before the last change"),
    ("/etc/subgid-", "copy of the file before the last change"),
];

/// Files whose content is left out; that they are there, and whose, is compared.
pub const CONTENTS: &[(&str, &str)] = &[
    ("/etc/ld.so.cache", "ldconfig's cache: equal libraries don't give equal bytes"),
    (
        "/var/lib/dpkg/status",
        "dpkg writes its paragraphs in another order; packages are compared by themselves",
    ),
    ("/var/lib/dpkg/available", "a cache that dpkg writes when it likes"),
];

/// Sysctls that are counters, or that the kernel sets by itself: by their beginning.
pub const SYSCTLS: &[(&str, &str)] = &[
    ("fs.dentry-state", "a counter"),
    ("fs.file-nr", "a counter"),
    ("fs.inode-nr", "a counter"),
    ("fs.inode-state", "a counter"),
    ("fs.quota.", "counters"),
    ("kernel.ns_last_pid", "a counter"),
    ("kernel.pty.nr", "a counter"),
    ("kernel.random.", "random by definition"),
    ("kernel.perf_event_max_sample_rate", "the kernel lowers it under load"),
    ("net.netfilter.nf_conntrack_count", "a counter"),
    ("net.ipv4.tcp_fastopen_key", "random"),
    ("net.ipv6.conf.all.stable_secret", "can't be read"),
];

/// Units that come and go by themselves: by their beginning.
pub const UNITS: &[(&str, &str)] = &[
    ("user@", "there while somebody is logged in"),
    ("user-runtime-dir@", "there while somebody is logged in"),
    ("systemd-tmpfiles-clean.service", "runs by the clock"),
    ("modprobe@", "runs when something asks for a module"),
];

/// Places where systemd mounts and unmounts by itself.
pub const MOUNTS: &[(&str, &str)] = &[
    ("/run/user/", "there while somebody is logged in"),
    ("/run/credentials/", "there while a unit starts"),
];

/// Whether `name` begins as one of a list does.
pub(super) fn begins(list: &[(&str, &str)], name: &str) -> bool {
    list.iter().any(|(beginning, _)| name.starts_with(beginning))
}
