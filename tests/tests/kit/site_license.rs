//! A workload, and the licence of its cluster that goes through every state: the one must not notice the other. What is
//! real: every program, the cluster, the clock; only the trial's record is made older, since nobody waits thirty days.
#![expect(unreachable_pub, reason = "each test has its own copy of this module")]

use std::time::{Duration, Instant};

use kdc_tests::{lab::LightServer, operator::Operator, program, server::Server};
use serde_json::{Value, json};

use crate::{
    cluster::kubectl,
    kit::sh,
    licence_file::{issue, now},
};

const PATIENCE: Duration = Duration::from_secs(240);
const SERVE: &str = "mkdir /www && echo ok >/www/index.html && exec httpd -f -p 8080 -h /www";
/// Counts good answers and bad ones.
const CALL: &str = "while :; do if wget -q -O /tmp/got http://$WEB:8080/; then echo >>/tmp/good; \
                    else echo >>/tmp/bad; fi; sleep 0.2; done";

/// A cluster of three nodes.
pub struct Licensed<'a> {
    pub operator: &'a Operator,
    pub servers: &'a [LightServer],
}

fn until(what: &str, mut ask: impl FnMut() -> Result<(), String>) {
    let started = Instant::now();
    while let Err(seen) = ask() {
        assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}; {seen}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

impl Licensed<'_> {
    /// `Trial`, `Expired`, `Valid`, `OverLimit`, `Expired`, removed.
    pub fn goes_through_every_state_and_the_workload_does_not_notice(&self) {
        let before = self.workload();
        self.stands("trial");
        self.the_trial_began_days_ago(40);
        self.stands("expired");
        self.an_expired_cluster_works();
        self.install(&issue(1, 3, (-1, 400)).unwrap());
        self.stands("valid");
        self.every_node_says_what_machine_it_is();
        self.install(&issue(2, 2, (-1, 400)).unwrap());
        self.stands("over-limit");
        let (code, said) = self.asked(&["license", "explain"]);
        assert!(code == 0 && said.contains("nodes: 3 of 2"), "{said}");
        assert_eq!(said.matches("beyond the licence").count(), 1, "the newest: {said}");
        self.remove("--all");
        self.install(&issue(3, 9, (-30, -1)).unwrap());
        self.stands("expired");
        self.metrics_say(&self.servers[1], "expired");
        self.remove("lic-3");
        self.stands("unlicensed");
        self.is_untouched(&before);
        self.what_is_exported_is_everything();
        kubectl(self.control_plane(), "delete pod web client --grace-period=0 --force");
    }

    /// Every node is in the record, and the record on the control plane's disk: from then on nothing is written for an hour.
    pub fn has_settled(&self) {
        let known = |text: &str| self.servers.iter().all(|server| text.contains(server.name()));
        until("every node in the record", || {
            let words =
                "-n kube-system get configmap kdc-license-record --ignore-not-found -o json";
            let record = kubectl(self.control_plane(), words);
            if known(&record) { Ok(()) } else { Err(record) }
        });
        sh(self.control_plane(), "systemctl reload kdc-agent");
        until("the record's copy", || {
            let copy = "cat /var/lib/kdc/license/record.json 2>/dev/null || true";
            let copy = sh(self.control_plane(), copy);
            if known(&copy) { Ok(()) } else { Err(copy) }
        });
    }

    fn control_plane(&self) -> &LightServer {
        &self.servers[0]
    }

    /// A server and a client on different nodes; answers how often their containers were started and with which ids.
    fn workload(&self) -> Vec<String> {
        let pod = |name: &str, node: &LightServer, script: &str, web: &str| {
            let container = json!({
                "name": name, "image": "docker.io/kdc/busybox:1", "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", script], "env": [{ "name": "WEB", "value": web }],
            });
            let spec = json!({
                "nodeName": node.name(), "terminationGracePeriodSeconds": 1, "containers": [container],
            });
            let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec });
            kubectl(self.control_plane(), &format!("apply -f - <<'EOF'\n{pod}\nEOF"));
            kubectl(
                self.control_plane(),
                &format!("wait pod {name} --for=condition=Ready --timeout=120s"),
            );
        };
        pod("web", &self.servers[1], SERVE, "");
        let address = kubectl(self.control_plane(), "get pod web -o jsonpath={.status.podIP}");
        // The server listens a moment after it began.
        let ask = format!(
            "run first --rm -i --restart=Never --image=docker.io/kdc/busybox:1 \
                           --image-pull-policy=IfNotPresent -- sh -c 'until wget -q -O - http://{address}:8080/; \
                           do sleep 0.2; done'"
        );
        kubectl(self.control_plane(), &ask);
        pod("client", &self.servers[2], CALL, &address);
        self.containers()
    }

    fn containers(&self) -> Vec<String> {
        let of = "-o jsonpath={.metadata.uid},{.status.containerStatuses[0].restartCount},{.status.containerStatuses[0].containerID}";
        ["web", "client"]
            .map(|pod| kubectl(self.control_plane(), &format!("get pod {pod} {of}")))
            .to_vec()
    }

    fn is_untouched(&self, before: &[String]) {
        assert_eq!(self.containers(), before, "a container was started anew");
        let count = |file: &str| {
            let words = format!("exec client -- sh -c 'cat /tmp/{file} 2>/dev/null | wc -l'");
            kubectl(self.control_plane(), &words).trim().parse::<u32>().unwrap()
        };
        let (good, bad) = (count("good"), count("bad"));
        assert!(good > 20 && bad == 0, "{good} good answers, {bad} bad ones");
    }

    fn asked(&self, words: &[&str]) -> (i32, String) {
        let words = self.operator.with_bundle(words);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = self.operator.run(&words).unwrap();
        (output.code, output.stdout_text() + &output.stderr_text())
    }

    fn install(&self, file: &str) {
        let path = self.operator.home().join("license.json");
        fs_err::write(&path, file).unwrap();
        let (code, said) = self.asked(&["license", "install", &path.display().to_string()]);
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("in-force"), "{said}");
    }

    fn remove(&self, which: &str) {
        let (code, said) = self.asked(&["license", "remove", which]);
        assert_eq!(code, 0, "removing works in every state: {said}");
    }

    /// The leader published it, and who asks is told the same.
    fn stands(&self, state: &str) {
        until(state, || {
            let words =
                "-n kube-system get configmap kdc-license-standing --ignore-not-found -o json";
            let map: Value =
                serde_json::from_str(&kubectl(self.control_plane(), words)).unwrap_or_default();
            let text = map["data"]["standing.json"].as_str().unwrap_or("{}");
            let standing: Value = serde_json::from_str(text).unwrap();
            let seen = standing["standing"]["state"].clone();
            if seen == state { Ok(()) } else { Err(seen.to_string()) }
        });
        let (code, said) = self.asked(&["license", "status", "--output", "json"]);
        let told: Value =
            serde_json::from_str(said.lines().next().unwrap_or_default()).unwrap_or_default();
        assert!(code == 0 && told["state"] == state, "{code}: {said}");
        assert_eq!(told["nodes"], 3, "{told}");
    }

    fn the_trial_began_days_ago(&self, days: i64) {
        let words = "-n kube-system get configmap kdc-license-record -o json";
        let mut map: Value = serde_json::from_str(&kubectl(self.control_plane(), words)).unwrap();
        let text = map["data"]["record.json"].as_str().unwrap();
        let mut record: Value = serde_json::from_str(text).unwrap();
        record["trial"]["startedAt"] = now().plus_days(-days).to_string().into();
        map["data"]["record.json"] = record.to_string().into();
        kubectl(self.control_plane(), &format!("replace -f - <<'EOF'\n{map}\nEOF"));
        // Its leader reads it when it begins.
        sh(self.control_plane(), "systemctl restart kdc-control");
    }

    /// New pods start, `apply` goes through, and no word of it is in the nodes' health.
    fn an_expired_cluster_works(&self) {
        let run = "run fresh --restart=Never --image=docker.io/kdc/busybox:1 --image-pull-policy=IfNotPresent -- sleep 1000";
        kubectl(self.control_plane(), run);
        kubectl(self.control_plane(), "wait pod fresh --for=condition=Ready --timeout=120s");
        kubectl(self.control_plane(), "delete pod fresh --grace-period=0 --force");
        let applied = self.operator.apply().unwrap();
        let said = applied.stdout_text() + &applied.stderr_text();
        assert!(said.contains("nothing to do"), "{said}");
        let health = self.ask(&self.servers[1], "/v1/health");
        assert!(!health.contains("licen"), "{health}");
    }

    fn ask(&self, server: &LightServer, path: &str) -> String {
        let space = format!("--net={}", server.network_namespace().unwrap().display());
        let url = format!("http://127.0.0.1:328{path}");
        let curl = ["nsenter", &space, "curl", "-sf", "--max-time", "10", &url];
        program::must(&curl).unwrap().stdout_text()
    }

    fn every_node_says_what_machine_it_is(&self) {
        for server in self.servers {
            sh(server, "systemctl reload kdc-agent");
        }
        until("three fingerprints", || {
            let nodes: Value =
                serde_json::from_str(&kubectl(self.control_plane(), "get nodes -o json")).unwrap();
            let prints: std::collections::BTreeSet<String> = nodes["items"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|node| node["metadata"]["annotations"]["kdc.dev/fingerprint"].as_str())
                .map(str::to_owned)
                .collect();
            if prints.len() == 3 { Ok(()) } else { Err(format!("{prints:?}")) }
        });
        until("the control plane's copy", || {
            let kept = sh(
                self.control_plane(),
                "cat /var/lib/kdc/license/license.json 2>/dev/null || true",
            );
            if kept.contains("payload") { Ok(()) } else { Err(kept) }
        });
        sh(&self.servers[1], "test ! -e /var/lib/kdc/license/license.json");
    }

    fn metrics_say(&self, server: &LightServer, state: &str) {
        sh(server, "systemctl reload kdc-agent");
        let line = format!("kdc_license_state{{state=\"{state}\"}} 1");
        until(&line, || {
            let page = self.ask(server, "/metrics");
            let lines: Vec<&str> =
                page.lines().filter(|line| line.contains("kdc_license")).collect();
            if lines.contains(&line.as_str()) { Ok(()) } else { Err(format!("{lines:?}")) }
        });
    }

    fn what_is_exported_is_everything(&self) {
        let path = self.operator.home().join("license-report.json");
        let (code, said) =
            self.asked(&["license", "export", "--save", &path.display().to_string()]);
        assert_eq!(code, 0, "{said}");
        let report: Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
        assert_eq!(
            (report["counted"].as_array().map(Vec::len), &report["state"]),
            (Some(3), &"unlicensed".into())
        );
    }
}
