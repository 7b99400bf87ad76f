//! The licence itself: what was signed, read after the signature was found good.
//!
//! Unknown fields and unknown features are passed over, so that a newer vendor's file still works here.
//! What must not be passed over is named in `crit`: a name there that this build doesn't know refuses the
//! whole file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use kdc_profiles::cluster::Role;
use serde::{Deserialize, Serialize};

use super::time::{DAY, Timestamp};

/// Most entries of any list or table in a licence.
const MAX_ENTRIES: usize = 256;

/// Longest name or text in a licence, bytes.
const MAX_TEXT: usize = 256;

/// Most nodes a licence may speak of.
const MAX_NODES: u32 = 1_000_000;

/// Days before the end from which it is warned.
pub const SOON_DAYS: i64 = 30;

/// What `crit` may name: rules that this build knows and follows.
pub const KNOWN_RULES: &[&str] = &[
    "clusterIds",
    "count",
    "features",
    "maxGpus",
    "maxNodes",
    "notBefore",
    "overage",
    "supersedes",
];

/// What kind of licence it is. No kind is treated otherwise than its fields say; the word is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LicenseKind {
    /// To try more than the built-in trial has.
    Trial,
    /// For a time that was paid for.
    Subscription,
    /// Without an end.
    Perpetual,
    /// The vendor's own.
    Internal,
}

impl LicenseKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Trial, Self::Subscription, Self::Perpetual, Self::Internal];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trial => "trial",
            Self::Subscription => "subscription",
            Self::Perpetual => "perpetual",
            Self::Internal => "internal",
        }
    }
}

/// How far over the limit new nodes are still let in. Nothing unless the licence says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Overage {
    /// So many percent of the limit, rounded down.
    pub percent: u16,
    /// Or so many nodes, whichever is more.
    pub nodes: u32,
    /// For so many days from when the limit was first passed; absent means as long as the licence lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub days: Option<u16>,
}

impl Overage {
    /// Nodes above the limit that are let in, `over` seconds after it was passed.
    #[must_use]
    pub fn allowance(&self, limit: u32, over: i64) -> u32 {
        if self.days.is_some_and(|days| over > i64::from(days) * DAY) {
            return 0;
        }
        let share = u64::from(limit) * u64::from(self.percent) / 100;
        self.nodes.max(u32::try_from(share).unwrap_or(u32::MAX))
    }
}

/// How long nodes must be too many, and how long a silent one counts: stated, so that both sides count alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Window {
    /// So many looks in a row must find too many…
    pub samples: u32,
    /// …over at least so many seconds, before the state is over the limit.
    pub over_seconds: u32,
    /// A node that shows no sign of life for so many seconds is missing: a new one may take its place.
    pub missing_seconds: u32,
    /// One that shows none for so many seconds counts no more until it is back.
    pub dead_seconds: u32,
}

impl Default for Window {
    fn default() -> Self {
        Self { samples: 2, over_seconds: 600, missing_seconds: 300, dead_seconds: 7 * 86_400 }
    }
}

/// Which nodes count, and when.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CountRule {
    /// Only nodes with one of these roles; empty means all.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub roles: BTreeSet<Role>,
    /// When.
    pub window: Window,
}

impl CountRule {
    /// A node with these roles counts.
    #[must_use]
    pub fn takes(&self, roles: &BTreeSet<Role>) -> bool {
        self.roles.is_empty() || roles.iter().any(|role| self.roles.contains(role))
    }
}

/// What a licence says of a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Grant {
    /// It is allowed, or expressly not.
    Allowed(bool),
    /// It is allowed so many times.
    Limit(u64),
}

impl Grant {
    /// Anything at all is allowed.
    #[must_use]
    pub fn is_some(self) -> bool {
        match self {
            Self::Allowed(allowed) => allowed,
            Self::Limit(limit) => limit > 0,
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed(true) => formatter.write_str("yes"),
            Self::Allowed(false) => formatter.write_str("no"),
            Self::Limit(limit) => write!(formatter, "up to {limit}"),
        }
    }
}

