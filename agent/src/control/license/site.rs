//! What an operator does with a site's licence, on a control plane: install, remove, look.
//!
//! A file is judged before anything is written, and one that is not good is never kept. It goes to the cluster, where the
//! leader sees it within seconds, and to this node's folder, from where it comes back should the cluster lose it
//! ([`super::node`]). Before there is an API server the folder alone has to do. Looking judges anew, from what the cluster
//! says now, and writes nothing: it is right where no leader is.

use std::{collections::BTreeMap, path::Path};

use super::{
    LICENSE_KEY, LICENSE_MAP, STANDING_KEY, STANDING_MAP, clock,
    kept::{self, Kept, digest, in_full},
    node::{self, Folder},
    publish::Published,
    record::Record,
    report::{LicenseReport, report},
    round::{built_in_keys, own_name, put_map, read_record},
    turn::{Known, Turn, turn},
};
use crate::{
    audit::{self, Entry, Who},
    control::{
        api::{ApiServer, Kind, text},
        error::ControlError,
        lease::LEASE,
        node::NodeSeen,
        wanted::NAMESPACE,
    },
    facts::Look as Root,
    license::{LicenseError, LicenseKeys, Opened, open, revocation::Revocations},
    wire::Failure,
};

/// Somebody else may write in between that often.
const TRIES: u32 = 5;

/// A licence was not installed, removed or looked at.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// The file is not good.
    #[error("the licence was not installed, and nothing was changed")]
    File {
        /// What the hint says.
        hint: String,
        /// Why.
        source: LicenseError,
    },
    /// The file is good, and not for here.
    #[error("the licence was not installed, and nothing was changed: {why}")]
    NotForHere {
        /// Why.
        why: String,
    },
    /// There is nothing of that name.
    #[error("no licence `{id}` is installed; there is {there}")]
    NoSuch {
        /// What was asked for.
        id: String,
        /// What there is.
        there: String,
    },
    /// The node's copy can't be read or written.
    #[error("the node's copy of the licence can't be read or written")]
    Copy(#[source] std::io::Error),
    /// The API server could not be asked.
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl SiteError {
    /// Stable code, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "AGENT-120",
            Self::NotForHere { .. } => "AGENT-121",
            Self::NoSuch { .. } => "AGENT-122",
            Self::Copy(_) => "AGENT-123",
            Self::Control(error) => error.code(),
        }
    }

    /// The one next thing to try.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File { hint, .. } => Some(hint.clone()),
            Self::NotForHere { .. } => {
                Some("ask for a licence for this cluster; `license status` shows its id".to_owned())
            }
            Self::NoSuch { .. } => Some("`kdc-install license status` lists them".to_owned()),
            Self::Copy(_) => Some("look at /var/lib/kdc on the node: is its disk full?".to_owned()),
            Self::Control(error) => error.hint(),
        }
    }
}

impl From<&SiteError> for Failure {
    fn from(error: &SiteError) -> Self {
        Self::from_error(error.code(), error, error.hint())
    }
}

/// A site, as a control plane of it sees it.
pub struct Site<'a> {
    /// The cluster; `None` before there is one.
    pub api: Option<&'a ApiServer>,
    /// This node's copies.
    pub folder: &'a Path,
    /// Whose signatures count.
    pub keys: LicenseKeys,
    /// Who asks.
    pub who: Who,
    /// What takes down what was done: the node's audit log.
    pub note: fn(&Entry, &Who),
}

/// The files, and the version of their object.
struct There {
    kept: Kept,
    version: Option<String>,
}

impl<'a> Site<'a> {
    /// With the keys that this program was built with.
    #[must_use]
    pub fn new(api: Option<&'a ApiServer>, folder: &'a Path, who: Who) -> Self {
        Self { api, folder, keys: built_in_keys(), who, note: audit::note }
    }

