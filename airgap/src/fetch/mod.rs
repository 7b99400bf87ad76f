//! Fetching: from an address to proved bytes in the cache.
//!
//! Everything from outside is bounded and nothing is trusted before it is proved:
//!
//! - a blob's digest is computed while it streams to disk, and it enters the [`Cache`] only if that
//!   is the digest stated, or (while locking) under the digest it turned out to have;
//! - a cut download goes on where it stopped, also in the next run (`Range`); what can pass
//!   (a cut, a stall, a busy server) is tried again after growing pauses, what can't (a wrong digest,
//!   a bad certificate, a 404) is not;
//! - redirects are followed a few times, never from `https` to `http`, and a login is never carried to
//!   another host.
//!
//! One current-thread runtime is enough: the network waits, hashing keeps up with it.

mod address;
mod ask;
mod download;
mod error;
mod partial;
mod patience;

use std::path::PathBuf;

pub use self::{
    address::{Mirror, MirrorError},
    error::FetchError,
    patience::Patience,
};
pub(crate) use self::{
    address::{host, is_loopback, parse_address},
    ask::Ask,
    download::{Fetched, Wanted},
};
use crate::{cache::Cache, registry::login::Logins};

/// Downloads at a time.
const PARALLEL: usize = 8;

/// A try that brought at least this much got somewhere.
const PROGRESS_BYTES: u64 = 64 * 1024;

/// How to reach the world.
#[derive(Debug, Clone, Default)]
pub struct FetchOptions {
    /// Certificates (PEM) trusted beside those of the system.
    pub authorities: Vec<PathBuf>,
    /// Hosts to ask instead of others.
    pub mirrors: Vec<Mirror>,
    /// Take everything from the cache.
    pub offline: bool,
    /// Where to read logins of registries; the usual place when absent.
    pub docker_config: Option<PathBuf>,
    /// How long to wait.
    pub patience: Patience,
}

/// The one door to other machines.
#[derive(Debug)]
pub struct Fetcher {
    client: reqwest::Client,
    cache: Cache,
    mirrors: Vec<Mirror>,
    offline: bool,
    patience: Patience,
    logins: Logins,
    places: tokio::sync::Semaphore,
}

impl Fetcher {
    /// A fetcher into `cache`.
    ///
    /// # Errors
    /// When an authority's certificate can't be read.
    pub fn new(cache: Cache, options: FetchOptions) -> Result<Self, FetchError> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(ask::tls(&options.authorities)?)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(options.patience.answer)
            .user_agent(concat!("kdc-install/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| FetchError::Tls(error.into()))?;
        Ok(Self {
            client,
            cache,
            mirrors: options.mirrors,
            offline: options.offline,
            patience: options.patience,
            logins: Logins::new(options.docker_config),
            places: tokio::sync::Semaphore::new(PARALLEL),
        })
    }

    /// Where everything is put.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    pub(crate) fn pace(&self) -> ask::Pace {
        ask::Pace::new(self.patience.stall)
    }

    pub(crate) fn logins(&self) -> &Logins {
        &self.logins
    }

    /// Tries until it works, or can't, or has brought nothing too often. `once` gives how much it has
    /// brought beside its error: a try that got somewhere counts as a first one.
    pub(crate) async fn patiently<T>(
        &self,
        mut once: impl AsyncFnMut() -> (u64, Result<T, FetchError>),
    ) -> Result<T, FetchError> {
        let mut failed = 0;
        // A peer that gives a byte and cuts, again and again, ends too.
        for _ in 0..self.patience.attempts * 50 {
            let (brought, result) = once().await;
            let error = match result {
                Err(error) if error.may_pass() => error,
                other => return other,
            };
            failed = if brought >= PROGRESS_BYTES { 1 } else { failed + 1 };
            if failed >= self.patience.attempts {
                return Err(error);
            }
            tokio::time::sleep(self.patience.pause(failed, error.asked_pause())).await;
        }
        once().await.1
    }
}
