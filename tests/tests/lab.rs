//! The lab, with real servers: fresh, apart from each other, shut in, breakable, and gone without a trace.
//!
//! Run it with `cargo test -p kdc-tests --test lab -- --test-threads=1`, as root.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail as a test does")]

mod kit;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kdc_tests::lab::state::{State, Sudo};
use kdc_tests::lab::{Lab, base, cgroup, workstation};
use kdc_tests::server::{Fault, Output, Server};
use kit::{TestLab, sh};

/// Runs a program on the workstation of a lab.
fn at_workstation(lab: &Lab, argv: &[&str]) -> Output {
    workstation::run(lab.state(), argv).unwrap()
}

/// Runs a command over SSH as USER@SERVER.
fn ssh(lab: &Lab, target: &str, command: &str) -> Output {
    let config = lab.state().ssh_config.display().to_string();
    at_workstation(lab, &["ssh", "-F", &config, "-o", "BatchMode=yes", target, command])
}

/// Everything on this host that carries a lab's name.
fn traces(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    // Labs of others come and go while it looks.
    let named = format!("kdc-lab-{name}");
    let look = ["find", "/sys/fs/cgroup", "-ignore_readdir_race", "-name", &named];
    let cgroups = kdc_tests::program::must(&look).unwrap();
    found.extend(cgroups.stdout_text().lines().map(str::to_owned));
    let spaces = kdc_tests::program::must(&["ip", "netns"]).unwrap().stdout_text();
    found.extend(spaces.lines().filter(|line| line.contains(name)).map(str::to_owned));
    let loops = kdc_tests::program::must(&["losetup", "-a"]).unwrap().stdout_text();
    found.extend(loops.lines().filter(|line| line.contains(name)).map(str::to_owned));
    let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(name)).map(str::to_owned));
    for folder in
        [kdc_tests::lab::state::folder_of(name), base::cache().unwrap().join("labs").join(name)]
    {
        found.extend(folder.exists().then(|| folder.display().to_string()));
    }
    for process in fs_err::read_dir("/proc").unwrap().flatten() {
        let words = fs_err::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        let cgroups = fs_err::read_to_string(process.path().join("cgroup")).unwrap_or_default();
        if words.split('\0').any(|word| word == name)
            || cgroups.contains(&format!("kdc-lab-{name}"))
        {
            found.push(format!("process {}: {words}", process.path().display()));
        }
    }
    found
}

/// Fails if anything of a lab is left, once the host's PID 1 has collected what ended.
fn assert_gone(name: &str, when: &str) {
    let limit = Instant::now() + Duration::from_secs(10);
    while !traces(name).is_empty() && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(traces(name), Vec::<String>::new(), "{when}");
}

#[test]
fn three_fresh_servers_answer_ssh_within_20_seconds() {
    base::ensure(&|line| eprintln!("{line}")).unwrap();
    let start = Instant::now();
    let lab = TestLab::up("fresh", 3, |_| {});
    assert!(start.elapsed() < Duration::from_secs(20), "up took {:?}", start.elapsed());
    let mut own = std::collections::BTreeSet::new();
    for server in lab.servers().unwrap() {
        let name = server.name();
        assert_eq!(ssh(&lab, name, "hostname").stdout_text(), format!("{name}\n"));
        assert_eq!(sh(&server, "systemctl is-system-running --wait"), "running\n");
        assert_eq!(sh(&server, "cat /proc/1/comm"), "systemd\n");
        // What kdc has to bring must not be there already.
        let foreign = "for p in containerd runc iptables nft conntrack kubelet curl; do command -v $p; done; \
                       ls -d /var/lib/containerd /var/lib/kubelet /etc/cni /opt/cni 2>/dev/null; true";
        assert_eq!(sh(&server, foreign), "");
        for identity in
            ["cat /etc/machine-id", "cat /etc/ssh/ssh_host_ed25519_key.pub", "hostname -I"]
        {
            assert!(own.insert(sh(&server, identity)), "`{identity}` on {name} is not its own");
        }
    }
    assert_eq!(lab.server("node1").unwrap().host_key().split(' ').next(), Some("ssh-ed25519"));
}