    async fn there(&self) -> Result<There, SiteError> {
        let folder = Folder::at(self.folder);
        let copy = folder.kept().map_err(SiteError::Copy)?.unwrap_or_default();
        let Some(api) = self.api else { return Ok(There { kept: copy, version: None }) };
        let Some(map) = api.get(Kind::ConfigMap, LICENSE_MAP).await? else {
            return Ok(There { kept: copy, version: None });
        };
        let version = text(&map["metadata"]["resourceVersion"]).to_owned();
        // What can't be read is replaced by what is installed now.
        let kept = Kept::parse(text(&map["data"][LICENSE_KEY])).unwrap_or_default();
        Ok(There { kept: kept.merge(&copy, &self.keys), version: Some(version) })
    }

    /// Change the files, here and in the cluster; tried again where somebody else wrote in between.
    async fn change<T>(
        &self,
        mut change: impl FnMut(&mut Kept) -> Result<T, SiteError>,
    ) -> Result<T, SiteError> {
        let mut tries = 0;
        loop {
            let There { mut kept, version } = self.there().await?;
            let answer = change(&mut kept)?;
            if let Some(api) = self.api {
                let what = (LICENSE_MAP, LICENSE_KEY);
                match put_map(api, what, &kept.to_text(), version.as_deref()).await {
                    Err(error) if error.is_conflict() && tries < TRIES => {
                        tries += 1;
                        continue;
                    }
                    written => written?,
                }
            }
            Folder::at(self.folder).put_kept(&kept).map_err(SiteError::Copy)?;
            return Ok(answer);
        }
    }

    /// Install a licence, or a vendor's list of licences that count no more.
    ///
    /// # Errors
    /// When the file is not good or not for this cluster; then nothing was changed. When it can't be written.
    pub async fn install(&self, file: &str) -> Result<(), SiteError> {
        let name = digest(file);
        let opened = match open(file.as_bytes(), &self.keys) {
            Ok(opened) => Some(opened),
            Err(error) => match Revocations::open(file.as_bytes(), &self.keys) {
                Ok(_) => None,
                Err(_) => return Err(self.refuse(name, error)),
            },
        };
        let Some(Opened { license, .. }) = opened else {
            self.change(|kept| {
                kept.add_revocations(file, &self.keys);
                Ok(())
            })
            .await?;
            self.note("revocations installed", ("", 0), name, "");
            return Ok(());
        };
        let cluster = cluster_id(self.api).await?;
        if !license.is_for(cluster.as_deref()) {
            let why = format!(
                "licence `{}` is for other clusters, and this one is {}",
                license.id,
                cluster.as_deref().unwrap_or("not known yet")
            );
            self.note("refused", (&license.id, license.serial), name, &why);
            return Err(SiteError::NotForHere { why });
        }
        let revoked = self.there().await?.kept.read(&self.keys).revoked;
        if revoked.has(&license) {
            let why = format!("licence `{}` was revoked by the vendor", license.id);
            self.note("refused", (&license.id, license.serial), name, &why);
            return Err(SiteError::NotForHere { why });
        }
        self.change(|kept| {
            kept.add(file, &self.keys);
            Ok(())
        })
        .await?;
        let nodes = license.max_nodes.map_or("any".to_owned(), |nodes| nodes.to_string());
        let until = license.expires_at.map_or("no end".to_owned(), |end| end.to_string());
        self.note(
            "installed",
            (&license.id, license.serial),
            name,
            &format!("{nodes} nodes until {until}"),
        );
        Ok(())
    }

    fn refuse(&self, digest: String, source: LicenseError) -> SiteError {
        self.note("refused", ("", 0), digest, &in_full(&source));
        SiteError::File { hint: source.hint(), source }
    }

    /// Remove a licence by its id, or all. Works in every state.
    ///
    /// # Errors
    /// When there is none of that id, or it can't be written.
    pub async fn remove(&self, id: Option<&str>) -> Result<Vec<String>, SiteError> {
        let gone = self
            .change(|kept| {
                let before: Vec<String> = kept.clone().remove(None);
                let gone = kept.remove(id);
                match id {
                    Some(id) if gone.is_empty() => Err(SiteError::NoSuch {
                        id: id.to_owned(),
                        there: if before.is_empty() {
                            "none".to_owned()
                        } else {
                            before.join(", ")
                        },
                    }),
                    _ => Ok(gone),
                }
            })
            .await?;
        for id in &gone {
            self.note("removed", (id, 0), String::new(), "");
        }
        Ok(gone)
    }

