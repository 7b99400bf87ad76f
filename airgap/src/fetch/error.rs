//! Why something can't be fetched.

use std::{path::PathBuf, time::Duration};

use kdc_bundles::index::Digest;

use crate::cache::CacheError;

/// Why something can't be fetched. Addresses are shown without what stands after `?`.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The cache lacks it and nothing may be fetched.
    #[error("{url} is not in the cache, and --offline was given")]
    Offline {
        /// The address.
        url: String,
    },
    /// An address that is not used.
    #[error("{url} is not fetched: {why}")]
    Address {
        /// The address.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An authority's certificate can't be used.
    #[error("`{}` holds no certificate that can be used", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// TLS can't be set up at all.
    #[error("no TLS client can be made")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server's certificate is not good.
    #[error("the certificate of {url} is refused: {what}")]
    Certificate {
        /// The address.
        url: String,
        /// What is wrong with it.
        what: String,
    },
    /// No connection, or it broke.
    #[error("{url} can't be reached")]
    Connection {
        /// The address.
        url: String,
        /// What the system or the protocol says.
        #[source]
        source: reqwest::Error,
    },
    /// No (further) bytes for too long.
    #[error("{url} sent nothing for {} s, {got_bytes} bytes in", after.as_secs_f32())]
    Stalled {
        /// The address.
        url: String,
        /// For how long.
        after: Duration,
        /// What had come.
        got_bytes: u64,
    },
    /// The answer ended early.
    #[error("{url} was cut after {got_bytes} of {of_bytes} bytes")]
    Cut {
        /// The address.
        url: String,
        /// What had come.
        got_bytes: u64,
        /// What should have.
        of_bytes: u64,
    },
    /// The server says no.
    #[error("{url} answers {status}")]
    Status {
        /// The address.
        url: String,
        /// Its answer.
        status: reqwest::StatusCode,
        /// The pause it asks for.
        retry_after: Option<Duration>,
    },
    /// One redirect after the other.
    #[error("{url} leads from redirect to redirect, more than {limit} of them")]
    Redirects {
        /// The first address.
        url: String,
        /// How many are followed.
        limit: usize,
    },
    /// From a protected address to one that isn't.
    #[error("{from} leads to {to}, which is not protected by TLS")]
    Downgrade {
        /// The address.
        from: String,
        /// Where it leads.
        to: String,
    },
    /// A redirect without a place, an answer to another question.
    #[error("{url} gives an answer that makes no sense: {what}")]
    Answer {
        /// The address.
        url: String,
        /// What.
        what: String,
    },
    /// Another size than stated.
    #[error("{url} has {found_bytes} bytes, not {expected_bytes} as stated")]
    Size {
        /// The address.
        url: String,
        /// As stated.
        expected_bytes: u64,
        /// As found.
        found_bytes: u64,
    },
    /// More than is read.
    #[error("{url} has more than {limit_bytes} bytes")]
    TooLarge {
        /// The address.
        url: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// Another digest than stated.
    #[error("{url} has {found}, not {expected} as stated")]
    Digest {
        /// The address.
        url: String,
        /// As stated.
        expected: Digest,
        /// As found.
        found: Digest,
    },
    /// A registry does not let us in.
    #[error("{registry} does not let us read `{repository}`: {what}")]
    Login {
        /// The registry.
        registry: String,
        /// What was asked for.
        repository: String,
        /// What happened.
        what: String,
    },
    /// A file can't be read.
    #[error("{url} can't be read")]
    File {
        /// The address.
        url: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The cache can't take it.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl FetchError {
    /// Whether the same question may be answered better in a moment.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Connection { .. } | Self::Stalled { .. } | Self::Cut { .. } => true,
            Self::Status { status, .. } => {
                matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
            }
            _ => false,
        }
    }

    /// The pause the server asks for.
    pub(crate) fn asked_pause(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The one next thing to try, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Offline { .. } => "leave --offline out where there is a network",
            Self::Certificate { .. } => {
                "for a private authority give its certificate with `--ca FILE`; check the clock"
            }
            Self::Status { status, .. } if matches!(status.as_u16(), 404 | 410) => {
                "check the name and the version; where a mirror is asked, that it has them"
            }
            Self::Status { status, .. } if matches!(status.as_u16(), 401 | 403) => {
                "check that this address may be read without a login"
            }
            Self::Login { .. } => "run `docker login` (or `skopeo login`) for that registry",
            Self::Connection { .. } | Self::Stalled { .. } | Self::Cut { .. } => {
                "run the same command again: it goes on where it stopped"
            }
            Self::Digest { .. } | Self::Size { .. } => {
                "somebody changed the file or the statement: find out who, before locking anew"
            }
            Self::Cache(error) => return error.hint(),
            _ => return None,
        };
        Some(text.to_owned())
    }

    /// The error, what caused it, and what to try, in one line of a longer list.
    pub(crate) fn in_one_line(&self) -> String {
        let text = crate::problem::chain(self);
        self.hint().map_or(text.clone(), |hint| format!("{text} ({hint})"))
    }
}
