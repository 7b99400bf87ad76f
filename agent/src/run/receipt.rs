//! What stands on this node by kdc's doing: the steps of the runs in force.

use std::path::Path;

use super::{RunError, Standing, load_plan, readings, standing};
use crate::{
    step::{NodePlan, PlannedStep},
    wire::Outcome,
};

/// One run's part of what is in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Receipt {
    /// Run id.
    pub run: String,
    /// The index whose blobs its steps name.
    pub index: kdc_bundles::index::Digest,
    /// Steps that ended well, in the plan's order, and whether they changed anything: one that found
    /// things as wanted did not.
    pub steps: Vec<(PlannedStep, bool)>,
    /// It was cut off or failed, and can be resumed.
    pub unfinished: bool,
}

/// The runs in force, oldest first. `Err` in the answer names a run that is being worked on: then
/// nothing about the node is settled.
///
/// # Errors
/// If a journal or plan can't be read.
pub fn receipts(runs_dir: &Path) -> Result<Result<Vec<Receipt>, String>, RunError> {
    let mut receipts = Vec::new();
    for (reading, summary) in readings(runs_dir)? {
        if matches!(summary.outcome, Outcome::Running { .. }) {
            return Ok(Err(summary.run));
        }
        if !summary.in_force {
            continue;
        }
        let NodePlan { steps, index, .. } = load_plan(&runs_dir.join(&summary.run))?;
        let stands = |step: PlannedStep| match standing(&reading.records, &step.id) {
            Standing::Done(_) => Some((step, true)),
            Standing::Found => Some((step, false)),
            Standing::Untouched | Standing::Begun(_) | Standing::Undone => None,
        };
        let steps = steps.into_iter().filter_map(stands).collect();
        let unfinished = !matches!(summary.outcome, Outcome::Finished { .. });
        receipts.push(Receipt { run: summary.run, index, steps, unfinished });
    }
    Ok(Ok(receipts))
}