#[test]
fn every_user_becomes_root_as_the_state_says() {
    let lab = TestLab::up("users", 1, |_| {});
    for user in &lab.state().users {
        let target = format!("{}@node1", user.name);
        assert_eq!(ssh(&lab, &target, "id -un").stdout_text().trim(), user.name);
        let without = ssh(&lab, &target, "sudo -n id -un");
        assert_eq!(without.succeeded(), user.sudo != Sudo::Password, "{}: {without:?}", user.name);
        if let Some(file) = &user.password_file {
            let ask = format!(
                "ssh -F {} {target} sudo -S -p \"''\" id -un < {}",
                lab.state().ssh_config.display(),
                file.display()
            );
            assert_eq!(at_workstation(&lab, &["sh", "-c", &ask]).stdout_text(), "root\n");
        }
    }
}

#[test]
fn a_server_reaches_its_neighbours_and_nothing_else() {
    let lab = TestLab::up("shut", 2, |_| {});
    let server = lab.server("node1").unwrap();
    let neighbour = lab.server("node2").unwrap().address().to_string();
    sh(&server, &format!("ping -q -c1 -W2 {neighbour}"));
    assert_eq!(sh(&server, "ip route show default"), "");
    let out = server.exec(&["ping", "-q", "-c1", "-W2", "192.0.2.1"]).unwrap();
    assert!(out.stderr_text().contains("Network is unreachable"), "{out:?}");
    let out = at_workstation(&lab, &["ping", "-q", "-c1", "-W2", "192.0.2.1"]);
    assert!(out.stderr_text().contains("Network is unreachable"), "{out:?}");
}

#[test]
fn what_a_server_sets_in_the_kernel_stays_its_own() {
    let lab = TestLab::up("kernel", 1, |_| {});
    let server = lab.server("node1").unwrap();
    for name in ["vm.overcommit_memory", "kernel.panic", "net.ipv4.ip_forward"] {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let hosts = fs_err::read_to_string(&path).unwrap();
        let other = if hosts.trim() == "1" { "2" } else { "1" };
        sh(&server, &format!("sysctl -qw {name}={other}"));
        assert_eq!(sh(&server, &format!("cat {path}")).trim(), other);
        assert_eq!(fs_err::read_to_string(&path).unwrap(), hosts, "{name} reached the host");
    }
    // What is no copy is refused, rather than set for everybody.
    assert!(
        !server
            .exec(&["sysctl", "-qw", "kernel.sched_child_runs_first=1", "vm.dirty_ratio=33"])
            .unwrap()
            .succeeded()
    );
}

#[test]
fn containers_can_run_overlay_mounts_and_cgroup_limits() {
    let lab = TestLab::up("containers", 1, |_| {});
    let server = lab.server("node1").unwrap();
    let overlay = "cd /var/lib && mkdir -p t/l t/u t/w t/m && echo x > t/l/f && \
                   mount -t overlay overlay -o lowerdir=t/l,upperdir=t/u,workdir=t/w t/m && cat t/m/f && umount t/m";
    assert_eq!(sh(&server, overlay), "x\n");
    let limit = "c=/sys/fs/cgroup/t limit=memory.max; \
                 [ ! -d /sys/fs/cgroup/memory ] || c=/sys/fs/cgroup/memory/t limit=memory.limit_in_bytes; \
                 mkdir $c; echo 20M > $c/$limit; \
                 (echo 0 > $c/cgroup.procs; exec head -c 100000000 /dev/zero | tail -c 90000000 | wc -c); rmdir $c";
    assert_eq!(sh(&server, limit), "0\n", "a process over its cgroup's limit must be killed");
    sh(&server, "test -c /dev/kmsg && test -c /dev/fuse");
}

