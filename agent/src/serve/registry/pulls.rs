//! What clients took from the registry, counted.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use hyper::{Method, Response, header};

/// The numbers; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Pulls {
    shared: Arc<Numbers>,
}

#[derive(Debug, Default)]
struct Numbers {
    manifests: AtomicU64,
    blobs: AtomicU64,
    others: AtomicU64,
    refused: AtomicU64,
    bytes: AtomicU64,
}

impl Pulls {
    /// Answers by what they were.
    #[must_use]
    pub fn answers(&self) -> [(&'static str, u64); 4] {
        let numbers = &self.shared;
        [
            ("manifest", &numbers.manifests),
            ("blob", &numbers.blobs),
            ("other", &numbers.others),
            ("refused", &numbers.refused),
        ]
        .map(|(what, number)| (what, number.load(Ordering::Relaxed)))
    }

    /// Bytes of blobs that answers announced.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn note<B>(&self, method: &Method, path: &str, answer: &Response<B>) {
        let numbers = &self.shared;
        let status = answer.status();
        let number = if status.is_client_error() || status.is_server_error() {
            &numbers.refused
        } else if path.contains("/manifests/") {
            &numbers.manifests
        } else if path.contains("/blobs/") {
            if *method == Method::GET {
                let length = answer.headers().get(header::CONTENT_LENGTH);
                let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
                numbers.bytes.fetch_add(length.unwrap_or(0), Ordering::Relaxed);
            }
            &numbers.blobs
        } else {
            &numbers.others
        };
        number.fetch_add(1, Ordering::Relaxed);
    }
}
