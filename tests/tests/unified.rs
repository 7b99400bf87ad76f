//! Light servers on a host with cgroup v2 alone, as Debian 12 boots: the host is a machine, so that any host can tell.
//!
//! The machine is given `kdc-lab` and its base on a disk and makes a lab of its own. `tests/lab.rs` is what holds on the
//! host at hand; here is what differs: who lies in which cgroup, that limits hold there, and that nothing is left.

#![expect(clippy::print_stderr, reason = "what the inner lab said, for the test's log")]

mod kit;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kdc_tests::lab::{Lab, base};
use kdc_tests::machine::{Hardware, Machine};
use kdc_tests::operator::{Bundle, built};
use kdc_tests::program::{must, run};
use kdc_tests::server::{Output, Server};
use kit::{TestLab, sh};

/// The host of the inner lab, asked over SSH: a command there may take long.
struct Host<'a> {
    lab: &'a Lab,
    machine: Machine,
}

impl Host<'_> {
    fn try_sh(&self, script: &str) -> Result<Output> {
        let (target, key) = (
            format!("root@{}", self.machine.address()),
            self.lab.state().key.display().to_string(),
        );
        let mut words = vec!["ip", "netns", "exec", &self.lab.state().namespace, "ssh", "-i", &key];
        words.extend([
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "LogLevel=ERROR",
        ]);
        words.extend([&target, "export PATH=/lab:$PATH XDG_CACHE_HOME=/disk;", script]);
        let start = Instant::now();
        let output = run(&words)?;
        eprintln!(
            "[{:.0?}] {script}\n{}{}",
            start.elapsed(),
            output.stdout_text(),
            output.stderr_text()
        );
        Ok(output)
    }

    fn sh(&self, script: &str) -> Result<String> {
        let output = self.try_sh(script)?;
        ensure!(output.succeeded(), "`{script}` (exit {}): {}", output.code, output.stderr_text());
        Ok(output.stdout_text())
    }
}

/// The base and these files on a disk, at `/lab` in the machine; what a lab writes beside its base goes to `/disk`.
fn plug_in(host: &Host<'_>, files: &[&Path]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let tree = folder.path().join("tree");
    let rootfs = base::ensure(&|line| eprintln!("{line}"))?;
    let named = rootfs.parent().and_then(Path::file_name).context("the base's own folder")?;
    fs_err::create_dir_all(tree.join("kdc").join(named))?;
    let at = tree.join("kdc").join(named);
    must(&["cp".as_ref(), "-a".as_ref(), rootfs.as_os_str(), at.as_os_str()])?;
    for file in files {
        fs_err::copy(file, tree.join(file.file_name().context("a file's name")?))?;
    }
    let (tree, image) =
        (tree.display().to_string(), folder.path().join("lab.img").display().to_string());
    let options = ["-q", "-F", "-t", "ext4", "-E", "root_owner=0:0"];
    must(&[&["mke2fs"], &options[..], &["-d", &tree, &image, "3G"]].concat())?;
    host.machine.plug_disk(Path::new(&image), "lab")?;
    let script = "until [ -b /dev/disk/by-id/virtio-lab ]; do sleep 0.2; done; mkdir -p /lab /disk/kdc; \
                  mount -o ro /dev/disk/by-id/virtio-lab /lab; cd /lab/kdc; \
                  for base in *; do mkdir /disk/kdc/$base; ln -s /lab/kdc/$base/rootfs /disk/kdc/$base/; done";
    host.sh(script).map(drop)
}

fn kdc_lab() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_kdc-lab"))
}

#[test]
#[ignore = "minutes under emulation: `make test-deep` runs it"]
fn a_host_with_cgroup_v2_alone_has_light_servers_and_nothing_after_them() -> Result<()> {
    let lab = TestLab::up("unified", 1, |_| {});
    let machine = Machine::restore(lab.state(), "host", 241, Hardware::default())?;
    let host = Host { lab: &lab, machine };
    plug_in(&host, &[kdc_lab()])?;
    ensure!(sh(&host.machine, "stat -fc %T /sys/fs/cgroup") == "cgroup2fs\n");

    host.sh("fallocate -l 64M /swap; chmod 600 /swap; mkswap /swap; swapon /swap")?;
    host.sh("kdc-lab up --name x --servers 2 --disk 256M")?;
    servers_have_their_own_tree(&host)?;
    servers_can_be_broken(&host)?;
    host.sh("kdc-lab down --name x")?;
    expect_nothing_left(&host, "after down")?;

    for seconds in [1, 3, 9] {
        let script = "kdc-lab up --name x --servers 2 --disk 256M > /dev/null 2>&1 & sleep SECONDS; kill -9 $!; kdc-lab down --name x";
        host.sh(&script.replace("SECONDS", &seconds.to_string()))?;
        expect_nothing_left(&host, &format!("killed after {seconds} s"))?;
    }
    Ok(())
}