/// A licence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct License {
    /// Names it among all that a vendor issued.
    pub id: String,
    /// Rises with each licence of a customer: the higher one replaces the lower.
    pub serial: u64,
    /// What kind it is.
    #[serde(rename = "type")]
    pub kind: LicenseKind,
    /// Whom it was issued to. Never in metrics.
    pub customer: String,
    /// When it was made.
    pub issued_at: Timestamp,
    /// In force from then on.
    pub not_before: Timestamp,
    /// Until then; absent means without an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Days after the end in which everything is allowed still.
    #[serde(default)]
    pub grace_days: u16,
    /// Nodes that may be enrolled; absent means any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_nodes: Option<u32>,
    /// GPUs in them; absent means any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_gpus: Option<u32>,
    /// How far above that new nodes are let in still.
    #[serde(default)]
    pub overage: Overage,
    /// Which nodes count, and when.
    #[serde(default)]
    pub count: CountRule,
    /// Paid components by name.
    #[serde(default)]
    pub features: BTreeMap<String, Grant>,
    /// Clusters it is for, by the UID of their namespace `kube-system`; empty means any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_ids: Vec<String>,
    /// Ids of licences it replaces, whatever their serial.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supersedes: Vec<String>,
    /// Rules that whoever reads this must know, or refuse the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub crit: Vec<String>,
}

/// What is wrong with a licence whose signature is good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Not the JSON of a licence.
    #[error("it can't be read: {what}")]
    Malformed {
        /// What the reader says.
        what: String,
    },
    /// A rule that this build doesn't know and must.
    #[error("it asks for the rule `{name}`, which this version of kdc doesn't know")]
    UnknownRule {
        /// The name in `crit`.
        name: String,
    },
    /// A field with a value that can't be.
    #[error("its field `{field}` {what}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong with it, as what follows the name.
        what: String,
    },
}

impl License {
    /// Read a payload. To be called with bytes whose signature is good and whose size and depth are bounded
    /// ([`super::open`] does all of it).
    ///
    /// # Errors
    /// When it isn't a licence, or asks for a rule that this build doesn't know.
    pub fn parse(payload: &[u8]) -> Result<Self, DocumentError> {
        // Asked first: a file with rules from the future may have fields that look broken to us.
        #[derive(Deserialize)]
        struct Rules {
            #[serde(default)]
            crit: Vec<String>,
        }
        let malformed =
            |error: serde_json::Error| DocumentError::Malformed { what: error.to_string() };
        let rules: Rules = serde_json::from_slice(payload).map_err(malformed)?;
        if let Some(name) = rules.crit.iter().find(|name| !KNOWN_RULES.contains(&name.as_str())) {
            return Err(DocumentError::UnknownRule { name: name.chars().take(64).collect() });
        }
        let license: Self = serde_json::from_slice(payload).map_err(malformed)?;
        license.check()?;
        Ok(license)
    }

    /// Whether the fields fit together; also asked before a licence is issued.
    ///
    /// # Errors
    /// The first field that doesn't.
    pub fn check(&self) -> Result<(), DocumentError> {
        let wrong = |field, what: &str| Err(DocumentError::Field { field, what: what.to_owned() });
        if !is_id(&self.id) {
            return wrong("id", "is no name of letters, digits, `.`, `_` and `-` (1 to 64)");
        }
        if self.customer.trim().is_empty() || !is_text(&self.customer) {
            return wrong("customer", "is empty, too long or has control characters");
        }
        if self.max_nodes.is_some_and(|nodes| nodes == 0 || nodes > MAX_NODES) {
            return wrong("maxNodes", "is not between 1 and 1000000; leave it out for any number");
        }
        match self.expires_at {
            Some(end) if end <= self.not_before => {
                return wrong("expiresAt", "is not after `notBefore`");
            }
            None if self.kind != LicenseKind::Perpetual => {
                return wrong("expiresAt", "is absent, which only a perpetual licence may have");
            }
            _ => {}
        }
        if self.overage.percent > 1000 {
            return wrong("overage", "has more than 1000 percent");
        }
        let window = &self.count.window;
        if window.samples == 0 || window.dead_seconds < window.missing_seconds {
            return wrong(
                "count",
                "has no samples, or nodes that are dead before they are missing",
            );
        }
        let ids = self.cluster_ids.iter().chain(&self.supersedes).chain(&self.crit);
        let names = self.features.keys().chain(ids);
        let too_many = [self.cluster_ids.len(), self.supersedes.len(), self.features.len()];
        if too_many.iter().any(|count| *count > MAX_ENTRIES) || self.crit.len() > MAX_ENTRIES {
            return wrong("features", "or a list has more than 256 entries");
        }
        if names.into_iter().any(|name| name.is_empty() || !is_text(name)) {
            return wrong("features", "or a list has a name that is empty, too long or not a text");
        }
        Ok(())
    }

