//! Steps this build cannot do.

use super::change::{Change, Context, StepError};

pub(crate) struct NotYet;

impl Change for NotYet {
    type Before = ();
    fn probe(&self, _context: &Context<'_>) -> Result<(), StepError> {
        Err(StepError::Refused {
            what: "this build cannot do this step".to_owned(),
            hint: "use a newer agent".to_owned(),
        })
    }
    fn is_satisfied_by(&self, _before: &()) -> bool {
        false
    }
    fn apply(&self, context: &Context<'_>, _before: &()) -> Result<(), StepError> {
        self.probe(context)
    }
    fn undo(&self, _context: &Context<'_>, _before: &()) -> Result<(), StepError> {
        Ok(())
    }
    fn summary(&self) -> String {
        "unknown step".to_owned()
    }
    fn detail(&self, _before: &()) -> String {
        String::new()
    }
}