#[test]
fn two_labs_stand_side_by_side_and_down_leaves_nothing() {
    let (one, two) = (
        TestLab::up("one", 2, |_| {}),
        TestLab::up("two", 1, |wanted| wanted.disk_mib = Some(128)),
    );
    assert_ne!(one.state().network(), two.state().network());
    // A program of the workstation, and a daemon that left its session, must go as well.
    let mut watcher =
        workstation::command(one.state(), &["sleep", "1000"]).unwrap().spawn().unwrap();
    sh(&one.server("node1").unwrap(), "setsid -f sleep 1000 > /dev/null 2>&1 < /dev/null");
    let names = [one.state().name.clone(), two.state().name.clone()];
    assert!(
        traces(&names[0]).len() > 5 && traces(&names[1]).len() > 5,
        "a lab leaves traces while it is up"
    );
    drop(one);
    assert!(!watcher.wait().unwrap().success());
    assert_gone(&names[0], "after down");
    assert_eq!(ssh(&two, "node1", "hostname").stdout_text(), "node1\n", "the other lab must stay");
    drop(two);
    assert_gone(&names[1], "after down");
}

#[test]
fn a_process_that_joins_late_does_not_outlive_its_cgroup() {
    let places = cgroup::places(&format!("late-{}", std::process::id())).unwrap();
    for folder in &places.cgroups {
        cgroup::make(folder).unwrap();
    }
    cgroup::kill_all(&places.cgroups).unwrap();
    let mut late = Command::new("sleep").arg("1000").spawn().unwrap();
    for folder in &places.cgroups {
        fs_err::write(folder.join("cgroup.procs"), format!("{}\n", late.id())).unwrap();
    }
    let removed = cgroup::remove(&places.cgroups);
    late.kill().unwrap();
    late.wait().unwrap();
    removed.unwrap();
    assert!(places.cgroups.iter().all(|folder| !folder.exists()));
}

