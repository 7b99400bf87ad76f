//! To whom a namespace belongs, and since when: what a node measured for it is billed to whom it belonged then.
//!
//! Kube-DC writes the annotation `kube-dc.com/project: ORGANIZATION/PROJECT` on the namespace of a project, and the label
//! `kube-dc.com/organization` on others that belong to an organization. Without Kube-DC an operator writes
//! `kdc.dev/organization` and `kdc.dev/project` on a namespace. A namespace that was never seen to change belongs to its
//! owner since it was made. Who held it at the begin of an hour is billed for that hour.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    UsageError,
    calendar::{DAY, Span},
    store::replace,
};
use crate::meter::record::Level;

/// Kube-DC's annotation of a project's namespace.
const PROJECT: &str = "kube-dc.com/project";
/// Kube-DC's label of what belongs to an organization.
const ORGANIZATION: &str = "kube-dc.com/organization";
/// An operator's own words, which count more.
const OWN: [&str; 2] = ["kdc.dev/organization", "kdc.dev/project"];
/// Longest name of an owner.
const MAX_NAME: usize = 253;
/// Most changes that are kept; beyond, the oldest of namespaces with many go first.
const MAX_CHANGES: usize = 100_000;
/// Name of the file.
const FILE: &str = "tenants.json";

/// Who pays.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// The organization; empty: nobody's.
    pub organization: String,
    /// The project; empty: none.
    pub project: String,
}

/// A namespace belongs to somebody from then on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The namespace.
    pub namespace: String,
    /// Since when, in Unix seconds.
    pub at: i64,
    /// Which namespace of that name: its UID.
    pub uid: String,
    /// To whom.
    pub owner: Owner,
}

/// Every namespace's owners.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tenants {
    /// By namespace, in the order of time.
    by_namespace: BTreeMap<String, Vec<Change>>,
}

impl Owner {
    /// The owner that a namespace's object names.
    #[must_use]
    pub fn of(namespace: &Value) -> Self {
        let metadata = &namespace["metadata"];
        let said = |key: &str| {
            let on = |part: &str| {
                metadata[part][key].as_str().filter(|text| text.len() <= MAX_NAME * 2 + 1)
            };
            on("annotations").or_else(|| on("labels")).unwrap_or_default()
        };
        let [organization, project] = OWN.map(said);
        let (of_project, named) = match said(PROJECT).split_once('/') {
            Some((organization, project)) => (organization, project),
            None => ("", said(PROJECT)),
        };
        let first = |texts: &[&str]| {
            let found = texts.iter().find(|text| !text.is_empty() && text.len() <= MAX_NAME);
            found.map(|text| (*text).to_owned()).unwrap_or_default()
        };
        Self {
            organization: first(&[organization, of_project, said(ORGANIZATION)]),
            project: first(&[project, named]),
        }
    }
}

impl Tenants {
    /// From changes in whatever order, of several control planes too: who saw a change first is believed.
    #[must_use]
    pub fn of(changes: impl IntoIterator<Item = Change>) -> Self {
        let mut by_namespace: BTreeMap<String, Vec<Change>> = BTreeMap::new();
        for change in changes {
            by_namespace.entry(change.namespace.clone()).or_default().push(change);
        }
        for changes in by_namespace.values_mut() {
            changes.sort();
            changes.dedup_by(|later, earlier| {
                later.owner == earlier.owner && later.uid == earlier.uid
            });
        }
        Self { by_namespace }
    }

