//! `kdc-agent control` against a real API server, with the ConfigMaps that HAMi's chart writes and a stand-in for its
//! device plugin that does what the real one does: it reads the settings when its pod starts, and never again.

#[path = "kit/licence_file.rs"]
mod licence_file;
#[path = "kit/licensing.rs"]
mod licensing;

use std::{
    collections::BTreeMap,
    future::Future,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use kdc_agent::{
    control::{
        LEASE, OWNED_ANNOTATION, WANTED_KEY, WANTED_MAP, Wanted,
        api::{ApiServer as Api, Kind, Patch},
        progress, status,
    },
    gpu::hami::{self, cordon, effective, health},
};
use kdc_profiles::cluster::gpu::{Gpu, GpuMode};
use kdc_tests::{api_server::ApiServer, workspace};
use serde_json::{Value, json};

const SYSTEM: &str = "kube-system";
const CONFIG: &str = include_str!("../../agent/tests/fixtures/hami/config-2.10.json");
const DEFAULTS: &str = include_str!("../../agent/tests/fixtures/hami/device-config-2.10.yaml");
const PATIENCE: Duration = Duration::from_secs(40);

/// An admin of the cluster.
#[derive(Clone)]
struct Admin {
    api: Api,
}

impl Admin {
    async fn map_of(&self, name: &str) -> Result<Value> {
        self.api
            .get(Kind::ConfigMap, name)
            .await?
            .with_context(|| format!("there is no ConfigMap {name}"))
    }

    async fn node(&self, name: &str) -> Result<Value> {
        self.api.get(Kind::Node, name).await?.context("there is no such node")
    }

    /// Create, or change what is there.
    async fn apply(&self, kind: Kind, object: &Value) -> Result<()> {
        let name = object["metadata"]["name"].as_str().context("name")?;
        if self.api.get(kind, name).await?.is_some() {
            self.api.patch(kind, (name, None), (Patch::Merge, object)).await?;
        } else {
            self.api.create(kind, object).await?;
        }
        Ok(())
    }

    async fn map(&self, name: &str, data: Value) -> Result<()> {
        let metadata = json!({ "name": name, "namespace": SYSTEM });
        let map =
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data });
        self.apply(Kind::ConfigMap, &map).await
    }

    /// What `kdc-install apply` does to the ConfigMap.
    async fn want(&self, nodes: &[(&str, Gpu)]) -> Result<()> {
        let wanted = Wanted {
            nodes: nodes.iter().map(|(name, gpu)| ((*name).to_owned(), gpu.clone())).collect(),
        };
        let list: Value = serde_json::from_str(&wanted.manifests())?;
        let is_map = |item: &&Value| item["kind"] == "ConfigMap";
        let map = list["items"]
            .as_array()
            .and_then(|items| items.iter().find(is_map))
            .context("the ConfigMap")?;
        self.apply(Kind::ConfigMap, map).await
    }

    async fn config(&self) -> Result<(String, Value)> {
        let map = self.map_of(hami::CONFIG_MAP).await?;
        let text = map["data"][hami::CONFIG_KEY].as_str().context("config.json")?.to_owned();
        let value = serde_json::from_str(&text)?;
        Ok((text, value))
    }

    /// The entry of a node.
    async fn entry(&self, node: &str) -> Result<Value> {
        let (_, config) = self.config().await?;
        let entries = config["nodeconfig"].as_array().cloned().unwrap_or_default();
        Ok(entries.into_iter().find(|entry| entry["name"] == node).unwrap_or(Value::Null))
    }

    async fn annotation(&self, node: &str, name: &str) -> Result<Option<String>> {
        Ok(self.node(node).await?["metadata"]["annotations"][name].as_str().map(str::to_owned))
    }

    async fn annotate(&self, node: &str, name: &str, value: Option<&str>) -> Result<()> {
        let patch = json!({ "metadata": { "annotations": { name: value } } });
        Ok(self.api.patch(Kind::Node, (node, None), (Patch::Merge, &patch)).await?)
    }

    async fn phase(&self, node: &str) -> Result<String> {
        let text = self.annotation(node, progress::STATE_ANNOTATION).await?.unwrap_or_default();
        let state: Value = serde_json::from_str(&text).unwrap_or_default();
        Ok(state["phase"].as_str().unwrap_or_default().to_owned())
    }

    /// Status and reason of our condition.
    async fn condition(&self, node: &str) -> Result<(String, String)> {
        let node = self.node(node).await?;
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ours = conditions
            .iter()
            .find(|one| one["type"] == status::CONDITION)
            .cloned()
            .unwrap_or_default();
        let text = |name: &str| ours[name].as_str().unwrap_or_default().to_owned();
        Ok((text("status"), text("reason")))
    }

    async fn events(&self, node: &str) -> Result<Vec<String>> {
        let of = |event: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (text(&event["involvedObject"]["name"]), text(&event["reason"]))
        };
        let events = self.api.list(Kind::Event, None, of).await?;
        Ok(events.into_iter().filter(|(name, _)| name == node).map(|(_, reason)| reason).collect())
    }

    async fn leader(&self) -> Result<String> {
        let lease = self.api.get(Kind::Lease, LEASE).await?.unwrap_or_default();
        Ok(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
    }
}

