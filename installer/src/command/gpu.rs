//! `gpu`: how HAMi's GPU sharing stands, as a control plane sees it.

use std::sync::Arc;

use kdc_agent::{
    control::report::{SharedGpu, SharingNode, SharingReport, Standing},
    gpu::hami::health::GpuVerdict,
    wire::{Reply, RequestBody},
};
use kdc_profiles::cluster::Role;
use serde::Serialize;

use super::{
    CommandError,
    arguments::{BundleArguments, ClusterArguments},
    error::of_node,
    site::{Site, agent_to_stage, close_all, links, open_all},
};
use crate::{
    fleet::wrong_answer,
    show::{Complaint, Exit, Look, Screen, Silent, table},
    ssh::SshError,
};

/// The agent's code for a node without admin kubeconfig.
const NO_KUBECONFIG: &str = "AGENT-028";

/// See what the GPUs of each node are for, and whether it is so; changes nothing
///
/// The cluster file says what is wanted (`gpu`, `gpuClasses`), `apply` writes it, and on the control plane
/// kdc-control.service has HAMi take it. Only what HAMi's device plugin and the kubelet say themselves counts
/// as proof: that is what is shown here.
#[derive(Debug, clap::Args)]
pub(crate) struct Gpu {
    #[command(subcommand)]
    command: GpuCommand,
}

#[derive(Debug, clap::Subcommand)]
enum GpuCommand {
    Status(Status),
    Explain(Explain),
}

/// Show, node by node and GPU by GPU, what is wanted and what is seen; exit 3 where they differ
///
/// STANDING is `as-wanted` only where the device plugin's own words and the kubelet's agree with the cluster file.
/// `changing` is in progress or waits for its turn (one node at a time); `differs` has its reasons below the
/// table; `not-wanted` still has something of HAMi's; `not-shared` has a purpose that HAMi has no part in.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  kdc-install gpu status\n  \
    kdc-install gpu status --output json | jq '.nodes[] | select(.standing == \"differs\") | .reasons'")]
struct Status {
    #[command(flatten)]
    cluster: ClusterArguments,
    #[command(flatten)]
    bundle: BundleArguments,
}

/// Show one node's settings: what the cluster file says, what holds without it, and what HAMi makes of both
///
/// HAMi lays a node's entry over the cluster's defaults with a rule that takes zero, `false` and an empty text for
/// \"not said\", and says nothing about it. Whatever stands in its settings without effect is listed, with the reason.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  kdc-install gpu explain w1")]
struct Explain {
    /// The node
    #[arg(value_name = "NODE")]
    node: String,
    #[command(flatten)]
    cluster: ClusterArguments,
    #[command(flatten)]
    bundle: BundleArguments,
}

/// The report as a line of `--output json` (docs/schemas/gpu.v1.json).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    event: &'static str,
    cluster: &'a str,
    #[serde(flatten)]
    report: &'a SharingReport,
}

impl Gpu {
    pub(crate) async fn run(&self, look: Look) -> Result<(), Complaint> {
        match &self.command {
            GpuCommand::Status(status) => {
                let site = Site::load(&status.cluster)?;
                let name = site.cluster.name.clone();
                let screen = Arc::new(Screen::new(look, 1, false));
                let report = ask(site, &status.bundle, &screen).await?;
                let document = Document { event: "gpu", cluster: &name, report: &report };
                screen.document(&document, || render(&report));
                refusal(&report).map_or(Ok(()), Err)
            }
            GpuCommand::Explain(explain) => {
                let site = Site::load(&explain.cluster)?;
                let name = site.cluster.name.clone();
                let screen = Arc::new(Screen::new(look, 1, false));
                if !site.cluster.nodes.iter().any(|node| node.name == explain.node) {
                    return Err(CommandError::UnknownNode { node: explain.node.clone() }.into());
                }
                let mut report = ask(site, &explain.bundle, &screen).await?;
                report.nodes.retain(|node| node.node == explain.node);
                let of_node = |problem: &kdc_agent::gpu::hami::Problem| {
                    problem.node.as_ref().is_none_or(|node| *node == explain.node)
                };
                report.problems.retain(of_node);
                let document = Document { event: "gpu", cluster: &name, report: &report };
                screen.document(&document, || render_node(&report, &explain.node));
                Ok(())
            }
        }
    }
}

/// Ask a control plane.
async fn ask(
    mut site: Site,
    bundle: &BundleArguments,
    screen: &Arc<Screen>,
) -> Result<SharingReport, Complaint> {
    site.cluster.nodes.retain(|node| node.role == Role::ControlPlane);
    site.cluster.nodes.truncate(1);
    let agent = agent_to_stage(bundle, screen).await?;
    let links = links(&site.cluster, site.is_local, &agent, screen, &Silent)?;
    open_all(&links, 1, screen).await?;
    let link = links.first().expect("a cluster file without control plane is refused");
    let report = match link.ask(RequestBody::GpuSharing).await {
        Ok(Reply::GpuSharing(report)) => Ok(*report),
        Ok(_) => Err(of_node(&wrong_answer(link.node(), "gpuSharing"), Exit::Internal)),
        Err(SshError::Agent { failure, .. }) if failure.code == NO_KUBECONFIG => {
            Err(Complaint::from_agent(link.node(), &failure, Exit::Refused)
                .hint("its install is not finished: look at `kdc-install status`"))
        }
        Err(error) => Err(of_node(&error, Exit::Refused)),
    };
    close_all(&links, 1).await;
    screen.settle();
    report
}

fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::AsWanted => "as-wanted",
        Standing::Changing => "changing",
        Standing::Differs => "differs",
        Standing::NotWanted => "not-wanted",
        Standing::NotShared => "not-shared",
    }
}

fn or_dash(text: Option<String>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned())
}

/// A GPU's part of a row: UUID, what the plugin registered, verdict.
fn cells(gpu: Option<&SharedGpu>) -> [String; 5] {
    let registered = gpu.and_then(|gpu| gpu.registered.as_ref());
    let verdict = gpu.map(|gpu| {
        let said = match gpu.verdict {
            Some(GpuVerdict::Ok) => "ok",
            Some(GpuVerdict::Cordon) => "sick",
            None => "?",
        };
        let cordoned = if gpu.cordoned { ", cordoned" } else { "" };
        format!("{said}{cordoned}")
    });
    [
        or_dash(gpu.map(|gpu| gpu.uuid.clone())),
        or_dash(gpu.map(|gpu| gpu.model.clone())),
        or_dash(registered.map(|gpu| gpu.count.to_string())),
        or_dash(registered.map(|gpu| format!("{} MiB", gpu.devmem))),
        or_dash(verdict),
    ]
}

fn render(report: &SharingReport) -> String {
    let mut rows = Vec::new();
    for node in &report.nodes {
        let head = [
            node.node.clone(),
            or_dash(node.mode.clone()),
            word(node.standing).to_owned(),
            or_dash(node.allocatable.map(|devices| devices.to_string())),
        ];
        let first = head.into_iter().chain(cells(node.gpus.first()));
        rows.push(first.collect());
        for gpu in node.gpus.iter().skip(1) {
            rows.push([const { String::new() }; 4].into_iter().chain(cells(Some(gpu))).collect());
        }
    }
    if rows.is_empty() {
        return "nothing is wanted of GPUs, and HAMi serves none\n".to_owned();
    }
    let head =
        ["NODE", "MODE", "STANDING", "DEVICES", "GPU", "MODEL", "SHARED BY", "MEMORY", "HEALTH"];
    let mut text = table::render(&head, &rows);
    for node in &report.nodes {
        node.reasons.iter().for_each(|why| text.push_str(&format!("{}: {why}\n", node.node)));
        let sick = node.gpus.iter().filter(|gpu| !gpu.reason.is_empty());
        sick.for_each(|gpu| {
            text.push_str(&format!("{}: {}: {}\n", node.node, gpu.uuid, gpu.reason));
        });
        if node.repairs > 0 {
            text.push_str(&format!("{}: repaired {} times this hour\n", node.node, node.repairs));
        }
    }
    problems(report, &mut text);
    match report.leader.as_str() {
        "" => text.push_str("kdc-control leads nowhere: `systemctl status kdc-control`\n"),
        leader => text.push_str(&format!("kdc-control leads on {leader}\n")),
    }
    text
}

fn problems(report: &SharingReport, text: &mut String) {
    for problem in &report.problems {
        let whom = problem.node.as_deref().unwrap_or("all nodes");
        text.push_str(&format!("{whom}: {}\n", problem.what));
    }
}

/// One node, setting by setting.
fn render_node(report: &SharingReport, name: &str) -> String {
    let Some(node) = report.nodes.first() else {
        return format!("nothing is wanted of {name}'s GPUs, and HAMi serves none\n");
    };
    let mode = or_dash(node.mode.clone());
    let mut text = format!("{name}: mode {mode}, {}\n", word(node.standing));
    if !node.settings.is_empty() {
        let row = |setting: &kdc_agent::control::report::Setting| {
            let wanted = or_dash(setting.wanted.clone());
            vec![setting.name.clone(), wanted, setting.default.clone(), setting.effective.clone()]
        };
        let rows: Vec<Vec<String>> = node.settings.iter().map(row).collect();
        text.push_str(&table::render(&["SETTING", "WANTED", "DEFAULT", "EFFECTIVE"], &rows));
    }
    for entry in &node.entries {
        text.push_str(&format!("entry: {entry}\n"));
    }
    node.without_effect.iter().for_each(|what| text.push_str(&format!("no effect: {what}\n")));
    node.reasons.iter().for_each(|why| text.push_str(&format!("differs: {why}\n")));
    problems(report, &mut text);
    text
}

