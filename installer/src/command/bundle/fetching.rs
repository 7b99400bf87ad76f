//! How `lock` and `create` reach the world, and what they show of it.

use std::path::PathBuf;

use kdc_airgap::{Cache, FetchOptions, Fetcher, Mirror, Observer, Work};

use super::{BundleCommandError, progress::Progress};
use crate::show::Screen;

/// Flags about fetching.
#[derive(Debug, clap::Args)]
pub(super) struct FetchArguments {
    /// Trust this authority (PEM) beside those of the system; may be given several times
    #[arg(long = "ca", value_name = "FILE")]
    authorities: Vec<PathBuf>,
    /// Ask URL instead of HOST, e.g. docker.io=https://mirror.site/hub; may be given several times
    #[arg(long = "mirror", value_name = "HOST=URL")]
    mirrors: Vec<Mirror>,
    /// Fetch nothing: take everything from the cache
    #[arg(long)]
    offline: bool,
}

impl FetchArguments {
    /// The fetcher that these flags describe, into the user's cache.
    pub(super) fn fetcher(&self) -> Result<Fetcher, BundleCommandError> {
        let options = FetchOptions {
            authorities: self.authorities.clone(),
            mirrors: self.mirrors.clone(),
            offline: self.offline,
            ..FetchOptions::default()
        };
        Ok(Fetcher::new(Cache::open_default()?, options)?)
    }
}

/// Shows the passes.
pub(super) struct Shown<'s> {
    screen: &'s Screen,
    pass: Option<Progress<'s>>,
}

impl<'s> Shown<'s> {
    pub(super) fn new(screen: &'s Screen) -> Self {
        Self { screen, pass: None }
    }
}

impl Observer for Shown<'_> {
    fn started(&mut self, work: Work, total_bytes: u64) {
        let word = match work {
            Work::Fetching => "fetching",
            Work::Hashing => "hashing",
            Work::Writing => "writing",
            Work::Comparing => "comparing",
            Work::Verifying => "verifying",
        };
        self.pass = Some(Progress::start(self.screen, word, total_bytes));
    }

    fn bytes(&mut self, done_bytes: u64) {
        if let Some(pass) = &mut self.pass {
            pass.add(done_bytes);
        }
    }

    fn finished(&mut self, _: Work) {
        if let Some(pass) = self.pass.take() {
            pass.finish();
        }
    }

    fn note(&mut self, text: &str) {
        self.screen.say(text);
    }
}
