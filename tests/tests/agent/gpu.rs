//! GPUs in everything that an operator sees: `kdc-agent gpu-watch` beside the daemon, with a library that is a fake
//! (`tests/fake-nvml`) and comes through the real loader.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use kdc_agent::{
    control::api::{ApiServer as Api, Kind, Patch},
    gpu::hami::health::{GpuHealth, GpuVerdict, HEALTH_ANNOTATION},
};
use kdc_tests::{api_server::ApiServer, workspace};
use serde_json::{Value, json};

use super::{Daemon, follow, samples, tool, validate};

/// Four GPUs; `#1` is room for a fault of the second.
pub(super) const FOUR: &str = include_str!("../../../agent/tests/gpu/four.yaml");
const PATIENCE: Duration = Duration::from_secs(60);

/// `kdc-agent gpu-watch` over a fake library, for as long as it lives.
pub(super) struct Watched {
    folder: PathBuf,
    child: Child,
}

impl Watched {
    /// Publishes in that folder, where the daemon reads.
    pub(super) fn start(folder: &Path, gpus: &str, credentials: &Path) -> Self {
        let place = |name: &str| folder.join(name);
        fs_err::write(place("gpus.yaml"), gpus).unwrap();
        if !place("kmsg").exists() {
            fs_err::write(place("kmsg"), "").unwrap();
        }
        let mut command = Command::new(workspace::built("kdc-agent").unwrap());
        command.arg("gpu-watch").arg("--library");
        command.arg(workspace::built("libkdc_fake_nvml.so").unwrap());
        for (option, name) in [
            ("--document", "gpus.json"),
            ("--counted", "xids.json"),
            ("--kernel-log", "kmsg"),
            ("--table", "xid.yaml"),
        ] {
            command.arg(option).arg(place(name));
        }
        command.arg("--kubeconfig").arg(credentials);
        command.args(["--every-ms", "200", "--survey-ms", "1000"]);
        command.env("KDC_FAKE_NVML", place("gpus.yaml"));
        let log = fs_err::File::create(place("watch.log")).unwrap().into_parts().0;
        let child = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
        Self { folder: folder.to_owned(), child }
    }

    /// Beside a daemon, all four well.
    pub(super) fn beside(daemon: &Daemon, gpus: &str) -> Self {
        let watched = Self::start(daemon.folder.path(), gpus, Path::new("/nonexistent"));
        until("the daemon tells of GPUs", || {
            let health = health(daemon);
            let gpus = health["gpus"]["gpus"].as_array().map_or(0, Vec::len);
            (gpus == 4 && health["gpus"]["library"]["state"] == "answered").then_some(())
        });
        watched
    }

    fn kernel_says(&self, line: &str) {
        use std::io::Write as _;
        let log = self.folder.join("kmsg");
        let mut file = fs_err::OpenOptions::new().append(true).open(log).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // It is going either way; its child ends with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn health(daemon: &Daemon) -> Value {
    serde_json::from_str(&daemon.ask("GET", "/v1/health", "").body).unwrap()
}

fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn facts_are_in_full(daemon: &Daemon, health: &Value) {
    let facts: Value = serde_json::from_str(&daemon.ask("GET", "/v1/facts", "").body).unwrap();
    let gpus = &facts["inventory"]["gpus"];
    assert_eq!(gpus["library"]["state"], "answered");
    assert_eq!(gpus["gpus"][0]["model"]["value"], "NVIDIA H100 80GB HBM3");
    assert_eq!(gpus["gpus"][0]["model"]["source"], "nvmlDeviceGetName");
    validate(&[("Health", health), ("Facts", &facts)]);
}

#[test]
fn gpus_are_in_metrics_health_facts_and_events_and_one_that_is_lost_hides_none() {
    let daemon = Daemon::start("");
    let gpus = FOUR.replace("#1", "fail: {nvmlDeviceGetTemperature: 15}");
    let watched = Watched::beside(&daemon, &gpus);
    let told = until("the second is lost", || {
        let health = health(&daemon);
        (health["gpus"]["gpus"][1]["state"]["state"] == "lost").then_some(health)
    });
    assert_eq!(
        (told["status"].as_str(), told["gpus"]["status"].as_str()),
        (Some("degraded"), Some("sick"))
    );
    assert_eq!(told["gpus"]["gpus"][1]["verdict"]["action"], "rebootNode");
    for at in [0, 2, 3] {
        assert_eq!(told["gpus"]["gpus"][at]["state"]["state"], "answers", "{told}");
    }

    let page = daemon.metrics();
    let numbers = samples(&page);
    let of = |start: &str, with: &str| {
        let mut all =
            numbers.iter().filter(|(name, _)| name.starts_with(start) && name.contains(with));
        all.next().map(|(_, value)| *value)
    };
    assert_eq!(of("DCGM_FI_DEV_GPU_TEMP{", "pci_bus_id=\"00000000:18:00.0\""), Some(41.0));
    assert_eq!(of("DCGM_FI_DEV_GPU_TEMP{", "pci_bus_id=\"00000000:2A:00.0\""), None, "it is lost");
    assert_eq!(of("DCGM_FI_DEV_FB_USED{", "GPU_I_PROFILE=\"1g.5gb\",GPU_I_ID=\"7\""), Some(0.0));
    assert_eq!(of("kdc_gpu_cordon{", "00000000:2A:00.0"), Some(1.0));
    assert_eq!(of("kdc_gpu_up{", "00000000:9A:00.0"), Some(1.0));
    let mut checker = Command::new(tool("prometheus/usr/bin/promtool"));
    let mut checker = checker
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut checker.stdin.take().unwrap(), page.as_bytes()).unwrap();
    let said = String::from_utf8_lossy(&checker.wait_with_output().unwrap().stderr).into_owned();
    let ours: Vec<&str> =
        said.lines().filter(|line| line.starts_with("kdc_") || line.contains("error")).collect();
    assert_eq!(ours, Vec::<&str>::new());

