//! What tests of these steps are given.

use kdc_bundles::index::Digest;

use crate::{
    host::fake::FakeHost,
    step::change::{BlobError, BlobSource, Context, Keep, StepError, Values},
    wire::SecretText,
};

/// Nothing sent, nothing provided, nothing kept.
struct Nothing;

impl BlobSource for Nothing {
    fn open(&self, digest: &Digest) -> Result<Box<dyn std::io::Read + Send>, BlobError> {
        Err(BlobError::Missing { digest: digest.clone() })
    }

    fn size(&self, digest: &Digest) -> Result<u64, BlobError> {
        Err(BlobError::Missing { digest: digest.clone() })
    }
}

impl Values for Nothing {
    fn get(&self, _: &str) -> Result<Option<SecretText>, crate::host::HostError> {
        Ok(None)
    }
}

impl Keep for Nothing {
    fn keep(&self, _: &Digest, _: &mut dyn std::io::Read) -> Result<(), StepError> {
        Ok(())
    }

    fn kept(&self, digest: &Digest) -> Result<Box<dyn std::io::Read + '_>, StepError> {
        Err(StepError::Kept { digest: digest.clone(), what: "is not kept here".to_owned() })
    }
}

pub(super) fn context(host: &FakeHost) -> Context<'_> {
    Context::new(host, &Nothing, &Nothing, &Nothing, &|_| ())
}
