//! What may be done, and nothing else: the closed set of remedies.

use serde::{Deserialize, Serialize};

use super::Kind;

/// What an action does. None of these takes anything away from what runs: there is no word here for
/// stopping, evicting, deleting or rebooting, and a test holds the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// Set a kernel parameter to what a step of kdc set it to, now and at boot.
    SetSysctl,
    /// Load a kernel module that a step of kdc loaded, now and at boot.
    LoadModule,
    /// Put a file of kdc's back, with content, mode and owner.
    PutBackFile,
    /// Make a directory of kdc's again, or give it mode and owner.
    PutBackDirectory,
    /// Put the files of a unit of kdc's back.
    PutBackUnit,
    /// Start a unit that should run, have one that should start at boot do so.
    StartUnit,
    /// Put routes between the nodes' pods back.
    PutBackRoutes,
    /// Start a service of the cluster that has failed.
    RestartService,
}

impl Remedy {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::SetSysctl,
        Self::LoadModule,
        Self::PutBackFile,
        Self::PutBackDirectory,
        Self::PutBackUnit,
        Self::StartUnit,
        Self::PutBackRoutes,
        Self::RestartService,
    ];

    /// The word for it in metrics, events and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SetSysctl => "set-sysctl",
            Self::LoadModule => "load-module",
            Self::PutBackFile => "put-back-file",
            Self::PutBackDirectory => "put-back-directory",
            Self::PutBackUnit => "put-back-unit",
            Self::StartUnit => "start-unit",
            Self::PutBackRoutes => "put-back-routes",
            Self::RestartService => "restart-service",
        }
    }

    /// The kind of things it mends; its switch and its limit are that kind's.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::SetSysctl => Kind::Sysctl,
            Self::LoadModule => Kind::Module,
            Self::PutBackFile => Kind::File,
            Self::PutBackDirectory => Kind::Directory,
            Self::PutBackUnit | Self::StartUnit => Kind::Unit,
            Self::PutBackRoutes => Kind::Route,
            Self::RestartService => Kind::Service,
        }
    }
}

/// The step of a run that is carried out again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// Run id.
    pub run: String,
    /// Step id.
    pub step: String,
}

/// Something that could be done about a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Action {
    /// What it does.
    pub remedy: Remedy,
    /// To what: the finding's subject.
    pub subject: String,
    /// Why, for people.
    pub reason: String,
    /// What exactly will be done, for people.
    pub what: String,
    /// The step that is carried out again; none for what is no step's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_remedy_stops_evicts_or_takes_away() {
        let words: Vec<&str> = Remedy::ALL.iter().map(|remedy| remedy.as_str()).collect();
        // A new one is a reviewed change of this list.
        assert_eq!(
            words,
            [
                "set-sysctl",
                "load-module",
                "put-back-file",
                "put-back-directory",
                "put-back-unit",
                "start-unit",
                "put-back-routes",
                "restart-service",
            ]
        );
        for remedy in Remedy::ALL {
            assert!(!remedy.kind().is_only_told(), "{remedy:?}");
            let text = serde_json::to_string(&remedy).unwrap();
            assert_eq!(text, format!("\"{}\"", remedy.as_str()));
        }
    }
}
