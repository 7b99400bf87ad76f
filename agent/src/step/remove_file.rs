//! `RemoveFile`.

use super::{
    change::{Change, Context, StepError},
    snapshot::{PathState, look, restore},
};

/// No file at this path.
pub(crate) struct RemoveFile<'a> {
    pub(crate) path: &'a str,
}

impl Change for RemoveFile<'_> {
    type Before = PathState;

    fn probe(&self, context: &Context<'_>) -> Result<PathState, StepError> {
        look(context, self.path)
    }

    fn is_satisfied_by(&self, before: &PathState) -> bool {
        before.is_missing()
    }

    fn apply(&self, context: &Context<'_>, before: &PathState) -> Result<(), StepError> {
        if matches!(before, PathState::Directory { .. }) {
            return Err(StepError::Refused {
                what: format!("{} is a directory; only files are removed", self.path),
                hint: format!("move {} away, then resume", self.path),
            });
        }
        Ok(context.host.remove(self.path)?)
    }

    fn undo(&self, context: &Context<'_>, before: &PathState) -> Result<(), StepError> {
        restore(context, self.path, before)
    }

    fn summary(&self) -> String {
        format!("remove {}", self.path)
    }

    fn detail(&self, _before: &PathState) -> String {
        format!("removes {} (undo puts it back)", self.path)
    }
}
