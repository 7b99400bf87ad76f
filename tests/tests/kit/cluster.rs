//! An operator and a cluster of light servers: made, looked at, and told apart from what stood there before.
#![expect(unreachable_pub, reason = "each test has its own copy of this module")]

use kdc_tests::{
    differ::{Snapshot, diff},
    lab::LightServer,
    operator::Operator,
    server::Server,
};

use crate::kit::{TestLab, sh};

pub fn operator(lab: &TestLab, profile: &str, servers: &[LightServer]) -> Operator {
    let servers: Vec<&dyn Server> = servers.iter().map(|server| server as &dyn Server).collect();
    Operator::new(lab, profile, &servers).unwrap()
}

pub fn snapshots(servers: &[LightServer]) -> Vec<Snapshot> {
    servers.iter().map(|server| Snapshot::of(server).unwrap()).collect()
}

/// Every host is as it was, or the differences are told, node by node.
pub fn assert_as_before(before: &[Snapshot], servers: &[LightServer]) {
    let mut told = String::new();
    for (before, server) in before.iter().zip(servers) {
        for difference in diff(before, &Snapshot::of(server).unwrap()) {
            told.push_str(&format!("{}: {difference}\n", server.name()));
        }
    }
    assert!(told.is_empty(), "undo left differences:\n{told}");
}

/// Its cache goes where a reboot clears it: what the test itself leaves would be blamed on undo.
pub fn kubectl(server: &LightServer, words: &str) -> String {
    let kubeconfig = "--kubeconfig /etc/kubernetes/admin.conf --cache-dir /run/test-kubectl";
    sh(server, &format!("kubectl {kubeconfig} {words}"))
}

pub fn ready_nodes(server: &LightServer) -> usize {
    kubectl(server, "get nodes --no-headers").matches(" Ready ").count()
}
