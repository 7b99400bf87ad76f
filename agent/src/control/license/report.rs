//! How a site stands with its licence, for an installer and for programs (`docs/schemas/license.v1.json`).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{kept::Kept, turn::Turn};
use crate::license::{
    LicenseKeys, Opened, Timestamp, entitlement::STILL_WORKS, envelope, open, state::InForce,
};

/// How a site stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LicenseReport {
    /// In one word: `trial`, `valid`, `expiring-soon`, `grace`, `over-limit`, `expired`, `unlicensed`, `invalid`,
    /// `clock-suspect`.
    pub state: String,
    /// What a node more is judged by: the state without a bad file or a doubtful clock.
    pub basis: String,
    /// In one sentence.
    pub reason: String,
    /// The time it was judged by.
    pub now: String,
    /// UID of the namespace `kube-system`, which a licence may be bound to; absent before there is a cluster.
    pub cluster: Option<String>,
    /// When the licence in force, or the trial, ends.
    pub expires_at: Option<String>,
    /// When the days of grace end.
    pub grace_until: Option<String>,
    /// Nodes that are allowed; absent means any number.
    pub max_nodes: Option<u32>,
    /// Nodes above that which are let in still.
    pub allowance: u32,
    /// Nodes that count; absent before there is a cluster.
    pub nodes: Option<u32>,
    /// Which.
    pub counted: Vec<CountedNode>,
    /// Which do not, and why.
    pub left_out: BTreeMap<String, String>,
    /// Nodes beyond the licence, and why.
    pub beyond: BTreeMap<String, String>,
    /// Paid components by name.
    pub features: BTreeMap<String, String>,
    /// The files that are kept, the one that was given last at the end.
    pub files: Vec<KeptFile>,
    /// Who holds the Lease `kdc-control`; empty where nobody does.
    pub leader: String,
    /// When a leader last published how the licence stands.
    pub published_at: Option<String>,
    /// What works in every state.
    pub still_works: String,
}

/// A node that counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CountedNode {
    /// Its name.
    pub name: String,
    /// Since when it is part of the cluster.
    pub enrolled_at: String,
    /// It shows no sign of life: a new node may take its place.
    pub missing: bool,
}

/// A licence file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeptFile {
    /// The licence's id, as the file claims.
    pub id: String,
    /// `in-force`, `kept`, or `refused`.
    pub standing: String,
    /// Why it is refused.
    pub why: Option<String>,
    /// The key that signed it, as the file claims.
    pub key: Option<String>,
    /// Its serial.
    pub serial: Option<u64>,
    /// `trial`, `subscription`, `perpetual`, `internal`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Whom it was issued to.
    pub customer: Option<String>,
    /// In force from then on.
    pub not_before: Option<String>,
    /// Until then; absent means without an end.
    pub expires_at: Option<String>,
    /// The file, letter by letter: what `license install` takes elsewhere.
    pub file: String,
}

/// The JSON Schema of the report, as it stands in `docs/schemas/`.
#[must_use]
pub fn schema() -> String {
    let schema = schemars::schema_for!(LicenseReport);
    let text = serde_json::to_string_pretty(&schema).expect("a schema serialises");
    format!("{text}\n")
}

/// Of a turn.
pub(super) fn report(
    turn: &Turn,
    kept: &Kept,
    keys: &LicenseKeys,
    cluster: Option<&str>,
) -> LicenseReport {
    let standing = &turn.standing;
    let text = |at: Option<Timestamp>| at.map(|at| at.to_string());
    let counted = standing.count.iter().flat_map(|count| &count.counted);
    let files = kept.files.iter().map(|file| of_file(file, keys, standing.license.as_ref()));
    LicenseReport {
        state: standing.state.as_str().to_owned(),
        basis: standing.basis.as_str().to_owned(),
        reason: standing.reason.clone(),
        now: standing.clock.now.to_string(),
        cluster: cluster.map(str::to_owned),
        expires_at: text(standing.expires_at),
        grace_until: text(standing.grace_until),
        max_nodes: standing.max_nodes,
        allowance: standing.allowance,
        nodes: standing.nodes(),
        counted: counted
            .map(|node| CountedNode {
                name: node.name.clone(),
                enrolled_at: node.enrolled_at.to_string(),
                missing: node.missing,
            })
            .collect(),
        left_out: standing
            .left_out()
            .iter()
            .map(|left| (left.name.clone(), left.why.in_words()))
            .collect(),
        beyond: turn.beyond.iter().map(|(name, why)| (name.clone(), why.words.clone())).collect(),
        features: standing
            .features
            .iter()
            .map(|(name, grant)| (name.clone(), grant.to_string()))
            .collect(),
        files: files.collect(),
        leader: String::new(),
        published_at: None,
        still_works: STILL_WORKS.to_owned(),
    }
}

fn of_file(file: &str, keys: &LicenseKeys, in_force: Option<&InForce>) -> KeptFile {
    let claimed = envelope::inspect_unproved(file.as_bytes()).ok();
    let (standing, why) = match open(file.as_bytes(), keys) {
        Ok(Opened { license, .. }) if in_force.is_some_and(|known| known.id == license.id) => {
            ("in-force", None)
        }
        Ok(_) => ("kept", None),
        Err(error) => ("refused", Some(super::kept::in_full(&error))),
    };
    let (key, license) = claimed.unzip();
    let of =
        |read: &dyn Fn(&crate::license::License) -> Option<String>| license.as_ref().and_then(read);
    KeptFile {
        id: of(&|license| Some(license.id.clone())).unwrap_or_else(|| "(unreadable)".to_owned()),
        standing: standing.to_owned(),
        why,
        key,
        serial: license.as_ref().map(|license| license.serial),
        kind: of(&|license| Some(license.kind.as_str().to_owned())),
        customer: of(&|license| Some(license.customer.clone())),
        not_before: of(&|license| Some(license.not_before.to_string())),
        expires_at: of(&|license| Some(license.expires_at?.to_string())),
        file: file.to_owned(),
    }
}
