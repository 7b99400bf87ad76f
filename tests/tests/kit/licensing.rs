//! The licence against a real API server: what the leader of `kdc-agent control` publishes, what a node's own unit may say
//! and fetch, and what an operator does, with files that the tests' key signed.
#![expect(unreachable_pub, reason = "each test has its own copy of this module")]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use kdc_agent::{
    audit::Who,
    control::{
        Settings,
        api::{ApiServer as Api, Kind, Patch},
        license::{
            CONDITION, FINGERPRINT_ANNOTATION, LICENSE_MAP, RECORD_KEY, RECORD_MAP, STANDING_KEY,
            STANDING_MAP, TAINT, publish::Published, site::Site,
        },
        manifests,
    },
    license::State,
};
use kdc_tests::{api_server::ApiServer, workspace};
use serde_json::{Value, json};

use super::{
    Admin, SYSTEM,
    licence_file::{issue, now},
    until,
};

const DAY: i64 = 86_400;

/// A cluster with a leader at work, and a folder for a control plane's copies.
pub struct Licensing<'a> {
    pub server: &'a ApiServer,
    pub admin: &'a Admin,
    pub folder: &'a Path,
}

impl Licensing<'_> {
    fn site(&self) -> Site<'_> {
        let site = Site::new(Some(&self.admin.api), self.folder, Who::part("test"));
        // This machine is no node, and has no log.
        Site { note: |_, _| (), ..site }
    }

    async fn published(&self) -> Result<Published> {
        let map = self.admin.map_of(STANDING_MAP).await?;
        let text = map["data"][STANDING_KEY].as_str().context("standing.json")?;
        Published::parse(text).map_err(anyhow::Error::msg)
    }

    async fn until_state(&self, state: State) -> Result<Published> {
        let what = format!("the licence is {}", state.as_str());
        until(&what, || async { Ok(self.published().await?.standing.state == state) }).await?;
        self.published().await
    }

    async fn condition(&self, node: &str) -> Result<(String, String)> {
        let node = self.admin.node(node).await?;
        let all = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ours = all.into_iter().find(|one| one["type"] == CONDITION).unwrap_or_default();
        let text = |name: &str| ours[name].as_str().unwrap_or_default().to_owned();
        Ok((text("status"), text("reason")))
    }

    /// Ours; Kubernetes has its own.
    async fn taints(&self, node: &str) -> Result<Vec<Value>> {
        let node = self.admin.node(node).await?;
        let all = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        Ok(all.into_iter().filter(|taint| taint["key"] == TAINT.0).collect())
    }

    /// Reasons of the events about the whole cluster's licence.
    fn told(&self) -> Result<Vec<String>> {
        let events = self.server.kubectl(&["-n", SYSTEM, "get", "events", "-o", "json"])?;
        let events: Value = serde_json::from_str(&events)?;
        let of = |event: &Value| event["reason"].as_str().unwrap_or_default().to_owned();
        Ok(events["items"].as_array().into_iter().flatten().map(of).collect())
    }

    async fn ready(&self, node: &str) -> Result<()> {
        let at = now().to_string();
        let ready = json!({ "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
                            "lastTransitionTime": at, "lastHeartbeatTime": at });
        let patch = json!({ "status": { "conditions": [ready] } });
        let status = (node, Some("status"));
        Ok(self.admin.api.patch(Kind::Node, status, (Patch::Strategic, &patch)).await?)
    }

    async fn joins(&self, node: &str) -> Result<()> {
        let object = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node } });
        self.admin.api.create(Kind::Node, &object).await?;
        self.ready(node).await
    }

    /// The whole story.
    pub async fn is_judged_told_and_kept(&self) -> Result<()> {
        self.a_cluster_begins_with_its_trial().await?;
        self.a_node_tells_of_itself_and_of_no_other().await?;
        self.a_file_that_is_not_good_changes_nothing().await?;
        self.too_many_nodes_are_told_and_clear_by_themselves().await?;
        self.an_ended_licence_lets_nobody_in_and_removing_works().await?;
        self.what_the_cluster_lost_comes_back_from_a_copy().await
    }

    async fn a_cluster_begins_with_its_trial(&self) -> Result<()> {
        for node in ["cp1", "w1", "w2"] {
            self.ready(node).await?;
        }
        until("three nodes count", || async {
            Ok(self.published().await?.standing.nodes() == Some(3))
        })
        .await?;
        let published = self.until_state(State::Trial).await?;
        ensure!(published.cluster.is_some_and(|id| id.len() == 36), "the cluster's id is known");
        let told = self.told()?;
        let once = told.iter().filter(|reason| *reason == "LicenseTrial").count();
        ensure!(once == 1, "the trial is told once: {told:?}");
        Ok(())
    }

    /// A made machine, as its unit sees it.
    fn machine(&self) -> Result<PathBuf> {
        let root = self.folder.join("machine");
        fs_err::create_dir_all(root.join("etc"))?;
        fs_err::write(root.join("etc/machine-id"), "5d2f8f7d0a0f4b8ea5d6b60c3ac0a8f1\n")?;
        Ok(root)
    }

    fn round(&self, admin: bool) -> Result<()> {
        let path = |path: &Path| path.display().to_string();
        let admin = if admin { self.server.kubeconfig() } else { self.folder.join("none") };
        let output = Command::new(workspace::built("kdc-agent")?)
            .args(["license-round", "--kubelet", &path(&self.server.kubelet_kubeconfig())])
            .args(["--admin", &path(&admin), "--folder", &path(&self.folder.join("copies"))])
            .args(["--document", &path(&self.folder.join("license.json"))])
            .args(["--root", &path(&self.machine()?)])
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    async fn a_node_tells_of_itself_and_of_no_other(&self) -> Result<()> {
        self.round(false)?;
        let told = self.admin.annotation("w1", FINGERPRINT_ANNOTATION).await?.context("told")?;
        ensure!(told.contains("machine-id") && !told.contains("5d2f8f7d"), "hashes only: {told}");
        let document: Value =
            serde_json::from_slice(&fs_err::read(self.folder.join("license.json"))?)?;
        ensure!(document["node"] == "w1", "{document}");
        ensure!(document["published"]["standing"]["state"] == "trial", "{document}");
        ensure!(!self.folder.join("copies").exists(), "copies are a control plane's");
        // What a node's credentials must not do: another node's word, the licence, the record.
        let kubelet = Api::with(&self.server.kubelet_kubeconfig(), SYSTEM, None).await?;
        let lie = json!({ "metadata": { "annotations": { FINGERPRINT_ANNOTATION: told } } });
        let refused = kubelet.patch(Kind::Node, ("w2", None), (Patch::Merge, &lie)).await;
        ensure!(refused.is_err_and(|error| error.refused_with() == Some(403)), "w2 is not its own");
        for map in [LICENSE_MAP, RECORD_MAP] {
            let refused = kubelet.get(Kind::ConfigMap, map).await;
            ensure!(refused.is_err_and(|error| error.refused_with() == Some(403)), "{map}");
        }
        let standing = self.admin.map_of(STANDING_MAP).await?;
        let refused = kubelet.replace(Kind::ConfigMap, &standing).await;
        ensure!(refused.is_err_and(|error| error.refused_with() == Some(403)), "it may only read");
        Ok(())
    }

    async fn a_file_that_is_not_good_changes_nothing(&self) -> Result<()> {
        let good = issue(1, 3, (-1, 90))?;
        let bad = good.replacen("\"payload\":\"e", "\"payload\":\"f", 1);
        let error = self.site().install(&bad).await.err().context("refused")?;
        ensure!(error.code() == "AGENT-120", "{error}");
        ensure!(self.admin.map_of(LICENSE_MAP).await.is_err(), "nothing was kept");
        let error = self.site().remove(Some("lic-9")).await.err().context("refused")?;
        ensure!(error.code() == "AGENT-122", "{error}");
        Ok(())
    }

    async fn too_many_nodes_are_told_and_clear_by_themselves(&self) -> Result<()> {
        self.site().install(&issue(1, 3, (-1, 90))?).await?;
        self.until_state(State::Valid).await?;
        self.joins("w3").await?;
        let over = self.until_state(State::OverLimit).await?;
        ensure!(over.beyond.keys().eq(["w3"]), "{:?}", over.beyond);
        until("w3's condition", || async {
            Ok(self.condition("w3").await? == ("False".to_owned(), "OverLimit".to_owned()))
        })
        .await?;
        ensure!(self.condition("w2").await?.0.is_empty(), "the others have none");
        ensure!(self.taints("w3").await?.is_empty(), "nobody asked for a taint");
        self.server.kubectl_apply(&manifests(&Settings { taint_over_license: true }))?;
        until("w3's taint", || async {
            let taints = self.taints("w3").await?;
            Ok(taints.iter().any(|one| one["effect"] == "NoSchedule"))
        })
        .await?;
        ensure!(self.taints("w2").await?.is_empty(), "and no other's");
        let told = self.admin.events("w3").await?;
        ensure!(
            told.iter().filter(|reason| *reason == "NodeBeyondLicense").count() == 1,
            "{told:?}"
        );
        // One node goes: no human says a word, and it clears.
        self.server.kubectl(&["delete", "node", "w2"])?;
        self.until_state(State::Valid).await?;
        until("w3 is as before", || async {
            let within = self.condition("w3").await? == ("True".to_owned(), "Within".to_owned());
            Ok(within && self.taints("w3").await?.is_empty())
        })
        .await
    }

    async fn an_ended_licence_lets_nobody_in_and_removing_works(&self) -> Result<()> {
        // The trial was 40 days ago.
        let mut record = self.admin.map_of(RECORD_MAP).await?;
        let text = record["data"][RECORD_KEY].as_str().context("record.json")?;
        let mut said: Value = serde_json::from_str(text)?;
        said["trial"]["startedAt"] = now().plus_seconds(-40 * DAY).to_string().into();
        record["data"][RECORD_KEY] = said.to_string().into();
        self.admin.api.replace(Kind::ConfigMap, &record).await?;
        self.site().remove(None).await?;
        self.site().install(&issue(2, 9, (-30, -1))?).await?;
        self.until_state(State::Expired).await?;
        self.joins("w4").await?;
        until("w4 was not let in", || async {
            let said = self.condition("w4").await?;
            Ok(said == ("False".to_owned(), "NotLetIn".to_owned()))
        })
        .await?;
        ensure!(self.condition("w1").await?.0.is_empty(), "who was there is let alone");
        let report = self.site().report().await?;
        ensure!(report.state == "expired" && report.files.len() == 1, "{report:?}");
        ensure!(report.files[0].customer.as_deref() == Some("Example GmbH"), "{report:?}");
        ensure!(self.site().remove(Some("lic-2")).await? == ["lic-2"], "removing works");
        self.until_state(State::Unlicensed).await?;
        self.site().install(&issue(3, 9, (-1, 400))?).await?;
        self.until_state(State::Valid).await?;
        until("w4 is let in", || async {
            Ok(self.condition("w4").await? == ("True".to_owned(), "Within".to_owned()))
        })
        .await
    }

    async fn what_the_cluster_lost_comes_back_from_a_copy(&self) -> Result<()> {
        self.round(true)?;
        let copies = self.folder.join("copies");
        let kept = fs_err::read_to_string(copies.join("license.json"))?;
        ensure!(kept.contains("removed"), "what was removed is known: {kept}");
        let trial = |text: &str| -> Result<Value> {
            Ok(serde_json::from_str::<Value>(text)?["trial"]["startedAt"].clone())
        };
        let started = trial(&fs_err::read_to_string(copies.join("record.json"))?)?;
        self.server.kubectl(&["-n", SYSTEM, "delete", "configmap", LICENSE_MAP, RECORD_MAP])?;
        self.round(true)?;
        let map = self.admin.map_of(LICENSE_MAP).await?;
        ensure!(map["data"].to_string().contains("payload"), "the licence is back: {map}");
        let map = self.admin.map_of(RECORD_MAP).await?;
        let back = trial(map["data"][RECORD_KEY].as_str().context("record.json")?)?;
        ensure!(back == started, "the trial does not begin anew: {back} {started}");
        self.until_state(State::Valid).await.map(drop)
    }
}