    facts_are_in_full(&daemon, &told);
    let mut follower = follow(&daemon, "");
    let verdict = follower.until("gpu-verdict");
    assert!(verdict["data"].contains("fell off the bus"), "{verdict:?}");
    watched.kernel_says("4,9,50,-;NVRM: Xid (PCI:0000:3b:00): 31, pid=7, name=x, MMU Fault\n");
    let error: Value = serde_json::from_str(&follower.until("gpu-error")["data"]).unwrap();
    assert_eq!(
        (error["fields"]["xid"].as_str(), error["fields"]["pci"].as_str()),
        (Some("31"), Some("0000:3b:00"))
    );
    until("it is counted", || {
        let page = daemon.metrics();
        let line = page.lines().find(|line| {
            line.starts_with("kdc_gpu_xid_errors_total") && line.contains("xid=\"31\"")
        });
        line.is_some_and(|line| line.ends_with(" 1")).then_some(())
    });
}

#[test]
fn a_daemon_stays_up_whatever_the_library_does_and_tells_it() {
    let daemon = Daemon::start("");
    let before = daemon.pid();
    for (gpus, state) in [
        ("fail: {nvmlInit_v2: 18}\ngpus: [{uuid: GPU-1, pci: '00000000:01:00.0'}]", ""),
        ("fail: {nvmlInit_v2: crash}", ""),
        (FOUR, "answered"),
    ] {
        let mut watched = Watched::start(daemon.folder.path(), gpus, Path::new("/nonexistent"));
        if state.is_empty() {
            // No bus, no library: a machine without a GPU. It ends, and well.
            assert!(watched.child.wait().unwrap().success());
            assert!(!daemon.folder.path().join("gpus.json").exists());
        } else {
            until(state, || (health(&daemon)["gpus"]["library"]["state"] == state).then_some(()));
        }
        assert_eq!(daemon.ask("GET", "/v1/health", "").status, 200);
    }
    // Torn by somebody: told, and nothing of it is believed.
    fs_err::write(daemon.folder.path().join("gpus.json"), "{\"form\":1,").unwrap();
    until("it is told", || {
        let health = health(&daemon);
        let why = health["parts"]["gpus"]["failure"].as_str().unwrap_or_default().to_owned();
        (why.contains("AGENT-067") && health["gpus"].is_null()).then_some(())
    });
    assert_eq!(daemon.pid(), before);
}

#[test]
fn a_sick_gpu_is_told_to_a_real_api_server_with_the_kubelets_own_rights() {
    let server = ApiServer::start().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let admin = runtime.block_on(Api::with(&server.kubeconfig(), "kube-system", None)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let gpus = FOUR.replace("#1", "fail: {nvmlDeviceGetTemperature: 15}");
    // The node is registered only later: that is waited for.
    let watched = Watched::start(folder.path(), &gpus, &server.kubelet_kubeconfig());
    until("the first failure", || {
        let log = fs_err::read_to_string(folder.path().join("watch.log")).unwrap();
        log.contains("AGENT-070").then_some(())
    });
    for name in ["w1", "w2"] {
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name } });
        runtime.block_on(admin.create(Kind::Node, &node)).unwrap();
    }
    let told = || {
        let node = runtime.block_on(admin.get(Kind::Node, "w1")).unwrap().unwrap();
        let text = node["metadata"]["annotations"][HEALTH_ANNOTATION].as_str()?;
        Some(GpuHealth::parse(text).unwrap())
    };
    let sick = |health: &GpuHealth| {
        let all = health.gpus.iter().filter(|gpu| gpu.verdict == GpuVerdict::Cordon);
        all.map(|gpu| gpu.uuid.clone()).collect::<Vec<_>>()
    };
    let health = until("the annotation", told);
    assert_eq!(sick(&health), ["GPU-22222222-0000-0000-0000-000000000000"]);
    assert_eq!(health.gpus.len(), 4);
    assert!(health.gpus[1].reason.contains("fell off the bus"), "{health:?}");
    // What somebody else does to it is put back by the next watch, which finds the GPU well.
    drop(watched);
    let other = json!({ "metadata": { "annotations": { HEALTH_ANNOTATION: "{\"gpus\":[]}" } } });
    runtime.block_on(admin.patch(Kind::Node, ("w1", None), (Patch::Merge, &other))).unwrap();
    let _watched = Watched::start(folder.path(), FOUR, &server.kubelet_kubeconfig());
    let health = until("all are well", || told().filter(|health| health.gpus.len() == 4));
    assert_eq!(sick(&health), Vec::<String>::new());
    // And another node is none of this one's business.
    let kubelet =
        runtime.block_on(Api::with(&server.kubelet_kubeconfig(), "kube-system", None)).unwrap();
    let refused = runtime.block_on(kubelet.patch(Kind::Node, ("w2", None), (Patch::Merge, &other)));
    assert_eq!(refused.unwrap_err().refused_with(), Some(403));
}
