//! `license install`, `status`, `explain`, `export` and `remove`: the licence of a site, asked of a control plane.

use std::{path::PathBuf, sync::Arc};

use kdc_agent::{
    control::license::report::LicenseReport,
    license::envelope::{LicenseError, MAX_FILE_BYTES},
    wire::{Reply, RequestBody},
};
use kdc_profiles::cluster::Role;
use serde::Serialize;

use super::{LicenseCommandError, read};
use crate::{
    command::{
        arguments::{BundleArguments, ClusterArguments},
        carry_out::holder,
        error::of_node,
        interrupt::until_ctrl_c,
        report::write_private,
        site::{Site, agent_to_stage, close_all, links, open_all},
    },
    fleet::wrong_answer,
    show::{Complaint, Exit, Look, Screen, Silent, table},
    ssh::SshError,
};

/// Install a licence on the cluster
///
/// The control plane proves the file before anything is written; one that is not good is refused, and what is in
/// force stays in force. Nothing is restarted. A licence may be installed before the one in force ends; the
/// higher serial counts. A list of revoked licences (`license revoke`) is installed the same way.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  kdc-install license install license.json")]
pub(super) struct Install {
    /// The licence
    #[arg(value_name = "FILE")]
    license: PathBuf,
    #[command(flatten)]
    place: Place,
}

/// Show how the cluster stands with its licence; changes nothing
///
/// It is judged now, from what the cluster says now, and works in every state. Whatever the state: what runs
/// goes on, and removing nodes, repair, restart, upgrade, undo, reading and exporting work.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  kdc-install license status\n  \
    kdc-install license status --output json | jq .state")]
pub(super) struct Status {
    #[command(flatten)]
    place: Place,
}

/// Show which nodes count, which don't and why, and every file that is kept; changes nothing
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  kdc-install license explain\n  \
    kdc-install license explain --output json | jq .counted[].name")]
pub(super) struct Explain {
    #[command(flatten)]
    place: Place,
}

/// Save everything about the cluster's licence in a file: how it stands, the nodes, the licences
///
/// For the vendor's support, or for the record. The licences in it can be installed elsewhere.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  kdc-install license export --save licence-2026-11.json")]
pub(super) struct Export {
    /// Write it here
    #[arg(short = 'o', long = "save", value_name = "OUT")]
    save: PathBuf,
    #[command(flatten)]
    place: Place,
}

/// Remove a licence from the cluster, in whatever state it is; nothing that runs is touched
///
/// It does not come back from copies on control planes. Installed again, it counts again.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  kdc-install license remove lic-2026-001\n  \
    kdc-install license remove --all")]
pub(super) struct Remove {
    /// Its id, as `license status` shows it
    #[arg(value_name = "ID", required_unless_present = "all")]
    id: Option<String>,
    /// Every licence
    #[arg(long, conflicts_with = "id")]
    all: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
struct Place {
    #[command(flatten)]
    cluster: ClusterArguments,
    #[command(flatten)]
    bundle: BundleArguments,
}

/// The report as a line of `--output json` (docs/schemas/license.v1.json).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    event: &'static str,
    name: &'a str,
    #[serde(flatten)]
    report: &'a LicenseReport,
}

impl Install {
    pub(super) async fn run(&self, look: Look) -> Result<(), Complaint> {
        let bytes = read(&self.license)?;
        if bytes.len() > MAX_FILE_BYTES {
            let path = self.license.clone();
            return Err(
                LicenseCommandError::Refused { path, source: LicenseError::TooLarge }.into()
            );
        }
        let file = String::from_utf8_lossy(&bytes).into_owned();
        let ask = self.place.change(look, RequestBody::InstallLicense { file });
        let (name, report, screen) = until_ctrl_c(|| true, ask).await?;
        show(&name, &report, &screen, summary);
        Ok(())
    }
}

impl Status {
    pub(super) async fn run(&self, look: Look) -> Result<(), Complaint> {
        let (name, report, screen) = until_ctrl_c(|| false, self.place.look(look)).await?;
        show(&name, &report, &screen, summary);
        Ok(())
    }
}

impl Explain {
    pub(super) async fn run(&self, look: Look) -> Result<(), Complaint> {
        let (name, report, screen) = until_ctrl_c(|| false, self.place.look(look)).await?;
        show(&name, &report, &screen, |report| summary(report) + &details(report));
        Ok(())
    }
}

