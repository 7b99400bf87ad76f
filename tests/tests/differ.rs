//! The differ, on a real server: nothing differs by itself, and one change of each kind is exactly what is found.

mod kit;

use kdc_tests::differ::{Kind, Snapshot, diff};
use kdc_tests::server::Server;
use kit::{TestLab, sh};

/// A change, what it must show as (kind and name, in order), and how it is taken back.
struct Change {
    make: &'static str,
    shows: &'static [(Kind, &'static str)],
    undo: &'static str,
}

const CHANGES: &[Change] = &[
    Change { make: "echo x > /etc/new", shows: &[(Kind::File, "/etc/new")], undo: "rm /etc/new" },
    Change {
        make: "printf x | dd of=/etc/motd conv=notrunc 2>/dev/null",
        shows: &[(Kind::File, "/etc/motd")],
        undo: "printf '\\n' | dd of=/etc/motd conv=notrunc 2>/dev/null",
    },
    Change {
        make: "chmod 600 /etc/services",
        shows: &[(Kind::File, "/etc/services")],
        undo: "chmod 644 /etc/services",
    },
    Change {
        make: "chown ops /var/lib/misc",
        shows: &[(Kind::File, "/var/lib/misc")],
        undo: "chown root /var/lib/misc",
    },
    Change {
        make: "mkdir /opt/cni; ln -s /nowhere /opt/link",
        shows: &[(Kind::File, "/opt/cni"), (Kind::File, "/opt/link")],
        undo: "rmdir /opt/cni; rm /opt/link",
    },
    Change {
        make: "ln -sfn /elsewhere /etc/localtime",
        shows: &[(Kind::File, "/etc/localtime")],
        undo: "ln -sfn /usr/share/zoneinfo/Etc/UTC /etc/localtime",
    },
    Change {
        make: "sed -i '/^Package: netbase$/,/^$/ s/^Status: .*/Status: deinstall ok config-files/' /var/lib/dpkg/status",
        shows: &[(Kind::Package, "netbase:all")],
        undo: "sed -i '/^Package: netbase$/,/^$/ s/^Status: .*/Status: install ok installed/' /var/lib/dpkg/status",
    },
    Change {
        make: "systemctl -q stop systemd-tmpfiles-clean.timer",
        shows: &[(Kind::Unit, "systemd-tmpfiles-clean.timer")],
        undo: "systemctl -q start systemd-tmpfiles-clean.timer",
    },
    Change {
        make: "systemctl -q disable systemd-pstore.service",
        shows: &[
            (Kind::File, "/etc/systemd/system/sysinit.target.wants"),
            (Kind::File, "/etc/systemd/system/sysinit.target.wants/systemd-pstore.service"),
            (Kind::UnitFile, "systemd-pstore.service"),
        ],
        undo: "systemctl -q enable systemd-pstore.service",
    },
    Change {
        make: "sysctl -qw net.ipv4.ip_forward=1",
        shows: &[
            // The kernel lets a router accept no redirects.
            (Kind::Sysctl, "net.ipv4.conf.all.accept_redirects"),
            (Kind::Sysctl, "net.ipv4.conf.all.forwarding"),
            (Kind::Sysctl, "net.ipv4.conf.default.forwarding"),
            (Kind::Sysctl, "net.ipv4.conf.eth0.forwarding"),
            (Kind::Sysctl, "net.ipv4.conf.lo.forwarding"),
            (Kind::Sysctl, "net.ipv4.ip_forward"),
        ],
        undo: "sysctl -qw net.ipv4.ip_forward=0",
    },
    Change {
        make: "sysctl -qw kernel.panic=77",
        shows: &[(Kind::Sysctl, "kernel.panic")],
        undo: "sysctl -qw kernel.panic=$(cat /run/panic)",
    },
    Change {
        make: "ip route add 10.244.1.0/24 dev eth0",
        shows: &[(Kind::Route, "10.244.1.0/24 dev eth0 scope link")],
        undo: "ip route del 10.244.1.0/24",
    },
    Change {
        make: "ip link add cni0 type bridge",
        shows: &[(Kind::Link, "cni0")],
        undo: "ip link del cni0",
    },
    Change {
        make: "ip addr add 10.9.9.9/32 dev lo",
        shows: &[
            (Kind::Route, "local 10.9.9.9 dev lo table local proto kernel scope host src 10.9.9.9"),
            (Kind::Link, "lo inet 10.9.9.9/32"),
        ],
        undo: "ip addr del 10.9.9.9/32 dev lo",
    },
    Change {
        make: "mkdir /run/m; mount -t tmpfs kubelet /run/m",
        shows: &[(Kind::Mount, "/run/m (tmpfs kubelet / rw,relatime)")],
        undo: "umount /run/m",
    },
    Change {
        make: "useradd -M -U kdc",
        shows: &[
            (Kind::File, "/etc/group"),
            (Kind::File, "/etc/gshadow"),
            (Kind::File, "/etc/passwd"),
            (Kind::File, "/etc/shadow"),
            (Kind::File, "/etc/subgid"),
            (Kind::File, "/etc/subuid"),
            (Kind::User, "kdc"),
            (Kind::Group, "kdc"),
        ],
        undo: "userdel kdc",
    },
];

