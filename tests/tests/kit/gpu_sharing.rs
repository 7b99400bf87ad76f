//! GPU sharing on a real cluster without a GPU: HAMi's ConfigMaps as its chart writes them, and in place of its device
//! plugin a pod that only stands there, with what the plugin would say written by the test. What is real: the unit under
//! systemd, the API server, scheduler and kubelet, and every word of kdc's.
#![expect(unreachable_pub, reason = "each test has its own copy of this module")]

use std::time::{Duration, Instant};

use kdc_tests::{lab::LightServer, operator::Operator, server::Server};
use serde_json::{Value, json};

use crate::{cluster::kubectl, kit::sh};

const CONFIG: &str = include_str!("../../../agent/tests/fixtures/hami/config-2.10.json");
const DEFAULTS: &str = include_str!("../../../agent/tests/fixtures/hami/device-config-2.10.yaml");
const UNIT: &str = "kdc-control.service";
const PATIENCE: Duration = Duration::from_secs(180);

/// A cluster of which a control plane and a worker matter here.
pub struct Sharing<'a> {
    pub operator: &'a Operator,
    pub control_plane: &'a LightServer,
    pub worker: &'a LightServer,
}

fn until(what: &str, mut ask: impl FnMut() -> Result<(), String>) {
    let started = Instant::now();
    while let Err(seen) = ask() {
        assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}; {seen}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn holds(good: bool, seen: impl std::fmt::Debug) -> Result<(), String> {
    if good { Ok(()) } else { Err(format!("{seen:?}")) }
}

impl Sharing<'_> {
    /// The whole story; the cluster is as before in the end, and its hosts are too.
    pub fn is_set_up_proved_and_withdrawn(&self) {
        self.hami_is_installed();
        self.the_cluster_file_says(Some(json!({ "mode": "hami", "splitCount": 4 })));
        let applied = self.operator.apply().unwrap();
        let said = applied.stdout_text() + &applied.stderr_text();
        assert!(said.contains("gpu-wanted done"), "{said}");
        self.the_unit_is_confined_and_leads();
        self.the_settings_are_written_and_proved();
        self.what_differs_is_told();
        self.a_killed_leader_comes_back();
        self.what_is_not_wanted_any_more_goes();
    }

    fn apply_object(&self, object: &Value) {
        kubectl(self.control_plane, &format!("apply -f - <<'EOF'\n{object}\nEOF"));
    }

    fn hami_is_installed(&self) {
        for (name, key, text) in [
            ("hami-device-plugin", "config.json", CONFIG),
            ("hami-scheduler-device", "device-config.yaml", DEFAULTS),
        ] {
            let metadata = json!({ "name": name, "namespace": "kube-system" });
            let data = json!({ key: text });
            self.apply_object(&json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data,
            }));
        }
    }

    fn the_cluster_file_says(&self, gpu: Option<Value>) {
        let file = self.operator.cluster_file();
        let mut cluster: Value =
            serde_yaml::from_str(&fs_err::read_to_string(&file).unwrap()).unwrap();
        let nodes = cluster["spec"]["nodes"].as_array_mut().unwrap();
        let node = nodes.iter_mut().find(|node| node["name"] == self.worker.name()).unwrap();
        match gpu {
            Some(gpu) => node["gpu"] = gpu,
            None => drop(node.as_object_mut().unwrap().remove("gpu")),
        }
        fs_err::write(&file, serde_yaml::to_string(&cluster).unwrap()).unwrap();
    }

    fn leader(&self) -> String {
        let words = "-n kube-system get lease kdc-control --ignore-not-found -o jsonpath={.spec.holderIdentity}";
        kubectl(self.control_plane, words)
    }

    fn the_unit_is_confined_and_leads(&self) {
        let shown =
            sh(self.control_plane, &format!("systemctl show {UNIT} -p User,DynamicUser,SubState"));
        for line in ["User=kdc-control", "DynamicUser=yes", "SubState=running"] {
            assert!(shown.lines().any(|known| known == line), "{shown}");
        }
        // In tenths; measured 1.1.
        sh(self.control_plane, &format!("systemd-analyze security --threshold=30 {UNIT}"));
        until("the lease is held", || {
            let leader = self.leader();
            holds(!leader.is_empty(), leader)
        });
    }

    fn node(&self) -> Value {
        let text = kubectl(self.control_plane, &format!("get node {} -o json", self.worker.name()));
        serde_json::from_str(&text).unwrap()
    }

    /// Its entry in `config.json`.
    fn entry(&self) -> Value {
        let words = "-n kube-system get configmap hami-device-plugin -o json";
        let map: Value = serde_json::from_str(&kubectl(self.control_plane, words)).unwrap();
        let text = map["data"]["config.json"].as_str().unwrap();
        assert!(text.contains("your-node-name"), "the chart's sample is kept: {text}");
        let config: Value = serde_json::from_str(text).unwrap();
        let entries = config["nodeconfig"].as_array().cloned().unwrap();
        let ours = |entry: &Value| entry["name"] == self.worker.name();
        entries.into_iter().find(ours).unwrap_or(Value::Null)
    }

    /// What the device plugin and the kubelet say of two GPUs.
    fn plugin_says(&self, split: u64) {
        let gpu = |id: &str, index| {
            json!({
                "id": id, "index": index, "count": split, "devmem": 16384, "devcore": 100,
                "type": "NVIDIA-Tesla T4", "mode": "hami-core", "health": true,
            })
        };
        let register = json!([
            gpu("GPU-00552014-5c87-89ac-b1a6-7b53aa24b0ec", 0),
            gpu("GPU-0fc3eda5-e98b-a25b-5b0d-cf5c855d1448", 1),
        ]);
        let name = self.worker.name();
        let words =
            format!("annotate --overwrite node {name} 'hami.io/node-nvidia-register={register}'");
        kubectl(self.control_plane, &words);
        // The kubelet keeps what it does not know, and writes too: whoever is late tries again.
        until("the devices are in the node's status", || {
            let mut node = self.node();
            let devices = (2 * split).to_string();
            for of in ["capacity", "allocatable"] {
                node["status"][of]["nvidia.com/gpu"] = devices.clone().into();
            }
            let kubeconfig =
                "--kubeconfig /etc/kubernetes/admin.conf --cache-dir /run/test-kubectl";
            let put = format!("replace --raw /api/v1/nodes/{name}/status -f -");
            let script = format!("kubectl {kubeconfig} {put} <<'EOF'\n{node}\nEOF");
            let output = self.control_plane.exec(&["sh", "-c", &script]).unwrap();
            holds(output.succeeded(), output.stderr_text())
        });
    }

    fn the_settings_are_written_and_proved(&self) {
        until("the entry is written", || {
            let entry = self.entry();
            holds(entry["devicesplitcount"] == 4 && entry["operatingmode"] == "hami-core", entry)
        });
        until("the node has the label that the plugin goes by", || {
            let labels = self.node()["metadata"]["labels"].clone();
            holds(labels["gpu"] == "on", labels)
        });
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "hami-device-plugin-model", "namespace": "kube-system",
                "labels": { "app.kubernetes.io/component": "hami-device-plugin" },
            },
            "spec": {
                "nodeName": self.worker.name(),
                "containers": [{
                    "name": "device-plugin", "image": "docker.io/kdc/busybox:1",
                    "imagePullPolicy": "IfNotPresent", "command": ["sleep", "100000"],
                }],
            },
        });
        self.apply_object(&pod);
        self.plugin_says(4);
        until("the node's condition says that it is as wanted", || {
            let conditions = self.node()["status"]["conditions"].clone();
            let ours = |one: &&Value| one["type"] == "GpuSharingAsWanted";
            let found = conditions.as_array().unwrap().iter().find(ours).cloned();
            holds(found.as_ref().is_some_and(|one| one["status"] == "True"), found)
        });
        let (code, said) = self.asked(&["gpu", "status"]);
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("as-wanted") && said.contains("Tesla T4"), "{said}");
        let (code, said) = self.asked(&["gpu", "explain", self.worker.name()]);
        assert!(code == 0 && said.contains("splitCount"), "{said}");
    }

    fn asked(&self, words: &[&str]) -> (i32, String) {
        let words = self.operator.with_bundle(words);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = self.operator.run(&words).unwrap();
        (output.code, output.stdout_text() + &output.stderr_text())
    }

    fn what_differs_is_told(&self) {
        self.plugin_says(10);
        let (code, said) = self.asked(&["gpu", "status"]);
        assert_eq!(code, 3, "{said}");
        for words in ["KDC-033", "differs", "shared by 10, not 4"] {
            assert!(said.contains(words), "{words}: {said}");
        }
        self.plugin_says(4);
    }

    fn a_killed_leader_comes_back(&self) {
        let before = self.leader();
        sh(self.control_plane, &format!("systemctl kill -s KILL {UNIT}"));
        until("another process leads", || {
            let leader = self.leader();
            holds(!leader.is_empty() && leader != before, leader)
        });
    }

    fn what_is_not_wanted_any_more_goes(&self) {
        self.the_cluster_file_says(None);
        let applied = self.operator.apply().unwrap();
        let said = applied.stdout_text() + &applied.stderr_text();
        assert!(said.contains("gpu-withdrawn done"), "{said}");
        assert_eq!(self.entry(), Value::Null);
        let node = self.node();
        let (labels, annotations) = (&node["metadata"]["labels"], &node["metadata"]["annotations"]);
        assert_eq!(labels["gpu"], Value::Null, "{labels}");
        let ours =
            annotations.as_object().unwrap().keys().find(|name| name.contains("kdc.dev/hami"));
        assert_eq!(ours, None, "{annotations}");
        // It has the licence to look after too.
        sh(self.control_plane, &format!("systemctl is-active {UNIT}"));
        let left = "-n kube-system get configmap kdc-gpu kdc-gpu-status --ignore-not-found -o name";
        assert_eq!(kubectl(self.control_plane, left), "");
        let delete = "-n kube-system delete pod hami-device-plugin-model --grace-period=0 --force";
        kubectl(self.control_plane, delete);
    }
}