    /// Every change.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.by_namespace.values().flatten()
    }

    /// To whom it belonged at that moment; nobody, where the namespace was never seen.
    #[must_use]
    pub fn owner(&self, namespace: &str, at: i64) -> &Owner {
        static NOBODY: Owner = Owner { organization: String::new(), project: String::new() };
        let Some(changes) = self.by_namespace.get(namespace) else { return &NOBODY };
        let place = changes.partition_point(|change| change.at <= at);
        // Before it was first seen it belonged to its first owner: what is measured is never nobody's by being early.
        changes.get(place.saturating_sub(1)).map_or(&NOBODY, |change| &change.owner)
    }

    /// Namespaces that ever belonged to that organization, and to that project where one is named.
    #[must_use]
    pub fn namespaces_of(
        &self,
        organization: Option<&str>,
        project: Option<&str>,
    ) -> BTreeSet<String> {
        let fits = |owner: &Owner| {
            organization.is_none_or(|name| owner.organization == name)
                && project.is_none_or(|name| owner.project == name)
        };
        let some = |changes: &&Vec<Change>| changes.iter().any(|change| fits(&change.owner));
        let named = self.by_namespace.iter().filter(|(_, changes)| some(changes));
        named.map(|(name, _)| name.clone()).collect()
    }

    /// Days within the span on which a namespace changed hands.
    #[must_use]
    pub fn split_days(&self, span: Span) -> BTreeSet<i64> {
        let mut days = BTreeSet::new();
        for pair in self.by_namespace.values().flat_map(|changes| changes.windows(2)) {
            let (earlier, later) = (&pair[0], &pair[1]);
            let day = Level::Day.start_of(later.at);
            let touches = day < span.to && day.saturating_add(DAY) > span.from;
            if touches && earlier.owner != later.owner {
                days.insert(day);
            }
        }
        days
    }

    /// Note what the API server says now; `true` where something is another. Those that are gone keep their history.
    pub fn observe(&mut self, namespaces: impl IntoIterator<Item = Change>, now: i64) -> bool {
        let mut changed = false;
        for seen in namespaces {
            let known = self.by_namespace.entry(seen.namespace.clone()).or_default();
            match known.last() {
                Some(last) if last.uid == seen.uid && last.owner == seen.owner => continue,
                // The same namespace has another owner since it was looked at last.
                Some(last) if last.uid == seen.uid => {
                    let at = now.max(last.at);
                    known.push(Change { at, ..seen });
                }
                // A new one, made at a time that the API server knows; clocks that disagree do not turn the order.
                Some(last) => {
                    let at = seen.at.max(last.at);
                    known.push(Change { at, ..seen });
                }
                None => known.push(seen),
            }
            changed = true;
        }
        if changed {
            self.shorten();
        }
        changed
    }

    fn shorten(&mut self) {
        let mut many: usize = self.by_namespace.values().map(Vec::len).sum();
        while many > MAX_CHANGES {
            let Some(longest) = self.by_namespace.values_mut().max_by_key(|changes| changes.len())
            else {
                return;
            };
            longest.remove(0);
            many -= 1;
            self.by_namespace.retain(|_, changes| !changes.is_empty());
        }
    }

    /// Read the file; nothing where there is none.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn load(folder: &Path) -> Result<Self, UsageError> {
        let path = folder.join(FILE);
        let text = match fs_err::read(&path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(cause) => return Err(cause.into()),
        };
        let changes: Vec<Change> = serde_json::from_slice(&text)
            .map_err(|cause| UsageError::Tenants { path, reason: cause.to_string() })?;
        Ok(Self::of(changes))
    }

    /// Write the file.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, folder: &Path) -> Result<(), UsageError> {
        let changes: Vec<&Change> = self.changes().collect();
        let text = serde_json::to_vec(&changes).expect("texts and numbers serialise");
        replace(folder, FILE, &text)
    }
}

