//! `WriteFile` and `PlaceBinary`: a whole file, atomically, root's.

use kdc_bundles::index::Digest;

use super::{
    Content,
    change::{Change, Context, StepError},
    snapshot::{PathState, look, put_file, restore},
};

/// A file with this content and mode, owned by root.
pub(crate) struct WriteFile<'a> {
    pub(crate) path: &'a str,
    pub(crate) mode: u32,
    pub(crate) content: &'a Content,
}

impl WriteFile<'_> {
    fn digest(&self) -> Digest {
        match self.content {
            Content::Text(text) => Digest::of(text.as_bytes()),
            Content::Blob(digest) => digest.clone(),
        }
    }
}

impl Change for WriteFile<'_> {
    type Before = PathState;

    fn probe(&self, context: &Context<'_>) -> Result<PathState, StepError> {
        look(context, self.path)
    }

    fn is_satisfied_by(&self, before: &PathState) -> bool {
        before.is_file(&self.digest(), self.mode)
    }

    fn apply(&self, context: &Context<'_>, _before: &PathState) -> Result<(), StepError> {
        match self.content {
            Content::Text(text) => {
                put_file(context.host, self.path, &mut text.as_bytes(), self.mode)
            }
            Content::Blob(digest) => {
                put_file(context.host, self.path, &mut context.blobs.open(digest)?, self.mode)
            }
        }
    }

    fn undo(&self, context: &Context<'_>, before: &PathState) -> Result<(), StepError> {
        restore(context, self.path, before)
    }

    fn summary(&self) -> String {
        match self.content {
            Content::Text(_) => format!("write {}", self.path),
            Content::Blob(_) => format!("place {} from the bundle", self.path),
        }
    }

    fn detail(&self, before: &PathState) -> String {
        before.write_detail(self.path)
    }
}

/// An executable from the bundle.
pub(crate) struct PlaceBinary<'a> {
    pub(crate) path: &'a str,
    pub(crate) digest: &'a Digest,
}

impl PlaceBinary<'_> {
    /// A running program's file cannot be overwritten, but it can be replaced, as `put_file` does.
    const MODE: u32 = 0o755;
}

impl Change for PlaceBinary<'_> {
    type Before = PathState;

    fn probe(&self, context: &Context<'_>) -> Result<PathState, StepError> {
        look(context, self.path)
    }

    fn is_satisfied_by(&self, before: &PathState) -> bool {
        before.is_file(self.digest, Self::MODE)
    }

    fn apply(&self, context: &Context<'_>, _before: &PathState) -> Result<(), StepError> {
        put_file(context.host, self.path, &mut context.blobs.open(self.digest)?, Self::MODE)
    }

    fn undo(&self, context: &Context<'_>, before: &PathState) -> Result<(), StepError> {
        restore(context, self.path, before)
    }

    fn summary(&self) -> String {
        format!("place binary {}", self.path)
    }

    fn detail(&self, before: &PathState) -> String {
        before.write_detail(self.path)
    }
}