    /// The payload's bytes, as they are signed.
    ///
    /// # Errors
    /// Never in practice: a licence always serialises.
    pub fn to_payload(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Where in its life it is.
    #[must_use]
    pub fn phase(&self, now: Timestamp) -> Phase {
        if now < self.not_before {
            return Phase::NotYet;
        }
        let Some(end) = self.expires_at else { return Phase::Valid };
        if now >= end.plus_days(i64::from(self.grace_days)) {
            Phase::Expired
        } else if now >= end {
            Phase::Grace
        } else if end.since(now) < SOON_DAYS * DAY {
            Phase::Soon
        } else {
            Phase::Valid
        }
    }

    /// It is for this cluster. One whose id isn't known yet takes any that may become it.
    #[must_use]
    pub fn is_for(&self, cluster: Option<&str>) -> bool {
        self.cluster_ids.is_empty()
            || cluster.is_none_or(|cluster| self.cluster_ids.iter().any(|id| id == cluster))
    }

    /// This one counts where both are there.
    #[must_use]
    pub fn replaces(&self, other: &Self) -> bool {
        if other.supersedes.contains(&self.id) {
            return false;
        }
        self.supersedes.contains(&other.id) || self.serial > other.serial
    }
}

/// Where in its life a licence is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It begins later.
    NotYet,
    /// In force, with thirty days or more to go.
    Valid,
    /// In force, with fewer.
    Soon,
    /// It ended; everything is allowed still.
    Grace,
    /// It ended, and so did the days of grace.
    Expired,
}

/// A name that can stand in a file name, a metric or an event.
#[must_use]
pub fn is_id(text: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(is_fit)
}

fn is_text(text: &str) -> bool {
    text.len() <= MAX_TEXT && !text.chars().any(char::is_control)
}

#[cfg(test)]
pub(crate) mod samples {
    use super::*;

    /// A subscription for three nodes from 2026-01-01 to 2027-01-01 with 14 days of grace.
    pub(crate) fn license() -> License {
        License {
            id: "lic-1".to_owned(),
            serial: 1,
            kind: LicenseKind::Subscription,
            customer: "Example GmbH".to_owned(),
            issued_at: day("2026-01-01"),
            not_before: day("2026-01-01"),
            expires_at: Some(day("2027-01-01")),
            grace_days: 14,
            max_nodes: Some(3),
            max_gpus: None,
            overage: Overage::default(),
            count: CountRule::default(),
            features: BTreeMap::from([("gpu-sharing".to_owned(), Grant::Allowed(true))]),
            cluster_ids: Vec::new(),
            supersedes: Vec::new(),
            crit: Vec::new(),
        }
    }

    /// Midnight of a day.
    pub(crate) fn day(text: &str) -> Timestamp {
        Timestamp::parse(&format!("{text}T00:00:00Z")).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        samples::{day, license},
        *,
    };

    fn with(change: impl FnOnce(&mut Value)) -> Result<License, DocumentError> {
        let mut json = serde_json::to_value(license()).unwrap();
        change(&mut json);
        License::parse(&serde_json::to_vec(&json).unwrap())
    }

