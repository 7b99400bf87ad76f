//! The licence files of a cluster: the text of the ConfigMap `kdc-license`, and of its copies on control planes.

use kdc_bundles::index::Digest;
use serde::{Deserialize, Serialize};

use crate::license::{
    LicenseKeys, Opened, document::License, envelope, open, revocation::Revocations, state::Refused,
};

/// Longest text that is read.
pub const MAX_BYTES: usize = 768 * 1024;
/// Most files that are kept; the ones with the lowest serials make room.
pub const MAX_FILES: usize = 8;
/// Most removals that are remembered.
const MAX_REMOVED: usize = 256;

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// Files, letter by letter, the one that was given last at the end.
    #[serde(default)]
    pub files: Vec<String>,
    /// The vendor's list of licences that count no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocations: Option<String>,
    /// Digests of files that an operator removed: a copy of one that comes from elsewhere is not taken back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
}

/// What the files say, with these keys.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// Those whose signature is good.
    pub licenses: Vec<License>,
    /// The files of these, in the same order.
    pub files: Vec<String>,
    /// What the vendor took back.
    pub revoked: Revocations,
    /// The file that was given last, where it is none of these.
    pub refused: Option<Refused>,
}

/// Names a file, whatever white space is around it.
#[must_use]
pub fn digest(file: &str) -> String {
    Digest::of(file.trim().as_bytes()).hex().to_owned()
}

impl Kept {
    /// Read the text.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("{} bytes; at most {MAX_BYTES} are read", text.len()));
        }
        let kept: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if kept.files.len() > MAX_FILES {
            return Err(format!("{} files; at most {MAX_FILES} are kept", kept.files.len()));
        }
        Ok(kept)
    }

    /// The text.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).expect("texts serialise")
    }

    /// This file is among them.
    #[must_use]
    pub fn has(&self, file: &str) -> bool {
        self.files.iter().any(|kept| kept.trim() == file.trim())
    }

    /// Take a file that was opened; the one with the lowest serial makes room.
    pub fn add(&mut self, file: &str, keys: &LicenseKeys) {
        let name = digest(file);
        self.removed.retain(|removed| *removed != name);
        self.files.retain(|kept| kept.trim() != file.trim());
        self.files.push(file.trim().to_owned());
        let serial = |file: &String| {
            open(file.as_bytes(), keys).map(|opened| opened.license.serial).unwrap_or_default()
        };
        while self.files.len() > MAX_FILES {
            let newest = self.files.len() - 1;
            let older = self.files[..newest].iter().enumerate();
            let Some((place, _)) = older.min_by_key(|(_, file)| serial(file)) else { return };
            self.files.remove(place);
        }
    }

    /// Take a list of revocations that was opened, unless a newer one is here.
    pub fn add_revocations(&mut self, file: &str, keys: &LicenseKeys) {
        let serial = |file: &str| {
            Revocations::open(file.as_bytes(), keys)
                .map(|(_, list)| list.serial)
                .unwrap_or_default()
        };
        if self.revocations.as_deref().is_none_or(|known| serial(known) < serial(file)) {
            self.revocations = Some(file.trim().to_owned());
        }
    }

    /// Take files away, by the id of their licence or all of them, whatever their state; answers which went.
    pub fn remove(&mut self, id: Option<&str>) -> Vec<String> {
        let claimed = |file: &str| {
            envelope::inspect_unproved(file.as_bytes()).map(|(_, license)| license.id).ok()
        };
        let mut gone = Vec::new();
        let removed = &mut self.removed;
        self.files.retain(|file| {
            let name = claimed(file);
            if id.is_some() && name.as_deref() != id {
                return true;
            }
            removed.push(digest(file));
            gone.push(name.unwrap_or_else(|| "(unreadable)".to_owned()));
            false
        });
        self.forget_old();
        gone
    }

    /// Of removals the newest are remembered.
    fn forget_old(&mut self) {
        let surplus = self.removed.len().saturating_sub(MAX_REMOVED);
        self.removed.drain(..surplus);
    }

    /// What both have. What was removed on one side stays removed.
    #[must_use]
    pub fn merge(mut self, other: &Self, keys: &LicenseKeys) -> Self {
        for removed in &other.removed {
            if !self.removed.contains(removed) {
                self.removed.push(removed.clone());
            }
        }
        let removed = std::mem::take(&mut self.removed);
        self.files.retain(|file| !removed.contains(&digest(file)));
        for file in &other.files {
            // Only what is good comes from a copy; what this side has was given to it.
            let good = open(file.as_bytes(), keys).is_ok();
            if good
                && !self.has(file)
                && !removed.contains(&digest(file))
                && self.files.len() < MAX_FILES
            {
                self.files.insert(0, file.clone());
            }
        }
        self.removed = removed;
        self.forget_old();
        if let Some(list) = &other.revocations
            && Revocations::open(list.as_bytes(), keys).is_ok()
        {
            self.add_revocations(list, keys);
        }
        self
    }

    /// Open them all.
    #[must_use]
    pub fn read(&self, keys: &LicenseKeys) -> Read {
        let mut read = Read::default();
        for file in &self.files {
            match open(file.as_bytes(), keys) {
                Ok(Opened { license, .. }) => {
                    read.licenses.push(license);
                    read.files.push(file.clone());
                    read.refused = None;
                }
                Err(error) => {
                    let id = envelope::inspect_unproved(file.as_bytes());
                    let id = id.ok().map(|(_, license)| license.id);
                    let why = format!("{}; {}", in_full(&error), error.hint());
                    read.refused = Some(Refused { id, why });
                }
            }
        }
        if let Some(list) = &self.revocations
            && let Ok((_, list)) = Revocations::open(list.as_bytes(), keys)
        {
            read.revoked = list;
        }
        read
    }
}

/// An error with its causes in one line.
pub(super) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
