//! How one watched thing stands.

use serde::{Deserialize, Serialize};

use super::{Action, Kind};

/// How a watched thing stands. Unknown is not ok, and is never repaired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// As wanted.
    Ok,
    /// Otherwise than wanted, or soon to be; the node still does its work.
    Warn,
    /// Otherwise than wanted in a way that the node's work suffers from.
    Fail,
    /// It could not be looked at.
    Unknown {
        /// Why not.
        reason: String,
    },
}

impl State {
    /// The word for it in metrics and tables.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Unknown { .. } => "unknown",
        }
    }
}

/// What a look found about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watched {
    /// What is looked at, the same at each look: `sysctl net.ipv4.ip_forward`.
    pub subject: String,
    /// What kind of thing it is.
    pub kind: Kind,
    /// How it stands.
    #[serde(flatten)]
    pub state: State,
    /// What was seen, in one line for people. Never a file's content, never a secret.
    pub text: String,
    /// How it is wanted, where that can be said in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
    /// How it stands, where that can be said in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// The next thing to try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What would put it right; none where nobody may but a human.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Action>,
    /// Since when it stands like this, in milliseconds since 1970, as far as it was watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_unix_ms: Option<u64>,
}

impl Watched {
    /// A finding without wanted, found, hint and remedy.
    #[must_use]
    pub fn new(
        kind: Kind,
        subject: impl Into<String>,
        state: State,
        text: impl Into<String>,
    ) -> Self {
        Self {
            subject: subject.into(),
            kind,
            state,
            text: text.into(),
            wanted: None,
            found: None,
            hint: None,
            remedy: None,
            since_unix_ms: None,
        }
    }

    /// It could not be looked at.
    #[must_use]
    pub fn unknown(kind: Kind, subject: impl Into<String>, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        let text = format!("could not look: {reason}");
        Self::new(kind, subject, State::Unknown { reason }, text)
    }

    /// With the next thing to try.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With what would put it right.
    #[must_use]
    pub fn with_remedy(mut self, remedy: Action) -> Self {
        self.remedy = Some(remedy);
        self
    }

    /// With what is wanted and what stands there instead.
    #[must_use]
    pub fn with_difference(mut self, wanted: impl Into<String>, found: impl Into<String>) -> Self {
        (self.wanted, self.found) = (Some(wanted.into()), Some(found.into()));
        self
    }
}
