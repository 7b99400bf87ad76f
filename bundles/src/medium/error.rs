//! Why a bundle can't be found, or is not whole where it was found.

use std::path::PathBuf;

use crate::parts::{PartSummary, Stray, numbers_text};

/// What is wrong with the place of a bundle rather than with its bytes.
#[derive(Debug, thiserror::Error)]
pub enum MediumError {
    /// There is nothing that looks like a bundle.
    #[error(
        "no bundle in {}: none of {files} files is one{}",
        paths_text(searched),
        strays_text(strays)
    )]
    Nothing {
        /// Where it was looked for.
        searched: Vec<PathBuf>,
        /// How many files were looked at.
        files: usize,
        /// Files that look like parts and can't be used.
        strays: Vec<Stray>,
    },
    /// A folder holds more than is searched.
    #[error("`{}` holds more than {most} files and folders", folder.display())]
    TooMany {
        /// The folder.
        folder: PathBuf,
        /// Most that are looked at.
        most: usize,
    },
    /// More than one bundle; each is listed.
    #[error("there are {} bundles: {}", found.len(), bundles_text(found))]
    Several {
        /// All of them.
        found: Vec<FoundBundle>,
    },
    /// Parts that carry the bundle's bytes are not there.
    #[error("{bundle} lacks {} of its {parts} parts", numbers_text("part", numbers))]
    Missing {
        /// Name and version.
        bundle: String,
        /// Which are missing.
        numbers: Vec<u32>,
        /// Parts of the set, parity included.
        parts: u32,
        /// Parity parts that are there.
        parity: u32,
    },
    /// Parts were read and are not all good.
    #[error("{bundle} is not whole: {}", bad.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Damaged {
        /// Name and version.
        bundle: String,
        /// What is wrong with each part that is not good.
        bad: Vec<PartSummary>,
        /// Whether parity rebuilds what is lost.
        repairable: bool,
    },
    /// No part has a copy of the index that is what its head says.
    #[error("no part of {bundle} has its index undamaged")]
    NoIndex {
        /// Name and version.
        bundle: String,
    },
    /// The heads speak of another bundle than the one that was signed.
    #[error("the heads of the parts of {bundle} do not fit its signed index: {what}")]
    Heads {
        /// Name and version.
        bundle: String,
        /// What does not fit.
        what: String,
    },
}

impl MediumError {
    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Nothing { .. } => {
                "name the bundle, one of its parts, or the folder or stick that holds it"
            }
            Self::TooMany { .. } => "name the bundle itself, or a smaller folder",
            Self::Several { .. } => "name one of them",
            Self::Missing { numbers, parity, .. } if *parity as usize >= numbers.len() => {
                "put the missing parts beside the others or name their folder too, or let \
                 `kdc-install bundle repair` rebuild them"
            }
            Self::Damaged { repairable: true, .. } => {
                "`kdc-install bundle repair` rebuilds what is lost"
            }
            Self::Missing { .. } => {
                "put the missing parts beside the others, or name their folder too"
            }
            Self::Damaged { .. } | Self::NoIndex { .. } => {
                "copy the bad parts again from their source"
            }
            Self::Heads { .. } => "the parts were changed: copy them again from their source",
        };
        Some(text.to_owned())
    }
}

/// One of several bundles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundBundle {
    /// The name it says it has.
    pub name: String,
    /// The version it says it has.
    pub version: String,
    /// One of its files.
    pub path: PathBuf,
    /// How many files it has there.
    pub files: usize,
}

fn paths_text(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths.iter().map(|path| format!("`{}`", path.display())).collect();
    paths.join(", ")
}

fn strays_text(strays: &[Stray]) -> String {
    let one = |stray: &Stray| format!("; `{}` {}", stray.path.display(), stray.what);
    strays.iter().take(5).map(one).collect()
}

fn bundles_text(found: &[FoundBundle]) -> String {
    let one = |bundle: &FoundBundle| {
        let more = if bundle.files > 1 {
            format!(" and {} more", bundle.files - 1)
        } else {
            String::new()
        };
        format!("{} {} (`{}`{more})", bundle.name, bundle.version, bundle.path.display())
    };
    found.iter().map(one).collect::<Vec<_>>().join(", ")
}