#[test]
fn up_killed_at_any_time_leaves_nothing_after_down_and_can_be_repeated() {
    base::ensure(&|line| eprintln!("{line}")).unwrap();
    let name = format!("killed-{}", std::process::id());
    let program = env!("CARGO_BIN_EXE_kdc-lab");
    let up = || {
        let arguments = ["up", "--name", &name, "--servers", "2", "--disk", "64M"];
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    for wait in [0, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 450, 600] {
        let mut child = up();
        std::thread::sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
        Lab::take_down(&name).unwrap();
        // What was started a moment before the kill finds its cgroup gone, and ends.
        assert_gone(&name, &format!("killed after {wait} ms"));
    }
    for wait in [40, 120, 250] {
        let mut child = up();
        std::thread::sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let whole = up().wait().unwrap().success() || Lab::open(&name).is_ok();
    assert!(whole, "`up` after a killed `up` must work");
    assert!(State::read(&name).unwrap().unwrap().complete);
    Lab::take_down(&name).unwrap();
    assert_gone(&name, "after the last down");
}

#[test]
fn a_power_cut_ends_everything_but_the_disk() {
    let lab = TestLab::up("power", 1, |_| {});
    let server = lab.server("node1").unwrap();
    sh(
        &server,
        "echo kept > /etc/kept; echo kept > /var/lib/kept; echo lost > /run/lost; ip link add cni0 type bridge",
    );
    server.inflict(&Fault::Kill).unwrap();
    assert!(!server.is_running() && server.root().is_none());
    let off = server.exec(&["true"]).unwrap_err().to_string();
    assert!(off.contains("is off"), "{off}");
    server.inflict(&Fault::Start).unwrap();
    assert_eq!(
        sh(&server, "cat /etc/kept /var/lib/kept; ls /run/lost /sys/class/net 2>/dev/null || true"),
        "kept\nkept\n/sys/class/net:\neth0\nlo\n"
    );
    assert_eq!(
        ssh(&lab, "node1", "hostname").stdout_text(),
        "node1\n",
        "its host key must be the same"
    );
}

#[test]
fn a_cut_link_carries_nothing_and_a_shaped_one_little() {
    let lab = TestLab::up("link", 1, |_| {});
    let server = lab.server("node1").unwrap();
    let reaches = || at_workstation(&lab, &["ping", "-q", "-c1", "-W1", "node1"]).succeeded();
    assert!(reaches());
    server.inflict(&Fault::Cut).unwrap();
    assert!(!reaches());
    server.inflict(&Fault::Mend).unwrap();
    assert!((0..10).any(|_| reaches()));
    // 1 MB at 8 Mbit/s takes a second in either direction.
    server.inflict(&Fault::Shape("8mbit".to_owned())).unwrap();
    for direction in [
        "head -c 1000000 /dev/zero | ssh -F \"$1\" node1 'cat > /dev/null'",
        "ssh -F \"$1\" node1 head -c 1000000 /dev/zero > /dev/null",
    ] {
        let config = lab.state().ssh_config.display().to_string();
        let start = Instant::now();
        assert!(at_workstation(&lab, &["sh", "-c", direction, "sh", &config]).succeeded());
        let took = start.elapsed();
        assert!(took > Duration::from_millis(800), "`{direction}` took {took:?}: not shaped");
    }
    server.inflict(&Fault::Unshape).unwrap();
    server.inflict(&Fault::Unshape).unwrap();
    let tbf = sh(&server, "tc qdisc show dev eth0");
    assert!(!tbf.contains("tbf"), "{tbf}");
}

#[test]
fn a_full_disk_takes_no_byte_and_a_read_only_one_no_file() {
    let lab = TestLab::up("disk", 1, |wanted| wanted.disk_mib = Some(128));
    let server = lab.server("node1").unwrap();
    let writes = |path: &str| {
        server.exec(&["sh", "-c", &format!("head -c 100000 /dev/zero > {path}")]).unwrap()
    };
    assert!(writes("/etc/a").succeeded() && writes("/var/lib/a").succeeded());
    server.inflict(&Fault::Fill).unwrap();
    for path in ["/etc/b", "/var/lib/b"] {
        let output = writes(path);
        assert!(output.stderr_text().contains("No space left"), "{path}: {output:?}");
    }
    server.inflict(&Fault::Unfill).unwrap();
    assert!(writes("/etc/b").succeeded() && writes("/var/lib/b").succeeded());

    server.inflict(&Fault::ReadOnly).unwrap();
    assert!(
        writes("/etc/c").stderr_text().contains("Read-only")
            && writes("/var/lib/c").stderr_text().contains("Read-only")
    );
    server.inflict(&Fault::Writable).unwrap();
    assert!(writes("/etc/c").succeeded() && writes("/var/lib/c").succeeded());

    // With a file open for writing it takes an error of the disk, and a power cycle to mend.
    sh(
        &server,
        "systemd-run -q sh -c 'exec 3> /var/lib/open; sleep 1000'; until [ -e /var/lib/open ]; do sleep 0.1; done",
    );
    server.inflict(&Fault::ReadOnly).unwrap();
    assert!(writes("/etc/d").stderr_text().contains("Read-only"));
    let refused = server.inflict(&Fault::Writable).unwrap_err().to_string();
    assert!(refused.contains("`kill` and `start`"), "{refused}");
    server.inflict(&Fault::Kill).unwrap();
    server.inflict(&Fault::Start).unwrap();
    assert!(writes("/etc/d").succeeded() && writes("/var/lib/d").succeeded());
}

#[test]
fn a_server_on_the_hosts_disk_refuses_disk_faults() {
    let lab = TestLab::up("nodisk", 1, |_| {});
    let refused = lab.server("node1").unwrap().inflict(&Fault::ReadOnly).unwrap_err().to_string();
    assert!(refused.contains("--disk"), "{refused}");
}

#[test]
fn what_tries_to_leave_the_lab_is_captured_and_what_stays_is_not() {
    let lab = TestLab::up("capture", 2, |wanted| wanted.gateway = true);
    let server = lab.server("node1").unwrap();
    let neighbour = lab.server("node2").unwrap().address().to_string();

    let quiet = lab.capture(&["10.244.0.0/16"]).unwrap();
    sh(&server, &format!("ping -q -c2 {neighbour}"));
    assert!(ssh(&lab, "node2", "true").succeeded());
    // A pod's address is outside the lab's network, and inside by the caller's word.
    let _ = server.exec(&["ping", "-q", "-c1", "-W1", "10.244.7.7"]).unwrap();
    assert_eq!(quiet.stop().unwrap(), []);

    let loud = lab.capture(&[]).unwrap();
    for (who, address) in
        [("server", "192.0.2.1"), ("server", "10.244.7.7"), ("workstation", "192.0.2.2")]
    {
        let ping = ["ping", "-q", "-c1", "-W1", address];
        let output =
            if who == "server" { server.exec(&ping).unwrap() } else { at_workstation(&lab, &ping) };
        assert!(!output.succeeded(), "{who} reached {address}");
    }
    let _ = server.exec(&["getent", "hosts", "from-server.example"]).unwrap();
    let _ = at_workstation(&lab, &["getent", "hosts", "from-workstation.example"]);
    let packets = loud.stop().unwrap();
    for part in [
        "> 192.0.2.1:",
        "> 10.244.7.7:",
        "who-has 192.0.2.2",
        "from-server.example",
        "from-workstation.example",
    ] {
        assert!(
            packets.iter().any(|packet| packet.line.contains(part)),
            "no packet with `{part}` in {packets:#?}"
        );
    }
    assert!(
        packets
            .iter()
            .filter(|packet| packet.line.contains(".example"))
            .all(|packet| packet.is_dns)
    );
}

#[test]
fn twelve_servers_at_once_fit_and_answer() {
    let lab = TestLab::up("many", 12, |_| {});
    let pids: std::collections::BTreeSet<_> =
        lab.servers().unwrap().iter().map(|s| s.init_pid().unwrap()).collect();
    assert_eq!(pids.len(), 12);
    std::thread::scope(|scope| {
        for server in &lab.state().servers {
            scope.spawn(|| {
                let output =
                    ssh(&lab, &server.name, "systemctl is-system-running --wait; hostname");
                assert_eq!(
                    output.stdout_text(),
                    format!("running\n{}\n", server.name),
                    "{output:?}"
                );
            });
        }
    });
}

#[test]
fn the_command_shows_what_is_up_and_names_what_is_not() {
    let lab = TestLab::up("shown", 1, |_| {});
    let name = lab.state().name.clone();
    let run = |arguments: &[&str]| {
        let words: Vec<_> =
            [env!("CARGO_BIN_EXE_kdc-lab")].iter().chain(arguments).copied().collect();
        kdc_tests::program::run(&words).unwrap()
    };
    let status: serde_json::Value =
        serde_json::from_slice(&run(&["status", "--name", &name, "--output", "json"]).stdout)
            .unwrap();
    assert_eq!(status["servers"][0]["name"], "node1");
    assert_eq!(status["servers"][0]["running"], true);
    assert!(run(&["list"]).stdout_text().contains(&name));
    assert_eq!(run(&["exec", "--name", &name, "node1", "sh", "-c", "exit 7"]).code, 7);
    assert_eq!(run(&["ssh", "--name", &name, "node1", "exit 8"]).code, 8);
    let path = run(&["path", "--name", &name, "node1"]).stdout_text();
    assert_eq!(fs_err::read_to_string(format!("{}/etc/hostname", path.trim())).unwrap(), "node1\n");
    for (arguments, says) in [
        (&["exec", "--name", &name, "node9", "true"][..], "has no server `node9`; it has node1"),
        (&["status", "--name", "nowhere"], "no lab `nowhere`"),
        (&["up", "--name", &name], "is up"),
        (&["up", "--name", "../x"], "can't name a lab"),
        (&["fault", &name, "node1", "explode"], "no fault `explode`"),
    ] {
        let output = run(arguments);
        assert!(
            !output.succeeded() && output.stderr_text().contains(says),
            "{arguments:?}: {output:?}"
        );
    }
}
