//! Which steps are as wanted now. Changes nothing.

use std::io::Read;

use kdc_bundles::index::Digest;

use crate::{
    host::{Host, HostError},
    step::{
        PlannedStep, StepError,
        change::{BlobSource, Context, Keep, Values},
    },
    wire::{SecretText, Surveyed},
};

/// Keeps nothing: a survey must not write.
pub(crate) struct KeepNothing;

impl Keep for KeepNothing {
    fn keep(&self, _digest: &Digest, _content: &mut dyn Read) -> Result<(), StepError> {
        Ok(())
    }

    fn kept(&self, digest: &Digest) -> Result<Box<dyn Read + '_>, StepError> {
        let what = "is not looked at in a survey".to_owned();
        Err(StepError::Kept { digest: digest.clone(), what })
    }
}

/// Nothing was provided.
pub(crate) struct NoValues;

impl Values for NoValues {
    fn get(&self, _name: &str) -> Result<Option<SecretText>, HostError> {
        Ok(None)
    }
}

/// Judge each step against the node. One that could not be looked at counts as not satisfied, with
/// the reason in its detail.
#[must_use]
pub fn survey(steps: &[PlannedStep], host: &dyn Host, blobs: &dyn BlobSource) -> Vec<Surveyed> {
    let note = |_: &str| ();
    let context = Context::new(host, blobs, &NoValues, &KeepNothing, &note);
    let judge = |planned: &PlannedStep| -> Result<(bool, String), StepError> {
        let before = planned.step.probe(&context)?;
        context.drop_pending();
        let satisfied = planned.step.is_satisfied_by(&before)?;
        Ok((satisfied, planned.step.detail(&before)?))
    };
    let surveyed = |planned: &PlannedStep| {
        let id = planned.id.clone();
        match judge(planned) {
            Ok((true, _)) => Surveyed { id, satisfied: true, detail: "as wanted".to_owned() },
            Ok((false, detail)) => Surveyed { id, satisfied: false, detail },
            Err(error) => {
                let detail = format!("could not look: {}", error.failure().message);
                Surveyed { id, satisfied: false, detail }
            }
        }
    };
    steps.iter().map(surveyed).collect()
}
