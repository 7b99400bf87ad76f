//! A bundle whose runtime is upstream's kind: containerd, the CNI plugins and crictl in compressed archives, runc and
//! the kubelet as bare programs, and no package that would bring a unit, a directory or a configuration.

#![expect(clippy::unwrap_used, reason = "what a test needs, it insists on")]

#[path = "kit/disk.rs"]
mod disk;
mod kit;

use std::time::{Duration, Instant};

use kdc_tests::{
    differ::{Snapshot, diff},
    lab::LightServer,
    operator::{Bundle, Operator},
    server::{Fault, Server},
};
use kit::{TestLab, sh};

#[test]
fn a_runtime_that_comes_as_archives_becomes_a_cluster_and_goes_without_a_trace() {
    let lab = TestLab::up("archives", 1, |wanted| wanted.disk_mib = Some(8192));
    let server = lab.server("node1").unwrap();
    let servers: [&dyn Server; 1] = [&server];
    let operator =
        Operator::with(&lab, "single", &servers, Bundle::of_archives().unwrap()).unwrap();
    let before = Snapshot::of(&server).unwrap();

    // Acceptance is part of it: pods run, and reach each other by name.
    disk::assert_low_peak(&server, || operator.apply().unwrap());
    let kubectl = "kubectl --kubeconfig /etc/kubernetes/admin.conf --cache-dir /run/test-kubectl";
    let ready = sh(&server, &format!("{kubectl} get nodes --no-headers"));
    assert_eq!(ready.matches(" Ready ").count(), 1, "{ready}");
    let packages =
        sh(&server, "dpkg-query -W -f '${Package}\\n' 'container*' runc 2>/dev/null; true");
    assert_eq!(packages, "", "the runtime came as packages");
    let main =
        "systemctl show -p FragmentPath,ExecStart containerd.service; command -v runc crictl";
    let started = sh(&server, main);
    for part in [
        "/etc/systemd/system/containerd.service",
        "path=/usr/local/bin/containerd ",
        "/usr/local/bin/runc",
    ] {
        assert!(started.contains(part), "{part} is not in {started}");
    }
    let owners = sh(&server, "stat -c '%u:%g %a' /usr/local/bin/containerd /opt/cni/bin/bridge");
    assert_eq!(owners, "0:0 755\n0:0 755\n", "the archive's owner is nobody here");
    let again = operator.apply().unwrap();
    let said = again.stdout_text() + &again.stderr_text();
    assert!(said.contains("nothing to do"), "{said}");

    it_comes_back_after_a_power_cut(&server);
    operator.undo().unwrap();
    let left: Vec<String> =
        diff(&before, &Snapshot::of(&server).unwrap()).iter().map(ToString::to_string).collect();
    assert!(left.is_empty(), "undo left differences:\n{}", left.join("\n"));
}

/// Static pods start from what containerd has; the registry is back for who needs it.
fn it_comes_back_after_a_power_cut(server: &LightServer) {
    server.inflict(&Fault::Kill).unwrap();
    server.inflict(&Fault::Start).unwrap();
    let began = Instant::now();
    let answers = "kubectl --kubeconfig /etc/kubernetes/admin.conf --cache-dir /run/test-kubectl get --raw /readyz";
    while !server.exec(&["sh", "-c", answers]).is_ok_and(|output| output.succeeded()) {
        assert!(began.elapsed() < Duration::from_secs(180), "the API server does not come back");
        std::thread::sleep(Duration::from_millis(500));
    }
    let image = "docker.io/kdc/busybox:1";
    sh(server, &format!("crictl rmi {image} && ! crictl inspecti {image} && crictl pull {image}"));
}
