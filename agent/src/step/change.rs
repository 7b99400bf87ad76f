//! What every step can do, and what it is given to do it with.
//!
//! Each step has a file of its own with a type that borrows the step's fields and implements
//! [`Change`]. [`change_of`] finds it; from there on all steps look alike: the before-state is a
//! JSON value in the journal, read back as the step's own type when it is undone.

use std::{cell::RefCell, io::Read};

use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Step;
use crate::{
    host::{Host, HostError},
    wire::SecretText,
};

/// What stood there before a step, as its own type wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Before(pub serde_json::Value);

/// The bytes of blobs on this node.
pub trait BlobSource: Send + Sync {
    /// Read a blob. The reader checks the bytes it yields against the digest and fails at the end
    /// if they differ, so what was read counts only once the reader has ended well.
    ///
    /// # Errors
    /// If the blob is not complete here.
    fn open(&self, digest: &Digest) -> Result<Box<dyn Read + Send>, BlobError>;

    /// Length of a blob in bytes, from the signed index.
    ///
    /// # Errors
    /// If the index does not name it.
    fn size(&self, digest: &Digest) -> Result<u64, BlobError>;
}

/// A blob this node cannot use.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// Not (wholly) in the store.
    #[error("blob {digest} is not in this node's store")]
    Missing {
        /// Which.
        digest: Digest,
    },
    /// It could not be read.
    #[error("cannot read blob {digest}")]
    Read {
        /// Which.
        digest: Digest,
        /// Why.
        source: std::io::Error,
    },
}

/// Contents that undo needs: kept as files named by their digest beside the journal.
pub trait Keep {
    /// Make the bytes durable.
    ///
    /// # Errors
    /// If they cannot be read or written, or do not have this digest.
    fn keep(&self, digest: &Digest, content: &mut dyn Read) -> Result<(), StepError>;

    /// Read them back.
    ///
    /// # Errors
    /// If they are not there, or not what they were.
    fn kept(&self, digest: &Digest) -> Result<Box<dyn Read + '_>, StepError>;
}

/// Values handed to a waiting run.
pub trait Values {
    /// The value, once it was provided.
    ///
    /// # Errors
    /// If it cannot be looked at.
    fn get(&self, name: &str) -> Result<Option<SecretText>, HostError>;
}

/// Code of a step that waits for a reboot.
pub const REBOOT: &str = "STEP-007";

/// Why a step could not look, apply or undo.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The machine would not.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The bundle's content is not usable here.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The step will not touch what it found.
    #[error("{what}")]
    Refused {
        /// What was found.
        what: String,
        /// The next thing to try.
        hint: String,
    },
    /// A bounded wait ended.
    #[error("gave up after {seconds} s waiting for {what}; last seen: {seen}")]
    Waited {
        /// What for.
        what: String,
        /// How long.
        seconds: u64,
        /// The last state.
        seen: String,
    },
    /// Nothing more can be done before the machine was rebooted, which kdc never does.
    #[error("this node waits for a reboot: {why}")]
    Reboot {
        /// What takes effect with it.
        why: String,
    },
    /// A kept content is lost or damaged.
    #[error("the kept content {digest} {what}")]
    Kept {
        /// Which.
        digest: Digest,
        /// What is wrong with it.
        what: String,
    },
    /// A plan, journal or answer does not make sense to this build.
    #[error("cannot understand {what}: {reason}")]
    Format {
        /// What was read.
        what: String,
        /// Why it makes no sense.
        reason: String,
    },
}

impl StepError {
    /// Stable code, listed in `docs/steps.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Host(_) => "STEP-001",
            Self::Blob(_) => "STEP-002",
            Self::Refused { .. } => "STEP-003",
            Self::Waited { .. } => "STEP-004",
            Self::Kept { .. } => "STEP-005",
            Self::Format { .. } => "STEP-006",
            Self::Reboot { .. } => REBOOT,
        }
    }

    /// The one next thing to try, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Host(error) => error.hint(),
            Self::Blob(_) => Some("run `apply` again with the bundle to send it".to_owned()),
            Self::Refused { hint, .. } => Some(hint.clone()),
            Self::Waited { .. } => Some("look at the node, then run the command again".to_owned()),
            Self::Kept { .. } => Some("restore it by hand; undo goes on without it".to_owned()),
            Self::Format { .. } => Some(
                "use the kdc-install and bundle that began it; `journalctl` has the rest"
                    .to_owned(),
            ),
            Self::Reboot { .. } => {
                Some("reboot it, then run the same `kdc-install` command again".to_owned())
            }
        }
    }

    /// The error with all its causes, for the wire. Secrets are masked.
    #[must_use]
    pub fn failure(&self) -> crate::wire::Failure {
        let mut message = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = error.source();
        }
        crate::wire::Failure {
            code: self.code().to_owned(),
            message: crate::host::mask_secrets(&message),
            hint: self.hint(),
        }
    }
}

/// Something a probe saw that undo will need whole; kept only if the step goes on to change it.
pub(crate) enum Pending {
    /// The file at this path, which has this digest.
    File(String, Digest),
    /// These bytes.
    Bytes(Digest, Vec<u8>),
}

/// What a step works with.
pub struct Context<'a> {
    /// The machine.
    pub host: &'a dyn Host,
    /// The bundle's content on this node.
    pub blobs: &'a dyn BlobSource,
    /// Values provided to this run.
    pub values: &'a dyn Values,
    /// Contents kept for undo.
    pub keep: &'a dyn Keep,
    /// A line for people; never a secret.
    pub note: &'a dyn Fn(&str),
    /// What the last probe wants kept.
    pending: RefCell<Vec<Pending>>,
}