/// With the host's modules, its kernel's configuration, and the systemd cgroup driver: what v1 hosts can't show.
#[test]
#[ignore = "a cluster under emulation takes half an hour: `make test-deep` runs it"]
fn a_cluster_is_made_of_light_servers_on_such_a_host() -> Result<()> {
    let bundle = Bundle::of_the_lab()?;
    let install = built("kdc-install")?;
    let lab = TestLab::up("unified-cluster", 1, |_| {});
    let hardware = Hardware { memory_mib: 4096, ..Hardware::default() };
    let machine = Machine::restore(lab.state(), "host", 241, hardware)?;
    let host = Host { lab: &lab, machine };
    plug_in(&host, &[kdc_lab(), &install, &bundle.file, &bundle.key])?;
    host.sh("kdc-lab up --name x --servers 1")?;
    host.sh("mkdir -p /disk/.ssh; cp /run/kdc-lab/x/known_hosts /disk/.ssh/; cp /run/kdc-lab/x/key /disk/.ssh/id_ed25519")?;
    let operator = |words: &str| {
        host.sh(&format!("cd /disk; kdc-lab run x -- env HOME=/disk kdc-install {words}"))
    };
    operator(
        "init --name x --control-plane root@$(awk '/HostName/ { print $2 }' /run/kdc-lab/x/ssh_config)",
    )?;
    let from = "--bundle /lab/lab.kdc --key /lab/lab.key.pub";
    operator(&format!("check {from}"))?;
    operator(&format!("apply --yes {from}"))?;
    let on = |script: &str| host.sh(&format!("kdc-lab exec --name x node1 sh -c '{script}'"));
    let kubectl = "kubectl --cache-dir /run/kubectl --kubeconfig /etc/kubernetes/admin.conf";
    let nodes = on(&format!("{kubectl} get nodes --no-headers"))?;
    ensure!(nodes.contains(" Ready "), "{nodes}");
    let scopes = on("systemctl list-units --plain --no-legend \"cri-containerd-*.scope\"")?;
    ensure!(!scopes.trim().is_empty(), "no container runs in a scope of systemd's");
    operator(&format!("undo --yes {from}"))?;
    host.sh("kdc-lab down --name x")?;
    expect_nothing_left(&host, "after a cluster")
}

fn servers_have_their_own_tree(host: &Host<'_>) -> Result<()> {
    let on = |node: &str, script: &str| {
        host.sh(&format!("kdc-lab exec --name x {node} sh -c '{script}'"))
    };
    for node in ["node1", "node2"] {
        ensure!(on(node, "systemctl is-system-running --wait")? == "running\n");
        ensure!(host.sh(&format!("kdc-lab ssh --name x {node} hostname"))? == format!("{node}\n"));
        ensure!(
            on(node, "cat /proc/1/cgroup")? == "0::/init.scope\n",
            "its systemd has the tree to itself"
        );
        ensure!(on(node, "cat /proc/self/cgroup")? == "0::/visitor\n", "exec is inside too");
        ensure!(
            on(node, "cat /sys/fs/cgroup/cgroup.procs")?.is_empty(),
            "a process lies in an inner cgroup"
        );
        let handed = on(node, "cat /sys/fs/cgroup/cgroup.controllers")?;
        for controller in ["cpu", "cpuset", "io", "memory", "pids"] {
            ensure!(
                handed.split_whitespace().any(|c| c == controller),
                "{controller} isn't in {handed}"
            );
        }
    }
    // The host's own, which no server could change.
    ensure!(on("node1", "cat /proc/modules; tail -n +2 /proc/swaps")?.is_empty());
    on("node1", "test -d /sys/module/br_netfilter && test -s /boot/config-$(uname -r)")?;
    // As runc's do: a cgroup in the tree, its limit, a process that moves in.
    let limit = "cd /sys/fs/cgroup; mkdir t; echo 20M > t/memory.max; echo 0-1 > t/cpuset.cpus; \
                 (echo 0 > t/cgroup.procs; exec head -c 100000000 /dev/zero | tail -c 90000000 | wc -c); rmdir t";
    on("node1", "echo +cpuset +io > /sys/fs/cgroup/cgroup.subtree_control")?;
    ensure!(on("node1", limit)? == "0\n", "a process over its cgroup's limit must be killed");
    let unit = "systemd-run -q --wait -p MemoryMax=20M sh -c \"head -c 100000000 /dev/zero | tail -c 90000000\"";
    ensure!(
        !host.try_sh(&format!("kdc-lab exec --name x node2 {unit}"))?.succeeded(),
        "a unit's limit must hold"
    );
    Ok(())
}

fn servers_can_be_broken(host: &Host<'_>) -> Result<()> {
    host.sh("kdc-lab exec --name x node1 sh -c 'echo kept > /etc/kept; setsid -f sleep 1000 >/dev/null 2>&1 </dev/null'")?;
    for fault in [
        "cut",
        "mend",
        "shape 8mbit",
        "unshape",
        "unshape",
        "fill",
        "unfill",
        "readonly",
        "writable",
        "kill",
    ] {
        host.sh(&format!("kdc-lab fault x node1 {fault}"))?;
    }
    ensure!(host.sh("kdc-lab status --name x")?.contains("off"));
    ensure!(
        host.sh("find /sys/fs/cgroup -path '*kdc-lab-x/node1*'")?.is_empty(),
        "a power cut leaves no cgroup"
    );
    host.sh("kdc-lab fault x node1 start")?;
    ensure!(host.sh("kdc-lab exec --name x node1 cat /etc/kept")? == "kept\n");
    // A program of the workstation must go with the lab.
    host.sh("setsid -f kdc-lab run x -- sleep 1001 > /dev/null 2>&1 < /dev/null; sleep 2; pgrep -f 'sleep 1001'").map(drop)
}

/// What a lab could leave on its host.
fn expect_nothing_left(host: &Host<'_>, when: &str) -> Result<()> {
    let look = "find /sys/fs/cgroup -name 'kdc-lab*'; ip netns; losetup -a; ls -d /run/kdc-lab /disk/kdc/labs; \
                grep kdc-lab /proc/mounts; ps -eo args | grep -E '^(sleep 100|unshare|.*kdc-lab (up|_))'; true";
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        let left = host.try_sh(look)?.stdout_text();
        if left.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < limit, "{when} this is left: {left}");
        std::thread::sleep(Duration::from_secs(1));
    }
}