    fn note(&self, change: &str, (id, serial): (&str, u64), digest: String, detail: &str) {
        let entry = Entry::LicenceChanged {
            change: change.to_owned(),
            id: id.to_owned(),
            serial,
            digest,
            detail: detail.chars().take(500).collect(),
        };
        (self.note)(&entry, &self.who);
    }

    /// How the site stands, judged now.
    ///
    /// # Errors
    /// When the API server can't be asked, or the node's copies can't be read.
    pub async fn report(&self) -> Result<LicenseReport, SiteError> {
        let (turn, kept, cluster) = self.now(&|_| {}).await?;
        let mut report = report(&turn, &kept, &self.keys, cluster.as_deref());
        if let Some(api) = self.api {
            let lease = api.get(Kind::Lease, LEASE).await?.unwrap_or_default();
            report.leader = text(&lease["spec"]["holderIdentity"]).to_owned();
            let map = api.get(Kind::ConfigMap, STANDING_MAP).await?.unwrap_or_default();
            let published = Published::parse(text(&map["data"][STANDING_KEY])).ok();
            report.published_at = published.map(|published| published.at.to_string());
        } else {
            report.nodes = None;
        }
        Ok(report)
    }

    /// A turn as the leader would make it now, with the files changed before it; the files, and the cluster's id.
    pub(super) async fn now(
        &self,
        change: &dyn Fn(&mut Kept),
    ) -> Result<(Turn, Kept, Option<String>), SiteError> {
        let folder = Folder::at(self.folder);
        let cluster = cluster_id(self.api).await?;
        let (text_there, record, nodes) = match self.api {
            Some(api) => of_cluster(api).await?,
            None => (None, Record::default(), BTreeMap::new()),
        };
        let copy = folder.kept().map_err(SiteError::Copy)?.map(|kept| kept.to_text());
        let given = text_there.or(copy);
        let mut kept =
            given.as_deref().and_then(|given| Kept::parse(given).ok()).unwrap_or_default();
        let before = kept.clone();
        change(&mut kept);
        let given = if kept == before { given } else { Some(kept.to_text()) };
        let record = match folder.record().map_err(SiteError::Copy)? {
            Some(copy) => record.merge(&copy),
            None => record,
        };
        let look = clock::look(&Root::machine(), &node::boot_id());
        let known = Known {
            kept: given.as_deref(),
            keys: &self.keys,
            cluster: cluster.as_deref(),
            nodes: &nodes,
            me: &own_name(&nodes),
            machines: &BTreeMap::new(),
            look: &look,
        };
        Ok((turn(&known, &record), kept, cluster))
    }
}

async fn cluster_id(api: Option<&ApiServer>) -> Result<Option<String>, ControlError> {
    let Some(api) = api else { return Ok(None) };
    let namespace = api.get(Kind::Namespace, NAMESPACE).await?.unwrap_or_default();
    Ok(namespace["metadata"]["uid"].as_str().map(str::to_owned))
}

type OfCluster = (Option<String>, Record, BTreeMap<String, NodeSeen>);

async fn of_cluster(api: &ApiServer) -> Result<OfCluster, ControlError> {
    let map = api.get(Kind::ConfigMap, LICENSE_MAP).await?;
    let kept = map.map(|map| text(&map["data"][LICENSE_KEY]).to_owned());
    let (record, _) = read_record(api).await?;
    let nodes = api.list(Kind::Node, None, NodeSeen::of).await?;
    Ok((kept, record, nodes.into_iter().map(|node| (node.name.clone(), node)).collect()))
}

/// Longest file that is taken over the wire: that of a licence, with room for a list.
pub const MAX_FILE: usize = kept::MAX_BYTES / 8;
