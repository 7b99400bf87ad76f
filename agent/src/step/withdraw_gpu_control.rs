//! `WithdrawGpuControl`: what kdc does for the GPUs of a cluster ends, where the cluster file wants it for no node any more.
//! `kdc-control.service` itself stays: it has more to do than GPUs.

use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    change::{Change, Context, StepError},
    kubectl::{ADMIN_CONF, api_ready, get, kubectl},
    snapshot::{PathState, look, restore},
    systemd::{UNIT_DIR, UnitState, look_at, reload, restore_activity, restore_links, systemctl},
};
use crate::{
    control::{self, NAMESPACE, WANTED_KEY, WANTED_MAP, Wanted},
    host::Program,
};

/// The agent that stays on the node.
const AGENT: &str = "/usr/local/bin/kdc-agent";
/// How long the settings of all nodes may take to go; a device plugin is restarted for each that others want it on.
const WITHDRAW_SECS: u64 = 600;

/// Nothing is wanted of GPUs, and nothing is in the cluster that `kdc-control.service` set for them.
pub(crate) struct WithdrawGpuControl;

/// What stood there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    file: PathState,
    unit: UnitState,
    /// What was wanted, kept beside the journal.
    wanted: Option<Digest>,
    /// There is a cluster, and it could not be asked. Absent in journals of versions that took the unit away instead.
    #[serde(default)]
    unseen: bool,
}

fn unit_file() -> String {
    format!("{UNIT_DIR}/{}", control::UNIT_NAME)
}

/// The text of what is wanted, where the cluster has it.
fn wanted(context: &Context<'_>) -> Result<Option<String>, StepError> {
    let map = get(context.host, &["--namespace", NAMESPACE, "configmap", WANTED_MAP])?;
    Ok(map.and_then(|map| Some(map["data"][WANTED_KEY].as_str()?.to_owned())))
}

/// Have everything that kdc set for HAMi taken back: entries, labels, cordons, records.
fn withdraw(context: &Context<'_>) -> Result<(), StepError> {
    if wanted(context)?.is_none() {
        return Ok(());
    }
    let nothing = serde_json::to_string(&Wanted::default()).expect("an empty map serialises");
    let patch = json!({ "data": { WANTED_KEY: nothing } }).to_string();
    let program = kubectl(["--namespace", NAMESPACE, "patch", "configmap", WANTED_MAP])
        .args(["--type=merge", "--patch"])
        .arg(patch);
    context.host.run_checked(&program)?;
    // One round after another, as the leader, until nothing is left.
    let program = Program::new(AGENT)
        .arg("control")
        .arg(format!("--withdraw-secs={WITHDRAW_SECS}"))
        .within_secs(WITHDRAW_SECS + 60);
    context.host.run_checked(&program)?;
    Ok(())
}

impl Change for WithdrawGpuControl {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        let (file, unit) =
            (look(context, &unit_file())?, look_at(context.host, control::UNIT_NAME)?);
        let cluster = context.host.stat(ADMIN_CONF)?.is_some();
        let ready = cluster && api_ready(context.host)?;
        let text = if ready { wanted(context)? } else { None };
        let wanted = text.map(|text| context.keep_bytes(text.into_bytes()));
        Ok(Before { file, unit, wanted, unseen: cluster && !ready })
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        before.wanted.is_none() && !before.unseen
    }

    fn apply(&self, context: &Context<'_>, _before: &Before) -> Result<(), StepError> {
        let host = context.host;
        if !api_ready(host)? {
            return Err(StepError::Refused {
                what: "the API server does not answer, so what kdc set for GPUs can't be withdrawn"
                    .to_owned(),
                hint: "see to the API server, then run the same `kdc-install` command again"
                    .to_owned(),
            });
        }
        // It is to lead itself; a later step has the unit run again.
        if look_at(host, control::UNIT_NAME)?.load != "not-found" {
            host.run_checked(&systemctl(["stop", "--", control::UNIT_NAME]))?;
        }
        withdraw(context)?;
        let program = kubectl(["delete", "--ignore-not-found", "--wait=false", "--filename=-"]);
        host.run_checked(&program.with_input(Wanted::default().all_objects()))?;
        Ok(())
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        if let Some(digest) = &before.wanted {
            if api_ready(context.host)? {
                let text = context.kept_bytes(digest)?;
                let wanted = Wanted::parse(&String::from_utf8_lossy(&text)).map_err(|reason| {
                    StepError::Format { what: "what was wanted of GPUs".to_owned(), reason }
                })?;
                let program = kubectl(["apply", "--filename=-"]).with_input(wanted.manifests());
                context.host.run_checked(&program)?;
            } else {
                context.say("the API does not answer; what was wanted of GPUs is not put back");
            }
        }
        restore(context, &unit_file(), &before.file)?;
        reload(context.host)?;
        restore_links(context, control::UNIT_NAME, &before.unit)?;
        restore_activity(context, control::UNIT_NAME, before.unit.active)
    }

    fn summary(&self) -> String {
        "nothing of kdc's serves GPUs".to_owned()
    }

    fn detail(&self, _before: &Before) -> String {
        "withdraws what kdc set for HAMi on every node (entries, labels, cordons)".to_owned()
    }
}
