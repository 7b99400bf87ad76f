//! Values that other nodes make and a run waits for: join credentials, or the word that all joined.
//!
//! They come over the wire and go into memory-backed files that only root reads; nothing of them is
//! in a plan, a journal or an event, and they go when the run has finished.

use crate::{
    host::{Attributes, Host, HostError},
    step::change::Values,
    wire::SecretText,
};

/// Where values are handed to runs: `<VALUES_DIR>/<run>/<name>`.
pub const VALUES_DIR: &str = "/run/kdc/values";

/// Values in files only root reads, under [`VALUES_DIR`].
pub struct FileValues<'a> {
    /// The machine.
    pub host: &'a dyn Host,
    /// `/run/kdc/values/<run>`.
    pub directory: String,
}

impl<'a> FileValues<'a> {
    /// The values of one run.
    #[must_use]
    pub fn of_run(host: &'a dyn Host, run: &str) -> Self {
        Self { host, directory: format!("{VALUES_DIR}/{run}") }
    }

    /// Hand a value over.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn provide(&self, name: &str, value: &SecretText) -> Result<(), HostError> {
        let mut directory = String::new();
        for part in self.directory.split('/').filter(|part| !part.is_empty()) {
            directory = format!("{directory}/{part}");
            if self.host.stat(&directory)?.is_none() {
                self.host.make_directory(&directory, Attributes::root(0o700))?;
            }
        }
        let path = format!("{}/{name}", self.directory);
        self.host.write(&path, value.expose().as_bytes(), Attributes::root(0o600))
    }
}

impl FileValues<'_> {
    /// Remove what was handed over: a run that has finished needs it no more.
    ///
    /// # Errors
    /// If something of it stays.
    pub fn forget(&self) -> Result<(), HostError> {
        self.host.remove_tree(&self.directory)
    }
}

impl Values for FileValues<'_> {
    fn get(&self, name: &str) -> Result<Option<SecretText>, HostError> {
        let text = self.host.read_text(&format!("{}/{name}", self.directory))?;
        Ok(text.map(SecretText::new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn a_value_is_there_for_its_run_alone_and_for_root_alone_until_it_is_forgotten() {
        let host = FakeHost::debian();
        let (ours, theirs) = (FileValues::of_run(&host, "r1"), FileValues::of_run(&host, "r2"));
        ours.provide("join", &SecretText::new("one".to_owned())).unwrap();
        ours.provide("join", &SecretText::new("two".to_owned())).unwrap();
        assert_eq!(ours.get("join").unwrap().unwrap().expose(), "two");
        assert_eq!(theirs.get("join").unwrap(), None);
        for (path, mode) in [("/run/kdc/values/r1", 0o700), ("/run/kdc/values/r1/join", 0o600)] {
            assert_eq!(host.stat(path).unwrap().unwrap().attributes, Attributes::root(mode));
        }
        ours.forget().unwrap();
        assert_eq!(ours.get("join").unwrap(), None);
        ours.forget().unwrap();
    }
}
