//! One question and its answer: TLS, redirects, logins, limits.

use std::{path::PathBuf, sync::Arc, time::Duration};

use reqwest::{
    Response, StatusCode, Url,
    header::{
        ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, IF_RANGE, LOCATION, RANGE, RETRY_AFTER,
    },
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::{FetchError, Fetcher, address};
use crate::registry::login::Repository;

/// Redirects followed.
const MAX_REDIRECTS: usize = 10;

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Ask<'a> {
    pub(crate) url: &'a Url,
    /// The repository of a registry, which may want a login.
    pub(crate) repository: Option<&'a Repository>,
    pub(crate) accept: Option<&'a str>,
}

impl<'a> Ask<'a> {
    pub(crate) fn new(url: &'a Url) -> Self {
        Self { url, repository: None, accept: None }
    }
}

/// Trust: the system's authorities and those given.
pub(super) fn tls(authorities: &[PathBuf]) -> Result<ClientConfig, FetchError> {
    let mut roots = RootCertStore::empty();
    // A system without authorities, or with some that can't be read, refuses servers, not us.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for path in authorities {
        let wrong = |source: Box<dyn std::error::Error + Send + Sync>| FetchError::Authority {
            path: path.clone(),
            source,
        };
        let pem = fs_err::read(path).map_err(|error| wrong(error.into()))?;
        let mut found = 0;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| wrong(error.to_string().into()))?;
            roots.add(certificate).map_err(|error| wrong(error.into()))?;
            found += 1;
        }
        if found == 0 {
            return Err(wrong("there is no `BEGIN CERTIFICATE` in it".into()));
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder
        .with_safe_default_protocol_versions()
        .map_err(|error| FetchError::Tls(error.into()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

impl Fetcher {
    /// A small document, whole.
    pub(crate) async fn small(
        &self,
        ask: &Ask<'_>,
        most: u64,
    ) -> Result<(Vec<u8>, HeaderMap), FetchError> {
        if ask.url.scheme() == "file" {
            return read_file(ask.url, most).map(|bytes| (bytes, HeaderMap::new()));
        }
        if self.offline {
            return Err(FetchError::Offline { url: address::shown(ask.url) });
        }
        self.patiently(async || (0, self.small_once(ask, most).await)).await
    }

    async fn small_once(
        &self,
        ask: &Ask<'_>,
        most: u64,
    ) -> Result<(Vec<u8>, HeaderMap), FetchError> {
        let mut response = self.get(ask, None).await?;
        let url = response.url().clone();
        let too_large = || FetchError::TooLarge { url: address::shown(ask.url), limit_bytes: most };
        if response.content_length().is_some_and(|length| length > most) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        let mut pace = Pace::new(self.patience.stall);
        while let Some(chunk) = pace.next(&mut response, &url).await? {
            if (bytes.len() + chunk.len()) as u64 > most {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok((bytes, std::mem::take(response.headers_mut())))
    }

    /// Asks; a login that is wanted is made once. The answer is a success.
    pub(super) async fn get(
        &self,
        ask: &Ask<'_>,
        from: Option<(u64, Option<&str>)>,
    ) -> Result<Response, FetchError> {
        let mut response = self.follow(ask, from).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(repository) = ask.repository
        {
            self.log_in(repository, response.headers()).await?;
            response = self.follow(ask, from).await?;
            if response.status() == StatusCode::UNAUTHORIZED {
                return Err(repository.refused("the login was not accepted"));
            }
        }
        let status = response.status();
        // Only a question with a range is answered by 416; its meaning is the caller's.
        if status.is_success() || (from.is_some() && status == StatusCode::RANGE_NOT_SATISFIABLE) {
            return Ok(response);
        }
        let seconds = response.headers().get(RETRY_AFTER).and_then(|text| text.to_str().ok());
        let retry_after = seconds.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        Err(FetchError::Status { url: address::shown(ask.url), status, retry_after })
    }

    async fn follow(
        &self,
        ask: &Ask<'_>,
        from: Option<(u64, Option<&str>)>,
    ) -> Result<Response, FetchError> {
        let mut url = self.mirrored(ask.url);
        let asked_first = url.origin();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
            if let Some(accept) = ask.accept {
                request = request.header(ACCEPT, accept);
            }
            if let Some((start, validator)) = from {
                request = request.header(RANGE, format!("bytes={start}-"));
                if let Some(validator) = validator {
                    request = request.header(IF_RANGE, validator);
                }
            }
            // A login is for whom it was made for.
            let login = ask.repository.filter(|_| url.origin() == asked_first);
            if let Some(header) = login.and_then(|repository| self.logins().header(repository)) {
                request = request.header(AUTHORIZATION, header);
            }
            let response = self.answer(request, &url).await?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            url = next_place(&url, &response)?;
        }
        Err(FetchError::Redirects { url: address::shown(ask.url), limit: MAX_REDIRECTS })
    }

    /// Sends a request and waits for the answer to begin.
    pub(crate) async fn answer(
        &self,
        request: reqwest::RequestBuilder,
        url: &Url,
    ) -> Result<Response, FetchError> {
        match tokio::time::timeout(self.patience.answer, request.send()).await {
            Ok(answer) => answer.map_err(|error| broken(error, url)),
            Err(_) => Err(FetchError::Stalled {
                url: address::shown(url),
                after: self.patience.answer,
                got_bytes: 0,
            }),
        }
    }
}

fn next_place(url: &Url, response: &Response) -> Result<Url, FetchError> {
    let nonsense =
        |what: &str| FetchError::Answer { url: address::shown(url), what: what.to_owned() };
    let place = response.headers().get(LOCATION).and_then(|place| place.to_str().ok());
    let place = place.ok_or_else(|| nonsense("a redirect without a place"))?;
    let next = url.join(place).map_err(|_| nonsense("a redirect to no address"))?;
    match (url.scheme(), next.scheme()) {
        (_, "https") | ("http", "http") => Ok(next),
        ("https", "http") => {
            Err(FetchError::Downgrade { from: address::shown(url), to: address::shown(&next) })
        }
        _ => Err(nonsense("a redirect to something that is not the web")),
    }
}

/// Reads an answer, and notices when it stands still or crawls.
pub(crate) struct Pace {
    stall: Duration,
    since: tokio::time::Instant,
    window_bytes: u64,
    total_bytes: u64,
}

/// Fewer bytes than this in the time of a stall are a stall.
const CRAWL_BYTES: u64 = 1024;

impl Pace {
    pub(super) fn new(stall: Duration) -> Self {
        Self { stall, since: tokio::time::Instant::now(), window_bytes: 0, total_bytes: 0 }
    }

    pub(crate) async fn next(
        &mut self,
        response: &mut Response,
        url: &Url,
    ) -> Result<Option<impl std::ops::Deref<Target = [u8]> + use<>>, FetchError> {
        let stalled = |got_bytes| FetchError::Stalled {
            url: address::shown(url),
            after: self.stall,
            got_bytes,
        };
        let chunk = tokio::time::timeout(self.stall, response.chunk()).await;
        let chunk = chunk.map_err(|_| stalled(self.total_bytes))?;
        let chunk = chunk.map_err(|error| broken(error, url))?;
        let length = chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        self.window_bytes += length;
        self.total_bytes += length;
        if self.since.elapsed() >= self.stall {
            if length > 0 && self.window_bytes < CRAWL_BYTES {
                return Err(stalled(self.total_bytes));
            }
            (self.since, self.window_bytes) = (tokio::time::Instant::now(), 0);
        }
        Ok(chunk)
    }
}

/// What a broken connection means: a bad certificate stays bad, the rest may pass.
fn broken(error: reqwest::Error, url: &Url) -> FetchError {
    let url = address::shown(url);
    // The address stands in our message already, and there without secrets.
    let source = error.without_url();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&source);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(what)) = tls_error(error) {
            return FetchError::Certificate { url, what: what.to_string() };
        }
        cause = error.source();
    }
    FetchError::Connection { url, source }
}

/// The TLS error that this is, or that I/O errors are wrapped around; those hide what they hold from
/// `source`.
fn tls_error<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    error.downcast_ref().or_else(|| {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref)?;
        tls_error(inner)
    })
}

/// A local file, whole, if it is small.
fn read_file(url: &Url, most: u64) -> Result<Vec<u8>, FetchError> {
    use std::io::Read as _;
    let failed = |source| FetchError::File { url: address::shown(url), source };
    let path = url.to_file_path().map_err(|()| failed(std::io::ErrorKind::InvalidInput.into()))?;
    let mut bytes = Vec::new();
    let file = fs_err::File::open(path).map_err(failed)?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(FetchError::TooLarge { url: address::shown(url), limit_bytes: most });
    }
    Ok(bytes)
}