/// How a node's plugin behaves.
#[derive(Clone)]
struct Plugin {
    /// Comma-separated register, as up to 2.7.
    csv: bool,
    image: &'static str,
    gpus: u32,
    /// It does not look at its settings at all.
    deaf: bool,
}

/// The stand-in for DaemonSet controller, kubelet and device plugin of all nodes.
#[derive(Clone)]
struct Plugins {
    admin: Admin,
    nodes: Arc<Mutex<BTreeMap<String, Plugin>>>,
    /// Pods started, by node.
    starts: Arc<Mutex<BTreeMap<String, usize>>>,
}

fn uuid(node: &str, index: u32) -> String {
    let node: u32 = node.bytes().map(u32::from).sum();
    format!("GPU-{node:08x}-5c87-89ac-b1a6-{index:012x}")
}

impl Plugins {
    fn starts(&self, node: &str) -> usize {
        self.starts.lock().expect("no panic").get(node).copied().unwrap_or_default()
    }

    fn set_deaf(&self, node: &str, deaf: bool) {
        self.nodes.lock().expect("no panic").get_mut(node).expect("a node").deaf = deaf;
    }

    async fn run(self) {
        loop {
            let nodes = self.nodes.lock().expect("no panic").clone();
            for (name, plugin) in &nodes {
                // What fails now is tried again, as kubelet does.
                if let Err(error) = self.look_after(name, plugin).await {
                    tracing::debug!(name, "the plugin: {error:#}");
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn look_after(&self, name: &str, plugin: &Plugin) -> Result<()> {
        let labelled = self.admin.node(name).await?["metadata"]["labels"]["gpu"] == "on";
        let of = |pod: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let metadata = &pod["metadata"];
            (text(&pod["spec"]["nodeName"]), text(&metadata["name"]), text(&metadata["uid"]))
        };
        let pods = self.admin.api.list(Kind::Pod, Some(hami::POD_SELECTOR), of).await?;
        match (labelled, pods.into_iter().find(|(node, ..)| node == name)) {
            (true, None) => self.start(name, plugin).await,
            (false, Some((_, pod, uid))) => Ok(self.admin.api.delete_pod(&pod, &uid).await?),
            _ => Ok(()),
        }
    }

    async fn start(&self, node: &str, plugin: &Plugin) -> Result<()> {
        let number = {
            let mut starts = self.starts.lock().expect("no panic");
            let number = starts.entry(node.to_owned()).or_default();
            *number += 1;
            *number
        };
        let pod = format!("hami-device-plugin-{node}-{number}");
        let labels = json!({ "app.kubernetes.io/component": "hami-device-plugin" });
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": pod, "namespace": SYSTEM, "labels": labels },
            "spec": {
                "nodeName": node,
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
                "containers": [{ "name": "device-plugin", "image": plugin.image }],
            },
        });
        self.admin.api.create(Kind::Pod, &object).await?;
        self.register(node, plugin).await?;
        let ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
        let status = (pod.as_str(), Some("status"));
        Ok(self.admin.api.patch(Kind::Pod, status, (Patch::Merge, &ready)).await?)
    }

    /// What the plugin makes of the settings as they are now.
    async fn register(&self, node: &str, plugin: &Plugin) -> Result<()> {
        let (text, _) = self.admin.config().await.unwrap_or_default();
        let defaults = effective::Defaults::parse(DEFAULTS).map_err(anyhow::Error::msg)?;
        let read = if plugin.deaf { None } else { Some(text.as_str()) };
        let made = effective::effective(read, node, &defaults);
        let mut devices = Vec::new();
        for index in
            (0..plugin.gpus).filter(|index| !made.excluded_indexes.contains(&u64::from(*index)))
        {
            let (id, memory) = (uuid(node, index), (16384.0 * made.memory_scaling) as u64);
            let cores = (made.core_scaling * 100.0) as u64;
            devices.push(if plugin.csv {
                format!(
                    "{id},{},{memory},{cores},NVIDIA-Tesla T4,0,true,{index},{}:",
                    made.split_count, made.mode
                )
            } else {
                let mut device = json!({
                    "id": id, "count": made.split_count, "devmem": memory, "devcore": cores,
                    "type": "NVIDIA-Tesla T4", "mode": made.mode, "health": true,
                });
                if index > 0 {
                    device["index"] = index.into();
                }
                device.to_string()
            });
        }
        let register =
            if plugin.csv { devices.concat() } else { format!("[{}]", devices.join(",")) };
        self.admin.annotate(node, hami::REGISTER_ANNOTATION, Some(&register)).await?;
        let devices = (devices.len() as u64 * made.split_count).to_string();
        let allocatable = json!({ "status": { "allocatable": { "nvidia.com/gpu": devices } } });
        let status = (node, Some("status"));
        Ok(self.admin.api.patch(Kind::Node, status, (Patch::Merge, &allocatable)).await?)
    }
}

/// A controller; killed when dropped.
struct Controller {
    child: Child,
}

impl Controller {
    fn start(server: &ApiServer, folder: &Path, name: &str) -> Result<Self> {
        let log = fs_err::File::create(folder.join(name))?.into_parts().0;
        let patience = [
            "--lease-secs=4",
            "--period-ms=400",
            "--ready-secs=15",
            "--verify-secs=2",
            "--repairs-an-hour=2",
        ];
        let child = Command::new(workspace::built("kdc-agent")?)
            .arg("control")
            .arg("--kubeconfig")
            .arg(server.kubeconfig())
            .args(patience)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Self { child })
    }

