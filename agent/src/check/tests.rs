//! One table for all node checks: what is changed on a good node, and which check must say so.

use std::collections::BTreeSet;

use super::*;
use crate::facts::{Address, CgroupVersion, FileSystem, Foreign, Ownership};

const GIB: u64 = 1024 * 1024 * 1024;

fn file_system(mount_point: &str, free_bytes: u64, options: &[&str]) -> FileSystem {
    FileSystem {
        mount_point: mount_point.to_owned(),
        kind: "ext4".to_owned(),
        size_bytes: 20 * GIB,
        free_bytes,
        free_inodes: 1_000_000,
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}

fn good_facts() -> Facts {
    Facts {
        agent_version: "0.1.0".to_owned(),
        hostname: "cp1".to_owned(),
        machine_id: Known::Known("a".repeat(32)),
        platform: "linux/amd64".to_owned(),
        os: Known::Known("debian 12".to_owned()),
        kernel: "6.1.0-18-amd64".to_owned(),
        systemd: Known::Known("252".to_owned()),
        cgroup: Known::Known(CgroupVersion::V2),
        cpus: 2,
        memory_bytes: Known::Known(2 * GIB),
        swap: Known::Known(BTreeMap::new()),
        file_systems: Known::Known(vec![
            file_system("/", 10 * GIB, &[]),
            file_system("/tmp", GIB, &[]),
        ]),
        addresses: Known::Known(vec![Address {
            link: "eth0".to_owned(),
            address: "10.0.0.11/24".to_owned(),
            mtu: 1500,
            mac: "02:00:00:00:00:01".to_owned(),
        }]),
        default_routes: Known::Known(Vec::new()),
        has_resolv_conf: Known::Known(true),
        nvidia_gpus: Known::Known(0),
        listening: Known::Known(BTreeSet::from(["22/tcp".to_owned()])),
        modules: Known::Known(BTreeSet::from(["overlay".to_owned()])),
        sysctls: Known::Known(BTreeMap::new()),
        packages: Known::Known(BTreeMap::new()),
        foreign: Known::Known(Vec::new()),
        programs: BTreeMap::from([("mount".to_owned(), "/usr/bin/mount".to_owned())]),
        clock_unix_ms: 1_795_000_000_000,
        cap_sys_resource: Known::Known(true),
        conntrack_max_writable: Known::Known(true),
        ownership: Ownership { cluster: None, runs: Vec::new(), components: BTreeSet::new() },
    }
}

fn needs() -> Needs {
    Needs {
        cluster: "demo".to_owned(),
        root: true,
        platforms: vec!["linux/amd64".to_owned()],
        systems: vec!["debian 12".to_owned()],
        cpus: 2,
        memory_bytes: GIB,
        disk_bytes: BTreeMap::from([
            ("/var/lib/kdc".to_owned(), 2 * GIB),
            ("/var/lib/containerd".to_owned(), 4 * GIB),
        ]),
        inodes: BTreeMap::from([("/var/lib".to_owned(), 100_000)]),
        ports: vec!["6443/tcp".to_owned()],
        modules: vec!["overlay".to_owned(), "br_netfilter".to_owned()],
        programs: vec!["mount".to_owned()],
        disables_swap: false,
        host_routes: true,
    }
}

fn finding(id: &str, facts: &Facts, needs: &Needs) -> Finding {
    let found = judge(facts, needs).into_iter().find(|finding| finding.id == id);
    found.unwrap_or_else(|| panic!("there is no check `{id}`"))
}

#[test]
fn a_good_node_passes_every_check() {
    for finding in judge(&good_facts(), &needs()) {
        assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
        assert_eq!(finding.fix, None, "{finding:?}");
    }
}

/// Change one thing, name the check that must say so, and what its words must hold.
type Case = (&'static str, Verdict, &'static str, fn(&mut Facts, &mut Needs));

#[expect(clippy::too_many_lines, reason = "one table, a case a line")]
fn cases() -> Vec<Case> {
    use Verdict::{Fail, Ok, Warn};
    vec![
        ("root", Fail, "sudo", |_, n| n.root = false),
        ("systemd", Fail, "PID 1", |f, _| f.systemd = Known::Known(String::new())),
        ("platform", Fail, "linux/arm64", |f, _| f.platform = "linux/arm64".to_owned()),
        ("system", Fail, "ubuntu 24.04", |f, _| f.os = Known::Known("ubuntu 24.04".to_owned())),
        ("system", Warn, "parameter `systems`", |_, n| n.systems.clear()),
        ("kernel", Fail, "4.19", |f, _| f.kernel = "3.10.0-1160.el7".to_owned()),
        ("kernel", Ok, "4.19.0", |f, _| f.kernel = "4.19.0-rc1".to_owned()),
        ("kernel", Verdict::Unknown, "odd", |f, _| f.kernel = "odd".to_owned()),
        ("cgroup", Ok, "cgroupfs", |f, _| f.cgroup = Known::Known(CgroupVersion::V1)),
        ("hostname", Fail, "hostnamectl", |f, _| f.hostname = "localhost".to_owned()),
        ("hostname", Fail, "Node_1", |f, _| f.hostname = "Node_1".to_owned()),
        ("clock", Fail, "date -s", |f, _| f.clock_unix_ms = 1000),
        ("cpus", Fail, "1 CPUs", |f, _| f.cpus = 1),
        ("memory", Fail, "512 MiB", |f, _| f.memory_bytes = Known::Known(GIB / 2)),
        // Each path alone would fit; both on one file system do not.
        ("disk", Fail, "free 1024 MiB more", |f, _| {
            f.file_systems = Known::Known(vec![file_system("/", 5 * GIB, &[])]);
        }),
        ("disk", Ok, "/var/lib/containerd: 4096", |f, _| {
            let own = file_system("/var/lib/containerd", 4 * GIB, &[]);
            f.file_systems = Known::Known(vec![file_system("/", 2 * GIB, &[]), own]);
        }),
        // A mount whose name only starts alike holds nothing of it.
        ("disk", Fail, "/: 1024 MiB", |f, _| {
            let other = file_system("/var/li", 99 * GIB, &[]);
            f.file_systems = Known::Known(vec![file_system("/", GIB, &[]), other]);
        }),
        ("disk", Warn, "free", |f, _| {
            f.file_systems = Known::Known(vec![file_system("/", GIB, &[])]);
            f.ownership.cluster = Some("demo".to_owned());
        }),
        ("disk", Verdict::Unknown, "/var/lib", |f, _| f.file_systems = Known::Known(Vec::new())),
        ("inodes", Fail, "inodes", |f, _| {
            let mut root = file_system("/", 10 * GIB, &[]);
            root.free_inodes = 10;
            f.file_systems = Known::Known(vec![root]);
        }),
        ("inodes", Ok, "enough", |f, _| {
            let mut root = file_system("/", 10 * GIB, &[]);
            root.free_inodes = 0;
            f.file_systems = Known::Known(vec![root]);
        }),
        ("swap", Fail, "settings.disableSwap: true", |f, _| {
            f.swap = Known::Known(BTreeMap::from([("/dev/sda2".to_owned(), GIB)]));
        }),
        ("swap", Ok, "turns it off", |f, n| {
            f.swap = Known::Known(BTreeMap::from([("/dev/sda2".to_owned(), GIB)]));
            n.disables_swap = true;
        }),
        ("foreign-software", Fail, "remove docker", |f, _| {
            let evidence = "unit docker.service active".to_owned();
            f.foreign = Known::Known(vec![Foreign { what: "docker".to_owned(), evidence }]);
        }),
        ("ports", Fail, "6443/tcp", |f, _| {
            f.listening = Known::Known(BTreeSet::from(["6443/tcp".to_owned()]));
        }),
        ("ports", Ok, "free", |f, _| {
            f.listening = Known::Known(BTreeSet::from(["6443/udp".to_owned()]));
        }),
        ("ports", Fail, "30001/tcp", |f, n| {
            f.listening = Known::Known(BTreeSet::from(["30001/tcp".to_owned()]));
            n.ports = vec!["30000-32767/tcp".to_owned()];
        }),
        ("ports", Ok, "this cluster", |f, _| {
            f.listening = Known::Known(BTreeSet::from(["6443/tcp".to_owned()]));
            f.ownership.cluster = Some("demo".to_owned());
        }),
        ("ports", Fail, "ss -lnp", |f, _| {
            f.listening = Known::Known(BTreeSet::from(["6443/tcp".to_owned()]));
            f.ownership.cluster = Some("other".to_owned());
        }),
        ("modules", Ok, "loads br_netfilter", |_, _| {}),
        ("writable", Fail, "read-only: /var/lib", |f, _| {
            let own = file_system("/var", 10 * GIB, &["ro"]);
            f.file_systems = Known::Known(vec![file_system("/", 10 * GIB, &[]), own]);
        }),
        ("executable", Fail, "noexec: /var/lib", |f, _| {
            let own = file_system("/var", 10 * GIB, &["noexec"]);
            f.file_systems = Known::Known(vec![file_system("/", 10 * GIB, &[]), own]);
        }),
        ("executable", Ok, "/tmp is noexec", |f, _| {
            let own = file_system("/tmp", GIB, &["noexec"]);
            f.file_systems = Known::Known(vec![file_system("/", 10 * GIB, &[]), own]);
        }),
        ("default-route", Warn, "dummy", |_, n| n.host_routes = false),
        ("resolver", Fail, "nameserver", |f, _| f.has_resolv_conf = Known::Known(false)),
        ("programs", Fail, "conntrack", |_, n| n.programs.push("conntrack".to_owned())),
    ]
}

#[test]
fn each_check_says_what_is_wrong_and_what_to_do() {
    for (id, verdict, words, change) in cases() {
        let (mut facts, mut needs) = (good_facts(), needs());
        change(&mut facts, &mut needs);
        let found = finding(id, &facts, &needs);
        assert_eq!(found.verdict, verdict, "{found:?}");
        let text = format!("{} {}", found.detail, found.fix.clone().unwrap_or_default());
        assert!(text.contains(words), "`{words}`: {text}");
        assert_eq!(found.fix.is_some(), verdict != Verdict::Ok, "{found:?}");
    }
}

#[test]
fn what_could_not_be_looked_at_is_unknown_and_refuses() {
    let mut facts = good_facts();
    let why = || "permission denied".to_owned();
    facts.os = Known::Unknown(why());
    facts.systemd = Known::Unknown(why());
    facts.cgroup = Known::Unknown(why());
    facts.memory_bytes = Known::Unknown(why());
    facts.swap = Known::Unknown(why());
    facts.file_systems = Known::Unknown(why());
    facts.default_routes = Known::Unknown(why());
    facts.has_resolv_conf = Known::Unknown(why());
    facts.listening = Known::Unknown(why());
    facts.modules = Known::Unknown(why());
    facts.foreign = Known::Unknown(why());
    let unknown: Vec<String> = judge(&facts, &needs())
        .into_iter()
        .filter(|finding| finding.verdict == Verdict::Unknown)
        .map(|finding| {
            assert!(finding.verdict.refuses() && finding.detail.contains("permission denied"));
            finding.id
        })
        .collect();
    let expected = [
        "systemd",
        "system",
        "cgroup",
        "memory",
        "disk",
        "inodes",
        "swap",
        "foreign-software",
        "ports",
        "modules",
        "writable",
        "executable",
        "default-route",
        "resolver",
    ];
    assert_eq!(unknown, expected);
}

#[test]
fn every_check_has_an_id_of_its_own_and_stands_in_the_docs() {
    let docs = fs_err::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/checks.md"))
        .expect("docs/checks.md");
    let mut seen = BTreeSet::new();
    for check in all() {
        assert!(seen.insert(check.id), "{} comes twice", check.id);
        assert!(docs.contains(&format!("| `{}` |", check.id)), "docs/checks.md lacks {}", check.id);
    }
}