impl<'a> Context<'a> {
    /// A context that collects what has to be kept.
    #[must_use]
    pub fn new(
        host: &'a dyn Host,
        blobs: &'a dyn BlobSource,
        values: &'a dyn Values,
        keep: &'a dyn Keep,
        note: &'a dyn Fn(&str),
    ) -> Self {
        Self { host, blobs, values, keep, note, pending: RefCell::default() }
    }

    /// Have the file at `path` kept if the step goes on.
    pub(crate) fn keep_file(&self, path: &str, digest: &Digest) {
        self.pending.borrow_mut().push(Pending::File(path.to_owned(), digest.clone()));
    }

    /// Have these bytes kept if the step goes on; answers their digest.
    pub(crate) fn keep_bytes(&self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        self.pending.borrow_mut().push(Pending::Bytes(digest.clone(), bytes));
        digest
    }

    /// Make durable what the last probe asked to keep.
    ///
    /// # Errors
    /// If a content cannot be kept, or changed since the probe.
    pub fn keep_pending(&self) -> Result<(), StepError> {
        for pending in self.pending.take() {
            match pending {
                Pending::Bytes(digest, bytes) => self.keep.keep(&digest, &mut &bytes[..])?,
                Pending::File(path, digest) => match self.host.open(&path)? {
                    Some(mut file) => self.keep.keep(&digest, &mut file)?,
                    None => {
                        let what = format!("was {path}, which went away while we looked");
                        return Err(StepError::Kept { digest, what });
                    }
                },
            }
        }
        Ok(())
    }

    /// Forget what the last probe asked to keep.
    pub fn drop_pending(&self) {
        self.pending.take();
    }

    /// A kept content, whole; only for the small ones.
    pub(crate) fn kept_bytes(&self, digest: &Digest) -> Result<Vec<u8>, StepError> {
        let mut bytes = Vec::new();
        self.keep.kept(digest)?.read_to_end(&mut bytes).map_err(|error| StepError::Kept {
            digest: digest.clone(),
            what: format!("cannot be read: {error}"),
        })?;
        Ok(bytes)
    }

    /// Say a line.
    pub(crate) fn say(&self, text: &str) {
        (self.note)(&crate::host::mask_secrets(text));
    }
}

/// One kind of step.
pub(crate) trait Change {
    /// What stood there before.
    type Before: Serialize + DeserializeOwned;

    /// Look, and change nothing.
    fn probe(&self, context: &Context<'_>) -> Result<Self::Before, StepError>;

    /// Is it as wanted? Pure.
    fn is_satisfied_by(&self, before: &Self::Before) -> bool;

    /// Make it as wanted. May be called again after it died half-way, with the first `before`.
    fn apply(&self, context: &Context<'_>, before: &Self::Before) -> Result<(), StepError>;

    /// Put back what stood there. May be called again after it died half-way.
    fn undo(&self, context: &Context<'_>, before: &Self::Before) -> Result<(), StepError>;

    /// One line for people.
    fn summary(&self) -> String;

    /// What applying would change, given what is there.
    fn detail(&self, before: &Self::Before) -> String;
}

/// A step whose before-state has lost its type.
pub(crate) trait AnyChange {
    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError>;
    fn is_satisfied_by(&self, before: &Before) -> Result<bool, StepError>;
    fn apply(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError>;
    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError>;
    fn summary(&self) -> String;
    fn detail(&self, before: &Before) -> Result<String, StepError>;
}

fn typed<T: DeserializeOwned>(before: &Before) -> Result<T, StepError> {
    T::deserialize(&before.0).map_err(|error| StepError::Format {
        what: "a before-state in the journal".to_owned(),
        reason: error.to_string(),
    })
}

impl<C: Change> AnyChange for C {
    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        context.drop_pending();
        let before = Change::probe(self, context)?;
        serde_json::to_value(before).map(Before).map_err(|error| StepError::Format {
            what: "a before-state".to_owned(),
            reason: error.to_string(),
        })
    }

    fn is_satisfied_by(&self, before: &Before) -> Result<bool, StepError> {
        Ok(Change::is_satisfied_by(self, &typed(before)?))
    }

    fn apply(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        Change::apply(self, context, &typed(before)?)
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        Change::undo(self, context, &typed(before)?)
    }

    fn summary(&self) -> String {
        Change::summary(self)
    }

    fn detail(&self, before: &Before) -> Result<String, StepError> {
        Ok(Change::detail(self, &typed(before)?))
    }
}

impl Step {
    /// Look at the node; changes nothing.
    ///
    /// # Errors
    /// If the node cannot be looked at.
    pub fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        super::behaviour::change_of(self).probe(context)
    }

    /// Is the node as this step wants it? Pure.
    ///
    /// # Errors
    /// If `before` is not of this step.
    pub fn is_satisfied_by(&self, before: &Before) -> Result<bool, StepError> {
        super::behaviour::change_of(self).is_satisfied_by(before)
    }

    /// Make the change. Fine to call again after it died half-way, with the first `before`.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn apply(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        super::behaviour::change_of(self).apply(context, before)
    }

    /// Put back what stood there before. Fine to call again after it died half-way.
    ///
    /// # Errors
    /// If it cannot be put back; what can be put back then is.
    pub fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        super::behaviour::change_of(self).undo(context, before)
    }

    /// One line for people, in the words of the plan.
    #[must_use]
    pub fn summary(&self) -> String {
        super::behaviour::change_of(self).summary()
    }

    /// What applying would change, given what is there.
    ///
    /// # Errors
    /// If `before` is not of this step.
    pub fn detail(&self, before: &Before) -> Result<String, StepError> {
        super::behaviour::change_of(self).detail(before)
    }
}