    /// Most memory it had, in KiB.
    fn most_memory(&self) -> Result<u64> {
        let status = fs_err::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It may have been killed by the test already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ask until the answer is yes.
async fn until<F: Future<Output = Result<bool>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> Result<()> {
    let started = Instant::now();
    loop {
        let answer = ask().await;
        if let Ok(true) = answer {
            return Ok(());
        }
        anyhow::ensure!(
            started.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}; last {answer:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn shared(split: u16) -> Gpu {
    Gpu { split_count: Some(split), ..Gpu::of(GpuMode::Hami) }
}

async fn until_phase(admin: &Admin, node: &str, phase: &str) -> Result<()> {
    let result =
        until(&format!("{node} is {phase}"), || async { Ok(admin.phase(node).await? == phase) })
            .await;
    if result.is_err() {
        let state = admin.annotation(node, progress::STATE_ANNOTATION).await?;
        return result.with_context(|| format!("{state:?}"));
    }
    Ok(())
}

async fn until_split(admin: &Admin, node: &str, split: u16) -> Result<()> {
    until(&format!("{node} is shared by {split}"), || async {
        let register = admin.annotation(node, hami::REGISTER_ANNOTATION).await?.unwrap_or_default();
        let (_, gpus) = hami::register::parse(&register).map_err(anyhow::Error::msg)?;
        let proved = admin.phase(node).await? == "applied";
        Ok(proved
            && gpus.iter().all(|gpu| gpu.count == u64::from(split))
            && admin.entry(node).await?["devicesplitcount"] == split)
    })
    .await
}

/// Two GPU nodes, HAMi's ConfigMaps, plugins that wait for their nodes' label.
async fn set_up(server: &ApiServer) -> Result<(Admin, Plugins)> {
    let admin = Admin { api: Api::with(&server.kubeconfig(), SYSTEM, None).await? };
    for (node, labels) in [("cp1", json!({})), ("w1", json!({ "gpu": "on" })), ("w2", json!({}))] {
        let metadata = json!({ "name": node, "labels": labels });
        admin
            .api
            .create(
                Kind::Node,
                &json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata }),
            )
            .await?;
    }
    admin.map(hami::CONFIG_MAP, json!({ hami::CONFIG_KEY: CONFIG })).await?;
    admin.map(hami::DEFAULTS_MAP, json!({ hami::DEFAULTS_KEY: DEFAULTS })).await?;
    let plugin = |csv, image| Plugin { csv, image, gpus: 2, deaf: false };
    let nodes = [
        ("w1".to_owned(), plugin(false, "projecthami/hami:v2.10.0")),
        ("w2".to_owned(), plugin(true, "projecthami/hami:v2.7.1")),
    ];
    let plugins = Plugins {
        admin: admin.clone(),
        nodes: Arc::new(Mutex::new(nodes.into())),
        starts: Arc::default(),
    };
    tokio::spawn(plugins.clone().run());
    until("w1's plugin runs with the chart's defaults", || async {
        Ok(admin
            .annotation("w1", hami::REGISTER_ANNOTATION)
            .await?
            .is_some_and(|text| text.contains("\"count\":10")))
    })
    .await?;
    Ok((admin, plugins))
}

async fn settings_are_written_taken_with_one_restart_and_proved(
    admin: &Admin,
    plugins: &Plugins,
) -> Result<()> {
    admin.want(&[("w1", shared(4)), ("w2", shared(2))]).await?;
    until_split(admin, "w1", 4).await?;
    until_split(admin, "w2", 2).await?;
    assert_eq!(plugins.starts("w1"), 2, "it ran, and was restarted once");
    assert_eq!(plugins.starts("w2"), 1, "its label made it start, and it read the settings then");
    let (text, _) = admin.config().await?;
    assert!(text.contains("\"your-node-name\""), "the chart's sample is kept: {text}");
    let map = admin.map_of(hami::CONFIG_MAP).await?;
    assert_eq!(map["metadata"]["annotations"][OWNED_ANNOTATION], "w1,w2");
    for node in ["w1", "w2"] {
        until("the condition", || async {
            Ok(admin.condition(node).await? == ("True".to_owned(), "Applied".to_owned()))
        })
        .await?;
        assert!(admin.events(node).await?.contains(&"GpuSharingApplied".to_owned()));
    }
    until("people are told", || async {
        let map = admin.map_of(status::STATUS_MAP).await?;
        let told: status::Status =
            serde_json::from_str(map["data"][status::STATUS_KEY].as_str().context("text")?)?;
        let sample =
            told.problems.iter().any(|problem| problem.node.as_deref() == Some("your-node-name"));
        Ok(sample
            && told
                .nodes
                .get("w1")
                .is_some_and(|node| node.effective.split_count == 4 && node.reasons.is_empty()))
    })
    .await
}

/// Somebody edits the ConfigMap over and over, as a second writer would, while kdc writes too.
async fn two_writers_at_once_lose_nothing(admin: &Admin, plugins: &Plugins) -> Result<()> {
    let before = plugins.starts("w1");
    admin.want(&[("w1", shared(6)), ("w2", shared(2))]).await?;
    let mut written = 0;
    while written < 30 {
        let mut map = admin.map_of(hami::CONFIG_MAP).await?;
        let text = map["data"][hami::CONFIG_KEY].as_str().context("text")?;
        let mut config: Value = serde_json::from_str(text)?;
        let entry = json!({ "name": format!("foreign-{written}"), "devicesplitcount": written + 1, "own": [1.5] });
        config["nodeconfig"].as_array_mut().context("a list")?.push(entry);
        map["data"][hami::CONFIG_KEY] = config.to_string().into();
        if admin.api.replace(Kind::ConfigMap, &map).await.is_ok() {
            written += 1;
        }
    }
    until_split(admin, "w1", 6).await?;
    for number in 0..30 {
        let entry = admin.entry(&format!("foreign-{number}")).await?;
        assert_eq!(
            (entry["devicesplitcount"].clone(), entry["own"].clone()),
            (json!(number + 1), json!([1.5]))
        );
    }
    assert_eq!(plugins.starts("w1"), before + 1);
    Ok(())
}

/// `helm upgrade` writes its sample over everything.
async fn what_is_overwritten_is_put_back_without_a_restart(
    admin: &Admin,
    plugins: &Plugins,
) -> Result<()> {
    let before = (plugins.starts("w1"), plugins.starts("w2"));
    admin.map(hami::CONFIG_MAP, json!({ hami::CONFIG_KEY: CONFIG })).await?;
    until("both entries are back", || async {
        Ok(admin.entry("w1").await?["devicesplitcount"] == 6
            && admin.entry("w2").await?["devicesplitcount"] == 2)
    })
    .await?;
    until("it is told", || async {
        Ok(admin.events("w1").await?.contains(&"GpuSharingRepaired".to_owned()))
    })
    .await?;
    assert_eq!((plugins.starts("w1"), plugins.starts("w2")), before);
    Ok(())
}

async fn another_leader_goes_on_where_the_killed_one_stopped(
    admin: &Admin,
    plugins: &Plugins,
    controllers: &mut Vec<Controller>,
) -> Result<()> {
    let (first, before) = (admin.leader().await?, plugins.starts("w1"));
    admin.want(&[("w1", shared(8)), ("w2", shared(2))]).await?;
    // In the middle of the change, as soon as it is on record.
    until("the change is on record", || async {
        Ok(admin.phase("w1").await? != "applied"
            || admin.entry("w1").await?["devicesplitcount"] == 8)
    })
    .await?;
    let pid: u32 = first.split('_').nth(1).context("the process in the holder's name")?.parse()?;
    let leader =
        controllers.iter().position(|one| one.child.id() == pid).context("one of ours leads")?;
    drop(controllers.remove(leader));
    until_split(admin, "w1", 8).await?;
    assert_ne!(admin.leader().await?, first);
    assert_eq!(plugins.starts("w1"), before + 1, "whoever leads: one restart");
    Ok(())
}

async fn a_plugin_that_never_takes_it_gets_its_old_settings_back(
    admin: &Admin,
    plugins: &Plugins,
) -> Result<()> {
    let (entry, before) = (admin.entry("w2").await?, plugins.starts("w1"));
    plugins.set_deaf("w2", true);
    admin.want(&[("w1", shared(8)), ("w2", shared(5))]).await?;
    until_phase(admin, "w2", "rolled-back").await?;
    assert_eq!(admin.entry("w2").await?, entry);
    until("it is told", || async {
        let told = admin.condition("w2").await? == ("False".to_owned(), "RolledBack".to_owned());
        Ok(told && admin.events("w2").await?.contains(&"GpuSharingRolledBack".to_owned()))
    })
    .await?;
    let state = admin.annotation("w2", progress::STATE_ANNOTATION).await?.unwrap_or_default();
    assert!(state.contains("shared by 10, not 5"), "{state}");
    assert_eq!(
        (admin.phase("w1").await?.as_str(), plugins.starts("w1")),
        ("applied", before),
        "the other is let alone"
    );
    plugins.set_deaf("w2", false);
    admin.want(&[("w1", shared(8)), ("w2", shared(3))]).await?;
    until_split(admin, "w2", 3).await
}

async fn a_sick_gpu_is_cordoned_beside_what_an_admin_cordoned(admin: &Admin) -> Result<()> {
    let theirs = uuid("other", 7);
    let tell = async |node: &str, verdict| {
        let gpu = |index, verdict, reason: &str| health::GpuCondition {
            uuid: uuid(node, index),
            index: Some(index),
            model: Some("Tesla T4".to_owned()),
            memory_mib: Some(16384),
            mig: Some(false),
            verdict,
            reason: reason.to_owned(),
        };
        let health = health::GpuHealth {
            gpus: vec![gpu(0, verdict, "Xid 79"), gpu(1, health::GpuVerdict::Ok, "")],
        };
        admin.annotate(node, health::HEALTH_ANNOTATION, Some(&health.to_text())).await
    };
    admin.annotate("w1", hami::CORDON_ANNOTATION, Some(&theirs)).await?;
    tell("w1", health::GpuVerdict::Cordon).await?;
    let both = format!("{theirs},{}", uuid("w1", 0));
    until("the sick one is cordoned", || async {
        Ok(admin.annotation("w1", hami::CORDON_ANNOTATION).await?.as_deref() == Some(&both))
    })
    .await?;
    assert_eq!(admin.annotation("w1", cordon::RECORD_ANNOTATION).await?, Some(uuid("w1", 0)));
    tell("w1", health::GpuVerdict::Ok).await?;
    until("only what is theirs stays", || async {
        let ours = admin.annotation("w1", cordon::RECORD_ANNOTATION).await?;
        Ok(ours.is_none()
            && admin.annotation("w1", hami::CORDON_ANNOTATION).await?.as_deref() == Some(&theirs))
    })
    .await?;
    // HAMi 2.7 does not know the annotation: nothing is written, and it is told.
    tell("w2", health::GpuVerdict::Cordon).await?;
    until("it is told that 2.7 can't", || async {
        let map = admin.map_of(status::STATUS_MAP).await?;
        Ok(map["data"][status::STATUS_KEY]
            .as_str()
            .is_some_and(|text| text.contains("HAMi 2.7 has no cordon")))
    })
    .await?;
    assert_eq!(admin.annotation("w2", hami::CORDON_ANNOTATION).await?, None);
    tell("w2", health::GpuVerdict::Ok).await
}

async fn what_is_not_wanted_any_more_is_taken_back(admin: &Admin, plugins: &Plugins) -> Result<()> {
    let before = (plugins.starts("w1"), plugins.starts("w2"));
    admin.want(&[]).await?;
    // A merge patch would keep a key: the text itself is whole.
    let map = admin.map_of(WANTED_MAP).await?;
    assert_eq!(map["data"][WANTED_KEY], "{\"nodes\":{}}");
    until("both entries are gone", || async {
        Ok(admin.entry("w1").await?.is_null() && admin.entry("w2").await?.is_null())
    })
    .await?;
    until("the nodes are as they were", || async {
        let label = async |node: &str| {
            anyhow::Ok(!admin.node(node).await?["metadata"]["labels"]["gpu"].is_null())
        };
        let clean = admin.annotation("w1", progress::STATE_ANNOTATION).await?.is_none()
            && admin.annotation("w2", progress::STATE_ANNOTATION).await?.is_none();
        // w1 had its label before.
        Ok(clean && label("w1").await? && !label("w2").await?)
    })
    .await?;
    let map = admin.map_of(hami::CONFIG_MAP).await?;
    assert_eq!(map["metadata"]["annotations"][OWNED_ANNOTATION], "");
    until("w1's plugin, which somebody else wants too, has the chart's defaults", || async {
        let register = admin.annotation("w1", hami::REGISTER_ANNOTATION).await?;
        Ok(register.is_some_and(|text| text.contains("\"count\":10")))
    })
    .await?;
    assert_eq!((plugins.starts("w1"), plugins.starts("w2")), (before.0 + 1, before.1));
    assert!(admin.config().await?.0.contains("\"your-node-name\""));
    Ok(())
}

async fn whole_story(server: &ApiServer, folder: &Path) -> Result<()> {
    let (admin, plugins) = set_up(server).await?;
    // The rights come first: without them the controller may not even look at its lease.
    // As `apply` writes them.
    server
        .kubectl_apply(&kdc_agent::control::manifests(&kdc_agent::control::Settings::default()))?;
    server.kubectl_apply(&Wanted::default().manifests())?;
    let mut controllers = vec![Controller::start(server, folder, "first.log")?];
    until("somebody leads", || async { Ok(!admin.leader().await?.is_empty()) }).await?;
    controllers.push(Controller::start(server, folder, "second.log")?);
    settings_are_written_taken_with_one_restart_and_proved(&admin, &plugins).await?;
    two_writers_at_once_lose_nothing(&admin, &plugins).await?;
    what_is_overwritten_is_put_back_without_a_restart(&admin, &plugins).await?;
    let most = controllers[0].most_memory()?;
    assert!(most < 64 * 1024, "{most} KiB, and a debug build had 21 MiB");
    another_leader_goes_on_where_the_killed_one_stopped(&admin, &plugins, &mut controllers).await?;
    a_plugin_that_never_takes_it_gets_its_old_settings_back(&admin, &plugins).await?;
    a_sick_gpu_is_cordoned_beside_what_an_admin_cordoned(&admin).await?;
    what_is_not_wanted_any_more_is_taken_back(&admin, &plugins).await?;
    licensing::Licensing { server, admin: &admin, folder }.is_judged_told_and_kept().await
}

#[test]
fn hamis_settings_are_written_proved_repaired_and_taken_back_against_a_real_api_server() {
    let server = ApiServer::start().unwrap_or_else(|error| panic!("{error:#}"));
    let folder = tempfile::tempdir().expect("a folder");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    if let Err(error) = runtime.block_on(whole_story(&server, folder.path())) {
        let log = |name: &str| fs_err::read_to_string(folder.path().join(name)).unwrap_or_default();
        panic!("{error:#}\n--- first\n{}\n--- second\n{}", log("first.log"), log("second.log"));
    }
}
