//! What a registry says when it can't serve: the codes of the OCI specification, with a sentence.

use hyper::StatusCode;
use serde_json::json;

use super::source::SourceError;

/// A request that is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("this registry only serves: GET and HEAD")]
    ReadOnly,
    #[error("there is nothing at this address; a registry begins at /v2/")]
    NoSuchPlace,
    #[error("the bundle has no repository `{name}`")]
    NoRepository { name: String },
    #[error("the repository has no manifest `{reference}`")]
    NoManifest { reference: String },
    #[error("the repository has no blob `{digest}`")]
    NoBlob { digest: String },
    #[error("`{text}` is not a number of entries")]
    PageSize { text: String },
    #[error("the content has {size} bytes, and none of the range asked for")]
    Range { size: u64 },
    #[error("the content can't be served")]
    Content(#[from] SourceError),
}

impl Refusal {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::ReadOnly => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoSuchPlace
            | Self::NoRepository { .. }
            | Self::NoManifest { .. }
            | Self::NoBlob { .. }
            | Self::Content(SourceError::Absent) => StatusCode::NOT_FOUND,
            Self::PageSize { .. } => StatusCode::BAD_REQUEST,
            Self::Range { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Content(SourceError::Unreadable(_)) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::ReadOnly | Self::NoSuchPlace => "UNSUPPORTED",
            Self::NoRepository { .. } => "NAME_UNKNOWN",
            Self::NoManifest { .. } => "MANIFEST_UNKNOWN",
            Self::NoBlob { .. } | Self::Content(SourceError::Absent) => "BLOB_UNKNOWN",
            Self::PageSize { .. } => "PAGINATION_NUMBER_INVALID",
            Self::Range { .. } => "RANGE_INVALID",
            Self::Content(SourceError::Unreadable(_)) => "UNKNOWN",
        }
    }

    /// The body. What failed inside is for the log, not for clients.
    pub(super) fn to_json(&self) -> String {
        json!({ "errors": [{ "code": self.code(), "message": self.to_string() }] }).to_string()
    }
}
