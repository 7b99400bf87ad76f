//! `InstallUnit`.

use std::collections::BTreeMap;

use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};

use super::{
    change::{Change, Context, StepError},
    snapshot::{PathState, look, put_file, remove_parents, restore},
    systemd::{UNIT_DIR, look_at, reload, restore_activity},
};

/// A unit file with its drop-ins, known to systemd.
pub(crate) struct InstallUnit<'a> {
    pub(crate) unit: &'a str,
    pub(crate) content: &'a str,
    pub(crate) drop_ins: &'a BTreeMap<String, String>,
}

/// What stood there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    /// Unit file and drop-ins by path.
    files: BTreeMap<String, PathState>,
    active: bool,
}

impl InstallUnit<'_> {
    fn files(&self) -> BTreeMap<String, &str> {
        let drop_ins = self
            .drop_ins
            .iter()
            .map(|(name, text)| (format!("{UNIT_DIR}/{}.d/{name}", self.unit), text.as_str()));
        drop_ins.chain([(format!("{UNIT_DIR}/{}", self.unit), self.content)]).collect()
    }
}

impl Change for InstallUnit<'_> {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        let mut files = BTreeMap::new();
        for path in self.files().into_keys() {
            let state = look(context, &path)?;
            files.insert(path, state);
        }
        Ok(Before { files, active: look_at(context.host, self.unit)?.active })
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        self.files().iter().all(|(path, text)| {
            let wanted = Digest::of(text.as_bytes());
            before.files.get(path).is_some_and(|state| state.is_file(&wanted, 0o644))
        })
    }

    fn apply(&self, context: &Context<'_>, _before: &Before) -> Result<(), StepError> {
        for (path, text) in self.files() {
            put_file(context.host, &path, &mut text.as_bytes(), 0o644)?;
        }
        Ok(reload(context.host)?)
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        if !before.active {
            restore_activity(context, self.unit, false)?;
        }
        for (path, state) in &before.files {
            restore(context, path, state)?;
            if let PathState::Missing { parents } = state {
                // The first drop-in found the directory not yet empty of the others.
                remove_parents(context, parents)?;
            }
        }
        for state in before.files.values() {
            if let PathState::Missing { parents } = state {
                remove_parents(context, parents)?;
            }
        }
        Ok(reload(context.host)?)
    }

    fn summary(&self) -> String {
        format!("install unit {}", self.unit)
    }

    fn detail(&self, before: &Before) -> String {
        let changed = before.files.iter().map(|(path, state)| state.write_detail(path));
        changed.collect::<Vec<_>>().join(", ")
    }
}