/// Rules are made with the host's programs: a fresh server has none. Program and words in its network, and the undo.
const RULES: &[(&str, &str, &str)] = &[
    ("nft add table inet kdc", "table inet kdc", "nft delete table inet kdc"),
    (
        "iptables-legacy -A INPUT -s 10.9.0.0/16 -j DROP",
        "-A INPUT -s 10.9.0.0/16 -j DROP",
        "iptables-legacy -D INPUT -s 10.9.0.0/16 -j DROP",
    ),
];

#[test]
fn one_change_of_each_kind_is_exactly_what_is_found() {
    let lab = TestLab::up("differ", 1, |_| {});
    let server = lab.server("node1").unwrap();
    sh(&server, "cat /proc/sys/kernel/panic > /run/panic");
    let fresh = Snapshot::of(&server).unwrap();
    assert!(fresh.len() > 5000, "a server is more than {} things", fresh.len());
    assert_eq!(diff(&fresh, &Snapshot::of(&server).unwrap()), [], "a server differs by itself");
    for change in CHANGES {
        // Against the fresh server each time: so the undo of the change before is proved whole as well.
        sh(&server, change.make);
        let found = diff(&fresh, &Snapshot::of(&server).unwrap());
        let shows: Vec<_> =
            found.iter().map(|difference| (difference.kind, difference.name.as_str())).collect();
        assert_eq!(shows, change.shows, "`{}` shows as {found:#?}", change.make);
        sh(&server, change.undo);
    }
    let last = Snapshot::of(&server).unwrap();
    let left: Vec<_> = diff(&fresh, &last).iter().map(ToString::to_string).collect();
    assert_eq!(left, Vec::<String>::new(), "what the undos leave");
}

#[test]
fn firewall_rules_of_both_kinds_are_found() {
    let lab = TestLab::up("differ-rules", 1, |_| {});
    let server = lab.server("node1").unwrap();
    let enter = format!("--net={}", server.network_namespace().unwrap().display());
    let inside = |line: &str| {
        let words: Vec<&str> =
            ["nsenter", &enter, "--"].into_iter().chain(line.split(' ')).collect();
        kdc_tests::program::must(&words).unwrap();
    };
    for (make, name, undo) in RULES {
        let before = Snapshot::of(&server).unwrap();
        inside(make);
        let found = diff(&before, &Snapshot::of(&server).unwrap());
        assert!(found.iter().all(|difference| difference.kind == Kind::Rule), "{found:#?}");
        assert!(
            found.iter().any(|difference| difference.name == *name),
            "`{make}` shows as {found:#?}"
        );
        inside(undo);
        let found = diff(&before, &Snapshot::of(&server).unwrap());
        assert!(
            found.iter().all(|difference| difference.name != *name),
            "`{undo}` leaves {found:#?}"
        );
    }
}
