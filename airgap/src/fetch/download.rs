//! Downloads: large answers, to disk, resumed.

use std::io::Read as _;

use kdc_bundles::index::Digest;
use reqwest::{
    Response, StatusCode, Url,
    header::{CONTENT_RANGE, ETAG, HeaderMap},
};

use super::{Ask, FetchError, Fetcher, address, ask::Pace, partial::Partial};
use crate::registry::login::Repository;

/// Largest download whose size nobody states, 64 GiB.
pub(crate) const MAX_UNSTATED_BYTES: u64 = 64 << 30;

/// What is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) url: Url,
    pub(crate) repository: Option<Repository>,
    /// Media types to ask for; some registries answer with another document otherwise.
    pub(crate) accept: Option<&'static str>,
    /// Digest, where it is stated.
    pub(crate) digest: Option<Digest>,
    /// Size, where it is stated.
    pub(crate) size: Option<u64>,
}

impl Wanted {
    pub(crate) fn new(url: Url) -> Self {
        Self { url, repository: None, accept: None, digest: None, size: None }
    }

    fn limit(&self) -> u64 {
        self.size.unwrap_or(MAX_UNSTATED_BYTES)
    }

    fn shown(&self) -> String {
        address::shown(&self.url)
    }
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl Fetcher {
    /// Brings it into the cache, unless it is there. `bytes` is told of every byte that comes.
    pub(crate) async fn download(
        &self,
        wanted: &Wanted,
        bytes: &dyn Fn(u64),
    ) -> Result<Fetched, FetchError> {
        if let Some(digest) = &wanted.digest
            && self.cache.has(digest, wanted.size)
        {
            let path = self.cache.path(digest);
            let size = fs_err::metadata(path).map_err(|error| self.cache.failed(error))?.len();
            return Ok(Fetched { digest: digest.clone(), size });
        }
        if wanted.url.scheme() == "file" {
            return self.copy_file(wanted);
        }
        if self.offline {
            return Err(FetchError::Offline { url: wanted.shown() });
        }
        let _place = self.places.acquire().await.expect("the semaphore is never closed");
        let mut partial = Partial::open(&self.cache, wanted.digest.as_ref())?;
        let mut taken_over = partial.length() > 0;
        loop {
            let result = self.complete(wanted, &mut partial, bytes).await;
            match result.and_then(|()| prove(wanted, &partial)) {
                Ok(()) => {
                    let (digest, size) = partial.finish(&self.cache)?;
                    return Ok(Fetched { digest, size });
                }
                // What an earlier run left may have been damaged: once more from the beginning.
                Err(FetchError::Digest { .. } | FetchError::Size { .. }) if taken_over => {
                    taken_over = false;
                    partial.restart().map_err(|error| self.cache.failed(error))?;
                }
                Err(error) => {
                    // Only a cut download of something known is worth keeping.
                    if !error.may_pass() || wanted.digest.is_none() {
                        partial.discard(&self.cache)?;
                    }
                    return Err(error);
                }
            }
        }
    }

    async fn complete(
        &self,
        wanted: &Wanted,
        partial: &mut Partial,
        bytes: &dyn Fn(u64),
    ) -> Result<(), FetchError> {
        let mut validator = None;
        self.patiently(async || {
            let before = partial.length();
            let result = self.go_on(wanted, partial, &mut validator, bytes).await;
            (partial.length().saturating_sub(before), result)
        })
        .await
    }

    /// One try, from where the last one stopped.
    async fn go_on(
        &self,
        wanted: &Wanted,
        partial: &mut Partial,
        validator: &mut Option<String>,
        bytes: &dyn Fn(u64),
    ) -> Result<(), FetchError> {
        if wanted.size.is_some_and(|size| partial.length() == size) {
            return Ok(());
        }
        // A stated digest proves the whole; without one only the server can say it's the same file.
        if wanted.digest.is_none() && validator.is_none() && partial.length() > 0 {
            partial.restart().map_err(|error| self.cache.failed(error))?;
        }
        let start = partial.length();
        let (repository, accept) = (wanted.repository.as_ref(), wanted.accept);
        let ask = Ask { url: &wanted.url, repository, accept };
        let from = (start > 0).then_some((start, validator.as_deref()));
        let mut response = self.get(&ask, from).await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            // Longer than what the server has: not its file.
            partial.restart().map_err(|error| self.cache.failed(error))?;
            let (got_bytes, of_bytes) = (0, wanted.limit());
            return Err(FetchError::Cut { url: wanted.shown(), got_bytes, of_bytes });
        }
        if start > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
            partial.restart().map_err(|error| self.cache.failed(error))?;
        }
        let total = stated_total(wanted, &response, partial.length())?;
        *validator = strong_tag(response.headers());
        let mut pace = Pace::new(self.patience.stall);
        while let Some(chunk) = pace.next(&mut response, &wanted.url).await? {
            if partial.length() + chunk.len() as u64 > wanted.limit() {
                return Err(oversized(wanted, partial.length() + chunk.len() as u64));
            }
            partial.append(&chunk).map_err(|error| self.cache.failed(error))?;
            bytes(chunk.len() as u64);
        }
        let got_bytes = partial.length();
        match total.or(wanted.size) {
            Some(of_bytes) if got_bytes < of_bytes => {
                Err(FetchError::Cut { url: wanted.shown(), got_bytes, of_bytes })
            }
            _ => Ok(()),
        }
    }

    fn copy_file(&self, wanted: &Wanted) -> Result<Fetched, FetchError> {
        let failed = |source| FetchError::File { url: wanted.shown(), source };
        let path = wanted.url.to_file_path();
        let path = path.map_err(|()| failed(std::io::ErrorKind::InvalidInput.into()))?;
        let file = fs_err::File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        if size > wanted.limit() {
            return Err(oversized(wanted, size));
        }
        let content = file.take(wanted.limit());
        let Some(expected) = &wanted.digest else {
            let (digest, size) = self.cache.insert(content)?;
            return Ok(Fetched { digest, size });
        };
        match self.cache.insert_verified(expected, content) {
            Ok(size) => Ok(Fetched { digest: expected.clone(), size }),
            Err(crate::cache::CacheError::Digest { expected, found }) => {
                Err(FetchError::Digest { url: wanted.shown(), expected, found })
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn oversized(wanted: &Wanted, found_bytes: u64) -> FetchError {
    let url = wanted.shown();
    match wanted.size {
        Some(expected_bytes) => FetchError::Size { url, expected_bytes, found_bytes },
        None => FetchError::TooLarge { url, limit_bytes: wanted.limit() },
    }
}

/// The size of the whole as the server states it; that it differs from what we know is an error
/// before the first byte.
fn stated_total(
    wanted: &Wanted,
    response: &Response,
    start: u64,
) -> Result<Option<u64>, FetchError> {
    if response.status() == StatusCode::PARTIAL_CONTENT {
        let range = response.headers().get(CONTENT_RANGE).and_then(|text| text.to_str().ok());
        let begins = range.and_then(|text| text.strip_prefix("bytes "));
        let begins = begins.and_then(|text| text.split_once('-')).map(|(begins, _)| begins);
        if begins.and_then(|begins| begins.parse().ok()) != Some(start) {
            let what = format!("a piece that doesn't begin at byte {start} as asked");
            return Err(FetchError::Answer { url: wanted.shown(), what });
        }
    }
    let total = response.content_length().map(|rest| rest.saturating_add(start));
    if total.is_some_and(|total| wanted.size.map_or(total > wanted.limit(), |size| size != total)) {
        return Err(oversized(wanted, total.unwrap_or_default()));
    }
    Ok(total)
}

/// The mark by which a server knows the same file again.
fn strong_tag(headers: &HeaderMap) -> Option<String> {
    let tag = headers.get(ETAG)?.to_str().ok()?;
    tag.starts_with('"').then(|| tag.to_owned())
}

fn prove(wanted: &Wanted, partial: &Partial) -> Result<(), FetchError> {
    if let Some(expected_bytes) = wanted.size
        && partial.length() != expected_bytes
    {
        return Err(oversized(wanted, partial.length()));
    }
    let found = partial.digest();
    match &wanted.digest {
        Some(expected) if *expected != found => {
            Err(FetchError::Digest { url: wanted.shown(), expected: expected.clone(), found })
        }
        _ => Ok(()),
    }
}