/// Wanted and seen differ: which nodes, and why.
fn refusal(report: &SharingReport) -> Option<Complaint> {
    let differs = |node: &&SharingNode| node.standing == Standing::Differs;
    let parts: Vec<&SharingNode> = report.nodes.iter().filter(differs).collect();
    if parts.is_empty() {
        return None;
    }
    let names: Vec<&str> = parts.iter().map(|node| node.node.as_str()).collect();
    let text = format!("the GPUs of {} are not as the cluster file wants them", names.join(", "));
    let mut complaint = Complaint::new("KDC-033", Exit::Refused, text).hint(
        "`kdc-install gpu explain NODE` shows which settings count; `journalctl -u kdc-control` on the control \
         plane what was tried",
    );
    complaint.causes = parts
        .iter()
        .flat_map(|node| node.reasons.iter().map(move |why| format!("{}: {why}", node.node)))
        .collect();
    Some(complaint)
}

#[cfg(test)]
mod tests {
    use kdc_agent::{
        control::report::Setting,
        gpu::hami::{Problem, Weight, register::Registered},
    };

    use super::*;

    fn report(standing: Standing, reasons: &[&str]) -> SharingReport {
        let gpu = |uuid: &str, verdict| SharedGpu {
            uuid: uuid.to_owned(),
            model: "Tesla T4".to_owned(),
            registered: Some(Registered { count: 4, devmem: 16384, ..Registered::default() }),
            verdict,
            reason: String::new(),
            cordoned: verdict == Some(GpuVerdict::Cordon),
        };
        let setting = Setting {
            name: "splitCount".to_owned(),
            wanted: Some("4".to_owned()),
            default: "10".to_owned(),
            effective: "4".to_owned(),
        };
        let node = SharingNode {
            node: "w1".to_owned(),
            mode: Some("hami".to_owned()),
            standing,
            reasons: reasons.iter().map(|why| (*why).to_owned()).collect(),
            phase: None,
            since: None,
            repairs: 1,
            entries: vec![r#"{"name":"w1","devicesplitcount":4}"#.to_owned()],
            settings: vec![setting],
            without_effect: vec!["`devicesplitcount: 0`".to_owned()],
            allocatable: Some(8),
            gpus: vec![gpu("GPU-a", Some(GpuVerdict::Ok)), gpu("GPU-b", Some(GpuVerdict::Cordon))],
        };
        let what = "an entry is for a node that the cluster does not have".to_owned();
        let problem = Problem { weight: Weight::Nothing, node: Some("sample".to_owned()), what };
        SharingReport {
            leader: "cp1".to_owned(),
            has_hami: true,
            problems: vec![problem],
            nodes: vec![node],
        }
    }

    #[test]
    fn a_row_a_gpu_and_every_reason_below_them() {
        let text = render(&report(Standing::Differs, &["GPU-a is shared by 10, not 4"]));
        assert_eq!(
            text,
            "NODE  MODE  STANDING  DEVICES  GPU    MODEL     SHARED BY  MEMORY     HEALTH\n\
             w1    hami  differs   8        GPU-a  Tesla T4  4          16384 MiB  ok\n\
             \x20                              GPU-b  Tesla T4  4          16384 MiB  sick, cordoned\n\
             w1: GPU-a is shared by 10, not 4\nw1: repaired 1 times this hour\n\
             sample: an entry is for a node that the cluster does not have\nkdc-control leads on cp1\n"
        );
        assert!(render(&SharingReport::default()).contains("nothing is wanted"));
    }

    #[test]
    fn what_differs_ends_with_its_own_code_and_what_does_not_with_none() {
        for standing in
            [Standing::AsWanted, Standing::Changing, Standing::NotWanted, Standing::NotShared]
        {
            assert!(refusal(&report(standing, &[])).is_none(), "{standing:?}");
        }
        let refused =
            refusal(&report(Standing::Differs, &["shared by 10, not 4"])).expect("KDC-033");
        assert_eq!((&*refused.code, refused.exit), ("KDC-033", Exit::Refused));
        let text = refused.render(false);
        for words in ["GPUs of w1", "w1: shared by 10, not 4", "gpu explain"] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[test]
    fn a_node_is_explained_setting_by_setting() {
        let text = render_node(&report(Standing::AsWanted, &[]), "w1");
        for line in [
            "w1: mode hami, as-wanted",
            "SETTING     WANTED  DEFAULT  EFFECTIVE",
            "splitCount  4       10       4",
            "entry: {\"name\":\"w1\",\"devicesplitcount\":4}",
            "no effect: `devicesplitcount: 0`",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}: {text}");
        }
        assert!(render_node(&SharingReport::default(), "w1").contains("nothing is wanted"));
    }

    /// `docs/schemas/gpu.v1.json` is what the report says; `KDC_WRITE_SCHEMAS=1` writes it anew.
    #[test]
    fn the_schema_in_the_documentation_is_the_report_s() {
        let schema = kdc_agent::control::report::schema();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schemas/gpu.v1.json");
        if std::env::var_os("KDC_WRITE_SCHEMAS").is_some() {
            fs_err::write(path, &schema).expect("writable");
        }
        let written = fs_err::read_to_string(path).expect("docs/schemas/gpu.v1.json");
        assert_eq!(written, schema, "run this test with KDC_WRITE_SCHEMAS=1");
    }
}
