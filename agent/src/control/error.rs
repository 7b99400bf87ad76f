//! Why the control plane's part can't work, in words an operator can act on.

use std::path::PathBuf;

use super::WANTED_MAP;

/// The controller can't start, or a round of it failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No credentials.
    #[error("{} can't be used to reach the API server: {reason}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why; never what stands in it.
        reason: String,
    },
    /// The API server refused or did not answer.
    #[error("{what} failed")]
    Api {
        /// What was asked for.
        what: String,
        /// Why.
        source: ApiCause,
    },
    /// It did not answer in time.
    #[error("{what}: no answer within {seconds} s")]
    Silent {
        /// What was asked for.
        what: String,
        /// How long was waited.
        seconds: u64,
    },
    /// What is wanted can't be read.
    #[error("ConfigMap {map}: `{key}` can't be read: {reason}")]
    Wanted {
        /// The ConfigMap.
        map: &'static str,
        /// Its key.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Something of kdc's is still in the cluster.
    #[error("not all of kdc's GPU settings could be withdrawn within {seconds} s: {words}")]
    NotWithdrawn {
        /// How long was tried.
        seconds: u64,
        /// How far it came.
        words: String,
    },
    /// The runtime or a signal handler failed.
    #[error("the controller can't listen to signals")]
    Signals(#[from] std::io::Error),
}

/// Why the API server did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ApiCause {
    /// It said no.
    #[error("the API server said {status}: {message}")]
    Refused {
        /// Status of HTTP.
        status: u16,
        /// Its words.
        message: String,
    },
    /// It, or the way to it, is broken.
    #[error("the API server can't be reached: {0}")]
    Unreachable(String),
}

impl ApiCause {
    /// The innermost cause: what is around it says only that there is one.
    pub(super) fn unreachable(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let cause = cause.into();
        let mut innermost: &dyn std::error::Error = &*cause;
        while let Some(inner) = innermost.source() {
            innermost = inner;
        }
        Self::Unreachable(innermost.to_string())
    }
}

impl ControlError {
    /// What was read is not what is there any more; as if the API server had said so.
    pub(super) fn overtaken(map: &str) -> Self {
        let message = "it was changed in between".to_owned();
        let what = format!("writing ConfigMap {map}");
        Self::Api { what, source: ApiCause::Refused { status: 409, message } }
    }

    /// Stable code, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Kubeconfig { .. } => "AGENT-080",
            Self::Api { .. } => "AGENT-081",
            Self::Silent { .. } => "AGENT-082",
            Self::Wanted { .. } => "AGENT-083",
            Self::Signals(_) => "AGENT-084",
            Self::NotWithdrawn { .. } => "AGENT-085",
        }
    }

    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Kubeconfig { path, .. } => format!(
                "run this on a control-plane node, or name another file than {} with `--kubeconfig`",
                path.display()
            ),
            Self::Api { source: ApiCause::Refused { status: 403, .. }, .. } => {
                "run `kdc-install apply` again: it writes the rights of kdc-control anew".to_owned()
            }
            Self::Api { .. } | Self::Silent { .. } => {
                "`kubectl get --raw /readyz` on this node says whether the API server is well"
                    .to_owned()
            }
            Self::Wanted { map, .. } if *map == WANTED_MAP => {
                "run `kdc-install apply` again: it writes the ConfigMap anew".to_owned()
            }
            Self::Wanted { map, .. } => format!(
                "it is HAMi's own: correct it (`kubectl -n kube-system edit configmap {map}`); HAMi's plugin does \
                 not start with it either"
            ),
            Self::NotWithdrawn { .. } => {
                "`kubectl -n kube-system get configmap kdc-gpu-status -o yaml` says what is left, and why; then run \
                 the same `kdc-install` command again"
                    .to_owned()
            }
            Self::Signals(_) => return None,
        })
    }

    /// Status with which the API server refused.
    #[must_use]
    pub fn refused_with(&self) -> Option<u16> {
        match self {
            Self::Api { source: ApiCause::Refused { status, .. }, .. } => Some(*status),
            _ => None,
        }
    }

    /// The credentials do not count (any more): whoever starts this anew hands over fresh ones.
    #[must_use]
    pub fn is_unauthorized(&self) -> bool {
        self.refused_with() == Some(401)
    }

    /// Somebody else wrote in between: look again.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.refused_with() == Some(409)
    }
}

impl From<&ControlError> for crate::wire::Failure {
    fn from(error: &ControlError) -> Self {
        Self::from_error(error.code(), error, error.hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented_and_a_hint_is_about_what_the_operator_can_write() {
        let refused = |status| ControlError::Api {
            what: "x".to_owned(),
            source: ApiCause::Refused { status, message: String::new() },
        };
        let wanted = |map| ControlError::Wanted { map, key: "k", reason: "no JSON".to_owned() };
        let docs = include_str!("../../../docs/errors.md");
        for (error, code, hint) in [
            (
                ControlError::Kubeconfig { path: "/x".into(), reason: "not there".to_owned() },
                "AGENT-080",
                "--kubeconfig",
            ),
            (refused(403), "AGENT-081", "apply"),
            (refused(500), "AGENT-081", "readyz"),
            (
                ControlError::NotWithdrawn { seconds: 1, words: String::new() },
                "AGENT-085",
                "kdc-gpu-status",
            ),
            (ControlError::Silent { what: "x".to_owned(), seconds: 20 }, "AGENT-082", "readyz"),
            (wanted(WANTED_MAP), "AGENT-083", "apply"),
            (wanted("hami-scheduler-device"), "AGENT-083", "edit configmap hami-scheduler-device"),
        ] {
            assert_eq!(error.code(), code);
            assert!(docs.contains(&format!("| {code} |")), "{code}");
            assert!(error.hint().is_some_and(|said| said.contains(hint)), "{code}: {hint}");
        }
        let signals = ControlError::Signals(std::io::Error::other("x"));
        assert_eq!((signals.code(), signals.hint()), ("AGENT-084", None));
    }
}
