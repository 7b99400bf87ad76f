//! Sheets: what was used in stretches of time that are not over yet.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::pairs;
use crate::meter::record::{Amounts, Level, Marks, Pod, Subject};

/// More pods than this in one stretch, and its sheet is handed out before its time; a later one of the same time follows.
const MOST: usize = 2048;

/// Amounts and marks under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sheet {
    pub(super) subject: Subject,
    pub(super) amounts: Amounts,
    pub(super) marks: Marks,
}

/// Whose sheet it is: the node's comes first, pods' by UID.
pub(super) type Key = Option<String>;

/// The name of a subject among sheets.
pub(super) fn key(subject: &Subject) -> Key {
    match subject {
        Subject::Node => None,
        Subject::Pod(pod) => Some(pod.uid.clone()),
    }
}

/// The sheets of one level, by the begin of their time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sheets {
    level: Level,
    #[serde(with = "pairs")]
    open: BTreeMap<i64, Stretch>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Stretch(#[serde(with = "pairs")] BTreeMap<Key, Sheet>);

impl Sheets {
    pub(super) fn new(level: Level) -> Self {
        Self { level, open: BTreeMap::new() }
    }

    /// The sheet of a subject for the time that holds this second.
    pub(super) fn at(&mut self, second: i64, subject: &Subject) -> &mut Sheet {
        let stretch = self.open.entry(self.level.start_of(second)).or_default();
        let sheet = stretch.0.entry(key(subject)).or_insert_with(|| Sheet {
            subject: subject.clone(),
            amounts: Amounts::default(),
            marks: Marks::default(),
        });
        rename(&mut sheet.subject, subject);
        sheet
    }

    /// Take out what is over by then, the oldest first, and what has grown too long.
    pub(super) fn close(&mut self, until: i64) -> Vec<(i64, Sheet)> {
        let seconds = self.level.seconds();
        let over = |from: i64, stretch: &Stretch| {
            // One that begins later is of a clock that was set back since.
            from.saturating_add(seconds) <= until || from > until || stretch.0.len() > MOST
        };
        let closed: Vec<i64> = self
            .open
            .iter()
            .filter(|(from, stretch)| over(**from, stretch))
            .map(|(from, _)| *from)
            .collect();
        let taken = closed.into_iter().filter_map(|from| Some((from, self.open.remove(&from)?)));
        let sheets = taken
            .flat_map(|(from, stretch)| stretch.0.into_values().map(move |sheet| (from, sheet)));
        sheets.filter(|(_, sheet)| !sheet.amounts.is_empty() || !sheet.marks.is_empty()).collect()
    }

    /// What is under way.
    pub(super) fn iter(&self) -> impl Iterator<Item = (i64, &Sheet)> {
        self.open.iter().flat_map(|(from, stretch)| stretch.0.values().map(move |one| (*from, one)))
    }
}

/// What is known later of a pod holds; what is not known any more is not forgotten.
pub(super) fn rename(known: &mut Subject, told: &Subject) {
    let (Subject::Pod(known), Subject::Pod(told)) = (known, told) else { return };
    if known == told {
        return;
    }
    let Pod { uid: _, namespace, name, controller, vm } = told;
    if !namespace.is_empty() {
        known.namespace.clone_from(namespace);
        known.name.clone_from(name);
    }
    if controller.is_some() {
        known.controller.clone_from(controller);
    }
    if vm.is_some() {
        known.vm.clone_from(vm);
    }
}