    #[test]
    fn what_is_issued_is_read_again() {
        assert_eq!(License::parse(&license().to_payload().unwrap()).unwrap(), license());
    }

    #[test]
    fn unknown_fields_and_features_are_passed_over_and_unknown_rules_refuse_the_file() {
        let read = with(|json| {
            json["colour"] = json!("green");
            json["features"]["teleport"] = json!(7);
            json["crit"] = json!(["maxNodes"]);
        });
        assert_eq!(read.unwrap().features["teleport"], Grant::Limit(7));
        let error = with(|json| {
            json["crit"] = json!(["maxNodes", "moonPhase"]);
            json["type"] = json!("lunar");
        });
        let name = "moonPhase".to_owned();
        assert_eq!(error.unwrap_err(), DocumentError::UnknownRule { name });
    }

    #[test]
    fn fields_that_cannot_be_are_refused_by_name() {
        for (field, value) in [
            ("id", json!("")),
            ("id", json!("../../etc/passwd")),
            ("customer", json!("  ")),
            ("customer", json!("a\u{1b}[2Jb")),
            ("maxNodes", json!(0)),
            ("maxNodes", json!(2_000_000)),
            ("expiresAt", json!("2026-01-01T00:00:00Z")),
            ("expiresAt", json!(null)),
            ("overage", json!({"percent": 5000})),
            ("count", json!({"window": {"samples": 0}})),
            ("count", json!({"window": {"missingSeconds": 100, "deadSeconds": 99}})),
        ] {
            match with(|json| json[field] = value.clone()) {
                Err(DocumentError::Field { field: named, .. }) => assert_eq!(named, field),
                other => panic!("{field} {value}: {other:?}"),
            }
        }
        for (field, value) in [
            ("serial", json!(-1)),
            ("type", json!("lunar")),
            ("issuedAt", json!("2026-01-01")),
            ("features", json!({"hami": "yes"})),
            ("maxNodes", json!("3")),
        ] {
            let result = with(|json| json[field] = value.clone());
            assert!(matches!(result, Err(DocumentError::Malformed { .. })), "{field} {value}");
        }
    }

    #[test]
    fn a_licence_goes_through_its_life() {
        let sample = license();
        for (at, phase) in [
            ("2025-12-31", Phase::NotYet),
            ("2026-01-01", Phase::Valid),
            ("2026-12-02", Phase::Valid),
            ("2026-12-03", Phase::Soon),
            ("2026-12-31", Phase::Soon),
            ("2027-01-01", Phase::Grace),
            ("2027-01-14", Phase::Grace),
            ("2027-01-15", Phase::Expired),
        ] {
            assert_eq!(sample.phase(day(at)), phase, "{at}");
        }
        let endless = License { kind: LicenseKind::Perpetual, expires_at: None, ..sample };
        assert_eq!(endless.phase(day("2999-01-01")), Phase::Valid);
    }

    #[test]
    fn the_higher_serial_counts_unless_the_other_says_otherwise() {
        let first = license();
        let second = License { id: "lic-2".to_owned(), serial: 2, ..license() };
        assert!(second.replaces(&first) && !first.replaces(&second));
        let supersedes = vec!["lic-2".to_owned()];
        let back = License { id: "lic-0".to_owned(), serial: 0, supersedes, ..license() };
        assert!(back.replaces(&second) && !second.replaces(&back));
    }

    #[test]
    fn an_allowance_is_the_larger_of_both_and_ends() {
        let overage = Overage { percent: 10, nodes: 2, days: Some(7) };
        for (limit, over, allowance) in
            [(3, 0, 2), (29, 0, 2), (50, 0, 5), (50, 7 * DAY, 5), (50, 7 * DAY + 1, 0)]
        {
            assert_eq!(overage.allowance(limit, over), allowance, "{limit} {over}");
        }
        assert_eq!(Overage::default().allowance(50, 0), 0);
    }
}
