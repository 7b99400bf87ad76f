//! A plan on disk: written, read back, and compared with a fresh one before it is carried out.

use std::path::{Path, PathBuf};

use super::ClusterPlan;

/// Largest plan file this build reads; a plan for 1000 nodes is about 60 MiB.
const MAX_PLAN_BYTES: u64 = 512 * 1024 * 1024;

/// A saved plan can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SavedPlanError {
    /// The file could not be read or written.
    #[error("plan file `{}`", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is larger than any plan.
    #[error("plan file `{}` is larger than {MAX_PLAN_BYTES} bytes", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// The text is no plan.
    #[error("`{}` is not a plan of this version of kdc", path.display())]
    NotAPlan {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// It says that it is something else.
    #[error("`{}` is a {kind} of {api_version}; expected a Plan of kdc.dev/v1", path.display())]
    OtherKind {
        /// Which file.
        path: PathBuf,
        /// Its kind.
        kind: String,
        /// Its version.
        api_version: String,
    },
}

impl SavedPlanError {
    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File { path, .. } => Some(format!("check the path `{}`", path.display())),
            Self::TooLarge { .. } | Self::NotAPlan { .. } | Self::OtherKind { .. } => {
                Some("make it anew with `kdc-install plan -o plan.json`".to_owned())
            }
        }
    }
}

/// One way in which a fresh plan differs from a saved one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// What differs (`cluster file`, `bundle`, `node w1`).
    pub what: String,
    /// How, in words.
    pub detail: String,
}

impl ClusterPlan {
    /// Write the plan as JSON, for people and for `apply`.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn save(&self, path: &Path) -> Result<(), SavedPlanError> {
        let file = |source| SavedPlanError::File { path: path.to_owned(), source };
        let mut text = serde_json::to_vec_pretty(self).map_err(|error| file(error.into()))?;
        text.push(b'\n');
        fs_err::write(path, text).map_err(file)
    }

    /// Read a plan that was saved.
    ///
    /// # Errors
    /// When the file can't be read or is no plan of this version.
    pub fn load(path: &Path) -> Result<Self, SavedPlanError> {
        let path = path.to_owned();
        let size = fs_err::metadata(&path);
        match size {
            Ok(meta) if meta.len() > MAX_PLAN_BYTES => {
                return Err(SavedPlanError::TooLarge { path });
            }
            Ok(_) => {}
            Err(source) => return Err(SavedPlanError::File { path, source }),
        }
        let text = match fs_err::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(SavedPlanError::File { path, source }),
        };
        let plan: Self = match serde_json::from_str(&text) {
            Ok(plan) => plan,
            Err(source) => return Err(SavedPlanError::NotAPlan { path, source }),
        };
        if plan.kind != "Plan" || plan.api_version != kdc_profiles::cluster::API_VERSION {
            let (kind, api_version) = (plan.kind, plan.api_version);
            return Err(SavedPlanError::OtherKind { path, kind, api_version });
        }
        Ok(plan)
    }

    /// How a fresh plan differs from this one; empty when this one may be carried out as it is.
    #[must_use]
    pub fn drift(&self, fresh: &Self) -> Vec<Drift> {
        let mut drift = Vec::new();
        let mut note = |what: &str, differs: bool, detail: String| {
            if differs {
                drift.push(Drift { what: what.to_owned(), detail });
            }
        };
        note("kdc", self.kdc_version != fresh.kdc_version, {
            format!("planned by {}, this is {}", self.kdc_version, fresh.kdc_version)
        });
        note("cluster", self.cluster != fresh.cluster, {
            format!("planned for `{}`, this is `{}`", self.cluster, fresh.cluster)
        });
        note("cluster file", self.cluster_file != fresh.cluster_file, {
            "it says something else than when the plan was made".to_owned()
        });
        note("profile", self.profile != fresh.profile, {
            format!("planned with `{}`, this is `{}`", self.profile, fresh.profile)
        });
        note("bundle", self.bundle != fresh.bundle, {
            let (old, new) = (&self.bundle, &fresh.bundle);
            format!(
                "planned with {} {}, this is {} {}",
                old.name, old.version, new.name, new.version
            )
        });
        for node in &self.nodes {
            let what = format!("node {}", node.name);
            match fresh.node(&node.name) {
                None => note(&what, true, "is not in the cluster file any more".to_owned()),
                Some(now) => {
                    let detail = "is another machine, or its platform, cgroups or capabilities \
                                  changed";
                    note(&what, node.facts != now.facts, detail.to_owned());
                    let same_facts = node.facts == now.facts;
                    note(&what, same_facts && node != now, "has other steps now".to_owned());
                }
            }
        }
        for node in &fresh.nodes {
            let new = self.node(&node.name).is_none();
            note(&format!("node {}", node.name), new, "is new in the cluster file".to_owned());
        }
        drift
    }
}
