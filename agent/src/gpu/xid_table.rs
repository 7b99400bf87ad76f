//! What to do about each Xid: data with a version, which a site can override.

use std::{collections::BTreeMap, path::Path};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a site's own table lies.
pub const SITE_TABLE: &str = "/etc/kdc/gpu-xid.yaml";
/// The table that kdc brings.
const BUILTIN: &str = include_str!("xid.yaml");
/// Largest table that is read.
const LARGEST: u64 = 256 * 1024;

/// What is to be done about a GPU.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Nothing.
    None,
    /// The program that ran on it starts again; the GPU is well.
    RestartApplication,
    /// Somebody looks at it.
    AskHuman,
    /// It is reset, once nobody uses it.
    ResetGpu,
    /// Work is taken away from it, then it is reset.
    DrainAndReset,
    /// The node is rebooted.
    RebootNode,
    /// The board is replaced.
    ReplaceHardware,
}

impl Action {
    /// In words, for people.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::RestartApplication => "restart the application",
            Self::AskHuman => "look at it",
            Self::ResetGpu => "reset the GPU",
            Self::DrainAndReset => "drain, then reset the GPU",
            Self::RebootNode => "reboot the node",
            Self::ReplaceHardware => "replace the GPU",
        }
    }

    /// In one word, as it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::RestartApplication => "restartApplication",
            Self::AskHuman => "askHuman",
            Self::ResetGpu => "resetGpu",
            Self::DrainAndReset => "drainAndReset",
            Self::RebootNode => "rebootNode",
            Self::ReplaceHardware => "replaceHardware",
        }
    }

    /// Does new work on the GPU do harm until this is done?
    #[must_use]
    pub fn cordons(self) -> bool {
        match self {
            Self::None | Self::RestartApplication | Self::AskHuman => false,
            Self::ResetGpu | Self::DrainAndReset | Self::RebootNode | Self::ReplaceHardware => true,
        }
    }
}

/// A table as it is written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    version: u32,
    source: String,
    xids: Vec<WrittenRow>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenRow {
    numbers: Vec<u32>,
    action: Action,
    /// Instead, where the driver says that it goes on.
    nonfatal: Option<Action>,
    cordon: Option<bool>,
    what: String,
}

/// What to do about one Xid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XidRow {
    /// What is to be done.
    pub action: Action,
    /// Instead, where the driver says that it goes on.
    pub nonfatal: Option<Action>,
    /// Is new work kept away from the GPU, whatever the action?
    pub cordon: Option<bool>,
    /// What happened, in words.
    pub what: String,
    /// Who says so.
    pub source: String,
}

/// What to do about every Xid that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XidTable {
    rows: BTreeMap<u32, XidRow>,
}

/// A table can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file can't be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is too large.
    #[error("{path} is larger than {LARGEST} bytes")]
    TooLarge {
        /// The file.
        path: String,
    },
    /// It is no table.
    #[error("{path} is no table of Xids")]
    Parse {
        /// The file.
        path: String,
        /// Where and why.
        source: serde_yaml::Error,
    },
    /// It says something twice, or is of another version.
    #[error("{path}: {reason}")]
    Wrong {
        /// The file.
        path: String,
        /// What.
        reason: String,
    },
}

impl TableError {
    /// Stable code, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        "AGENT-059"
    }

    /// The next thing to try.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        "correct the file, or remove it: then kdc's own table holds"
    }
}

impl XidTable {
    /// The table that kdc brings.
    #[must_use]
    pub fn builtin() -> Self {
        Self::parse(BUILTIN, "xid.yaml").expect("the table in this program is read by its tests")
    }

    /// kdc's table, with what a site says instead, where there is such a file.
    ///
    /// # Errors
    /// When there is a file that can't be used.
    pub fn with_site(path: &Path) -> Result<Self, TableError> {
        let name = path.display().to_string();
        let failed = |source| TableError::Read { path: name.clone(), source };
        match fs_err::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::builtin());
            }
            Err(error) => return Err(failed(error)),
            Ok(metadata) if metadata.len() > LARGEST => {
                return Err(TableError::TooLarge { path: name });
            }
            Ok(_) => {}
        }
        let text = fs_err::read_to_string(path).map_err(failed)?;
        let mut table = Self::builtin();
        table.rows.extend(Self::parse(&text, &name)?.rows);
        Ok(table)
    }

    /// Read a table; `path` is for errors.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str, path: &str) -> Result<Self, TableError> {
        let wrong = |reason| TableError::Wrong { path: path.to_owned(), reason };
        let written: Written = serde_yaml::from_str(text)
            .map_err(|source| TableError::Parse { path: path.to_owned(), source })?;
        if written.version != 1 {
            return Err(wrong(format!("version {} is not known; it is 1", written.version)));
        }
        let mut rows = BTreeMap::new();
        for WrittenRow { numbers, action, nonfatal, cordon, what } in written.xids {
            for number in numbers {
                let source = written.source.clone();
                let row = XidRow { action, nonfatal, cordon, what: what.clone(), source };
                if rows.insert(number, row).is_some() {
                    return Err(wrong(format!("Xid {number} is there twice")));
                }
            }
        }
        Ok(Self { rows })
    }

    /// What is known of a number.
    #[must_use]
    pub fn get(&self, xid: u32) -> Option<&XidRow> {
        self.rows.get(&xid)
    }

    /// How many numbers are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Is nothing known?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kdcs_own_table_is_one_and_knows_what_the_catalogue_groups() {
        let table = XidTable::builtin();
        let of = |action| {
            let rows = table.rows.iter().filter(move |(_, row)| row.action == action);
            rows.map(|(number, _)| *number).collect::<Vec<_>>()
        };
        assert_eq!(
            of(Action::ResetGpu),
            [
                46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 144, 145, 146, 147, 148, 149,
                150, 155, 156, 158
            ]
        );
        assert_eq!(of(Action::RebootNode), [79]);
        for application in [8, 11, 13, 25, 31, 32, 39, 40, 41, 68, 69, 94, 96] {
            assert_eq!(table.get(application).unwrap().action, Action::RestartApplication);
        }
        for ignored in [37, 38, 43, 44, 63, 66, 92, 121, 137, 157, 160, 161] {
            assert_eq!(table.get(ignored).unwrap().action, Action::None);
        }
    }

    #[test]
    fn a_site_overrides_single_numbers_and_is_told_its_mistakes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gpu-xid.yaml");
        assert_eq!(XidTable::with_site(&path).unwrap(), XidTable::builtin());
        let table =
            "version: 1\nsource: us\nxids:\n  - {numbers: [109], action: none, what: we know}\n";
        fs_err::write(&path, table).unwrap();
        let own = XidTable::with_site(&path).unwrap();
        assert_eq!(own.len(), XidTable::builtin().len());
        assert_eq!(
            (own.get(109).unwrap().action, own.get(109).unwrap().source.as_str()),
            (Action::None, "us")
        );
        for (text, says) in [
            ("version: 2\nsource: us\nxids: []\n".to_owned(), "version 2 is not known"),
            (table.replace("[109]", "[1, 1]"), "Xid 1 is there twice"),
            (table.replace("none", "pray"), "is no table of Xids"),
            (table.replace("what", "why"), "is no table of Xids"),
        ] {
            fs_err::write(&path, text).unwrap();
            let error = XidTable::with_site(&path).unwrap_err();
            let code = format!("| {} |", error.code());
            assert!(include_str!("../../../docs/errors.md").contains(&code), "{code}");
            let said = error.to_string();
            assert!(said.contains(says) && said.contains("gpu-xid.yaml"), "{said}");
        }
    }
}