impl Export {
    pub(super) async fn run(&self, look: Look) -> Result<(), Complaint> {
        let (name, report, screen) = until_ctrl_c(|| false, self.place.look(look)).await?;
        let document = Document { event: "licenseReport", name: &name, report: &report };
        let text = serde_json::to_string_pretty(&document).expect("texts and numbers serialise");
        write_private(&self.save, format!("{text}\n").as_bytes(), 0o600)?;
        screen.say(&format!("licence report: {}", self.save.display()));
        Ok(())
    }
}

impl Remove {
    pub(super) async fn run(&self, look: Look) -> Result<(), Complaint> {
        let request = RequestBody::RemoveLicense { license: self.id.clone() };
        let ask = self.place.change(look, request);
        let (name, report, screen) = until_ctrl_c(|| true, ask).await?;
        show(&name, &report, &screen, summary);
        Ok(())
    }
}

type Answer = (String, LicenseReport, Arc<Screen>);

impl Place {
    async fn look(&self, look: Look) -> Result<Answer, Complaint> {
        self.ask(look, RequestBody::License, false).await
    }

    async fn change(&self, look: Look, request: RequestBody) -> Result<Answer, Complaint> {
        self.ask(look, request, true).await
    }

    async fn ask(
        &self,
        look: Look,
        request: RequestBody,
        changes: bool,
    ) -> Result<Answer, Complaint> {
        let mut site = Site::load(&self.cluster)?;
        let name = site.cluster.name.clone();
        let screen = Arc::new(Screen::new(look, 1, false));
        site.cluster.nodes.retain(|node| node.role == Role::ControlPlane);
        site.cluster.nodes.truncate(1);
        let agent = agent_to_stage(&self.bundle, &screen).await?;
        let links = links(&site.cluster, site.is_local, &agent, &screen, &Silent)?;
        open_all(&links, 1, &screen).await?;
        let link = links.first().expect("a cluster file without control plane is refused");
        let answer = async {
            if changes {
                link.take_hold(&holder(), &name).await?;
            }
            link.ask(request).await
        }
        .await;
        let report = match answer {
            Ok(Reply::License(report)) => Ok(*report),
            Ok(_) => Err(of_node(&wrong_answer(link.node(), "license"), Exit::Internal)),
            Err(SshError::Agent { failure, .. }) => {
                Err(Complaint::from_agent(link.node(), &failure, Exit::Refused))
            }
            Err(error) => Err(of_node(&error, Exit::Refused)),
        };
        close_all(&links, 1).await;
        screen.settle();
        report.map(|report| (name, report, screen))
    }
}

fn show(
    name: &str,
    report: &LicenseReport,
    screen: &Screen,
    render: impl Fn(&LicenseReport) -> String,
) {
    let document = Document { event: "licenseReport", name, report };
    screen.document(&document, || render(report));
}

fn or_dash(text: Option<&String>) -> String {
    text.cloned().unwrap_or_else(|| "-".to_owned())
}

/// How it stands: the state, the reason, the numbers, the files.
fn summary(report: &LicenseReport) -> String {
    let mut text = format!("{}: {}\n", report.state, report.reason);
    let limit = report.max_nodes.map_or("any number".to_owned(), |limit| limit.to_string());
    let allowance = match report.allowance {
        0 => String::new(),
        more => format!(", {more} more for now"),
    };
    match report.nodes {
        Some(nodes) => text.push_str(&format!("nodes: {nodes} of {limit}{allowance}\n")),
        None => text.push_str(&format!("nodes: nobody could be asked yet; {limit} are allowed\n")),
    }
    for (node, why) in &report.beyond {
        text.push_str(&format!("{node}: {why}\n"));
    }
    text.push_str(&format!("cluster: {}\n", or_dash(report.cluster.as_ref())));
    if !report.files.is_empty() {
        let row = |file: &kdc_agent::control::license::report::KeptFile| {
            vec![
                file.id.clone(),
                file.standing.clone(),
                file.serial.map_or("-".to_owned(), |serial| serial.to_string()),
                or_dash(file.kind.as_ref()),
                or_dash(file.customer.as_ref()),
                or_dash(file.expires_at.as_ref()),
            ]
        };
        let rows: Vec<Vec<String>> = report.files.iter().map(row).collect();
        let head = ["LICENCE", "STANDING", "SERIAL", "TYPE", "CUSTOMER", "UNTIL"];
        text.push_str(&table::render(&head, &rows));
    }
    for file in report.files.iter().filter(|file| file.why.is_some()) {
        text.push_str(&format!("{}: {}\n", file.id, or_dash(file.why.as_ref())));
    }
    text
}

