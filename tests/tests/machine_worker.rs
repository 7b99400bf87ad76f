//! A machine with its own kernel and cgroup v2 as worker of a light server's cluster; then both as before.
//!
//! What a light server can't show is shown here: modules and sysctls of a kernel that is nobody else's, the systemd
//! cgroup driver, and both drivers in one cluster.

mod kit;

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use kdc_tests::{
    differ::{Snapshot, diff},
    machine::{Hardware, Machine},
    operator::Operator,
    server::Server,
};
use kit::{TestLab, sh};

#[test]
#[ignore = "minutes under emulation: `make test-deep` runs it; refusals.rs checks a machine"]
fn a_machine_joins_a_light_servers_cluster_and_undo_leaves_both_as_they_were() -> Result<()> {
    let lab = TestLab::up("worker", 1, |_| {});
    let server = lab.server("node1")?;
    let machine = Machine::restore(lab.state(), "vm1", 241, Hardware::default())?;
    let nodes: [&dyn Server; 2] = [&server, &machine];
    let operator = Operator::new(&lab, "cluster", &nodes)?;
    let before = nodes.iter().map(|node| Snapshot::of(*node)).collect::<Result<Vec<_>>>()?;

    let start = Instant::now();
    let applied = operator.apply()?;
    eprintln!("applied after {:.0?}", start.elapsed());
    eprintln!("{}{}", applied.stdout_text(), applied.stderr_text());
    expect_a_node_of_its_own_kind(&machine)?;
    expect_ready(&server, &["node1", "vm1"])?;

    let start = Instant::now();
    operator.undo()?;
    eprintln!("undone after {:.0?}", start.elapsed());
    let mut left = Vec::new();
    for (node, before) in nodes.iter().zip(&before) {
        let found = diff(before, &Snapshot::of(*node)?);
        left.extend(found.iter().map(|difference| format!("{}: {difference}", node.name())));
    }
    assert_eq!(left, Vec::<String>::new(), "undo left this");
    Ok(())
}

fn expect_a_node_of_its_own_kind(machine: &Machine) -> Result<()> {
    let modules = sh(machine, "cat /proc/modules");
    for module in ["overlay", "br_netfilter"] {
        let loaded = modules.lines().any(|line| line.split(' ').next() == Some(module));
        ensure!(loaded, "{module} is not loaded in the machine's kernel");
    }
    // The kubelet's file is the cluster's, written for the control plane's cgroup v1; the flag goes over it.
    let flags = sh(machine, "cat /var/lib/kubelet/kubeadm-flags.env");
    ensure!(flags.contains("--cgroup-driver=systemd"), "cgroup v2 wants systemd's driver: {flags}");
    let units = sh(machine, "systemctl list-units --plain --no-legend 'cri-containerd-*.scope'");
    ensure!(!units.trim().is_empty(), "no container runs in a scope of systemd's");
    Ok(())
}

fn expect_ready(server: &dyn Server, names: &[&str]) -> Result<()> {
    let nodes = sh(
        server,
        "kubectl --cache-dir /run/kubectl --kubeconfig /etc/kubernetes/admin.conf get nodes --no-headers",
    );
    for name in names {
        let line = nodes.lines().find(|line| line.split_whitespace().next() == Some(name));
        let line = line.with_context(|| format!("no node {name}: {nodes}"))?;
        ensure!(line.split_whitespace().nth(1) == Some("Ready"), "{line}");
    }
    Ok(())
}