/// What a namespace's object says, as a change since it was made.
#[must_use]
pub fn seen(namespace: &Value) -> Option<Change> {
    let metadata = &namespace["metadata"];
    let made = metadata["creationTimestamp"].as_str().and_then(kdc_profiles::moment::parse);
    Some(Change {
        namespace: metadata["name"].as_str()?.to_owned(),
        at: made.unwrap_or(0),
        uid: metadata["uid"].as_str().unwrap_or_default().to_owned(),
        owner: Owner::of(namespace),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn change(namespace: &str, at: i64, uid: &str, organization: &str) -> Change {
        let owner = Owner { organization: organization.to_owned(), project: "p".to_owned() };
        Change { namespace: namespace.to_owned(), at, uid: uid.to_owned(), owner }
    }

    #[test]
    fn kube_dc_s_words_and_an_operator_s_own_name_the_owner() {
        let owner = |annotations: Value, labels: Value| {
            let owner =
                Owner::of(&json!({ "metadata": { "annotations": annotations, "labels": labels } }));
            (owner.organization, owner.project)
        };
        let pair = |left: &str, right: &str| (left.to_owned(), right.to_owned());
        let project = json!({ "kube-dc.com/project": "acme/shop" });
        assert_eq!(owner(project.clone(), Value::Null), pair("acme", "shop"));
        assert_eq!(
            owner(Value::Null, json!({ "kube-dc.com/organization": "acme" })),
            pair("acme", "")
        );
        assert_eq!(
            owner(
                json!({ "kube-dc.com/project": "shop" }),
                json!({ "kube-dc.com/organization": "acme" })
            ),
            pair("acme", "shop")
        );
        let mut own = project;
        own["kdc.dev/organization"] = "beta".into();
        assert_eq!(owner(own, Value::Null), pair("beta", "shop"));
        assert_eq!(owner(Value::Null, Value::Null), pair("", ""));
        assert_eq!(
            owner(json!({ "kdc.dev/organization": "x".repeat(300) }), Value::Null),
            pair("", "")
        );
    }

    #[test]
    fn a_namespace_that_changes_hands_belonged_to_whom_it_belonged() {
        let mut tenants = Tenants::default();
        assert!(tenants.observe([change("a", 100, "1", "acme")], 5_000));
        assert!(!tenants.observe([change("a", 100, "1", "acme")], 6_000));
        assert!(tenants.observe([change("a", 100, "1", "beta")], 7_000), "sold at 7000");
        // Removed, and a namespace of the same name made at 9000.
        assert!(tenants.observe([change("a", 9_000, "2", "gamma")], 9_500));
        for (at, owner) in [
            (0, "acme"),
            (100, "acme"),
            (6_999, "acme"),
            (7_000, "beta"),
            (8_999, "beta"),
            (9_000, "gamma"),
        ] {
            assert_eq!(tenants.owner("a", at).organization, owner, "{at}");
        }
        assert_eq!(tenants.owner("never-seen", 5), &Owner::default());
        assert_eq!(tenants.namespaces_of(Some("beta"), None), BTreeSet::from(["a".to_owned()]));
        assert_eq!(tenants.namespaces_of(Some("beta"), Some("other")), BTreeSet::new());
    }

    #[test]
    fn of_two_that_looked_the_one_who_saw_a_change_first_is_believed() {
        let one = [change("a", 0, "1", "acme"), change("a", 500, "1", "beta")];
        let two = [change("a", 0, "1", "acme"), change("a", 900, "1", "beta")];
        let both = Tenants::of(two.into_iter().chain(one));
        assert_eq!(both.changes().map(|change| change.at).collect::<Vec<_>>(), [0, 500]);
    }

    #[test]
    fn days_on_which_somebody_else_paid_are_known() {
        let day = |count: i64| count * DAY;
        let tenants = Tenants::of([
            change("a", day(1) + 7, "1", "acme"),
            change("a", day(3) + 3600, "1", "beta"),
            change("b", day(5), "1", "acme"),
            change("b", day(6), "2", "acme"),
        ]);
        let all = Span { from: 0, to: day(10) };
        assert_eq!(tenants.split_days(all), BTreeSet::from([day(3)]));
        assert_eq!(tenants.split_days(Span { from: day(4), to: day(9) }), BTreeSet::new());
        assert_eq!(
            tenants.split_days(Span { from: day(3) + 7200, to: day(4) }),
            BTreeSet::from([day(3)])
        );
    }

    #[test]
    fn it_is_written_and_read_back_and_a_torn_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let tenants = Tenants::of([change("a", 1, "1", "acme"), change("a", 2, "1", "beta")]);
        assert_eq!(Tenants::load(folder.path()).unwrap(), Tenants::default());
        tenants.save(folder.path()).unwrap();
        assert_eq!(Tenants::load(folder.path()).unwrap(), tenants);
        fs_err::write(folder.path().join(FILE), b"[{\"names").unwrap();
        let error = Tenants::load(folder.path()).unwrap_err();
        assert_eq!(error.code(), "AGENT-133");
        assert!(error.hint().unwrap().contains("move"));
    }

    #[test]
    fn an_object_of_the_api_server_says_since_when() {
        let object = json!({ "metadata": {
            "name": "acme-shop", "uid": "u", "creationTimestamp": "2000-02-29T00:00:01Z",
            "annotations": { "kube-dc.com/project": "acme/shop" },
        } });
        let seen = seen(&object).unwrap();
        assert_eq!((seen.at, &*seen.owner.project), (951_782_401, "shop"));
        assert!(super::seen(&json!({})).is_none());
    }
}
