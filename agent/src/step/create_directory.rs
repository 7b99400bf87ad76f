//! `CreateDirectory`.

use super::{
    change::{Change, Context, StepError},
    snapshot::{PathState, look, make_parents, restore},
};
use crate::host::Attributes;

/// A directory with this mode, owned by root.
pub(crate) struct CreateDirectory<'a> {
    pub(crate) path: &'a str,
    pub(crate) mode: u32,
}

impl Change for CreateDirectory<'_> {
    type Before = PathState;

    fn probe(&self, context: &Context<'_>) -> Result<PathState, StepError> {
        look(context, self.path)
    }

    fn is_satisfied_by(&self, before: &PathState) -> bool {
        matches!(before, PathState::Directory { attributes, .. }
            if *attributes == Attributes::root(self.mode))
    }

    fn apply(&self, context: &Context<'_>, before: &PathState) -> Result<(), StepError> {
        if matches!(before, PathState::File { .. } | PathState::Link { .. }) {
            return Err(StepError::Refused {
                what: format!("{} should be a directory and is none", self.path),
                hint: format!("move {} away, then resume", self.path),
            });
        }
        make_parents(context.host, self.path)?;
        Ok(context.host.make_directory(self.path, Attributes::root(self.mode))?)
    }

    fn undo(&self, context: &Context<'_>, before: &PathState) -> Result<(), StepError> {
        match before {
            PathState::File { .. } | PathState::Link { .. } => Ok(()),
            PathState::Missing { .. } | PathState::Directory { .. } => {
                restore(context, self.path, before)
            }
        }
    }

    fn summary(&self) -> String {
        format!("create directory {}", self.path)
    }

    fn detail(&self, before: &PathState) -> String {
        match before {
            PathState::Directory { attributes, .. } => {
                format!(
                    "changes the mode of {} from {:o} to {:o}",
                    self.path, attributes.mode, self.mode
                )
            }
            _ => format!("creates {}", self.path),
        }
    }
}