/// Node by node, and what works in every state.
fn details(report: &LicenseReport) -> String {
    let mut text = String::new();
    for node in &report.counted {
        let missing = if node.missing { ", shows no sign of life" } else { "" };
        let beyond =
            if report.beyond.contains_key(&node.name) { ", beyond the licence" } else { "" };
        text.push_str(&format!(
            "counts: {}, since {}{missing}{beyond}\n",
            node.name, node.enrolled_at
        ));
    }
    for (node, why) in &report.left_out {
        text.push_str(&format!("doesn't count: {node} {why}\n"));
    }
    for (feature, grant) in &report.features {
        text.push_str(&format!("feature {feature}: {grant}\n"));
    }
    let told = match (&report.leader, &report.published_at) {
        (leader, _) if leader.is_empty() => {
            "kdc-control leads nowhere: `systemctl status kdc-control` on a control plane\n"
                .to_owned()
        }
        (leader, Some(at)) => format!("judged last by {leader}, at {at}\n"),
        (leader, None) => format!("kdc-control leads on {leader}, and has not judged yet\n"),
    };
    text.push_str(&told);
    text.push_str(&format!("in every state: {}\n", report.still_works));
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kdc_agent::control::license::report::{CountedNode, KeptFile};

    use super::*;

    fn report() -> LicenseReport {
        let file = KeptFile {
            id: "lic-1".to_owned(),
            standing: "in-force".to_owned(),
            why: None,
            key: Some("7A".to_owned()),
            serial: Some(1),
            kind: Some("subscription".to_owned()),
            customer: Some("Example GmbH".to_owned()),
            not_before: None,
            expires_at: Some("2027-01-01T00:00:00Z".to_owned()),
            file: "{}".to_owned(),
        };
        let node = |name: &str, missing| CountedNode {
            name: name.to_owned(),
            enrolled_at: "2026-11-24T00:00:00Z".to_owned(),
            missing,
        };
        LicenseReport {
            state: "over-limit".to_owned(),
            basis: "over-limit".to_owned(),
            reason: "2 nodes count and licence `lic-1` is for 1".to_owned(),
            now: "2026-11-24T00:00:00Z".to_owned(),
            cluster: Some("7d1e".to_owned()),
            expires_at: None,
            grace_until: None,
            max_nodes: Some(1),
            allowance: 0,
            nodes: Some(2),
            counted: vec![node("cp1", true), node("w1", false)],
            left_out: BTreeMap::from([("w2".to_owned(), "is the same machine as `w1`".to_owned())]),
            beyond: BTreeMap::from([("w1".to_owned(), "the newest".to_owned())]),
            features: BTreeMap::new(),
            files: vec![file],
            leader: String::new(),
            published_at: None,
            still_works: "everything".to_owned(),
        }
    }

    #[test]
    fn state_reason_numbers_and_files_stand_in_the_summary() {
        assert_eq!(
            summary(&report()),
            "over-limit: 2 nodes count and licence `lic-1` is for 1\nnodes: 2 of 1\nw1: the newest\ncluster: 7d1e\n\
             LICENCE  STANDING  SERIAL  TYPE          CUSTOMER      UNTIL\n\
             lic-1    in-force  1       subscription  Example GmbH  2027-01-01T00:00:00Z\n"
        );
        let before = LicenseReport { nodes: None, max_nodes: None, files: Vec::new(), ..report() };
        assert!(summary(&before).contains("nobody could be asked yet; any number are allowed"));
    }

    #[test]
    fn every_node_is_explained_and_what_works_in_every_state() {
        let text = details(&report());
        for line in [
            "counts: cp1, since 2026-11-24T00:00:00Z, shows no sign of life",
            "counts: w1, since 2026-11-24T00:00:00Z, beyond the licence",
            "doesn't count: w2 is the same machine as `w1`",
            "kdc-control leads nowhere: `systemctl status kdc-control` on a control plane",
            "in every state: everything",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}: {text}");
        }
    }

    /// `docs/schemas/license.v1.json` is what the report says; `KDC_WRITE_SCHEMAS=1` writes it anew.
    #[test]
    fn the_schema_in_the_documentation_is_the_report_s() {
        let schema = kdc_agent::control::license::report::schema();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schemas/license.v1.json");
        if std::env::var_os("KDC_WRITE_SCHEMAS").is_some() {
            fs_err::write(path, &schema).expect("writable");
        }
        let written = fs_err::read_to_string(path).expect("docs/schemas/license.v1.json");
        assert_eq!(written, schema, "run this test with KDC_WRITE_SCHEMAS=1");
    }
}
